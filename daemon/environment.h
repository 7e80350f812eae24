/*
 * What is taken from the environment, once, at start: afterwards the key is nowhere but in a
 * struct secret, and what libraries would read of their own accord is gone.
 */
#ifndef ENVIRONMENT_H
#define ENVIRONMENT_H

#include "secret.h"

struct environment {
    struct secret *key;    /* OPENAI_API_KEY; NULL: none, or a bad one */
    const char *key_fault; /* of a bad one, as secret_fault() says; else NULL */
};

/*
 * Takes OPENAI_API_KEY, overwrites its bytes where the kernel shows them (/proc/PID/environ) and
 * removes it; it is kept in ret for reloads. Removes too what would let libraries write keys of TLS
 * to a file (SSLKEYLOGFILE) or trust other certificates than the configuration says (SSL_CERT_FILE,
 * SSL_CERT_DIR). A program with more rights than its caller's takes no key. Nothing else may run
 * yet: other threads may be reading the environment.
 */
void environment_take(struct environment *ret);
void environment_done(struct environment *e);

#endif

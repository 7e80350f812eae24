/* Keys and tokens that the configuration refers to: systemd's credentials, or files. */
#ifndef CONFIG_CREDENTIAL_H
#define CONFIG_CREDENTIAL_H

#include "config.h"

/* section: "upstream NAME", for what is said of a mistake. One of both may be set: a name in
 * $CREDENTIALS_DIRECTORY, or a path; if none is, *ret stays as it is. 0, or negative errno with
 * ret_error filled. */
int config_credential_read(const char *kind, const char *name, const char *credential,
                           const char *credential_file, struct secret **ret,
                           struct config_error *ret_error);

/* ---- [token NAME] (config_token.c) ---- */

/* The one of that name, made if there is none. NULL: out of memory. */
struct config_token *config_token_get(struct config *c, const char *name);
void config_tokens_free(struct config *c);

/* What follows from the keys of all: who the user is, and the token itself. 0, or negative errno
 * with ret_error filled. */
int config_tokens_complete(struct config *c, struct config_error *ret_error);

#endif

#include "environment.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

#define KEY "OPENAI_API_KEY"

static void take_key(const char *text, struct environment *e)
{
    if (!*text || getauxval(AT_SECURE))
        return;
    e->key_fault = secret_fault(text, strlen(text));
    if (!e->key_fault && secret_new(text, strlen(text), &e->key) < 0)
        e->key_fault = "there is no memory for it";
}

void environment_take(struct environment *ret)
{
    static const char *const others[] = {"SSLKEYLOGFILE", "SSL_CERT_FILE", "SSL_CERT_DIR"};
    const char *text = getenv(KEY);

    *ret = (struct environment){0};
    if (text)
        take_key(text, ret);
    /* A name may be there twice; getenv() shows the first. */
    for (char **variable = environ; variable && *variable; variable++)
        if (!strncmp(*variable, KEY "=", sizeof KEY))
            explicit_bzero(*variable + sizeof KEY, strlen(*variable + sizeof KEY));
    unsetenv(KEY);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        unsetenv(others[i]);
}

void environment_done(struct environment *e)
{
    e->key = secret_free(e->key);
}

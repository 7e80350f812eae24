/*
 * What the API says of a request that it does not serve: a status and the members of its error
 * object. Texts name parameters and numbers, never prompts or keys.
 */
#ifndef REFUSAL_H
#define REFUSAL_H

struct refusal {
    int status;
    char message[256];
    char param[64];   /* "": null */
    const char *code; /* NULL: null; static */
};

/* Fills it and returns -EINVAL. param: NULL is null. Its type is invalid_request_error, and
 * server_error from status 500 on. */
int refusal_set(struct refusal *r, int status, const char *param, const char *code,
                const char *format, ...) __attribute__((format(printf, 5, 6)));

/* For what failed here: status 500. Returns -ENOMEM. */
int refusal_set_memory(struct refusal *r);

#endif

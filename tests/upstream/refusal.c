/*
 * Error objects. Owns their wording's limits; each refusal is worded where it is decided.
 */
#include "refusal.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

int refusal_set(struct refusal *r, int status, const char *param, const char *code,
                const char *format, ...)
{
    va_list arguments;

    *r = (struct refusal){.status = status, .code = code};
    snprintf(r->param, sizeof r->param, "%s", param ? param : "");
    va_start(arguments, format);
    vsnprintf(r->message, sizeof r->message, format, arguments);
    va_end(arguments);
    return -EINVAL;
}

int refusal_set_memory(struct refusal *r)
{
    refusal_set(r, 500, NULL, NULL, "The server is out of memory.");
    return -ENOMEM;
}

/*
 * The methods that the daemon serves, and what they do: a request becomes a transfer, and what the
 * transfer brings becomes replies.
 */
#ifndef SERVICE_H
#define SERVICE_H

#include <stddef.h>
#include <stdint.h>

#include "metrics.h"

struct call;

struct service_method {
    const char *path;
    enum metrics_method metric;
    /* The request message has come. Must in the end lead to call_finish() or call_fail(). */
    void (*run)(struct call *call, const uint8_t *message, size_t len);
};

/* NULL if there is no such method. */
const struct service_method *service_find(const char *path);

/* For a path that service_find() does not know: ends the call with UNIMPLEMENTED. */
void service_refuse(struct call *call);

/* The caller's deadline has passed. */
void service_expired(struct call *call);

#endif

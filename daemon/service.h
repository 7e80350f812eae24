/*
 * The methods that the daemon serves, and what they do: a request becomes a transfer, and what the
 * transfer brings becomes replies.
 */
#ifndef SERVICE_H
#define SERVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "metrics.h"

struct call;

struct service_method {
    const char *path;
    enum metrics_method metric;
    /* The request message has come. Must in the end lead to call_finish() or call_fail(). */
    void (*run)(struct call *call, const uint8_t *message, size_t len);
    /* There may be any number of request messages; NULL stands for their end. */
    bool takes_stream;
    /* Ends a call that would go on for as long as its caller likes, because the daemon drains. Such
     * a call is no work: it is not counted, and logged as little as a health check. NULL: calls of
     * this method end by themselves. */
    void (*drain)(struct call *call);
};

/* What the front that speaks HTTP serves; not to be found by gRPC's callers. The last is not run.
 */
extern const struct service_method service_openai, service_openai_stream, service_openai_models;

/* NULL if there is no such method. */
const struct service_method *service_find(const char *path);

/* For a path that service_find() does not know: ends the call with UNIMPLEMENTED. */
void service_refuse(struct call *call);

/* The caller's deadline has passed. */
void service_expired(struct call *call);

#endif

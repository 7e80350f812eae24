/* grpc.health.v1.Health without a library: messages of one field each. Pure. */
#ifndef GRPC_HEALTH_H
#define GRPC_HEALTH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../buffer.h"
#include "grpc_status.h"

#define GRPC_HEALTH_CHECK_PATH "/grpc.health.v1.Health/Check"
#define GRPC_HEALTH_WATCH_PATH "/grpc.health.v1.Health/Watch"

enum grpc_health {
    GRPC_HEALTH_UNKNOWN = 0,
    GRPC_HEALTH_SERVING = 1,
    GRPC_HEALTH_NOT_SERVING = 2,
    GRPC_HEALTH_SERVICE_UNKNOWN = 3, /* of Watch */
};

/* Answers a HealthCheckRequest: appends a HealthCheckResponse and returns GRPC_OK, or returns
 * GRPC_NOT_FOUND for a service that is neither "" nor one of the NULL-terminated names, or
 * GRPC_INVALID_ARGUMENT for a malformed request. */
enum grpc_status grpc_health_check(const uint8_t *request, size_t len, const char *const *services,
                                   bool serving, struct buffer *reply);

/* The same for the first reply of Watch, where an unknown service is no error: GRPC_OK and its
 * health, or GRPC_INVALID_ARGUMENT. */
enum grpc_status grpc_health_watch(const uint8_t *request, size_t len, const char *const *services,
                                   bool serving, enum grpc_health *ret);

/* Appends a HealthCheckResponse. */
void grpc_health_reply(struct buffer *out, enum grpc_health health);

/* Reads a HealthCheckResponse: 0 and its status, or -EBADMSG. */
int grpc_health_read(const uint8_t *reply, size_t len, enum grpc_health *ret);

/* Appends a HealthCheckRequest. */
void grpc_health_request(struct buffer *out, const char *service);

#endif

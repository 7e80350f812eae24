/* grpc.health.v1.Health. Whether something is healthy is the caller's to say. */
#include "grpc_health.h"

#include <errno.h>
#include <string.h>

#include "../wire.h"

enum { REQUEST_SERVICE = 1, RESPONSE_STATUS = 1 };

static bool is_known(const uint8_t *name, size_t len, const char *const *services)
{
    if (len == 0)
        return true;
    for (; *services; services++) {
        if (strlen(*services) == len && memcmp(*services, name, len) == 0)
            return true;
    }
    return false;
}

enum grpc_status grpc_health_watch(const uint8_t *request, size_t len, const char *const *services,
                                   bool serving, enum grpc_health *ret)
{
    const uint8_t *p = request, *end = request + len, *name = NULL;
    size_t name_len = 0;
    struct wire_field field;
    int rc;

    while ((rc = wire_next(&p, end, &field)) > 0) {
        if (field.number != REQUEST_SERVICE || field.type != WIRE_LEN)
            continue;
        name = field.data;
        name_len = field.len;
    }
    if (rc < 0)
        return GRPC_INVALID_ARGUMENT;
    *ret = !is_known(name, name_len, services) ? GRPC_HEALTH_SERVICE_UNKNOWN
           : serving                           ? GRPC_HEALTH_SERVING
                                               : GRPC_HEALTH_NOT_SERVING;
    return GRPC_OK;
}

enum grpc_status grpc_health_check(const uint8_t *request, size_t len, const char *const *services,
                                   bool serving, struct buffer *reply)
{
    enum grpc_health health;
    enum grpc_status status = grpc_health_watch(request, len, services, serving, &health);

    if (status != GRPC_OK)
        return status;
    if (health == GRPC_HEALTH_SERVICE_UNKNOWN)
        return GRPC_NOT_FOUND;
    grpc_health_reply(reply, health);
    return GRPC_OK;
}

void grpc_health_reply(struct buffer *out, enum grpc_health health)
{
    wire_append_int(out, RESPONSE_STATUS, health);
}

int grpc_health_read(const uint8_t *reply, size_t len, enum grpc_health *ret)
{
    const uint8_t *p = reply, *end = reply + len;
    enum grpc_health health = GRPC_HEALTH_UNKNOWN;
    struct wire_field field;
    int rc;

    while ((rc = wire_next(&p, end, &field)) > 0) {
        if (field.number != RESPONSE_STATUS || field.type != WIRE_VARINT)
            continue;
        health = field.value == GRPC_HEALTH_SERVING       ? GRPC_HEALTH_SERVING
                 : field.value == GRPC_HEALTH_NOT_SERVING ? GRPC_HEALTH_NOT_SERVING
                                                          : GRPC_HEALTH_UNKNOWN;
    }
    if (rc < 0)
        return -EBADMSG;
    *ret = health;
    return 0;
}

void grpc_health_request(struct buffer *out, const char *service)
{
    if (*service)
        wire_append_bytes(out, REQUEST_SERVICE, service, strlen(service));
}

/*
 * gRPC's standard services: health (grpc.health.v1) and server reflection (grpc.reflection.v1, and
 * v1alpha). What their messages are is proto/grpc's.
 *
 * Watch and reflection are streams that last as long as their callers like. They hold up nothing: a
 * daemon that drains ends them at once, and a connection on which nothing but watches go on counts
 * as nobody's for idle_exit.
 */
#ifndef STANDARD_H
#define STANDARD_H

#include <stddef.h>
#include <stdint.h>

struct call;

#define SERVICE_NAME "completion.v1.Completions"

/* Of one connection; more are refused. */
enum { STANDARD_WATCHES_MAX = 16 };

/* See struct service_method. */
void standard_check_run(struct call *call, const uint8_t *message, size_t len);
void standard_watch_run(struct call *call, const uint8_t *message, size_t len);
void standard_watch_drain(struct call *call);
void standard_reflection_run(struct call *call, const uint8_t *message, size_t len);
void standard_reflection_drain(struct call *call);

#endif

/* completion.v1.Status/Get: how the daemon is, to those who may know; see status.proto. */
#ifndef STATUS_H
#define STATUS_H

#include <stddef.h>
#include <stdint.h>

#define STATUS_GET_PATH "/completion.v1.Status/Get"

struct call;

/* The method's run(), as in struct service_method. */
void status_run(struct call *call, const uint8_t *message, size_t len);

#endif

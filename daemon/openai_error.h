/*
 * How errors look to callers that speak the API's own HTTP: the status and the error object that
 * its SDKs know, with what gRPC's callers find in ErrorDetail beside it.
 */
#ifndef OPENAI_ERROR_H
#define OPENAI_ERROR_H

#include "../proto/buffer.h"

struct call_error;

/* upstream_status: of the upstream's response, 0 if there was none. */
int openai_error_status(const struct call_error *error, int upstream_status);

/* Appends {"error":{...}} on one line. http_status is what openai_error_status() said. */
void openai_error_write(const struct call_error *error, int http_status, struct buffer *out);

/* "Too Many Requests"; never NULL. */
const char *openai_status_phrase(int http_status);

#endif

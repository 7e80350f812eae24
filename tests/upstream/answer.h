/* Answers over HTTP, each with the API's headers. Whatever the outcome, the request is answered and
 * no longer the caller's. */
#ifndef ANSWER_H
#define ANSWER_H

#include <stdint.h>

#include "refusal.h"

struct evbuffer;
struct evhttp_request;

/* Milliseconds on a clock that only goes forward. */
int64_t answer_now_ms(void);

/* x-request-id, openai-version, openai-processing-ms, and the Content-Type. */
void answer_headers(struct evhttp_request *request, const char *content_type, int64_t started_ms);

/* The body is emptied. */
void answer_json(struct evhttp_request *request, int status, struct evbuffer *body,
                 int64_t started_ms);

void answer_refusal(struct evhttp_request *request, const struct refusal *r, int64_t started_ms);

#endif

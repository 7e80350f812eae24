/* The last step of every answer. Owns headers; what the bodies say is the reply's. */
#include "answer.h"

#include <event2/buffer.h>
#include <event2/http.h>
#include <stdio.h>
#include <sys/random.h>
#include <time.h>

#include "reply.h"

int64_t answer_now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

void answer_headers(struct evhttp_request *request, const char *content_type, int64_t started_ms)
{
    struct evkeyvalq *headers = evhttp_request_get_output_headers(request);
    uint64_t random[2] = {0};
    char id[40], duration[24];

    if (getrandom(random, sizeof random, 0) != sizeof random)
        random[0] = (uint64_t)answer_now_ms(); /* an id, not a secret */
    snprintf(id, sizeof id, "req_%016llx%016llx", (unsigned long long)random[0],
             (unsigned long long)random[1]);
    snprintf(duration, sizeof duration, "%lld", (long long)(answer_now_ms() - started_ms));
    evhttp_add_header(headers, "Content-Type", content_type);
    evhttp_add_header(headers, "x-request-id", id);
    evhttp_add_header(headers, "openai-version", "2020-10-01");
    evhttp_add_header(headers, "openai-processing-ms", duration);
}

void answer_json(struct evhttp_request *request, int status, struct evbuffer *body,
                 int64_t started_ms)
{
    answer_headers(request, "application/json", started_ms);
    evhttp_send_reply(request, status, NULL, body);
}

void answer_refusal(struct evhttp_request *request, const struct refusal *r, int64_t started_ms)
{
    struct evbuffer *body = evbuffer_new();

    if (!body || reply_error(r, body) < 0)
        evhttp_send_reply(request, 500, NULL, NULL);
    else
        answer_json(request, r->status, body, started_ms);
    if (body)
        evbuffer_free(body);
}

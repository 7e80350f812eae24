/*
 * An adapter's life in a loop, built once for each: LOOP_libevent, LOOP_sd_event, LOOP_glib or
 * LOOP_libuv. Against a daemon with an upstream: calls are started before and after it is attached,
 * between the loop's turns and in callbacks; time passes; it is detached, and the client freed, in
 * a callback; or the client alone. Says nothing and returns 0 if all went as it should.
 */
#include <completion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                        \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

/* ---- The loop: attach, detach, turn until *stop ---- */

#ifdef LOOP_libevent
#include <completion/libevent.h>
typedef completion_libevent adapter_type;
static struct event_base *loop;
static void loop_begin(void)
{
    loop = event_base_new();
}
static adapter_type *attach(completion_client *client)
{
    return completion_libevent_attach(client, loop);
}
static void detach(adapter_type *adapter)
{
    completion_libevent_detach(adapter);
}
static void turn(void)
{
    event_base_loop(loop, EVLOOP_ONCE);
}
static void loop_end(void)
{
    event_base_free(loop);
}
#endif

#ifdef LOOP_sd_event
#include <completion/sd-event.h>
typedef completion_sd_event adapter_type;
static sd_event *loop;
static void loop_begin(void)
{
    sd_event_new(&loop);
}
static adapter_type *attach(completion_client *client)
{
    return completion_sd_event_attach(client, loop);
}
static void detach(adapter_type *adapter)
{
    completion_sd_event_detach(adapter);
}
static void turn(void)
{
    sd_event_run(loop, UINT64_MAX);
}
static void loop_end(void)
{
    sd_event_unref(loop);
}
#endif

#ifdef LOOP_glib
#include <completion/glib.h>
typedef GSource adapter_type;
static GMainContext *loop;
static void loop_begin(void)
{
    loop = g_main_context_new();
}
static adapter_type *attach(completion_client *client)
{
    return completion_glib_attach(client, loop);
}
static void detach(adapter_type *adapter)
{
    completion_glib_detach(adapter);
}
static void turn(void)
{
    g_main_context_iteration(loop, TRUE);
}
static void loop_end(void)
{
    g_main_context_unref(loop);
}
#endif

#ifdef LOOP_libuv
#include <completion/libuv.h>
typedef completion_libuv adapter_type;
static uv_loop_t *loop;
static void loop_begin(void)
{
    loop = uv_default_loop();
}
static adapter_type *attach(completion_client *client)
{
    return completion_libuv_attach(client, loop);
}
static void detach(adapter_type *adapter)
{
    completion_libuv_detach(adapter);
}
static void turn(void)
{
    uv_run(loop, UV_RUN_ONCE);
}
/* It may have waited already for what was done by a timer. */
#define do_not_wait() uv_stop(loop)
static void loop_end(void)
{
    uv_run(loop, UV_RUN_DEFAULT);
    CHECK(uv_loop_close(loop) == 0);
}
#endif

#ifndef do_not_wait
#define do_not_wait() ((void)0)
#endif

/* ---- Calls ---- */

enum then { GO_ON, LEAVE, LEAVE_WITHOUT_A_WORD };

struct scene {
    completion_client *client;
    completion_request *request;
    adapter_type *adapter;
    int n_ended, n_failed;
    int again;      /* so many more calls */
    enum then then; /* at the first end */
};

static void start(struct scene *s, int64_t timeout_ms);

static void on_news(completion_call *call, void *user)
{
    struct scene *s = (struct scene *)user;
    const completion_result *chunk;
    int r;

    while ((r = completion_call_next(call, &chunk, NULL)) == 1)
        ;
    if (r == -EAGAIN)
        return;
    completion_call_free(call);
    do_not_wait();
    s->n_ended++;
    s->n_failed += r < 0;
    if (s->again > 0) {
        s->again--;
        start(s, 30000);
    }
    if (s->then == GO_ON)
        return;
    if (s->then == LEAVE)
        detach(s->adapter);
    s->client = completion_client_free(s->client);
}

static void start(struct scene *s, int64_t timeout_ms)
{
    completion_call *call;

    CHECK(completion_call_start_stream(s->client, s->request, timeout_ms, &call, NULL) == 0);
    completion_call_set_callback(call, on_news, s);
}

static void begin(struct scene *s)
{
    s->n_ended = s->n_failed = 0;
    CHECK(completion_client_new(NULL, &s->client) == 0);
}

int main(void)
{
    struct scene s;
    completion_result *result;
    completion_call *left[2];
    int i;

    memset(&s, 0, sizeof s);
    loop_begin();
    CHECK(completion_request_new(&s.request) == 0);
    completion_request_set_model(s.request, "gpt-3.5-turbo-instruct", COMPLETION_ZERO_TERMINATED);
    completion_request_set_prompt(s.request, "Once upon a time", COMPLETION_ZERO_TERMINATED);

    /* Before and behind, between, and from a callback; and one that blocks in between. */
    begin(&s);
    start(&s, 30000);
    s.adapter = attach(s.client);
    CHECK(s.adapter);
    start(&s, 30000);
    s.again = 3;
    while (s.n_ended < 5)
        turn();
    CHECK(completion_create(s.client, s.request, 30000, &result, NULL) == 0);
    completion_result_free(result);
    start(&s, 30000);
    CHECK(completion_create(s.client, s.request, 30000, &result, NULL) == 0);
    completion_result_free(result);
    while (s.n_ended < 6)
        turn();
    CHECK(s.n_failed == 0);
    /* A deadline ends it, however little else happens. */
    completion_request_set_max_tokens(s.request, 1000000);
    start(&s, 1);
    while (s.n_ended < 7)
        turn();
    CHECK(s.n_failed == 1);
    completion_request_set_max_tokens(s.request, 8);
    detach(s.adapter);
    completion_client_free(s.client);

    /* Another client in the same loop. All goes in a callback, with a call that has not ended. */
    for (i = 0; i < 2; i++) {
        begin(&s);
        s.adapter = attach(s.client);
        CHECK(completion_call_start(s.client, s.request, -1, &left[i], NULL) == 0);
        completion_call_pause(left[i]);
        s.then = i == 0 ? LEAVE : LEAVE_WITHOUT_A_WORD;
        start(&s, 30000);
        while (s.n_ended < 1)
            turn();
        CHECK(s.n_failed == 0 && !s.client);
        completion_call_free(left[i]);
    }
    detach(s.adapter);
    detach(NULL);
    completion_request_free(s.request);
    loop_end();
    return 0;
}

/*
 * libcompletion in a program that runs on libuv: link with libuv.
 *
 *     completion_libuv *adapter = completion_libuv_attach(client, loop);
 *     ... completion_call_start() and callbacks ...
 *     completion_libuv_detach(adapter);
 *
 * Callbacks of calls run in the loop, on its thread. Detach before the client is freed; both may be
 * done in a callback, in this order. The loop has to run on until libuv has closed the adapter's
 * handles, which uv_run() does by itself. As long as it is attached, it keeps the loop running.
 */
#ifndef COMPLETION_LIBUV_H
#define COMPLETION_LIBUV_H

#include <completion.h>
#include <stdlib.h>
#include <uv.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct completion_libuv {
    completion_client *client; /* NULL: it was freed */
    uv_poll_t readable;
    uv_timer_t timer;
    int n_handles; /* that are not closed */
} completion_libuv;

static inline void completion_libuv_on_closed(uv_handle_t *handle)
{
    completion_libuv *adapter = (completion_libuv *)handle->data;

    if (--adapter->n_handles == 0)
        free(adapter);
}

static inline void completion_libuv_on_time(uv_timer_t *timer);

static inline void completion_libuv_run(completion_libuv *adapter)
{
    int ms;

    if (!adapter->client)
        return;
    if (completion_client_process(adapter->client) < 0) { /* freed, or another process's */
        if (!uv_is_closing((uv_handle_t *)&adapter->timer)) {
            uv_poll_stop(&adapter->readable);
            uv_timer_stop(&adapter->timer);
        }
        adapter->client = NULL;
        return;
    }
    if (uv_is_closing((uv_handle_t *)&adapter->timer))
        return;
    ms = completion_client_get_timeout(adapter->client);
    if (ms < 0)
        uv_timer_stop(&adapter->timer);
    else
        uv_timer_start(&adapter->timer, completion_libuv_on_time, (uint64_t)ms, 0);
}

static inline void completion_libuv_on_time(uv_timer_t *timer)
{
    completion_libuv_run((completion_libuv *)timer->data);
}

static inline void completion_libuv_on_readable(uv_poll_t *poll, int status, int events)
{
    (void)status, (void)events;
    completion_libuv_run((completion_libuv *)poll->data);
}

static inline void completion_libuv_wake(void *user)
{
    uv_timer_start(&((completion_libuv *)user)->timer, completion_libuv_on_time, 0, 0);
}

/* Takes NULL. Also from inside of a callback. */
static inline void completion_libuv_detach(completion_libuv *adapter)
{
    if (!adapter)
        return;
    if (adapter->client)
        completion_client_set_wake(adapter->client, NULL, NULL);
    if (adapter->n_handles == 2)
        uv_close((uv_handle_t *)&adapter->readable, completion_libuv_on_closed);
    uv_close((uv_handle_t *)&adapter->timer, completion_libuv_on_closed);
}

/* NULL: there is no memory or no descriptor. */
static inline completion_libuv *completion_libuv_attach(completion_client *client, uv_loop_t *loop)
{
    int fd = completion_client_get_fd(client), ms = completion_client_get_timeout(client);
    completion_libuv *adapter = fd < 0 ? NULL : (completion_libuv *)calloc(1, sizeof *adapter);

    if (!adapter)
        return NULL;
    adapter->timer.data = adapter->readable.data = adapter;
    uv_timer_init(loop, &adapter->timer);
    adapter->n_handles = 1;
    if (uv_poll_init(loop, &adapter->readable, fd) != 0) {
        completion_libuv_detach(adapter);
        return NULL;
    }
    adapter->n_handles = 2;
    if (uv_poll_start(&adapter->readable, UV_READABLE, completion_libuv_on_readable) != 0) {
        completion_libuv_detach(adapter);
        return NULL;
    }
    adapter->client = client;
    completion_client_set_wake(client, completion_libuv_wake, adapter);
    if (ms >= 0)
        uv_timer_start(&adapter->timer, completion_libuv_on_time, (uint64_t)ms, 0);
    return adapter;
}

#ifdef __cplusplus
}
#endif

#endif

/*
 * libcompletion in a program that runs on libevent: link with libevent_core.
 *
 *     completion_libevent *adapter = completion_libevent_attach(client, base);
 *     ... completion_call_start() and callbacks ...
 *     completion_libevent_detach(adapter);
 *
 * Callbacks of calls run in the base's loop, on its thread. Detach before the client or the base is
 * freed; both may be done in a callback, in this order.
 */
#ifndef COMPLETION_LIBEVENT_H
#define COMPLETION_LIBEVENT_H

#include <completion.h>
#include <errno.h>
#include <event2/event.h>
#include <stdlib.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct completion_libevent {
    completion_client *client; /* NULL: it was freed */
    struct event *readable, *timer;
    int is_running, is_detached;
} completion_libevent;

static inline void completion_libevent_done(completion_libevent *adapter)
{
    if (adapter->readable)
        event_free(adapter->readable);
    if (adapter->timer)
        event_free(adapter->timer);
    free(adapter);
}

static inline void completion_libevent_arm(completion_libevent *adapter)
{
    int ms = completion_client_get_timeout(adapter->client);
    struct timeval after;

    after.tv_sec = ms / 1000;
    after.tv_usec = ms % 1000 * 1000;
    if (ms < 0)
        event_del(adapter->timer);
    else
        event_add(adapter->timer, &after);
}

static inline void completion_libevent_run(evutil_socket_t fd, short what, void *user)
{
    completion_libevent *adapter = (completion_libevent *)user;
    int r;

    (void)fd, (void)what;
    adapter->is_running = 1;
    r = completion_client_process(adapter->client);
    adapter->is_running = 0;
    if (r == -ESHUTDOWN)
        adapter->client = NULL;
    if (adapter->is_detached) {
        completion_libevent_done(adapter);
    } else if (r < 0) { /* freed, or another process's */
        event_del(adapter->readable);
        event_del(adapter->timer);
    } else {
        completion_libevent_arm(adapter);
    }
}

static inline void completion_libevent_wake(void *user)
{
    static const struct timeval now = {0, 0};

    event_add(((completion_libevent *)user)->timer, &now);
}

/* NULL: there is no memory or no descriptor. */
static inline completion_libevent *completion_libevent_attach(completion_client *client,
                                                              struct event_base *base)
{
    int fd = completion_client_get_fd(client);
    completion_libevent *adapter =
        fd < 0 ? NULL : (completion_libevent *)calloc(1, sizeof *adapter);

    if (!adapter)
        return NULL;
    adapter->client = client;
    adapter->readable = event_new(base, fd, EV_READ | EV_PERSIST, completion_libevent_run, adapter);
    adapter->timer = event_new(base, -1, 0, completion_libevent_run, adapter);
    if (!adapter->readable || !adapter->timer || event_add(adapter->readable, NULL) < 0) {
        completion_libevent_done(adapter);
        return NULL;
    }
    completion_client_set_wake(client, completion_libevent_wake, adapter);
    completion_libevent_arm(adapter);
    return adapter;
}

/* Takes NULL. Also from inside of a callback. */
static inline void completion_libevent_detach(completion_libevent *adapter)
{
    if (!adapter)
        return;
    if (adapter->client)
        completion_client_set_wake(adapter->client, NULL, NULL);
    adapter->is_detached = 1;
    if (!adapter->is_running)
        completion_libevent_done(adapter);
}

#ifdef __cplusplus
}
#endif

#endif

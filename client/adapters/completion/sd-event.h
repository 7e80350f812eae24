/*
 * libcompletion in a program that runs on sd-event: link with libsystemd.
 *
 *     completion_sd_event *adapter = completion_sd_event_attach(client, event);
 *     ... completion_call_start() and callbacks ...
 *     completion_sd_event_detach(adapter);
 *
 * Callbacks of calls run in the event loop, on its thread. Detach before the client is freed; both
 * may be done in a callback, in this order. The adapter holds a reference of the event loop.
 */
#ifndef COMPLETION_SD_EVENT_H
#define COMPLETION_SD_EVENT_H

#include <completion.h>
#include <errno.h>
#include <stdlib.h>
#include <systemd/sd-event.h>
#include <time.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct completion_sd_event {
    completion_client *client; /* NULL: it was freed */
    sd_event_source *readable, *timer;
    int is_running, is_detached;
} completion_sd_event;

static inline void completion_sd_event_done(completion_sd_event *adapter)
{
    sd_event_source_disable_unref(adapter->readable);
    sd_event_source_disable_unref(adapter->timer);
    free(adapter);
}

static inline void completion_sd_event_arm(completion_sd_event *adapter, int ms)
{
    if (ms < 0) {
        sd_event_source_set_enabled(adapter->timer, SD_EVENT_OFF);
        return;
    }
    sd_event_source_set_time_relative(adapter->timer, (uint64_t)ms * 1000);
    sd_event_source_set_enabled(adapter->timer, SD_EVENT_ONESHOT);
}

static inline void completion_sd_event_run(completion_sd_event *adapter)
{
    int r;

    adapter->is_running = 1;
    r = completion_client_process(adapter->client);
    adapter->is_running = 0;
    if (r == -ESHUTDOWN)
        adapter->client = NULL;
    if (adapter->is_detached) {
        completion_sd_event_done(adapter);
    } else if (r < 0) { /* freed, or another process's */
        sd_event_source_set_enabled(adapter->readable, SD_EVENT_OFF);
        sd_event_source_set_enabled(adapter->timer, SD_EVENT_OFF);
    } else {
        completion_sd_event_arm(adapter, completion_client_get_timeout(adapter->client));
    }
}

static inline int completion_sd_event_on_io(sd_event_source *source, int fd, uint32_t events,
                                            void *user)
{
    (void)source, (void)fd, (void)events;
    completion_sd_event_run((completion_sd_event *)user);
    return 0;
}

static inline int completion_sd_event_on_time(sd_event_source *source, uint64_t usec, void *user)
{
    (void)source, (void)usec;
    completion_sd_event_run((completion_sd_event *)user);
    return 0;
}

static inline void completion_sd_event_wake(void *user)
{
    completion_sd_event_arm((completion_sd_event *)user, 0);
}

/* NULL: there is no memory or no descriptor. */
static inline completion_sd_event *completion_sd_event_attach(completion_client *client,
                                                              sd_event *event)
{
    int fd = completion_client_get_fd(client);
    completion_sd_event *adapter =
        fd < 0 ? NULL : (completion_sd_event *)calloc(1, sizeof *adapter);

    if (!adapter)
        return NULL;
    adapter->client = client;
    if (sd_event_add_io(event, &adapter->readable, fd,
                        (uint32_t)completion_client_get_events(client), completion_sd_event_on_io,
                        adapter) < 0 ||
        sd_event_add_time_relative(event, &adapter->timer, CLOCK_MONOTONIC, 0, 1000,
                                   completion_sd_event_on_time, adapter) < 0) {
        completion_sd_event_done(adapter);
        return NULL;
    }
    completion_client_set_wake(client, completion_sd_event_wake, adapter);
    completion_sd_event_arm(adapter, completion_client_get_timeout(client));
    return adapter;
}

/* Takes NULL. Also from inside of a callback. */
static inline void completion_sd_event_detach(completion_sd_event *adapter)
{
    if (!adapter)
        return;
    if (adapter->client)
        completion_client_set_wake(adapter->client, NULL, NULL);
    adapter->is_detached = 1;
    if (!adapter->is_running)
        completion_sd_event_done(adapter);
}

#ifdef __cplusplus
}
#endif

#endif

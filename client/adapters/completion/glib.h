/*
 * libcompletion in a program that runs on GLib's main loop: link with glib-2.0.
 *
 *     GSource *source = completion_glib_attach(client, NULL);
 *     ... completion_call_start() and callbacks ...
 *     completion_glib_detach(source);
 *
 * Callbacks of calls run in the context's loop, on its thread. Detach before the client is freed;
 * both may be done in a callback, in this order.
 */
#ifndef COMPLETION_GLIB_H
#define COMPLETION_GLIB_H

#include <completion.h>
#include <errno.h>
#include <glib.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct completion_glib {
    GSource source;
    completion_client *client;
    gpointer fd;
} completion_glib;

static inline gboolean completion_glib_prepare(GSource *source, gint *ret_timeout)
{
    *ret_timeout = completion_client_get_timeout(((completion_glib *)source)->client);
    return *ret_timeout == 0;
}

static inline gboolean completion_glib_check(GSource *source)
{
    completion_glib *adapter = (completion_glib *)source;

    return g_source_query_unix_fd(source, adapter->fd) != 0 ||
           completion_client_get_timeout(adapter->client) == 0;
}

static inline gboolean completion_glib_dispatch(GSource *source, GSourceFunc callback,
                                                gpointer user)
{
    (void)callback, (void)user;
    /* Negative: the client was freed, or is another process's. */
    return completion_client_process(((completion_glib *)source)->client) < 0 ? G_SOURCE_REMOVE
                                                                              : G_SOURCE_CONTINUE;
}

/* context NULL: the default one. NULL: there is no descriptor. */
static inline GSource *completion_glib_attach(completion_client *client, GMainContext *context)
{
    static GSourceFuncs functions = {
        completion_glib_prepare, completion_glib_check, completion_glib_dispatch, NULL, NULL, NULL};
    int fd = completion_client_get_fd(client);
    GSource *source = fd < 0 ? NULL : g_source_new(&functions, sizeof(completion_glib));
    completion_glib *adapter = (completion_glib *)source;

    if (!source)
        return NULL;
    adapter->client = client;
    adapter->fd = g_source_add_unix_fd(source, fd, G_IO_IN);
    g_source_set_name(source, "libcompletion");
    g_source_attach(source, context);
    return source;
}

/* Takes NULL. Also from inside of a callback. */
static inline void completion_glib_detach(GSource *source)
{
    if (!source)
        return;
    g_source_destroy(source);
    g_source_unref(source);
}

#ifdef __cplusplus
}
#endif

#endif

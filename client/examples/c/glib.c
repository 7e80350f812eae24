/* Several prompts at once, on GLib's main loop: glib PROMPT... */
#include "ask.h"

#include <completion/glib.h>

static void stop(struct ask *ask)
{
    g_main_loop_quit((GMainLoop *)ask->loop);
}

int main(int argc, char **argv)
{
    GMainLoop *loop = g_main_loop_new(NULL, FALSE);
    struct ask ask = {NULL, NULL, 0, 0, stop, NULL};
    GSource *source;

    ask.loop = loop;
    if (ask_begin(&ask, argv + 1, argc - 1) < 0)
        return 1;
    source = completion_glib_attach(ask.client, NULL);
    if (!source)
        return 1;
    g_main_loop_run(loop);
    completion_glib_detach(source);
    g_main_loop_unref(loop);
    return ask_status(&ask);
}

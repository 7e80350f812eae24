/* Several prompts at once, on sd-event: sd-event PROMPT... */
#include "ask.h"

#include <completion/sd-event.h>

static void stop(struct ask *ask)
{
    sd_event_exit((sd_event *)ask->loop, 0);
}

int main(int argc, char **argv)
{
    sd_event *event = NULL;
    struct ask ask = {NULL, NULL, 0, 0, stop, NULL};
    completion_sd_event *adapter;

    if (sd_event_default(&event) < 0 || ask_begin(&ask, argv + 1, argc - 1) < 0)
        return 1;
    ask.loop = event;
    adapter = completion_sd_event_attach(ask.client, event);
    if (!adapter)
        return 1;
    sd_event_loop(event);
    completion_sd_event_detach(adapter);
    sd_event_unref(event);
    return ask_status(&ask);
}

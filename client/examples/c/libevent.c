/* Several prompts at once, on libevent: libevent PROMPT... */
#include "ask.h"

#include <completion/libevent.h>

static void stop(struct ask *ask)
{
    event_base_loopbreak((struct event_base *)ask->loop);
}

int main(int argc, char **argv)
{
    struct event_base *base = event_base_new();
    struct ask ask = {NULL, NULL, 0, 0, stop, NULL};
    completion_libevent *adapter;

    ask.loop = base;
    if (!base || ask_begin(&ask, argv + 1, argc - 1) < 0)
        return 1;
    adapter = completion_libevent_attach(ask.client, base);
    if (!adapter)
        return 1;
    event_base_dispatch(base);
    completion_libevent_detach(adapter);
    event_base_free(base);
    return ask_status(&ask);
}

/* Several prompts at once, on libuv: libuv PROMPT... */
#include "ask.h"

#include <completion/libuv.h>

/* Then nothing is left that would keep the loop running. */
static void stop(struct ask *ask)
{
    completion_libuv_detach((completion_libuv *)ask->loop);
}

int main(int argc, char **argv)
{
    struct ask ask = {NULL, NULL, 0, 0, stop, NULL};

    if (ask_begin(&ask, argv + 1, argc - 1) < 0)
        return 1;
    ask.loop = completion_libuv_attach(ask.client, uv_default_loop());
    if (!ask.loop)
        return 1;
    uv_run(uv_default_loop(), UV_RUN_DEFAULT);
    uv_loop_close(uv_default_loop());
    return ask_status(&ask);
}

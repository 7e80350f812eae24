/* Several prompts at once, in a loop of one's own: poll PROMPT... */
#include "ask.h"

#include <poll.h>

int main(int argc, char **argv)
{
    struct ask ask = {NULL, NULL, 0, 0, NULL, NULL};
    struct pollfd p;

    if (ask_begin(&ask, argv + 1, argc - 1) < 0)
        return 1;
    p.fd = completion_client_get_fd(ask.client);
    while (ask.n_running > 0) {
        p.events = (short)completion_client_get_events(ask.client);
        poll(&p, 1, completion_client_get_timeout(ask.client));
        completion_client_process(ask.client);
    }
    return ask_status(&ask);
}

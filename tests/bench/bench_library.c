/*
 * What a caller of completiond does: calls of libcompletion in a libevent loop.
 */
#include <errno.h>
#include <event2/event_struct.h>
#include <stdlib.h>
#include <string.h>

#include "completion.h"
#include "load.h"

struct library;

/* One connection. */
struct connection {
    struct library *library;
    completion_client *client;
    struct event readable;
    bool is_in_process;
};

struct slot {
    unsigned number;
    struct connection *connection;
};

struct library {
    struct load *load;
    struct connection *connections;
    struct slot *slots;
    completion_request *request;
    completion_error *error;
};

static void read_result(const struct slot *s, const completion_result *result)
{
    struct load_answer answer = {
        .id_bytes = completion_result_id(result).length,
        .model_bytes = completion_result_model(result).length,
        .text = completion_choice_text(result, 0).data,
    };

    for (size_t i = 0; i < completion_result_n_choices(result); i++) {
        answer.text_bytes += completion_choice_text(result, i).length;
        answer.is_finished = answer.is_finished || completion_choice_finish_reason(result, i) !=
                                                       COMPLETION_FINISH_UNSPECIFIED;
    }
    completion_result_usage(result, COMPLETION_USAGE_TOTAL_TOKENS, &answer.total_tokens);
    load_answer(s->connection->library->load, s->number, &answer);
}

static void on_call(completion_call *call, void *user)
{
    const struct slot *s = user;
    struct library *l = s->connection->library;
    const completion_result *result;
    int r;

    while ((r = completion_call_next(call, &result, l->error)) > 0)
        read_result(s, result);
    if (r == -EAGAIN)
        return;
    if (r < 0)
        load_fail("%s: %s", completion_error_status_name(l->error),
                  completion_error_message(l->error));
    completion_call_free(call);
    load_end(l->load, s->number);
}

static void start_call(void *user, unsigned slot)
{
    static const char prompt[] = "Say this is a test, and say why.";
    struct library *l = user;
    struct slot *s = &l->slots[slot];
    completion_client *client = s->connection->client;
    completion_call *call;

    /* A caller makes the request anew for each call. */
    if (completion_request_set_model(l->request, l->load->model, COMPLETION_ZERO_TERMINATED) < 0 ||
        completion_request_set_prompt(l->request, prompt, sizeof prompt - 1) < 0 ||
        completion_request_set_max_tokens(l->request,
                                          l->load->n_chunks ? (int32_t)l->load->n_chunks : 7) < 0)
        load_fail("out of memory");
    int r = l->load->n_chunks
                ? completion_call_start_stream(client, l->request, -1, &call, l->error)
                : completion_call_start(client, l->request, -1, &call, l->error);
    if (r < 0)
        load_fail("%s", completion_error_message(l->error));
    completion_call_set_callback(call, on_call, s);
}

static void on_readable(evutil_socket_t fd, short what, void *user)
{
    struct connection *c = user;

    (void)fd, (void)what;
    c->is_in_process = true;
    int r = completion_client_process(c->client);
    c->is_in_process = false;
    if (r < 0)
        load_fail("%s", strerror(-r));
    if (completion_client_get_timeout(c->client) == 0)
        event_active(&c->readable, EV_READ, 0);
}

static void on_wake(void *user)
{
    struct connection *c = user;

    if (!c->is_in_process)
        event_active(&c->readable, EV_READ, 0);
}

static void connection_open(struct library *l, struct connection *c)
{
    c->library = l;
    if (completion_client_new(l->load->target, &c->client) < 0)
        load_fail("out of memory");
    int fd = completion_client_get_fd(c->client);
    if (fd < 0)
        load_fail("%s", strerror(-fd));
    completion_client_set_wake(c->client, on_wake, c);
    event_assign(&c->readable, l->load->base, fd, EV_READ | EV_PERSIST, on_readable, c);
    if (event_add(&c->readable, NULL) < 0)
        load_fail("out of memory");
}

int main(int argc, char **argv)
{
    struct load load;
    struct library library = {.load = &load, .error = completion_error_new()};

    load_init(&load, argc, argv);
    library.connections = calloc(load.n_connections, sizeof *library.connections);
    library.slots = calloc(load.in_flight, sizeof *library.slots);
    if (!library.connections || !library.slots || !library.error ||
        completion_request_new(&library.request) < 0)
        load_fail("out of memory");
    load_begin(&load);
    for (unsigned i = 0; i < load.n_connections; i++)
        connection_open(&library, &library.connections[i]);
    for (unsigned i = 0; i < load.in_flight; i++)
        library.slots[i] = (struct slot){i, &library.connections[i % load.n_connections]};
    load.start = start_call;
    load.user = &library;
    load_run(&load);
    for (unsigned i = 0; i < load.n_connections; i++) {
        event_del(&library.connections[i].readable);
        completion_client_free(library.connections[i].client);
    }
    completion_request_free(library.request);
    completion_error_free(library.error);
    free(library.connections);
    free(library.slots);
    load_done(&load);
    return 0;
}

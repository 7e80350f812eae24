/*
 * A caller of completiond with no library between: calls of proto/grpc over few connections to its
 * socket, on libevent, messages read with protobuf-c.
 */
#include <errno.h>
#include <event2/event_struct.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "completion/v1/completion.pb-c.h"
#include "grpc_client.h"
#include "load.h"

enum { FIRST_UID = 100000 };

struct peer;

struct call {
    STAILQ_ENTRY(call) ready;
    bool is_ready;
    unsigned slot;
    struct peer *peer;
    struct grpc_client_call *grpc;
};

/* One connection. */
struct peer {
    struct client *client;
    int fd;
    struct grpc_client_session *session;
    struct event readable, writable;
    bool is_reading; /* and will write */
    STAILQ_HEAD(, call) ready;
};

struct client {
    struct load *load;
    struct peer *peers;
    struct call *calls;
    uint8_t request[512]; /* packed */
};

/* ---- Answers ---- */

static void read_completion(struct call *c, const uint8_t *message, size_t len)
{
    Completion__V1__Completion *completion = completion__v1__completion__unpack(NULL, len, message);

    if (!completion || completion->n_choices != 1)
        load_fail("not a completion of %zu bytes", len);
    struct load_answer answer = {
        .id_bytes = completion->id.len,
        .model_bytes = completion->model.len,
        .text = (const char *)completion->choices[0]->text.data,
        .total_tokens = completion->usage ? completion->usage->total_tokens : 0,
    };
    for (size_t i = 0; i < completion->n_choices; i++) {
        answer.text_bytes += completion->choices[i]->text.len;
        answer.is_finished = answer.is_finished || completion->choices[i]->has_finish_reason;
    }
    load_answer(c->peer->client->load, c->slot, &answer);
    completion__v1__completion__free_unpacked(completion, NULL);
}

static void read_call(struct call *c)
{
    const uint8_t *message;
    size_t len;

    while (grpc_client_call_next(c->grpc, &message, &len) > 0)
        read_completion(c, message, len);
    if (!grpc_client_call_is_ended(c->grpc))
        return;
    if (grpc_client_call_status(c->grpc) != GRPC_OK)
        load_fail("%s: %s", grpc_status_name(grpc_client_call_status(c->grpc)),
                  grpc_client_call_message(c->grpc));
    c->grpc = grpc_client_call_free(c->grpc);
    load_end(c->peer->client->load, c->slot);
}

static void on_ready(struct grpc_client_call *grpc, void *user)
{
    struct call *c = user;

    (void)grpc;
    if (c->is_ready)
        return;
    c->is_ready = true;
    STAILQ_INSERT_TAIL(&c->peer->ready, c, ready);
}

/* ---- The connection ---- */

static void write_output(struct peer *p)
{
    struct buffer *output = grpc_client_session_output(p->session);

    do {
        if (grpc_client_session_flush(p->session) < 0)
            load_fail("the connection is broken");
        while (buffer_length(output) > 0) {
            ssize_t n = send(p->fd, buffer_bytes(output), buffer_length(output),
                             MSG_DONTWAIT | MSG_NOSIGNAL);
            if (n < 0 && errno == EAGAIN) {
                event_add(&p->writable, NULL);
                return;
            }
            if (n < 0)
                load_fail("send: %s", strerror(errno));
            buffer_consume(output, (size_t)n);
        }
        grpc_client_session_flush(p->session);
    } while (buffer_length(output) > 0);
}

/* Calls that are ready are read and made anew; what all of them send leaves in one write. */
static void run_ready(struct peer *p)
{
    struct call *c;

    p->is_reading = true;
    while ((c = STAILQ_FIRST(&p->ready))) {
        STAILQ_REMOVE_HEAD(&p->ready, ready);
        c->is_ready = false;
        if (c->grpc)
            read_call(c);
    }
    p->is_reading = false;
    write_output(p);
}

static void on_readable(evutil_socket_t fd, short what, void *user)
{
    struct peer *p = user;
    uint8_t data[65536];
    ssize_t n = recv(fd, data, sizeof data, MSG_DONTWAIT);

    (void)what;
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0)
        load_fail("recv: %s", n < 0 ? strerror(errno) : "closed by the daemon");
    if (grpc_client_session_receive(p->session, data, (size_t)n) < 0)
        load_fail("the daemon does not speak HTTP/2");
    run_ready(p);
}

static void on_writable(evutil_socket_t fd, short what, void *user)
{
    (void)fd, (void)what;
    write_output(user);
}

static void peer_connect(struct client *c, struct peer *p)
{
    struct grpc_client_options options = grpc_client_options_default;
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    p->client = c;
    STAILQ_INIT(&p->ready);
    if (strlen(c->load->target) >= sizeof address.sun_path)
        load_fail("the path of the socket is too long");
    memcpy(address.sun_path, c->load->target, strlen(c->load->target) + 1);
    p->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    /* The kernel tells the daemon who connects. */
    if (c->load->has_uids && seteuid(FIRST_UID + (uid_t)(p - c->peers)) < 0)
        load_fail("seteuid: %s", strerror(errno));
    if (p->fd < 0 || connect(p->fd, (struct sockaddr *)&address, sizeof address) < 0)
        load_fail("%s: %s", c->load->target, strerror(errno));
    if (c->load->has_uids && seteuid(0) < 0)
        load_fail("seteuid: %s", strerror(errno));
    options.ready = on_ready;
    if (grpc_client_session_new(&options, &p->session) < 0)
        load_fail("out of memory");
    event_assign(&p->readable, c->load->base, p->fd, EV_READ | EV_PERSIST, on_readable, p);
    event_assign(&p->writable, c->load->base, p->fd, EV_WRITE, on_writable, p);
    if (event_add(&p->readable, NULL) < 0)
        load_fail("out of memory");
}

/* ---- Calls ---- */

/* A caller makes the request anew for each call. */
static size_t pack_request(struct client *c)
{
    static char prompt[] = "Say this is a test, and say why.";
    const struct load *l = c->load;
    Completion__V1__CreateCompletionRequest request;

    completion__v1__create_completion_request__init(&request);
    request.has_model = true;
    request.model = (ProtobufCBinaryData){strlen(l->model), (uint8_t *)l->model};
    request.prompt_case = COMPLETION__V1__CREATE_COMPLETION_REQUEST__PROMPT_PROMPT_STRING;
    request.prompt_string = (ProtobufCBinaryData){sizeof prompt - 1, (uint8_t *)prompt};
    request.has_max_tokens = true;
    request.max_tokens = l->n_chunks ? (int32_t)l->n_chunks : 7;
    if (completion__v1__create_completion_request__get_packed_size(&request) > sizeof c->request)
        load_fail("the name of the model is too long");
    return completion__v1__create_completion_request__pack(&request, c->request);
}

static void start_call(void *user, unsigned slot)
{
    struct client *c = user;
    struct call *call = &c->calls[slot];
    struct grpc_client_start start = {
        .path = c->load->n_chunks ? "/completion.v1.Completions/CreateStream"
                                  : "/completion.v1.Completions/Create",
        .timeout_us = -1,
        .user = call,
    };
    size_t len = pack_request(c);

    if (grpc_client_call_new(call->peer->session, &start, c->request, len, &call->grpc) < 0)
        load_fail("the connection takes no more calls");
    if (!call->peer->is_reading)
        event_active(&call->peer->writable, EV_WRITE, 0);
}

int main(int argc, char **argv)
{
    struct load load;
    struct client client = {.load = &load};

    load_init(&load, argc, argv);
    client.peers = calloc(load.n_connections, sizeof *client.peers);
    client.calls = calloc(load.in_flight, sizeof *client.calls);
    if (!client.peers || !client.calls)
        load_fail("out of memory");
    load_begin(&load);
    for (unsigned i = 0; i < load.n_connections; i++)
        peer_connect(&client, &client.peers[i]);
    for (unsigned i = 0; i < load.in_flight; i++) {
        client.calls[i].slot = i;
        client.calls[i].peer = &client.peers[i % load.n_connections];
    }
    load.start = start_call;
    load.user = &client;
    load_run(&load);
    for (unsigned i = 0; i < load.n_connections; i++) {
        event_del(&client.peers[i].readable);
        event_del(&client.peers[i].writable);
        grpc_client_session_free(client.peers[i].session);
        close(client.peers[i].fd);
    }
    free(client.peers);
    free(client.calls);
    load_done(&load);
    return 0;
}

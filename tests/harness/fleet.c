#include "fleet.h"

#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define STATUS_GET "/completion.v1.Status/Get"
#define BUSY       "{\"error\":{\"message\":\"busy\",\"type\":\"overloaded_error\"}}"

static bool answer(struct fake_connection *c, const char *name)
{
    char body[512];

    snprintf(body, sizeof body, FAKE_LAST("%s"), name);
    if (!strstr(c->body, "\"stream\":true"))
        return fake_answer(c, 200, "application/json", "", body);
    return fake_stream_begin(c) && fake_event(c, body) && fake_stream_done(c);
}

void fleet_serve(struct fake_connection *c)
{
    const struct server *server = c->user;

    while (fake_read_request(c)) {
        bool ok = false;
        fake_mark(c->fake, FAKE_STEP);
        switch ((enum server_mode)server->mode) {
        case SERVER_HOLD:
            ok = fake_await(c->fake, FAKE_GO, 1) && answer(c, server->name);
            break;
        case SERVER_WELL:
            ok = answer(c, server->name);
            break;
        case SERVER_REFUSE:
            ok = fake_answer(c, 503, "application/json", "", BUSY);
            break;
        case SERVER_BREAK:
            ok = fake_answer(c, 500, "application/json", "", BUSY);
            break;
        case SERVER_CUT_SHORT:
            if (fake_stream_begin(c))
                fake_event(c, FAKE_PART("we"));
            break;
        case SERVER_HANG_UP:
            break;
        }
        if (!ok)
            return;
    }
}

int fleet_setup(void **state)
{
    static const char *const names[FLEET_N] = {"a", "b", "c", "d"};
    struct fleet *f = calloc(1, sizeof *f);
    void *scene;

    assert_non_null(f);
    scene_setup(&scene);
    f->scene = scene;
    for (size_t i = 0; i < FLEET_N; i++) {
        f->servers[i].name = names[i];
        f->fakes[i] = fake_new(NULL, fleet_serve, &f->servers[i]);
        f->reserved[i] = -1;
        assert_int_equal(sscanf(fake_base_url(f->fakes[i]), "http://%31[^/]", f->names[i]), 1);
    }
    *state = f;
    return 0;
}

int fleet_teardown(void **state)
{
    struct fleet *f = *state;
    void *scene = f->scene;

    /* Before the daemon: it waits for what they hold. */
    for (size_t i = 0; i < FLEET_N; i++) {
        fake_free(f->fakes[i]);
        if (f->reserved[i] >= 0)
            close(f->reserved[i]);
    }
    scene_teardown(&scene);
    free(f);
    return 0;
}

size_t fleet_write_base_urls(struct fleet *f, unsigned which, char *out, size_t size)
{
    size_t n = 0;

    for (size_t i = 0; i < FLEET_N; i++)
        if (which >> i & 1)
            n += (size_t)snprintf(out + n, size - n, "base_url = %s\n", fake_base_url(f->fakes[i]));
    for (size_t i = 0; i < FLEET_N && *f->dead[i]; i++)
        n += (size_t)snprintf(out + n, size - n, "base_url = http://%s/v1\n", f->dead[i]);
    return n;
}

void fleet_start(struct fleet *f, unsigned which, const char *settings)
{
    char all[1024];
    size_t n = fleet_write_base_urls(f, which, all, sizeof all);

    snprintf(all + n, sizeof all - n, "max_retries = 2\n%s", settings ? settings : "");
    scene_start(f->scene, fleet_serve, &f->servers[0], all);
}

void fleet_reserve(struct fleet *f, size_t i)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000001)};
    socklen_t len = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, len), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &len), 0);
    snprintf(f->dead[i], sizeof f->dead[i], "127.0.0.1:%u", ntohs(address.sin_port));
    f->reserved[i] = fd;
}

unsigned fleet_n_asked(struct fleet *f, size_t i)
{
    return fake_count(f->fakes[i], FAKE_STEP);
}

struct grpc_client_call *fleet_begin(struct fleet *f, const char *path)
{
    rpc_request request = rpc_request_new("m", "CANARY prompt");

    return rpc_start(&f->scene->rpc, path, &request, -1);
}

void fleet_call(struct fleet *f, const char *path, struct rpc_result *ret)
{
    rpc_finish(&f->scene->rpc, fleet_begin(f, path), ret);
}

char fleet_ask(struct fleet *f, const char *path)
{
    struct rpc_result result;

    fleet_call(f, path, &result);
    if (result.status != GRPC_OK)
        fail_msg("%s", result.message);
    char who = *(const char *)buffer_bytes(&result.text);
    rpc_result_done(&result);
    return who;
}

void fleet_await_ended(struct fleet *f, struct grpc_client_call *const *calls, size_t n_calls,
                       size_t n)
{
    for (size_t n_ended = 0; n_ended < n;) {
        n_ended = 0;
        for (size_t i = 0; i < n_calls; i++)
            n_ended += grpc_client_call_is_ended(calls[i]);
        if (n_ended < n && !rpc_turn(&f->scene->rpc, HARNESS_TIMEOUT_MS))
            fail_msg("%zu of %zu calls have ended", n_ended, n);
    }
}

/* True: the call has ended. False: it is at the server, who has been asked once. */
static bool is_ended_and_not_at(struct fleet *f, struct grpc_client_call *call, size_t server)
{
    while (!grpc_client_call_is_ended(call)) {
        if (fleet_n_asked(f, server) > 0)
            return false;
        rpc_turn(&f->scene->rpc, 10);
    }
    return true;
}

struct grpc_client_call *fleet_hold_one(struct fleet *f, size_t server)
{
    f->servers[server].mode = SERVER_HOLD;
    for (size_t i = 0; i < 1000; i++) {
        struct grpc_client_call *call = fleet_begin(f, RPC_CREATE);
        struct rpc_result result;
        if (!is_ended_and_not_at(f, call, server))
            return call;
        rpc_finish(&f->scene->rpc, call, &result);
        rpc_result_done(&result);
    }
    fail_msg("%s is never asked", f->servers[server].name);
    return NULL;
}

Completion__V1__GetStatusResponse *fleet_status(struct fleet *f)
{
    struct rpc *r = &f->scene->rpc;
    const uint8_t *message;
    size_t len;
    struct grpc_client_call *call = rpc_start_raw(r, STATUS_GET, NULL, 0, -1, NULL, 0);

    while (!grpc_client_call_is_ended(call))
        if (!rpc_turn(r, HARNESS_TIMEOUT_MS))
            fail_msg("the status is not told");
    assert_int_equal(grpc_client_call_next(call, &message, &len), 1);
    assert_null(memmem(message, len, SCENE_KEY, 9));
    Completion__V1__GetStatusResponse *s =
        completion__v1__get_status_response__unpack(NULL, len, message);
    assert_non_null(s);
    grpc_client_call_free(call);
    return s;
}

Completion__V1__EndpointState fleet_state(struct fleet *f, size_t i)
{
    Completion__V1__GetStatusResponse *s = fleet_status(f);

    assert_true(i < s->upstreams[0]->n_endpoints);
    Completion__V1__EndpointState state = s->upstreams[0]->endpoints[i]->state;
    completion__v1__get_status_response__free_unpacked(s, NULL);
    return state;
}

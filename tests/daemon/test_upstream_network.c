/*
 * Networks that swallow packets and name servers that fail in each way, in a network of the test's
 * own. Whatever an upstream's name or address does, other calls go on: the loop does not wait.
 */
#include <netdb.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "nameserver.h"
#include "network.h"
#include "scene.h"

/* Far above what a busy machine needs, and far below what a resolver or a connect takes. */
enum { STALL_MAX_MS = 1000 };

static void serve(struct fake_connection *c)
{
    while (fake_read_request(c) && fake_answer(c, 200, "application/json", "", FAKE_LAST("whole")))
        ;
}

/* The model "fast" is served by the fake's address, any other by where the format says that the
 * fake's port is. */
static void start(struct scene *s, const char *host, const char *settings)
{
    char all[512];
    struct fake *fake = fake_new(NULL, serve, NULL);
    unsigned port = (unsigned)strtoul(strrchr(fake_base_url(fake), ':') + 1, NULL, 10);

    snprintf(all, sizeof all,
             "models = fast\n[upstream slow]\nauth = none\nmax_retries = 0\n"
             "base_url = http://%s:%u/v1\n%s\n",
             host, port, settings ? settings : "");
    scene_start(s, serve, NULL, all);
    /* The second one is the slow upstream, where its name leads to anything. */
    fake_free(s->fake);
    s->fake = fake;
}

static struct grpc_client_call *ask(struct scene *s, int timeout_ms)
{
    rpc_request request = rpc_request_new("m", "CANARY prompt");

    return rpc_start(&s->rpc, RPC_CREATE, &request, timeout_ms);
}

/* Asks the daemon for its health on another connection until the call has ended; the longest time
 * that took is how long the loop did something else. */
static void expect_no_stall(struct scene *s, struct grpc_client_call *call)
{
    struct scene other = {.rpc.fd = -1};
    int64_t worst = 0;

    rpc_connect(&other.rpc, s->daemon.socket);
    do {
        int64_t before = harness_now_ms();
        scene_assert_serving(&other);
        int64_t took = harness_now_ms() - before;
        worst = took > worst ? took : worst;
        rpc_turn(&s->rpc, 5);
    } while (!grpc_client_call_is_ended(call));
    rpc_close(&other.rpc);
    print_message("longest stall: %lld ms\n", (long long)worst);
    assert_true(worst < STALL_MAX_MS);
}

static void expect_failed(struct scene *s, int timeout_ms, enum grpc_status status,
                          const char *reason, const char *said)
{
    struct rpc_result result;
    struct grpc_client_call *call = ask(s, timeout_ms);

    expect_no_stall(s, call);
    rpc_finish(&s->rpc, call, &result);
    rpc_assert_failed(&result, status, reason);
    rpc_assert_said(&result, said);
    assert_false(result.detail->maybe_executed);
    rpc_result_done(&result);
}

static void expect_whole(struct scene *s, int timeout_ms)
{
    struct rpc_result result;

    rpc_finish(&s->rpc, ask(s, timeout_ms), &result);
    rpc_assert_ok(&result, "whole");
    rpc_result_done(&result);
}

/* ---- Packets that vanish ---- */

static void test_black_hole(void **state)
{
    struct scene *s = *state;
    char host[32];

    snprintf(host, sizeof host, NETWORK_BLACK_HOLE, 2);
    start(s, host, "connect_timeout = 500ms\n");
    expect_failed(s, -1, GRPC_UNAVAILABLE, "UPSTREAM_TIMEOUT", "connect_timeout (0.5 s)");
    expect_failed(s, 100, GRPC_DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED",
                  "connecting to the upstream");
    scene_stop(s);
}

/* ---- Name servers ---- */

static const char nowhere[] = "upstream.test";

static void test_a_black_hole_beside_one_that_answers(void **state)
{
    struct scene *s = *state;
    struct rpc_result result;
    char settings[160], host[32], line[96];
    struct fake *other = fake_new(NULL, serve, NULL);

    snprintf(host, sizeof host, NETWORK_BLACK_HOLE, 2U);
    snprintf(settings, sizeof settings, "base_url = %s\nconnect_timeout = 100ms",
             fake_base_url(other));
    start(s, host, settings);
    for (int i = 0; i < 100; i++) {
        rpc_finish(&s->rpc, ask(s, -1), &result);
        rpc_assert_ok(&result, "whole");
        rpc_result_done(&result);
    }
    snprintf(line, sizeof line, "at %s:%s", host, strrchr(fake_base_url(s->fake), ':') + 1);
    *strchrnul(line, '/') = '\0';
    strcat(line, " failed (http_status=0), again in 0 ms");
    daemon_assert_logged(&s->daemon, line);
    scene_stop(s);
    fake_free(other);
}

static void test_names_that_lead_nowhere(void **state)
{
    static const enum nameserver_mode modes[] = {NAMESERVER_NXDOMAIN, NAMESERVER_SERVFAIL,
                                                 NAMESERVER_EMPTY};
    struct scene *s = *state;
    struct nameserver *names = nameserver_new();

    start(s, nowhere, NULL);
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        nameserver_set(names, modes[i], "");
        expect_failed(s, -1, GRPC_UNAVAILABLE, "UPSTREAM_UNREACHABLE", "resolve host");
    }
    /* Nothing of that is kept. */
    nameserver_set(names, NAMESERVER_ANSWERS, "127.0.0.1");
    expect_whole(s, -1);
    scene_stop(s);
    nameserver_free(names);
}

static void test_name_server_that_is_slow(void **state)
{
    struct scene *s = *state;
    struct nameserver *names = nameserver_new();
    struct rpc_result result;

    nameserver_set(names, NAMESERVER_WAITS, "");
    start(s, nowhere, NULL);
    struct grpc_client_call *call = ask(s, -1);
    assert_true(nameserver_await(names, 1));
    scene_assert_serving(s);
    nameserver_set(names, NAMESERVER_ANSWERS, "127.0.0.1");
    rpc_finish(&s->rpc, call, &result);
    rpc_assert_ok(&result, "whole");
    rpc_result_done(&result);
    scene_stop(s);
    nameserver_free(names);
}

static void test_name_server_that_is_dead(void **state)
{
    struct scene *s = *state;
    struct nameserver *names = nameserver_new();
    struct rpc_result result;

    nameserver_set(names, NAMESERVER_SILENT, "");
    start(s, nowhere, "connect_timeout = 500ms\n");
    expect_failed(s, -1, GRPC_UNAVAILABLE, "UPSTREAM_TIMEOUT", "connect_timeout (0.5 s)");
    expect_failed(s, 100, GRPC_DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED",
                  "looking up the upstream's name");
    struct grpc_client_call *call = ask(s, -1);
    rpc_cancel(&s->rpc, call);
    scene_assert_serving(s);
    rpc_finish(&s->rpc, call, &result);
    rpc_result_done(&result);
    scene_stop(s);
    nameserver_free(names);
}

static long n_threads(const struct daemon *d)
{
    char path[64];

    snprintf(path, sizeof path, "/proc/%d/status", (int)d->pid);
    char *text = directory_read(path);
    const char *line = strstr(text, "Threads:");
    long n = line ? strtol(line + 8, NULL, 10) : -1;
    free(text);
    return n;
}

/* A look-up that was given up goes on in its thread, for as long as the resolver likes. */
static void test_look_ups_that_hang_are_few(void **state)
{
    enum {
        CALLS = 1000,
        AT_ONCE = 20,
        THREADS_MAX = 24
    }; /* the first and the last for each worker */
    const int n_calls = CALLS * (int)daemon_n_workers();
    struct scene *s = *state;
    struct nameserver *names = nameserver_new();
    struct grpc_client_call *calls[AT_ONCE];
    struct rpc_result result;
    rpc_request fast = rpc_request_new("fast", "p");
    long most = 0;
    unsigned n_refused = 0;

    nameserver_set(names, NAMESERVER_SILENT, "");
    start(s, nowhere, NULL);
    for (int n = 0; n < n_calls; n += AT_ONCE) {
        for (int i = 0; i < AT_ONCE; i++)
            calls[i] = ask(s, 20);
        for (int i = 0; i < AT_ONCE; i++) {
            rpc_finish(&s->rpc, calls[i], &result);
            assert_true(result.status == GRPC_DEADLINE_EXCEEDED ||
                        result.status == GRPC_RESOURCE_EXHAUSTED);
            assert_false(result.detail && result.detail->maybe_executed);
            n_refused += result.status == GRPC_RESOURCE_EXHAUSTED;
            rpc_result_done(&result);
        }
        long threads = n_threads(&s->daemon);
        most = threads > most ? threads : most;
    }
    print_message("most threads: %ld\n", most);
    assert_in_range(most, 1, THREADS_MAX * daemon_n_workers());
    assert_true(n_refused > 0);
    /* Who needs no look-up does not notice. */
    rpc_call(&s->rpc, RPC_CREATE, &fast, &result);
    assert_true(result.detail && result.detail->attempts == 1);
    rpc_result_done(&result);
    scene_stop(s);
    nameserver_free(names);
}

static void test_callers_share_a_look_up(void **state)
{
    enum { CALLS = 30 };
    struct scene *s = *state;
    struct nameserver *names = nameserver_new();
    struct grpc_client_call *calls[CALLS];
    struct rpc_result result;

    nameserver_set(names, NAMESERVER_WAITS, "");
    start(s, nowhere, NULL);
    for (int i = 0; i < CALLS; i++)
        calls[i] = ask(s, -1);
    assert_true(nameserver_await(names, 1));
    scene_assert_serving(s);
    assert_true(n_threads(&s->daemon) <= 2 + (long)daemon_n_workers());
    nameserver_set(names, NAMESERVER_ANSWERS, "127.0.0.1");
    for (int i = 0; i < CALLS; i++) {
        rpc_finish(&s->rpc, calls[i], &result);
        rpc_assert_ok(&result, "whole");
        rpc_result_done(&result);
    }
    assert_int_equal(nameserver_n_questions(names), 1);
    scene_stop(s);
    nameserver_free(names);
}

/* The daemon runs for moments only, as on a machine that is busy. */
static void run_in_slices(const struct daemon *d)
{
    enum { SLICES = 60 };
    static const struct timespec slice = {.tv_nsec = 100000}, pause = {.tv_nsec = 2000000};

    for (int i = 0; i < SLICES; i++) {
        nanosleep(&slice, NULL);
        daemon_signal(d, SIGSTOP);
        nanosleep(&pause, NULL);
        daemon_signal(d, SIGCONT);
    }
}

/* While libcurl still turns away those who wait for it. */
static void test_look_up_that_is_over_at_once(void **state)
{
    enum { STARTS = 8, CALLS = 60 };
    struct scene *s = *state;
    struct nameserver *names = nameserver_new();
    struct grpc_client_call *calls[CALLS];
    struct rpc_result result;

    nameserver_set(names, NAMESERVER_ANSWERS, "127.0.0.1");
    for (int n = 0; n < STARTS; n++) {
        if (n == 0) {
            start(s, nowhere, NULL);
        } else {
            daemon_start(&s->daemon, NULL);
            rpc_connect(&s->rpc, s->daemon.socket);
        }
        for (int i = 0; i < CALLS; i++)
            calls[i] = ask(s, -1);
        rpc_turn(&s->rpc, 0);
        run_in_slices(&s->daemon);
        for (int i = 0; i < CALLS; i++) {
            rpc_finish(&s->rpc, calls[i], &result);
            rpc_assert_ok(&result, "whole");
            rpc_result_done(&result);
        }
        scene_stop(s);
    }
    nameserver_free(names);
}

/* Where something listens on every address of this host. */
static int listen_everywhere(unsigned *ret_port)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t len = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(fd, 8), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &len), 0);
    *ret_port = ntohs(address.sin_port);
    return fd;
}

static void test_name_that_leads_where_no_server_is(void **state)
{
    static const char *const addresses[] = {NETWORK_LINK_LOCAL, "0.0.0.0",
                                            ("0.0.0.0 " NETWORK_LINK_LOCAL)};
    struct scene *s = *state;
    struct nameserver *names = nameserver_new();
    char settings[128];
    unsigned port;
    int fd = listen_everywhere(&port);

    snprintf(settings, sizeof settings, "base_url =\nbase_url = http://upstream.test:%u/v1\n",
             port);
    for (size_t i = 0; i < sizeof addresses / sizeof *addresses; i++) {
        nameserver_set(names, NAMESERVER_ANSWERS, addresses[i]);
        start(s, nowhere, settings);
        expect_failed(s, -1, GRPC_UNAVAILABLE, "UPSTREAM_UNREACHABLE", "no server's");
        scene_stop(s);
        s->fake = fake_free(s->fake);
    }
    assert_true(accept(fd, NULL, NULL) < 0);

    /* One that is a server's does, and so does an address that was written by hand. */
    nameserver_set(names, NAMESERVER_ANSWERS, NETWORK_LINK_LOCAL " 127.0.0.1");
    start(s, nowhere, NULL);
    expect_whole(s, -1);
    scene_stop(s);
    s->fake = fake_free(s->fake);
    snprintf(settings, sizeof settings,
             "base_url =\nbase_url = http://" NETWORK_LINK_LOCAL
             ":%u/v1\nfirst_byte_timeout = 100ms\n",
             port);
    start(s, nowhere, settings);
    struct grpc_client_call *call = ask(s, -1);
    struct rpc_result result;
    rpc_finish(&s->rpc, call, &result);
    rpc_assert_failed(&result, GRPC_UNAVAILABLE, "UPSTREAM_TIMEOUT");
    rpc_assert_said(&result, "first_byte_timeout");
    rpc_result_done(&result);
    scene_stop(s);
    close(fd);
    nameserver_free(names);
}

/* ---- Many addresses ---- */

/* The last one that getaddrinfo() gives. */
static void assert_last_address(const char *name, uint32_t expected)
{
    struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, *list, *last;

    assert_int_equal(getaddrinfo(name, NULL, &hints, &list), 0);
    for (last = list; last->ai_next; last = last->ai_next)
        ;
    assert_int_equal(ntohl(((struct sockaddr_in *)(void *)last->ai_addr)->sin_addr.s_addr),
                     expected);
    freeaddrinfo(list);
}

static void test_twenty_addresses_of_which_the_last_lives(void **state)
{
    struct scene *s = *state;
    struct nameserver *names = nameserver_new();
    char addresses[512] = "127.0.0.1", one[32];

    /* 18 refuse at once, and behind one there is nothing. */
    for (unsigned i = 1; i <= 18; i++) {
        snprintf(one, sizeof one, " 127.0.1.%u", i);
        strcat(addresses, one);
    }
    snprintf(one, sizeof one, " " NETWORK_BLACK_HOLE, 2);
    strcat(addresses, one);
    nameserver_set(names, NAMESERVER_ANSWERS, addresses);
    network_file("/etc/gai.conf",
                 "precedence ::ffff:0:0/96 10\nprecedence ::ffff:127.0.0.1/128 1\n");
    assert_last_address(nowhere, INADDR_LOOPBACK);
    start(s, nowhere, "connect_timeout = 1500ms\n");
    expect_whole(s, 10000);
    scene_stop(s);
    nameserver_free(names);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_black_hole),
        scene_test(test_a_black_hole_beside_one_that_answers),
        scene_test(test_names_that_lead_nowhere),
        scene_test(test_name_server_that_is_slow),
        scene_test(test_name_server_that_is_dead),
        scene_test(test_look_ups_that_hang_are_few),
        scene_test(test_callers_share_a_look_up),
        scene_test(test_look_up_that_is_over_at_once),
        scene_test(test_name_that_leads_where_no_server_is),
        scene_test(test_twenty_addresses_of_which_the_last_lives),
    };

    if (!network_enter())
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL);
}

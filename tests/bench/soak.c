/*
 * A soak: callers of every kind, an honest upstream (completion-sandbox) and one that fails in
 * every way it knows, and a daemon that is reloaded, restarted and killed at random, for
 * SOAK_SECONDS (10). SOAK_SEED makes it another one. soak.sh runs it for minutes.
 *
 * It ends by itself, and says what came of it. It fails if a call had no outcome or two, was
 * refused a connection, or looked whole and was not; if the upstream was asked for callers who were
 * gone; or if the last daemon does not come back to the memory and descriptors that it had.
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "crowd.h"
#include "fixture.h"
#include "scene.h"

enum {
    CALLS_MAX = 20000000,
    LATE_MS = 3000, /* the upstream may be asked for a caller who is gone for less */
    CALLERS = 12,
    CALLS = 4,
    SAME_CALLS = 600, /* made twice of the last daemon, to compare what it holds */
    RSS_SLACK_KIB = 12288,
    QUIET_MS = 400, /* between two things that happen to the daemon: half of it to one and a half */
};

struct soak {
    struct scene scene;
    struct sandbox sandbox;
    int listener;
    struct crowd *crowds[2]; /* of the sandbox, of the fake */
    uint32_t chance;
    unsigned n_reloads, n_restarts, n_kills;
    _Atomic unsigned n_late, n_begun, n_done; /* requests of the fake's */
};

static uint32_t chance(struct soak *s, uint32_t below)
{
    s->chance = s->chance * 1664525 + 1013904223;
    return (s->chance >> 8) % below;
}

/* ---- The upstream that fails ---- */

static void fail_before_the_answer(struct fake_connection *c, unsigned how)
{
    static const char error[] = "{\"error\":{\"message\":\"no\",\"type\":\"server_error\"}}";

    if (how == 0)
        fake_reset(c);
    else if (how == 1)
        fake_answer(c, 429, "application/json", "Retry-After: 0\r\n", error);
    else if (how == 2)
        fake_answer(c, 503, "text/html", "", "<html>busy</html>");
    else if (how == 3)
        fake_answer(c, 400, "application/json", "", error);
    else if (how == 4)
        fake_write(c, "SSH-2.0-nonsense\r\n\r\n", 20);
    else if (how == 5)
        fake_answer(c, 200, "application/json", "", "not JSON");
    else
        fake_wait_for_close(c);
}

static void fail_in_the_answer(struct fake_connection *c, unsigned how)
{
    static const char part[] = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                               "Content-Length: 1000\r\n\r\n{\"id\":\"cut";

    if (!strstr(c->body, "\"stream\":true")) {
        fake_drip(c, part, sizeof part - 1);
        if (how == 0)
            fake_reset(c);
        else if (how == 1)
            fake_wait_for_close(c);
        return;
    }
    if (!fake_stream_begin(c) || !fake_event(c, FAKE_PART("part ")))
        return;
    if (how == 0)
        fake_reset(c);
    else if (how == 1)
        fake_wait_for_close(c);
    else if (how == 2)
        fake_event(c, "{\"error\":{\"message\":\"no\",\"type\":\"server_error\"}}");
    else if (how == 3)
        fake_event(c, "{\"choices\":");
    else if (how == 4)
        fake_event(c, FAKE_LAST("end")); /* and no [DONE] */
}

/* Whether the connection can go on. */
static bool serve_one(struct fake_connection *c, uint32_t dice)
{
    if (dice % 100 < 15) {
        fail_before_the_answer(c, (dice / 100) % 7);
        return false;
    }
    if (dice % 100 < 30) {
        fail_in_the_answer(c, (dice / 100) % 6);
        return false;
    }
    /* Some take their time. */
    if (dice % 100 < 40)
        poll(NULL, 0, (int)((dice / 100) % 150));
    return crowd_answer(c);
}

static void serve(struct fake_connection *c)
{
    struct soak *s = (struct soak *)c->user;
    bool usable = true;

    while (usable && fake_read_request(c)) {
        uint64_t number = crowd_number(c->body);
        atomic_fetch_add(&s->n_begun, 1);
        if (crowd_over_for_ms(s->crowds[1], number) > LATE_MS)
            atomic_fetch_add(&s->n_late, 1);
        usable = serve_one(c, (uint32_t)(number * 2654435761U) >> 8 ^ c->n_requests);
        atomic_fetch_add(&s->n_done, 1);
    }
}

/* ---- What happens to the daemon ---- */

static void turn(struct soak *s)
{
    crowd_turn(s->crowds[0], 0);
    crowd_turn(s->crowds[1], 1);
}

static void turn_for(struct soak *s, int ms)
{
    for (int64_t until = harness_now_ms() + ms; harness_now_ms() < until;)
        turn(s);
}

/* Until the daemon has ended or said something. */
static void turn_until(struct soak *s, int fd)
{
    struct pollfd p = {fd, POLLIN, 0};

    for (int64_t late = harness_now_ms() + HARNESS_TIMEOUT_MS;
         poll(&p, 1, 0) == 0 && harness_now_ms() < late;)
        turn(s);
}

static void start_daemon(struct soak *s)
{
    daemon_start(&s->scene.daemon,
                 &(struct daemon_options){.listen_fd = s->listener, .no_listen = true});
}

/* Sometimes with a key that can't be read, and what was stays. */
static void reload(struct soak *s)
{
    struct daemon *d = &s->scene.daemon;

    s->n_reloads++;
    directory_write(&d->directory, "key",
                    chance(s, 3) == 0  ? "two words"
                    : s->n_reloads % 2 ? "sk-a"
                                       : "sk-b");
    daemon_signal(d, SIGHUP);
    daemon_await(d, "RELOADING=1");
    turn_until(s, d->notify);
    daemon_await(d, "READY=1");
    directory_write(&d->directory, "key", "sk-c");
}

static void restart(struct soak *s)
{
    struct daemon *d = &s->scene.daemon;

    s->n_restarts++;
    daemon_signal(d, SIGTERM);
    turn_until(s, d->pidfd);
    daemon_wait_exit(d, 0);
    turn_for(s, (int)chance(s, 20));
    start_daemon(s);
}

static void kill_daemon(struct soak *s)
{
    struct daemon *d = &s->scene.daemon;

    s->n_kills++;
    daemon_signal(d, SIGKILL);
    daemon_wait(d);
    daemon_assert_not_logged(d, "Sanitizer");
    turn_for(s, (int)chance(s, 20));
    start_daemon(s);
}

static uint64_t n_started(const struct soak *s)
{
    return crowd_counts(s->crowds[0])->n_started + crowd_counts(s->crowds[1])->n_started;
}

static void trouble(struct soak *s, int seconds)
{
    int64_t until = harness_now_ms() + (int64_t)seconds * 1000;

    while (harness_now_ms() < until && n_started(s) < CALLS_MAX) {
        turn_for(s, QUIET_MS / 2 + (int)chance(s, QUIET_MS));
        uint32_t dice = chance(s, 4);
        if (dice < 2)
            reload(s);
        else if (dice == 2)
            restart(s);
        else
            kill_daemon(s);
    }
}

/* ---- What came of it ---- */

static void show(const char *name, const struct crowd_counts *n)
{
    print_message("%s: %" PRIu64 " connections, %" PRIu64 " calls, longest %" PRId64 " ms:", name,
                  n->n_connected, n->n_ended, n->longest_ms);
    for (int i = 0; i < 17; i++)
        if (n->by_status[i])
            print_message(" %s %" PRIu64, grpc_status_name(i), n->by_status[i]);
    print_message("\n");
}

static void check_crowd(const struct crowd_counts *n)
{
    static const enum grpc_status expected[] = {
        GRPC_OK,       GRPC_CANCELLED,          GRPC_INVALID_ARGUMENT, GRPC_DEADLINE_EXCEEDED,
        GRPC_INTERNAL, GRPC_RESOURCE_EXHAUSTED, GRPC_UNAVAILABLE,
    };
    uint64_t n_expected = 0;

    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++)
        n_expected += n->by_status[expected[i]];
    assert_int_equal(n->n_started, n->n_ended);
    assert_int_equal(n_expected, n->n_ended);
    assert_int_equal(n->n_torn, 0);
    assert_int_equal(n->n_refused, 0);
    assert_true(n->longest_ms < HARNESS_TIMEOUT_MS);
    assert_true(n->by_status[GRPC_OK] > n->n_ended / 4);
}

static void settle(struct soak *s)
{
    for (int i = 0; i < 2; i++)
        assert_true(crowd_settle(s->crowds[i]));
    /* It has taken leave of them all. */
    rpc_connect(&s->scene.rpc, s->scene.daemon.socket);
    scene_assert_serving(&s->scene);
    rpc_close(&s->scene.rpc);
}

static void run_same(struct soak *s)
{
    uint64_t until = n_started(s) + SAME_CALLS;

    while (n_started(s) < until)
        turn(s);
    settle(s);
}

/* The last daemon does the same twice, and holds no more after the second time. */
static void check_daemon(struct soak *s)
{
    const struct daemon *d = &s->scene.daemon;

    run_same(s);
    long rss_kib = daemon_rss_kib(d);
    int n_descriptors = daemon_n_descriptors(d);
    run_same(s);
    long rss_after_kib = daemon_rss_kib(d);
    int n_descriptors_after = daemon_n_descriptors(d);
    print_message("the last daemon: %ld and then %ld KiB, %d and then %d descriptors\n", rss_kib,
                  rss_after_kib, n_descriptors, n_descriptors_after);
    assert_true(rss_after_kib < rss_kib + RSS_SLACK_KIB);
    /* Connections to the upstreams are kept, as many as there were calls at once. */
    assert_true(n_descriptors_after <= n_descriptors + 2 * CALLERS * CALLS);
}

static unsigned count(const char *text, const char *word)
{
    unsigned n = 0;

    for (const char *p = text; (p = strstr(p, word)); p++)
        n++;
    return n;
}

/* Callers that only ask: as many calls as they made are in the daemon's log, each with the end that
 * they saw. */
static void check_records(struct soak *s)
{
    struct crowd *c = crowd_new(&(struct crowd_options){.socket = s->scene.daemon.socket,
                                                        .model = "sandbox",
                                                        .n_callers = CALLERS,
                                                        .n_calls = CALLS,
                                                        .seed = 7,
                                                        .streamed = 50});
    const struct crowd_counts *n = crowd_counts(c);

    assert_int_equal(remove(s->scene.daemon.log), 0);
    start_daemon(s);
    assert_true(crowd_run(c, 300));
    assert_true(crowd_settle(c));
    daemon_stop(&s->scene.daemon);
    char *log = daemon_log(&s->scene.daemon);
    assert_int_equal(count(log, "call ended: "), n->n_started);
    assert_int_equal(count(log, " status=OK "), n->by_status[GRPC_OK]);
    assert_int_equal(n->by_status[GRPC_OK], n->n_ended);
    free(log);
    crowd_free(c);
}

/* ---- Scenery ---- */

static void listen_for_daemons(struct soak *s)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    s->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", s->scene.daemon.socket);
    assert_int_equal(bind(s->listener, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(s->listener, 4096), 0);
}

static void configure(struct soak *s)
{
    const char *key = directory_write(&s->scene.daemon.directory, "key", "sk-c");
    char text[1024];

    snprintf(text, sizeof text,
             "[daemon]\nlog_level = debug\ndrain_timeout = 1s\n"
             "[policy *]\nmax_concurrent = 80\nmax_queued = 1000\n"
             "[upstream sandbox]\nmodels = sandbox\nbase_url = %s/v1\nauth = none\n"
             "[upstream fake]\nmodels = fake\nbase_url = %s\ncredential_file = %s\n"
             "first_byte_timeout = 500ms\nidle_timeout = 500ms\nmax_retries = 1\n"
             "max_concurrent = 40\n",
             s->sandbox.url, fake_base_url(s->scene.fake), key);
    daemon_configure(&s->scene.daemon, text);
}

static struct crowd *gather(struct soak *s, const char *model)
{
    return crowd_new(&(struct crowd_options){
        .socket = s->scene.daemon.socket,
        .model = model,
        .n_callers = CALLERS,
        .n_calls = CALLS,
        .seed = chance(s, UINT32_MAX),
        .streamed = 60,
        .cancelled = 10,
        .timed = 20,
        .leaving = 3,
        .sleeping = 3,
    });
}

static void test_soak(void **state)
{
    struct soak *s = *state;
    const char *seconds = getenv("SOAK_SECONDS");

    daemon_add_asan_option("quarantine_size_mb=1");
    sandbox_start(&s->sandbox, (const char *const[]){"--model", "sandbox", NULL});
    s->crowds[0] = gather(s, "sandbox");
    s->crowds[1] = gather(s, "fake");
    s->scene.fake = fake_new(NULL, serve, s);
    listen_for_daemons(s);
    configure(s);
    start_daemon(s);

    trouble(s, seconds ? atoi(seconds) : 10);
    show("sandbox", crowd_counts(s->crowds[0]));
    show("fake", crowd_counts(s->crowds[1]));
    print_message("%u reloads, %u restarts, %u kills\n", s->n_reloads, s->n_restarts, s->n_kills);
    check_daemon(s);
    for (int i = 0; i < 2; i++)
        check_crowd(crowd_counts(s->crowds[i]));
    assert_int_equal(atomic_load(&s->n_late), 0);
    assert_int_equal(sandbox_count(&s->sandbox, "active"), 0);
    daemon_stop(&s->scene.daemon);
    check_records(s);

    s->scene.fake = fake_free(s->scene.fake);
    assert_int_equal(atomic_load(&s->n_begun), atomic_load(&s->n_done));
    sandbox_stop(&s->sandbox);
}

static int setup(void **state)
{
    static struct soak s = {.listener = -1};
    const char *seed = getenv("SOAK_SEED");

    s.scene.rpc.fd = -1;
    s.chance = seed ? (uint32_t)strtoul(seed, NULL, 10) : 1;
    daemon_init(&s.scene.daemon, NULL);
    *state = &s;
    return 0;
}

static int teardown(void **state)
{
    struct soak *s = *state;

    rpc_close(&s->scene.rpc);
    daemon_done(&s->scene.daemon);
    fake_free(s->scene.fake);
    crowd_free(s->crowds[0]);
    crowd_free(s->crowds[1]);
    if (s->sandbox.pid > 0)
        kill(s->sandbox.pid, SIGTERM);
    if (s->listener >= 0)
        close(s->listener);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_soak, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

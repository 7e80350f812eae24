/*
 * An upstream of several servers: who is asked, who is left alone, what a caller hears of servers
 * that fail (nothing, while there is another one), and what a reload keeps.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "fleet.h"

#define OK          COMPLETION__V1__ENDPOINT_STATE__ENDPOINT_STATE_OK
#define RESTING     COMPLETION__V1__ENDPOINT_STATE__ENDPOINT_STATE_RESTING
#define UNREACHABLE COMPLETION__V1__ENDPOINT_STATE__ENDPOINT_STATE_UNREACHABLE

/* ---- Who is asked ---- */

static void test_calls_go_to_the_least_loaded(void **state)
{
    struct fleet *f = *state;
    struct grpc_client_call *calls[3 * FLEET_N];
    struct rpc_result result;

    for (size_t i = 0; i < FLEET_N; i++)
        f->servers[i].mode = SERVER_HOLD;
    fleet_start(f, 15, NULL);
    for (size_t i = 0; i < 2 * FLEET_N; i++)
        calls[i] = fleet_begin(f, i % 2 ? RPC_CREATE : RPC_CREATE_STREAM);
    for (size_t i = 0; i < FLEET_N; i++)
        assert_true(fake_await(f->fakes[i], FAKE_STEP, 2));

    Completion__V1__GetStatusResponse *s = fleet_status(f);
    assert_int_equal(s->upstreams[0]->n_endpoints, FLEET_N);
    for (size_t i = 0; i < FLEET_N; i++) {
        const Completion__V1__EndpointStatus *e = s->upstreams[0]->endpoints[i];
        rpc_assert_text(e, base_url, fake_base_url(f->fakes[i]));
        assert_int_equal(e->running, 2);
        assert_int_equal(e->attempts, 2);
        assert_int_equal(e->faults, 0);
    }
    completion__v1__get_status_response__free_unpacked(s, NULL);

    /* Only c answers what it has: what follows is c's, which has the fewest. */
    f->servers[2].mode = SERVER_WELL;
    fake_mark(f->fakes[2], FAKE_GO);
    fleet_await_ended(f, calls, 2 * FLEET_N, 2);
    for (size_t i = 0; i < FLEET_N; i++)
        assert_int_equal(fleet_ask(f, RPC_CREATE), 'c');
    for (size_t i = 0; i < FLEET_N; i++)
        fake_mark(f->fakes[i], FAKE_GO);
    for (size_t i = 0; i < 2 * FLEET_N; i++) {
        rpc_finish(&f->scene->rpc, calls[i], &result);
        assert_int_equal(result.status, GRPC_OK);
        rpc_result_done(&result);
    }
    scene_stop(f->scene);
}

/* So many calls that all of them are asked, unless chance were out of its mind. */
enum { MANY = 200 };

static void test_equals_are_all_asked_on_kept_connections(void **state)
{
    struct fleet *f = *state;

    fleet_start(f, 15, NULL);
    for (size_t i = 0; i < MANY; i++)
        fleet_ask(f, i % 2 ? RPC_CREATE : RPC_CREATE_STREAM);
    for (size_t i = 0; i < FLEET_N; i++) {
        assert_true(fleet_n_asked(f, i) > MANY / 20);
        assert_int_equal(fake_count(f->fakes[i], FAKE_ACCEPTED), 1);
    }
    scene_stop(f->scene);
}

static void test_a_slow_one_gets_no_more_while_others_have_less(void **state)
{
    struct fleet *f = *state;
    struct rpc_result result;

    fleet_start(f, 15, NULL);
    struct grpc_client_call *held = fleet_hold_one(f, 1);
    for (size_t i = 0; i < 30; i++)
        assert_int_not_equal(fleet_ask(f, RPC_CREATE), 'b');
    assert_int_equal(fleet_n_asked(f, 1), 1);
    fake_mark(f->fakes[1], FAKE_GO);
    rpc_finish(&f->scene->rpc, held, &result);
    rpc_assert_ok(&result, "b");
    rpc_result_done(&result);
    scene_stop(f->scene);
}

static void test_workers_know_of_each_others_calls(void **state)
{
    struct fleet *f = *state;
    struct rpc_result result;

    fleet_start(f, 3, "[daemon]\nworkers = 2\n");
    struct grpc_client_call *held = fleet_hold_one(f, 1);
    /* The second connection is the other worker's. */
    struct rpc first = f->scene->rpc;
    rpc_connect(&f->scene->rpc, f->scene->daemon.socket);
    for (size_t i = 0; i < MANY; i++)
        assert_int_equal(fleet_ask(f, RPC_CREATE), 'a');
    assert_int_equal(fleet_n_asked(f, 1), 1);
    rpc_close(&f->scene->rpc);
    f->scene->rpc = first;
    fake_mark(f->fakes[1], FAKE_GO);
    rpc_finish(&f->scene->rpc, held, &result);
    rpc_assert_ok(&result, "b");
    rpc_result_done(&result);
    scene_stop(f->scene);
}

static void test_sockets_and_ports_may_be_mixed(void **state)
{
    struct fleet *f = *state;
    char path[128], settings[256];
    struct server server = {.name = "u"};
    unsigned n = 0;

    snprintf(path, sizeof path, "%s", directory_path(&f->scene->daemon.directory, "up.sock"));
    struct fake *fake = fake_new(path, fleet_serve, &server);
    snprintf(settings, sizeof settings, "base_url = %s\n", fake_base_url(fake));
    fleet_start(f, 1, settings);
    for (size_t i = 0; i < MANY; i++)
        n += fleet_ask(f, RPC_CREATE) == 'u';
    assert_in_range(n, 1, MANY - 1);
    assert_int_equal(fleet_n_asked(f, 0), MANY - n);
    scene_stop(f->scene);
    fake_free(fake);
}

/* ---- Servers that fail ---- */

static void test_a_dead_one_is_not_seen(void **state)
{
    struct fleet *f = *state;

    fleet_reserve(f, 0);
    fleet_reserve(f, 1);
    /* Nothing was sent: it is no retry. */
    fleet_start(f, 3, "max_retries = 0\n");
    for (size_t i = 0; i < MANY; i++)
        fleet_ask(f, i % 2 ? RPC_CREATE : RPC_CREATE_STREAM);
    assert_int_equal(fleet_n_asked(f, 0) + fleet_n_asked(f, 1), MANY);

    Completion__V1__GetStatusResponse *s = fleet_status(f);
    const Completion__V1__UpstreamStatus *u = s->upstreams[0];
    assert_int_equal(u->state, COMPLETION__V1__UPSTREAM_STATE__UPSTREAM_STATE_OK);
    assert_int_equal(u->n_endpoints, 4);
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(u->endpoints[i]->state, OK);
        rpc_assert_text(u->endpoints[2 + i], name, f->dead[i]);
        assert_int_equal(u->endpoints[2 + i]->state, RESTING);
        /* Each was found out once, and maybe once a rest. */
        assert_in_range(u->endpoints[2 + i]->faults, 1, 6);
        assert_int_equal(u->endpoints[2 + i]->attempts, u->endpoints[2 + i]->faults);
        assert_int_equal(u->endpoints[2 + i]->running, 0);
    }
    completion__v1__get_status_response__free_unpacked(s, NULL);
    scene_stop(f->scene);
}

static void test_a_busy_one_is_left_alone_until_it_is_well_again(void **state)
{
    struct fleet *f = *state;
    int64_t refused_ms = 0, give_up = harness_now_ms() + HARNESS_TIMEOUT_MS;

    f->servers[1].mode = SERVER_REFUSE;
    fleet_start(f, 15, NULL);
    while (fleet_n_asked(f, 1) == 0) {
        refused_ms = harness_now_ms();
        assert_int_not_equal(fleet_ask(f, RPC_CREATE), 'b');
    }
    assert_int_equal(fleet_state(f, 1), RESTING);
    f->servers[1].mode = SERVER_WELL;
    while (fleet_ask(f, RPC_CREATE) != 'b')
        assert_true(harness_now_ms() < give_up);
    /* A second, but for what the two clocks cut off. */
    assert_true(harness_now_ms() - refused_ms >= 999);
    assert_int_equal(fleet_state(f, 1), OK);
    scene_stop(f->scene);
}

static void test_who_fails_again_and_again_is_told_once(void **state)
{
    struct fleet *f = *state;
    int64_t give_up = harness_now_ms() + HARNESS_TIMEOUT_MS;
    char line[256];

    f->servers[1].mode = SERVER_REFUSE;
    fleet_start(f, 3, NULL);
    while (fleet_n_asked(f, 1) < 2) {
        fleet_ask(f, RPC_CREATE);
        assert_true(harness_now_ms() < give_up);
    }
    snprintf(line, sizeof line, "%s fails again and again", f->names[1]);
    daemon_assert_logged(&f->scene->daemon, line);
    scene_stop(f->scene);
}

static void test_a_repetition_goes_elsewhere_at_once(void **state)
{
    static const enum server_mode modes[] = {SERVER_REFUSE, SERVER_BREAK, SERVER_HANG_UP};
    static const int statuses[] = {503, 500, 0};
    struct fleet *f = *state;
    struct rpc_result result;

    int64_t give_up = harness_now_ms() + HARNESS_TIMEOUT_MS;
    char line[128];

    fleet_start(f, 3, "max_retries = 1\n");
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        unsigned before = fleet_n_asked(f, 0);
        f->servers[0].mode = modes[i];
        while (fleet_n_asked(f, 0) == before)
            assert_int_equal(fleet_ask(f, i % 2 ? RPC_CREATE : RPC_CREATE_STREAM), 'b');
        f->servers[0].mode = SERVER_WELL;
        while (fleet_ask(f, RPC_CREATE) != 'a')
            assert_true(harness_now_ms() < give_up);
        snprintf(line, sizeof line, "at %s failed (http_status=%d), again in 0 ms", f->names[0],
                 statuses[i]);
        daemon_assert_logged(&f->scene->daemon, line);
    }
    /* Only as often as is allowed. */
    f->servers[0].mode = f->servers[1].mode = SERVER_BREAK;
    fleet_call(f, RPC_CREATE, &result);
    rpc_assert_failed(&result, GRPC_INTERNAL, "UPSTREAM_ERROR");
    assert_int_equal(result.detail->attempts, 2);
    rpc_result_done(&result);
    scene_stop(f->scene);
}

static void test_a_stream_is_not_moved(void **state)
{
    struct fleet *f = *state;
    struct rpc_result result;
    unsigned n = 0;

    for (size_t i = 0; i < FLEET_N; i++)
        f->servers[i].mode = SERVER_CUT_SHORT;
    fleet_start(f, 15, NULL);
    fleet_call(f, RPC_CREATE_STREAM, &result);
    rpc_assert_failed(&result, GRPC_UNAVAILABLE, "STREAM_TRUNCATED");
    assert_int_equal(result.n_messages, 1);
    assert_int_equal(result.detail->attempts, 1);
    for (size_t i = 0; i < FLEET_N; i++)
        n += fleet_n_asked(f, i);
    assert_int_equal(n, 1);
    rpc_result_done(&result);
    scene_stop(f->scene);
}

static void test_resend_forbids_to_ask_another_one_too(void **state)
{
    struct fleet *f = *state;
    struct rpc_result result;

    f->servers[0].mode = f->servers[1].mode = SERVER_HANG_UP;
    fleet_start(f, 3, "resend = no\n");
    fleet_call(f, RPC_CREATE, &result);
    rpc_assert_failed(&result, GRPC_UNAVAILABLE, "UPSTREAM_BROKEN");
    assert_int_equal(fleet_n_asked(f, 0) + fleet_n_asked(f, 1), 1);
    rpc_result_done(&result);
    scene_stop(f->scene);
}

static void test_the_error_says_who_was_asked(void **state)
{
    struct fleet *f = *state;
    struct rpc_result result;
    char text[64];

    f->servers[0].mode = f->servers[1].mode = SERVER_REFUSE;
    fleet_start(f, 3, "max_retries = 1\n");
    fleet_call(f, RPC_CREATE, &result);
    rpc_assert_failed(&result, GRPC_UNAVAILABLE, "UPSTREAM_OVERLOADED");
    assert_int_equal(result.detail->attempts, 2);
    size_t last = !memcmp(result.detail->endpoint.data, f->names[1], result.detail->endpoint.len);
    rpc_assert_text(result.detail, endpoint, f->names[last]);
    snprintf(text, sizeof text, "asked at %s", f->names[!last]);
    rpc_assert_said(&result, text);
    snprintf(text, sizeof text, "\"fake\" at %s", f->names[last]);
    rpc_assert_said(&result, text);
    rpc_result_done(&result);
    scene_stop(f->scene);
}

static void test_where_none_is_there_the_error_names_them_all(void **state)
{
    struct fleet *f = *state;
    struct rpc_result result;
    bool was_asked = true;

    for (size_t i = 0; i < 3; i++)
        fleet_reserve(f, i);
    fleet_start(f, 0, "max_retries = 0\n");
    fleet_call(f, RPC_CREATE, &result);
    rpc_assert_failed(&result, GRPC_UNAVAILABLE, "UPSTREAM_UNREACHABLE");
    assert_int_equal(result.detail->attempts, 3);
    assert_false(result.detail->maybe_executed);
    for (size_t i = 0; i < 3; i++)
        rpc_assert_said(&result, f->dead[i]);
    rpc_result_done(&result);

    /* Until none is worth a connection. */
    for (int64_t give_up = harness_now_ms() + HARNESS_TIMEOUT_MS; was_asked;) {
        fleet_call(f, RPC_CREATE, &result);
        rpc_assert_failed(&result, GRPC_UNAVAILABLE, "UPSTREAM_UNREACHABLE");
        was_asked = result.detail->attempts > 0;
        if (!was_asked) {
            assert_false(result.detail->has_endpoint);
            assert_in_range(result.detail->retry_after_ms, 1, 1000);
            rpc_assert_said(&result, "was not asked");
            for (size_t i = 0; i < 3; i++)
                rpc_assert_said(&result, f->dead[i]);
        }
        rpc_result_done(&result);
        assert_true(harness_now_ms() < give_up);
    }
    daemon_assert_logged(&f->scene->daemon, "upstream fake can't be reached");
    assert_int_equal(fleet_state(f, 0), UNREACHABLE);
    scene_stop(f->scene);
}

/* ---- Reload ---- */

static void reload(struct fleet *f, unsigned which)
{
    struct daemon *d = &f->scene->daemon;
    char urls[512], config[1024];

    fleet_write_base_urls(f, which, urls, sizeof urls);
    snprintf(config, sizeof config, "[daemon]\nlog_level = debug\n[upstream fake]\nauth = none\n%s",
             urls);
    daemon_configure(d, config);
    daemon_signal(d, SIGHUP);
    daemon_await(d, "READY=1");
}

static void test_a_reload_keeps_what_still_fits(void **state)
{
    struct fleet *f = *state;
    struct rpc_result result;

    /* b has a call that lasts, and c has failed. */
    int64_t before_ms = harness_now_ms();
    f->servers[2].mode = SERVER_REFUSE;
    fleet_start(f, 7, NULL);
    struct grpc_client_call *held = fleet_hold_one(f, 1);
    while (fleet_n_asked(f, 2) == 0)
        fleet_ask(f, RPC_CREATE);
    f->servers[2].mode = SERVER_WELL;

    /* a goes, d comes. */
    unsigned n_a = fleet_n_asked(f, 0);
    reload(f, 2 | 4 | 8);
    assert_int_equal(fleet_state(f, 1), RESTING);
    for (size_t i = 0; i < 10; i++) {
        char who = fleet_ask(f, RPC_CREATE);
        assert_true(who == 'd' || (who == 'c' && harness_now_ms() - before_ms >= 999));
    }
    assert_int_equal(fleet_n_asked(f, 0), n_a);
    assert_int_equal(fleet_n_asked(f, 1), 1);

    /* What runs goes on where it began. */
    fake_mark(f->fakes[1], FAKE_GO);
    rpc_finish(&f->scene->rpc, held, &result);
    rpc_assert_ok(&result, "b");
    rpc_result_done(&result);
    scene_stop(f->scene);
}

#define endpoint_test(function)                                                                    \
    cmocka_unit_test_setup_teardown(function, fleet_setup, fleet_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        endpoint_test(test_calls_go_to_the_least_loaded),
        endpoint_test(test_equals_are_all_asked_on_kept_connections),
        endpoint_test(test_a_slow_one_gets_no_more_while_others_have_less),
        endpoint_test(test_workers_know_of_each_others_calls),
        endpoint_test(test_sockets_and_ports_may_be_mixed),
        endpoint_test(test_a_dead_one_is_not_seen),
        endpoint_test(test_a_busy_one_is_left_alone_until_it_is_well_again),
        endpoint_test(test_who_fails_again_and_again_is_told_once),
        endpoint_test(test_a_repetition_goes_elsewhere_at_once),
        endpoint_test(test_a_stream_is_not_moved),
        endpoint_test(test_resend_forbids_to_ask_another_one_too),
        endpoint_test(test_the_error_says_who_was_asked),
        endpoint_test(test_where_none_is_there_the_error_names_them_all),
        endpoint_test(test_a_reload_keeps_what_still_fits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * "Retry-After" in every form, from the upstream's words to the second request: when that comes,
 * and whether. All cases run at once.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "scene.h"

/* Own waiting: half a second less a quarter of it. */
enum { OWN_MS = 375, LONG_MS = 20000 };

struct wait {
    const char *header;
    int64_t min_ms, max_ms; /* between first and second request; 0: there is no second */
    /* Measured. */
    int64_t asked_at_ms[2];
    unsigned n_asked;
};

struct waits {
    pthread_mutex_t lock;
    struct wait *waits;
    int status;
};

/* The prompt is the number of the case. */
static struct wait *note(const struct waits *all, const char *body)
{
    struct wait *w = &all->waits[strtoul(strstr(body, "case-") + 5, NULL, 10)];

    pthread_mutex_lock((pthread_mutex_t *)&all->lock);
    if (w->n_asked < 2)
        w->asked_at_ms[w->n_asked] = harness_now_ms();
    w->n_asked++;
    pthread_mutex_unlock((pthread_mutex_t *)&all->lock);
    return w;
}

static void put_off(struct fake_connection *c)
{
    const struct waits *all = c->user;

    while (fake_read_request(c)) {
        const struct wait *w = note(all, c->body);
        if (w->n_asked > 1 ? !fake_answer(c, 200, "application/json", "", FAKE_LAST("whole"))
                           : !fake_answer(c, all->status, "application/json", w->header, "{}"))
            return;
    }
}

static void expect_waits(struct scene *s, struct wait *cases, size_t n, int status)
{
    struct waits all = {.lock = PTHREAD_MUTEX_INITIALIZER, .waits = cases, .status = status};
    struct grpc_client_call **calls = calloc(n, sizeof(struct grpc_client_call *));
    struct rpc_result result;
    char prompt[32];

    assert_non_null(calls);
    scene_start(s, put_off, &all, "max_retries = 1\n");
    for (size_t i = 0; i < n; i++) {
        cases[i].n_asked = 0;
        snprintf(prompt, sizeof prompt, "case-%zu", i);
        rpc_request request = rpc_request_new("m", prompt);
        calls[i] = rpc_start(&s->rpc, i % 2 ? RPC_CREATE : RPC_CREATE_STREAM, &request, 60000);
    }
    for (size_t i = 0; i < n; i++) {
        struct wait *w = &cases[i];
        rpc_finish(&s->rpc, calls[i], &result);
        print_message("%d %.60s\n", status, w->header);
        if (w->max_ms > 0) {
            rpc_assert_ok(&result, "whole");
            assert_int_equal(w->n_asked, 2);
            /* Timers count from the beginning of a turn. */
            assert_in_range(w->asked_at_ms[1] - w->asked_at_ms[0] + 50, w->min_ms, w->max_ms);
        } else {
            assert_int_not_equal(result.status, GRPC_OK);
            assert_int_equal(w->n_asked, 1);
            assert_int_equal(result.detail->attempts, 1);
        }
        rpc_result_done(&result);
    }
    free(calls);
    scene_stop(s);
    s->fake = fake_free(s->fake);
}

static void test_retry_after_in_each_form(void **state)
{
    char soon[80], long_ago[80], far[80];
    struct wait cases[] = {
        {.header = "Retry-After: 1\r\n", .min_ms = 1000, .max_ms = LONG_MS},
        {.header = "Retry-After: 0.6\r\n", .min_ms = 600, .max_ms = LONG_MS},
        {.header = "retry-after-ms: 700\r\nRetry-After: 3600\r\n",
         .min_ms = 700,
         .max_ms = LONG_MS},
        {.header = "RETRY-AFTER:   1  \r\n", .min_ms = 1000, .max_ms = LONG_MS},
        /* Dates have whole seconds. */
        {.header = soon, .min_ms = 1000, .max_ms = LONG_MS},
        /* Not said, or not to be understood: the daemon's own time. */
        {.header = "", .min_ms = OWN_MS, .max_ms = LONG_MS},
        {.header = "Retry-After: 0\r\n", .min_ms = OWN_MS, .max_ms = LONG_MS},
        {.header = "Retry-After: -5\r\n", .min_ms = OWN_MS, .max_ms = LONG_MS},
        {.header = "Retry-After: tomorrow\r\n", .min_ms = OWN_MS, .max_ms = LONG_MS},
        {.header = "Retry-After:\r\n", .min_ms = OWN_MS, .max_ms = LONG_MS},
        {.header = "Retry-After: nan\r\n", .min_ms = OWN_MS, .max_ms = LONG_MS},
        {.header = "Retry-After: 1000000000000\r\n", .min_ms = OWN_MS, .max_ms = LONG_MS},
        {.header = long_ago, .min_ms = OWN_MS, .max_ms = LONG_MS},
        /* Too long to be waited for. */
        {.header = "Retry-After: 121\r\n"},
        {.header = "retry-after-ms: 120001\r\n"},
        {.header = far},
        /* Beyond the caller's deadline. */
        {.header = "Retry-After: 61\r\n"},
    };
    const struct {
        char *out;
        time_t in_s;
    } dates[] = {{soon, 3}, {long_ago, -86400}, {far, 86400 * 3650}};

    for (int status = 429; status <= 503; status += 503 - 429) {
        for (size_t i = 0; i < sizeof dates / sizeof *dates; i++) {
            time_t at = time(NULL) + dates[i].in_s;
            struct tm tm;
            gmtime_r(&at, &tm);
            strftime(dates[i].out, sizeof soon, "Retry-After: %a, %d %b %Y %H:%M:%S GMT\r\n", &tm);
        }
        expect_waits(*state, cases, sizeof cases / sizeof *cases, status);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_retry_after_in_each_form),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

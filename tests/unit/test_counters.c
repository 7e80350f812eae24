/*
 * Numbers that only grow, begun where 32 bits, or a double, end: a hundred million calls take years
 * to be made, and their sums are not to be wrong then.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../../proto/buffer.h"
#include "config.h"
#include "crew.h"
#include "exposition.h"
#include "log.h"
#include "metrics.h"

static struct config *load_config(const char *text)
{
    struct config_error error = {""};
    struct config *config = NULL;
    char path[64];
    int fd = memfd_create("config", MFD_CLOEXEC);

    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (config_load(path, NULL, &config, &error) < 0)
        fail_msg("%s", error.text);
    close(fd);
    return config;
}

static void fill(void *counters, size_t size, uint64_t value)
{
    for (uint64_t *p = counters; size >= sizeof *p; size -= sizeof *p)
        *p++ = value;
}

static void fill_all(struct metrics *m, struct metrics_upstream *u, uint64_t value)
{
    char *name = u->name;

    fill(&m->totals, sizeof m->totals, value);
    fill(u, sizeof *u, value);
    u->name = name;
    u->duration = (struct metrics_histogram){.buckets = {value}, .n = value, .sum_us = value};
}

static void expect_sample(const char *text, const char *sample, uint64_t value)
{
    char line[256];

    snprintf(line, sizeof line, "\n%s %llu\n", sample, (unsigned long long)value);
    if (!strstr(text, line))
        fail_msg("not there:%s\n%s", line, text);
}

/* Two workers, whose counters all begin there. */
static void count_from(uint64_t start)
{
    struct config *config = load_config("[upstream u]\nbase_url = http://127.0.0.1:1/v1\n");
    struct buffer out = BUFFER_INIT(1 << 20);
    struct log log = {.fd = -1};
    struct crew crew;

    assert_int_equal(crew_init(&crew, &log, 2), 0);
    assert_true(crew_configure(&crew, config, NULL, NULL) >= 0);
    assert_int_equal(crew_serve(&crew, NULL, 0), 0);
    for (size_t i = 0; i < 2; i++) {
        struct metrics *m = crew_worker(&crew, i)->metrics;
        struct metrics_upstream *u = metrics_upstream_get(m, "u");
        assert_string_equal(u->name, "u");
        fill_all(m, u, start);
        for (int k = 0; k < 3; k++) {
            metrics_count_call(m, u, METRICS_CREATE, 0, NULL);
            metrics_add(&u->attempts[METRICS_ATTEMPT_OK], 1);
            metrics_add(&u->prompt_tokens, 1000);
            metrics_observe(&u->duration, 1);
        }
    }
    exposition_write(crew_worker(&crew, 0), true, &out);
    assert_int_equal(out.error, 0);
    buffer_append_byte(&out, '\0');
    const char *text = (const char *)buffer_bytes(&out);
    expect_sample(text, "completiond_calls_total{method=\"Create\",status=\"OK\"}", 2 * start + 6);
    expect_sample(text, "completiond_calls_total{method=\"Create\",status=\"INTERNAL\"}",
                  2 * start);
    expect_sample(text, "completiond_attempts_total{upstream=\"u\",outcome=\"ok\"}", 2 * start + 6);
    expect_sample(text, "completiond_tokens_total{upstream=\"u\",kind=\"prompt\"}",
                  2 * start + 6000);
    expect_sample(text, "completiond_call_duration_seconds_count{upstream=\"u\"}", 2 * start + 6);
    buffer_done(&out);
    crew_done(&crew);
    config_unref(config);
}

static void sums_go_on_where_32_bits_end(void **state)
{
    (void)state;
    for (uint64_t start = UINT32_MAX - 7; start <= (uint64_t)UINT32_MAX + 1; start++)
        count_from(start);
    count_from(INT32_MAX - UINT64_C(1));
    count_from(UINT32_MAX / 2 - UINT64_C(1));
}

/* Were they shown as doubles, these would be even. */
static void sums_are_exact_where_a_double_is_not(void **state)
{
    (void)state;
    count_from((UINT64_C(1) << 53) + 1);
    count_from((UINT64_C(1) << 62) + 1);
}

static void multiply(struct metrics_histogram *h, uint64_t n)
{
    for (uint64_t *p = (uint64_t *)h; p < (uint64_t *)(h + 1); p++)
        assert_false(__builtin_mul_overflow(*p, n, p));
}

static void times_of_very_many_calls(void **state)
{
    const uint64_t n = UINT64_C(10000000000);
    struct metrics_histogram h = {.n = 0};
    (void)state;

    /* Ten minutes each. */
    metrics_observe(&h, INT64_C(600000000));
    multiply(&h, n);
    assert_int_equal(h.n, n);
    assert_true(metrics_quantile_us(&h, 0.5) > 0);
    /* Half of them fast, half of them slow. */
    h = (struct metrics_histogram){.n = 0};
    metrics_observe(&h, 600);
    metrics_observe(&h, 3000);
    multiply(&h, n);
    assert_true(metrics_quantile_us(&h, 0.5) == 1000);
    assert_in_range((uint64_t)metrics_quantile_us(&h, 0.75), 2500, 5000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_go_on_where_32_bits_end),
        cmocka_unit_test(sums_are_exact_where_a_double_is_not),
        cmocka_unit_test(times_of_very_many_calls),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include "load.h"

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

void load_fail(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    fprintf(stderr, "bench: ");
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    va_end(arguments);
    exit(EXIT_FAILURE);
}

static int64_t clock_ns(clockid_t clock)
{
    struct timespec now;

    if (clock_gettime(clock, &now) < 0)
        load_fail("a process is gone: %s", strerror(errno));
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static int64_t process_cpu_ns(unsigned process)
{
    clockid_t clock;

    if (process == 0)
        return 0;
    int r = clock_getcpuclockid((pid_t)process, &clock);
    if (r != 0)
        load_fail("no CPU time of process %u: %s", process, strerror(r));
    return clock_ns(clock);
}

/* ---- Options ---- */

static unsigned parse_number(const char *option, const char *text)
{
    char *end;

    errno = 0;
    unsigned long number = strtoul(text, &end, 10);
    if (errno || end == text || *end || number > 100000000)
        load_fail("--%s takes a number, not %s", option, text);
    return (unsigned)number;
}

static void parse_options(struct load *l, int argc, char **argv)
{
    const struct {
        const char *name;
        unsigned *number;
    } numbers[] = {
        {"calls", &l->n_calls},
        {"warmup", &l->n_warmup},
        {"in-flight", &l->in_flight},
        {"chunks", &l->n_chunks},
        {"connections", &l->n_connections},
        {"daemon", &l->daemon},
        {"upstream", &l->upstream},
    };
    enum { N_NUMBERS = sizeof numbers / sizeof *numbers };
    struct option options[N_NUMBERS + 3] = {
        {"target", required_argument, NULL, N_NUMBERS},
        {"model", required_argument, NULL, N_NUMBERS + 1},
    };

    for (int i = 0; i < N_NUMBERS; i++)
        options[i + 2] = (struct option){numbers[i].name, required_argument, NULL, i};
    for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (o >= 0 && o < N_NUMBERS)
            *numbers[o].number = parse_number(numbers[o].name, optarg);
        else if (o == N_NUMBERS)
            l->target = optarg;
        else if (o == N_NUMBERS + 1)
            l->model = optarg;
        else
            exit(EXIT_FAILURE);
    }
    if (!l->target || optind < argc || l->n_calls == 0 || l->in_flight == 0 ||
        l->n_connections == 0)
        load_fail("usage: --target URL|SOCKET [--calls N] [--warmup N] [--in-flight N] "
                  "[--connections N] [--chunks N] [--model NAME] [--daemon PID] "
                  "[--upstream PID]");
}

void load_init(struct load *l, int argc, char **argv)
{
    *l = (struct load){.model = "bench", .n_calls = 1000, .in_flight = 1, .n_connections = 1};
    parse_options(l, argc, argv);

    l->base = event_base_new();
    l->slots = calloc(l->in_flight, sizeof *l->slots);
    l->latencies_ns = calloc(l->n_calls, sizeof *l->latencies_ns);
    if (!l->base || !l->slots || !l->latencies_ns)
        load_fail("out of memory");
}

void load_done(struct load *l)
{
    event_base_free(l->base);
    free(l->slots);
    free(l->latencies_ns);
}

/* ---- Calls ---- */

static void start_call(struct load *l, unsigned slot)
{
    l->to_start--;
    l->slots[slot] = (struct load_slot){.start_ns = clock_ns(CLOCK_MONOTONIC)};
    l->start(l->user, slot);
}

void load_text(struct load *l, unsigned slot, size_t text_bytes, bool is_finish)
{
    struct load_slot *s = &l->slots[slot];

    s->n_chunks++;
    s->text_bytes += text_bytes;
    s->is_finished = s->is_finished || is_finish;
}

void load_end(struct load *l, unsigned slot)
{
    const struct load_slot *s = &l->slots[slot];
    unsigned expected = l->n_chunks ? l->n_chunks : 1;

    if (s->n_chunks != expected || !s->is_finished || s->text_bytes < expected)
        load_fail("a call brought %u chunks and %zu bytes instead of %u chunks", s->n_chunks,
                  s->text_bytes, expected);
    l->latencies_ns[l->n_ended++] = clock_ns(CLOCK_MONOTONIC) - s->start_ns;
    if (l->to_start > 0)
        start_call(l, slot);
    else if (l->n_ended == l->n_calls)
        event_base_loopbreak(l->base);
}

static void make_calls(struct load *l, unsigned n_calls)
{
    unsigned all = l->n_calls;

    if (n_calls == 0)
        return;
    l->n_calls = l->to_start = n_calls;
    l->n_ended = 0;
    for (unsigned i = 0; i < l->in_flight && l->to_start > 0; i++)
        start_call(l, i);
    event_base_dispatch(l->base);
    if (l->n_ended < n_calls)
        load_fail("%u of %u calls did not end", n_calls - l->n_ended, n_calls);
    l->n_calls = all;
}

/* ---- Results ---- */

static int compare(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return (x > y) - (x < y);
}

static double percentile_us(const struct load *l, unsigned percent)
{
    return (double)l->latencies_ns[(size_t)(l->n_calls - 1) * percent / 100] / 1e3;
}

struct clocks {
    int64_t wall_ns, client_ns, daemon_ns, upstream_ns;
};

static struct clocks read_clocks(const struct load *l)
{
    return (struct clocks){
        .wall_ns = clock_ns(CLOCK_MONOTONIC),
        .client_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID),
        .daemon_ns = process_cpu_ns(l->daemon),
        .upstream_ns = process_cpu_ns(l->upstream),
    };
}

void load_run(struct load *l)
{
    make_calls(l, l->n_warmup < l->n_calls ? l->n_warmup : l->n_calls);
    struct clocks from = read_clocks(l);
    make_calls(l, l->n_calls);
    struct clocks to = read_clocks(l);

    /* Per call, or per chunk of a stream. */
    double n = (double)l->n_calls * (l->n_chunks ? l->n_chunks : 1);
    double wall_ns = (double)(to.wall_ns - from.wall_ns);
    qsort(l->latencies_ns, l->n_calls, sizeof *l->latencies_ns, compare);
    printf("p50_us=%.2f p99_us=%.2f per_s=%.0f client_us=%.3f daemon_us=%.3f upstream_busy=%.2f\n",
           percentile_us(l, 50), percentile_us(l, 99), n * 1e9 / wall_ns,
           (double)(to.client_ns - from.client_ns) / 1e3 / n,
           (double)(to.daemon_ns - from.daemon_ns) / 1e3 / n,
           (double)(to.upstream_ns - from.upstream_ns) / wall_ns);
}

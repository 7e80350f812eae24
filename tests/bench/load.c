#include "load.h"

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

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

/* ---- The daemon ---- */

static bool is_listening(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    if (strlen(path) >= sizeof address.sun_path)
        load_fail("the path of the socket is too long");
    memcpy(address.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        load_fail("socket: %s", strerror(errno));
    int r = connect(fd, (struct sockaddr *)&address, sizeof address);
    close(fd);
    return r == 0;
}

static void await_daemon(const struct load *l)
{
    const char *path = l->socket ? l->socket : l->target;

    while (!is_listening(path)) {
        if (waitpid(l->child, NULL, WNOHANG) != 0)
            load_fail("the daemon does not start");
        usleep(100);
    }
}

void load_begin(struct load *l)
{
    l->begin_ns = clock_ns(CLOCK_MONOTONIC);
    if (!l->command)
        return;
    l->child = vfork();
    if (l->child < 0)
        load_fail("vfork: %s", strerror(errno));
    if (l->child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGTERM);
        execl("/bin/sh", "sh", "-c", l->command, NULL);
        _exit(127);
    }
    await_daemon(l);
}

static void end_daemon(struct load *l)
{
    if (l->child <= 0)
        return;
    kill(l->child, SIGTERM);
    waitpid(l->child, NULL, 0);
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

enum option_key {
    KEY_TARGET = 100,
    KEY_SOCKET,
    KEY_MODEL,
    KEY_DAEMON,
    KEY_START,
    KEY_STEADY,
    KEY_ONE_BY_ONE,
    KEY_HOLD,
    KEY_UIDS
};

static void take_option(struct load *l, int key)
{
    switch (key) {
    case KEY_TARGET:
        l->target = optarg;
        break;
    case KEY_SOCKET:
        l->socket = optarg;
        break;
    case KEY_MODEL:
        l->model = optarg;
        break;
    case KEY_DAEMON:
        if (l->n_daemons == LOAD_PROCESSES_MAX)
            load_fail("too many processes");
        l->daemons[l->n_daemons++] = parse_number("daemon", optarg);
        break;
    case KEY_START:
        l->command = optarg;
        break;
    case KEY_STEADY:
        l->is_steady = true;
        break;
    case KEY_ONE_BY_ONE:
        l->is_one_by_one = true;
        break;
    case KEY_UIDS:
        l->has_uids = true;
        break;
    case KEY_HOLD:
        l->is_held = true;
        break;
    default:
        exit(EXIT_FAILURE);
    }
}

static void parse_options(struct load *l, int argc, char **argv)
{
    const struct {
        const char *name;
        unsigned *number;
    } numbers[] = {
        {"calls", &l->n_calls},   {"warmup", &l->n_warmup},           {"in-flight", &l->in_flight},
        {"chunks", &l->n_chunks}, {"connections", &l->n_connections}, {"upstream", &l->upstream},
    };
    enum { N_NUMBERS = sizeof numbers / sizeof *numbers };
    enum { N_OTHERS = 9 };
    struct option options[N_OTHERS + N_NUMBERS + 1] = {
        {"target", required_argument, NULL, KEY_TARGET},
        {"socket", required_argument, NULL, KEY_SOCKET},
        {"model", required_argument, NULL, KEY_MODEL},
        {"daemon", required_argument, NULL, KEY_DAEMON},
        {"start", required_argument, NULL, KEY_START},
        {"steady", no_argument, NULL, KEY_STEADY},
        {"one-by-one", no_argument, NULL, KEY_ONE_BY_ONE},
        {"hold", no_argument, NULL, KEY_HOLD},
        {"uids", no_argument, NULL, KEY_UIDS},
    };

    for (int i = 0; i < N_NUMBERS; i++)
        options[i + N_OTHERS] = (struct option){numbers[i].name, required_argument, NULL, i};
    for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (o >= 0 && o < N_NUMBERS)
            *numbers[o].number = parse_number(numbers[o].name, optarg);
        else
            take_option(l, o);
    }
    if (!l->target || optind < argc || l->n_calls == 0 || l->in_flight == 0 ||
        l->n_connections == 0)
        load_fail("usage: --target URL|SOCKET [--socket PATH] [--calls N] [--warmup N] "
                  "[--in-flight N] [--connections N] [--chunks N] [--steady] [--one-by-one] "
                  "[--hold] [--uids] [--model NAME] [--start COMMAND] [--daemon PID]... "
                  "[--upstream PID]");
    if (l->is_steady && l->n_chunks == 0)
        load_fail("--steady is for streams");
    if ((l->is_steady || l->is_one_by_one || l->is_held) && l->n_calls != l->in_flight)
        load_fail("this takes as many calls as are in flight");
}

void load_init(struct load *l, int argc, char **argv)
{
    *l = (struct load){.model = "bench", .n_calls = 1000, .in_flight = 1, .n_connections = 1};
    parse_options(l, argc, argv);

    l->base = event_base_new();
    l->slots = calloc(l->in_flight, sizeof *l->slots);
    l->latencies_ns = calloc(l->n_calls, sizeof *l->latencies_ns);
    l->delays_ns = calloc((size_t)l->n_calls * (l->n_chunks + 1), sizeof *l->delays_ns);
    if (!l->base || !l->slots || !l->latencies_ns || !l->delays_ns)
        load_fail("out of memory");
}

void load_done(struct load *l)
{
    end_daemon(l);
    event_base_free(l->base);
    free(l->slots);
    free(l->latencies_ns);
    free(l->delays_ns);
}

/* ---- What is measured ---- */

static struct load_clocks read_clocks(const struct load *l)
{
    struct load_clocks c = {
        .wall_ns = clock_ns(CLOCK_MONOTONIC),
        .client_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID),
        .upstream_ns = process_cpu_ns(l->upstream),
    };

    for (unsigned i = 0; i < l->n_daemons; i++)
        c.daemon_ns += process_cpu_ns(l->daemons[i]);
    return c;
}

static bool is_measuring(const struct load *l)
{
    return l->from.wall_ns != 0 && l->to.wall_ns == 0;
}

static void begin_measuring(struct load *l)
{
    if (l->is_warming_up || l->from.wall_ns != 0)
        return;
    l->n_measured = l->n_delays = 0;
    l->from = read_clocks(l);
}

static void end_measuring(struct load *l)
{
    if (is_measuring(l))
        l->to = read_clocks(l);
}

/* The upstream writes the time into the text of a chunk that it paces: " t" and nanoseconds in 16
 * hexadecimal digits. */
static void note_delay(struct load *l, const struct load_answer *a)
{
    char digits[17] = {0};
    char *end;

    if (!is_measuring(l) || a->text_bytes != 18 || a->text[0] != ' ' || a->text[1] != 't')
        return;
    for (int i = 0; i < 16; i++)
        digits[i] = a->text[i + 2];
    int64_t sent_ns = strtoll(digits, &end, 16);
    if (!*end && l->n_delays < (size_t)l->n_calls * l->n_chunks)
        l->delays_ns[l->n_delays++] = clock_ns(CLOCK_MONOTONIC) - sent_ns;
}

/* ---- Calls ---- */

static void start_call(struct load *l, unsigned slot)
{
    l->to_start--;
    l->slots[slot] = (struct load_slot){.start_ns = clock_ns(CLOCK_MONOTONIC)};
    l->start(l->user, slot);
}

/* Nobody needs the loop: what is held sends nothing. */
static void hold(const struct load *l)
{
    char byte;

    if (!l->is_held)
        return;
    printf("held\n");
    fflush(stdout);
    while (read(STDIN_FILENO, &byte, 1) > 0)
        ;
    exit(EXIT_SUCCESS);
}

static void note_stream(struct load *l)
{
    if (++l->n_streaming < l->in_flight)
        return;
    hold(l);
    if (l->is_steady)
        begin_measuring(l);
}

void load_answer(struct load *l, unsigned slot, const struct load_answer *a)
{
    struct load_slot *s = &l->slots[slot];

    if (!l->is_blind &&
        (a->id_bytes == 0 || a->model_bytes == 0 || (l->n_chunks == 0 && a->total_tokens <= 0)))
        load_fail("an answer lacks id, model or usage");
    if (l->n_chunks > 0) {
        note_delay(l, a);
        if (s->n_chunks == 0)
            note_stream(l);
    }
    if (is_measuring(l))
        l->n_measured++;
    s->n_chunks++;
    s->text_bytes += a->text_bytes;
    s->is_finished = s->is_finished || a->is_finished;
}

void load_end(struct load *l, unsigned slot)
{
    const struct load_slot *s = &l->slots[slot];
    unsigned expected = l->n_chunks ? l->n_chunks : 1;

    if (l->is_steady)
        end_measuring(l);
    if (!l->is_blind && (s->n_chunks != expected || !s->is_finished || s->text_bytes < expected))
        load_fail("a call brought %u chunks and %zu bytes instead of %u chunks", s->n_chunks,
                  s->text_bytes, expected);
    int64_t now_ns = clock_ns(CLOCK_MONOTONIC);
    if (l->first_ns == 0)
        l->first_ns = now_ns;
    l->latencies_ns[l->n_ended++] = now_ns - s->start_ns;
    if (l->n_chunks > 0 && s->n_chunks > 0)
        l->n_streaming--;
    if (l->to_start > 0)
        start_call(l, l->is_one_by_one ? l->n_ended : slot);
    else if (load_is_over(l))
        event_base_loopbreak(l->base);
}

bool load_is_over(const struct load *l)
{
    return l->n_ended == l->n_calls;
}

static void make_calls(struct load *l, unsigned n_calls)
{
    unsigned all = l->n_calls;

    if (n_calls == 0)
        return;
    l->n_calls = l->to_start = n_calls;
    l->n_ended = l->n_streaming = 0;
    for (unsigned i = 0; i < (l->is_one_by_one ? 1 : l->in_flight) && l->to_start > 0; i++)
        start_call(l, i);
    if (l->run)
        l->run(l->user);
    else
        event_base_dispatch(l->base);
    if (!load_is_over(l))
        load_fail("%u of %u calls did not end", n_calls - l->n_ended, n_calls);
    l->n_calls = all;
}

/* ---- Results ---- */

static int compare(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return (x > y) - (x < y);
}

static double percentile_us(const int64_t *sorted_ns, size_t n, unsigned percent)
{
    return n ? (double)sorted_ns[(n - 1) * percent / 100] / 1e3 : 0;
}

static void print_results(struct load *l)
{
    /* Per call, or per chunk of a stream. */
    double n =
        l->is_steady ? (double)l->n_measured : (double)l->n_calls * (l->n_chunks ? l->n_chunks : 1);
    double wall_ns = (double)(l->to.wall_ns - l->from.wall_ns);

    qsort(l->latencies_ns, l->n_calls, sizeof *l->latencies_ns, compare);
    qsort(l->delays_ns, l->n_delays, sizeof *l->delays_ns, compare);
    printf("p50_us=%.2f p99_us=%.2f per_s=%.0f client_us=%.3f daemon_us=%.3f upstream_busy=%.2f "
           "wall_s=%.2f delay_p50_us=%.2f delay_p99_us=%.2f first_us=%.0f\n",
           percentile_us(l->latencies_ns, l->n_calls, 50),
           percentile_us(l->latencies_ns, l->n_calls, 99), n * 1e9 / wall_ns,
           (double)(l->to.client_ns - l->from.client_ns) / 1e3 / n,
           (double)(l->to.daemon_ns - l->from.daemon_ns) / 1e3 / n,
           (double)(l->to.upstream_ns - l->from.upstream_ns) / wall_ns, wall_ns / 1e9,
           percentile_us(l->delays_ns, l->n_delays, 50),
           percentile_us(l->delays_ns, l->n_delays, 99), (double)(l->first_ns - l->begin_ns) / 1e3);
}

void load_run(struct load *l)
{
    l->is_warming_up = true;
    make_calls(l, l->n_warmup < l->n_calls ? l->n_warmup : l->n_calls);
    l->is_warming_up = false;
    if (!l->is_steady)
        begin_measuring(l);
    make_calls(l, l->n_calls);
    end_measuring(l);
    hold(l);
    if (l->from.wall_ns == 0)
        load_fail("the streams were never all open at once");
    print_results(l);
}

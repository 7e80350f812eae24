/*
 * Makes everything on the paths of paths.c fail in turn: for each way in which a function may fail
 * (plan.c), its 1st, 2nd, ... call along the path, until there is none. After each of them all has
 * to be as it was, and the next call has to work.
 */
#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "torture.h"

enum { WHATS_MAX = 16, SETTLE_MS = 500, PROBLEMS_SHOWN = 40, LEAKS = 4, TURNS_MAX = 20000 };

/* Of one path. */
struct tally {
    unsigned n_memory, n_calls, n_problems;
    struct {
        char what[32];
        unsigned n;
    } whats[WHATS_MAX];
};

struct run {
    struct torture t;
    const struct path *path;
    const char *only_path, *only_function;
    long only_nth;
    unsigned n_samples; /* of each plan; 0: all */
    unsigned seed;
    struct tally tally;
    struct measure normal;
    long n_seen[CONTROL_N_FUNCTIONS]; /* when nothing fails */
    bool broken;
};

/* ---- Going along a path ---- */

static void count(struct tally *tally, const struct plan *plan, const char *what)
{
    size_t i = 0;

    if (plan->function == CONTROL_memory)
        tally->n_memory++;
    else
        tally->n_calls++;
    while (i < WHATS_MAX - 1 && *tally->whats[i].what && strcmp(tally->whats[i].what, what))
        i++;
    snprintf(tally->whats[i].what, sizeof tally->whats[i].what, "%s", what);
    tally->whats[i].n++;
}

static void show(struct run *run, const struct plan *plan, long nth, const struct result *r)
{
    if (++run->tally.n_problems > PROBLEMS_SHOWN)
        return;
    printf("  %s: %s %s, number %ld, %s: %s; %s\n", run->path->name,
           plan_function_name((int)plan->function), plan_error_name(plan), nth,
           plan_repeats_name(plan), r->what, r->problem);
    if (*r->text)
        printf("      said: %s\n", r->text);
    target_show_stack(run->t.subject, stdout);
    fflush(stdout);
}

static bool is_more(const struct measure *a, const struct measure *b)
{
    return a->n_blocks > b->n_blocks || a->n_mappings > b->n_mappings ||
           a->n_descriptors > b->n_descriptors;
}

/* What is left to itself for a moment, like a connection that comes to rest, may take that. */
static struct measure settled(struct run *run)
{
    int64_t until = caller_now_ms() + SETTLE_MS;
    struct measure now = target_measure(run->t.subject);

    while (is_more(&now, &run->normal) && caller_now_ms() < until) {
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        now = target_measure(run->t.subject);
    }
    return now;
}

/* Nothing fails: the same state each time. */
static bool go_normally(struct run *run)
{
    struct result r;

    if (!paths_start(&run->t, run->path) || !run->path->prepare(&run->t))
        return false;
    target_plan(run->t.subject, CONTROL_COUNT_ONLY, NULL, 0);
    run->path->run(&run->t, &r);
    if (*r.problem)
        printf("  %s, nothing failing: %s; %s; %s\n", run->path->name, r.what, r.problem, r.text);
    for (int f = 0; f < CONTROL_N_FUNCTIONS; f++)
        run->n_seen[f] = atomic_load(&run->t.subject->control->seen[f]);
    return !*r.problem && run->path->recover(&run->t, &r);
}

/* Two rounds that end alike are how it is. */
static bool find_normal(struct run *run)
{
    for (int i = 0; i < 8; i++)
        if (!go_normally(run))
            return false;
    run->normal = target_measure(run->t.subject);
    run->normal = settled(run);
    return true;
}

/* More than before may be kept because of a failure: another idle connection, an entry in HPACK's
 * table. That goes with the connections, mostly within some rounds in which nothing fails. */
static bool has_more(struct run *run)
{
    struct measure now = target_measure(run->t.subject);

    for (int i = 0; i < 3 && is_more(&now, &run->normal); i++) {
        caller_close(&run->t.caller);
        if (!go_normally(run))
            return false;
        now = target_measure(run->t.subject);
    }
    now = settled(run);
    return is_more(&now, &run->normal);
}

static bool fail_once(struct run *run, const struct plan *plan, long nth, struct result *r)
{
    if (run->path->prepare && !run->path->prepare(&run->t)) {
        snprintf(r->what, sizeof r->what, "unprepared");
        result_fail(r, "what comes before it does not work");
        return true;
    }
    target_plan(run->t.subject, (int)plan->function, plan, nth);
    if (run->path->run)
        run->path->run(&run->t, r);
    else
        paths_run_start(&run->t, r);
    if (atomic_load(&run->t.subject->control->seen[CONTROL_epoll_wait]) > TURNS_MAX)
        result_fail(r, "its loop does not rest");
    return atomic_load(&run->t.subject->control->n_failed) > 0;
}

/* What remains once may be a table that has grown; a leak grows each time. */
static void check_leaks(struct run *run, const struct plan *plan, long nth, struct result *r)
{
    struct result again = {0};

    for (int i = 0; i < LEAKS; i++) {
        struct measure before = run->normal;
        if (!has_more(run))
            return;
        run->normal = target_measure(run->t.subject);
        if (i == LEAKS - 1) {
            result_fail(r, "each time left: %ld blocks, %ld mappings, %ld descriptors",
                        run->normal.n_blocks - before.n_blocks,
                        run->normal.n_mappings - before.n_mappings,
                        run->normal.n_descriptors - before.n_descriptors);
            return;
        }
        fail_once(run, plan, nth, &again);
        if (!target_is_alive(run->t.subject) || !run->path->recover(&run->t, &again))
            return;
    }
}

static void describe_end(const struct target *t, int status, struct result *r)
{
    *r->problem = '\0';
    if (status == -1)
        result_fail(r, "%s hung and was killed", t->name);
    else if (WIFSIGNALED(status))
        result_fail(r, "%s was ended by signal %d (%s)", t->name, WTERMSIG(status),
                    strsignal(WTERMSIG(status)));
    else
        result_fail(r, "%s ended with status %d", t->name, WEXITSTATUS(status));
}

static void start_again(struct run *run, struct result *r)
{
    if (!target_is_alive(run->t.subject)) {
        snprintf(r->what, sizeof r->what, "dead");
        describe_end(run->t.subject, target_wait(run->t.subject), r);
    } else {
        target_kill(run->t.subject);
    }
    caller_close(&run->t.caller);
    run->broken = !find_normal(run);
}

/* False: there was no such call. */
static bool inject(struct run *run, const struct plan *plan, long nth)
{
    struct target *subject = run->t.subject;
    struct result r = {0};

    if (!fail_once(run, plan, nth, &r))
        return false;
    bool works = !run->path->recover || run->path->recover(&run->t, &r);
    if (works && run->path->recover)
        check_leaks(run, plan, nth, &r);
    if (!works || (run->path->recover && !target_is_alive(subject))) {
        if (!target_is_alive(subject)) {
            snprintf(r.what, sizeof r.what, "dead");
            describe_end(subject, target_wait(subject), &r);
        }
        show(run, plan, nth, &r);
        count(&run->tally, plan, r.what);
        start_again(run, &(struct result){0});
        return true;
    }
    count(&run->tally, plan, r.what);
    if (*r.problem)
        show(run, plan, nth, &r);
    return true;
}

/* ---- Plans ---- */

static long next_nth(struct run *run, long nth, long n_seen, long n_samples)
{
    if (n_samples == 0 || n_seen <= n_samples)
        return nth + 1;
    return nth + 1 + rand_r(&run->seed) % (2 * (n_seen / n_samples) - 1);
}

/* Samples leave out most ways in which system calls fail, others each time. */
static bool is_left_out(struct run *run, const struct plan *plan)
{
    const char *name = plan_function_name((int)plan->function);

    if (run->broken || run->n_seen[plan->function] == 0)
        return true;
    if (run->only_function)
        return strcmp(run->only_function, name) != 0;
    return run->n_samples > 0 && plan->function != CONTROL_memory && rand_r(&run->seed) % 4 != 0;
}

static void follow(const struct plan *plan, void *user)
{
    struct run *run = user;
    long n_seen = run->n_seen[plan->function], n_samples = run->n_samples;

    if (is_left_out(run, plan))
        return;
    if (plan->function == CONTROL_memory)
        n_samples *= 8;
    /* Again and again: what grows each time is a leak. */
    for (int i = 0; run->only_nth > 0 && i < 5 && !run->broken; i++)
        inject(run, plan, run->only_nth);
    if (run->only_nth > 0)
        return;
    for (long nth = next_nth(run, 0, n_seen, n_samples); inject(run, plan, nth) && !run->broken;
         nth = next_nth(run, nth, n_seen, n_samples))
        ;
}

static void show_tally(const struct path *path, const struct tally *tally)
{
    printf("%-14s %5u allocations, %5u system calls:", path->name, tally->n_memory, tally->n_calls);
    for (size_t i = 0; i < WHATS_MAX && *tally->whats[i].what; i++)
        printf("%s %s %u", i ? "," : "", tally->whats[i].what, tally->whats[i].n);
    printf("; %u problems\n", tally->n_problems);
    fflush(stdout);
}

/* Which calls there are when a daemon starts. */
static bool count_start(struct run *run)
{
    struct result r;

    target_kill(&run->t.daemon);
    target_plan(&run->t.daemon, CONTROL_COUNT_ONLY, NULL, 0);
    paths_run_start(&run->t, &r);
    for (int f = 0; f < CONTROL_N_FUNCTIONS; f++)
        run->n_seen[f] = atomic_load(&run->t.daemon.control->seen[f]);
    if (*r.problem)
        printf("  start, nothing failing: %s; %s\n", r.what, r.problem);
    return !*r.problem;
}

static bool torture_path(struct run *run, const struct path *path)
{
    run->path = path;
    run->tally = (struct tally){0};
    run->t.subject = path->of_library ? &run->t.program : &run->t.daemon;
    run->broken = path->prepare ? !find_normal(run) : !count_start(run);
    if (!run->broken)
        plan_each(follow, run);
    show_tally(path, &run->tally);
    if (run->broken)
        printf("  %s: it can't go on\n", path->name);
    return !run->broken && run->tally.n_problems == 0;
}

/* ---- The whole ---- */

static bool write_files(const struct torture *t)
{
    char command[512], path[128];

    snprintf(path, sizeof path, "%s/key", t->directory);
    FILE *key = fopen(path, "w");
    if (!key || fputs("sk-torture\n", key) == EOF || fclose(key) || chmod(path, 0600))
        return false;
    snprintf(command, sizeof command,
             "cd %s && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes "
             "-days 2 -subj /CN=torture -addext subjectAltName=IP:127.0.0.1 -keyout tls.key "
             "-out tls.crt 2>openssl.log && cat tls.crt tls.key >tls.pem",
             t->directory);
    return system(command) == 0;
}

static bool begin(struct torture *t)
{
    char certificate[128];

    snprintf(t->directory, sizeof t->directory, "/tmp/torture.XXXXXX");
    if (!mkdtemp(t->directory) || !write_files(t))
        return false;
    snprintf(certificate, sizeof certificate, "%s/tls.pem", t->directory);
    t->plain_port = upstream_start(&(struct upstream_options){0});
    t->closing_port = upstream_start(&(struct upstream_options){.closes = true});
    t->busy_port = upstream_start(&(struct upstream_options){.closes = true, .busy = true});
    t->tls_port =
        upstream_start(&(struct upstream_options){.closes = true, .certificate = certificate});
    t->caller = (struct caller){.socket = t->daemon.socket, .fd = -1};
    return t->plain_port && t->closing_port && t->busy_port && t->tls_port &&
           target_init(&t->daemon, t->directory, "daemon", true) &&
           target_init(&t->program, t->directory, "program", true);
}

static void end(struct torture *t)
{
    char command[128];

    caller_close(&t->caller);
    target_done(&t->program);
    target_done(&t->daemon);
    snprintf(command, sizeof command, "rm -r %s", t->directory);
    if (*t->directory && system(command) != 0)
        printf("%s could not be removed\n", t->directory);
}

static void parse(struct run *run, int argc, char **argv)
{
    int option;

    while ((option = getopt(argc, argv, "p:f:n:s:r:")) != -1)
        switch (option) {
        case 'p':
            run->only_path = optarg;
            break;
        case 'f':
            run->only_function = optarg;
            break;
        case 'n':
            run->only_nth = strtol(optarg, NULL, 10);
            break;
        case 's':
            run->n_samples = (unsigned)strtoul(optarg, NULL, 10);
            break;
        case 'r':
            run->seed = (unsigned)strtoul(optarg, NULL, 10);
            break;
        default:
            fputs("Usage: torture [-p PATH] [-f FUNCTION] [-n NUMBER] [-s SAMPLES] [-r SEED]\n",
                  stderr);
            exit(2);
        }
}

int main(int argc, char **argv)
{
    static struct run run;
    bool ok = true;

    /* Peers may be gone. */
    signal(SIGPIPE, SIG_IGN);
    run.seed = (unsigned)time(NULL);
    parse(&run, argc, argv);
    if (!begin(&run.t)) {
        puts("the scene can't be set");
        return 1;
    }
    if (run.n_samples > 0)
        printf("%u of each, seed %u (-r)\n", run.n_samples, run.seed);
    for (size_t i = 0; i < n_paths; i++)
        if (!run.only_path || !strcmp(run.only_path, paths[i].name))
            ok = torture_path(&run, &paths[i]) && ok;
    end(&run.t);
    return ok ? 0 : 1;
}

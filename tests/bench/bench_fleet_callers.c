/*
 * Callers of one host's completiond: calls at random (Poisson), whether or not those before have
 * ended, each on a connection that no other call uses meanwhile. For bench_fleet.py, which starts
 * one for each host.
 *
 *     bench_fleet_callers SOCKET CALLS-PER-SECOND SECONDS SEED
 *
 * writes a line for each call: when it was made (seconds from the start), how long it took beyond
 * what the answer says that its work took (milliseconds), and the status.
 */
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "completion.h"

/* More than are ever in flight, unless the servers are overloaded for seconds. */
enum { THREADS = 400, STACK_BYTES = 256 << 10, TIMEOUT_MS = 60000 };

struct callers {
    const char *socket;
    double rate, seconds;
    struct timespec start;
    pthread_barrier_t connected;
    pthread_mutex_t lock;
    struct drand48_data chance;
    double next; /* seconds from the start */
};

static double now(const struct callers *c)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)(t.tv_sec - c->start.tv_sec) + (double)(t.tv_nsec - c->start.tv_nsec) / 1e9;
}

/* When to make the next call; negative: no more. */
static double take_arrival(struct callers *c)
{
    double at, u;

    pthread_mutex_lock(&c->lock);
    drand48_r(&c->chance, &u);
    at = c->next;
    c->next += -log(1 - u) / c->rate;
    pthread_mutex_unlock(&c->lock);
    return at < c->seconds ? at : -1;
}

static void wait_until(const struct callers *c, double at)
{
    struct timespec t = {.tv_sec = c->start.tv_sec + (time_t)at,
                         .tv_nsec = c->start.tv_nsec + (long)((at - floor(at)) * 1e9)};

    if (t.tv_nsec >= 1000000000) {
        t.tv_sec++;
        t.tv_nsec -= 1000000000;
    }
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}

/* The answer's text is how long its work took, in seconds. */
static double work_of(const completion_result *result)
{
    completion_text text = completion_choice_text(result, 0);
    char number[32] = "";

    memcpy(number, text.data, text.length < sizeof number ? text.length : sizeof number - 1);
    return atof(number);
}

static void call(struct callers *c, completion_client *client, completion_request *request,
                 completion_error *error, double at)
{
    completion_result *result = NULL;
    int r = completion_create(client, request, TIMEOUT_MS, &result, error);
    double took = now(c) - at;

    if (r == 0)
        printf("%.4f %.3f OK\n", at, (took - work_of(result)) * 1e3);
    else
        printf("%.4f %.3f %s\n", at, took * 1e3, completion_error_status_name(error));
    if (r < 0)
        fprintf(stderr, "%s\n", completion_error_message(error));
    completion_result_free(result);
}

static void *run(void *user)
{
    struct callers *c = user;
    completion_error *error = completion_error_new();
    completion_client *client = NULL;
    completion_request *request = NULL;
    double at;

    if (!error || completion_client_new(c->socket, &client) < 0 ||
        completion_request_new(&request) < 0 ||
        completion_request_set_model(request, "m", COMPLETION_ZERO_TERMINATED) < 0 ||
        completion_request_set_prompt(request, "p", COMPLETION_ZERO_TERMINATED) < 0)
        abort();
    completion_client_check(client, TIMEOUT_MS, error);
    if (pthread_barrier_wait(&c->connected) == PTHREAD_BARRIER_SERIAL_THREAD)
        clock_gettime(CLOCK_MONOTONIC, &c->start);
    pthread_barrier_wait(&c->connected);
    while ((at = take_arrival(c)) >= 0) {
        wait_until(c, at);
        call(c, client, request, error, at);
    }
    completion_request_free(request);
    completion_client_free(client);
    completion_error_free(error);
    return NULL;
}

int main(int argc, char **argv)
{
    static pthread_t threads[THREADS];
    struct callers c = {.lock = PTHREAD_MUTEX_INITIALIZER};
    pthread_attr_t attributes;

    if (argc != 5) {
        fputs("usage: bench_fleet_callers SOCKET CALLS-PER-SECOND SECONDS SEED\n", stderr);
        return 2;
    }
    c.socket = argv[1];
    c.rate = atof(argv[2]);
    c.seconds = atof(argv[3]);
    srand48_r(atol(argv[4]), &c.chance);
    pthread_barrier_init(&c.connected, NULL, THREADS);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    for (size_t i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], &attributes, run, &c) != 0)
            return 1;
    for (size_t i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    return 0;
}

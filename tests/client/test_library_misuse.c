/*
 * What programs do to a library: NULL, wrong order, fork(), closed standard descriptors, signals,
 * no descriptors left.
 */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <unistd.h>

#include "library.h"

enum { FOREVER = -1 };

static void answer(struct fake_connection *c)
{
    while (fake_read_request(c) && fake_answer(c, 200, "application/json", "", FAKE_LAST("ok")))
        ;
}

/* Two chunks, the second and the end when the test says so. */
static void stream_on_demand(struct fake_connection *c)
{
    if (fake_read_request(c) && fake_stream_begin(c) && fake_event(c, FAKE_PART("a")) &&
        fake_await(c->fake, FAKE_GO, 1) && fake_event(c, FAKE_LAST("b")) && fake_stream_done(c))
        fake_wait_for_close(c);
}

/* ---- NULL ---- */

static void test_null_is_refused(void **state)
{
    struct library *l = *state;
    const completion_result *chunk;
    completion_result *result;
    completion_stream *stream;

    library_start(l, answer, NULL, NULL);
    assert_int_equal(completion_client_new(NULL, NULL), -EINVAL);
    assert_int_equal(completion_request_new(NULL), -EINVAL);
    int r = completion_create(NULL, l->request, FOREVER, &result, l->error);
    library_assert_failed(l, r, -EINVAL, COMPLETION_INVALID_ARGUMENT);
    r = completion_create(l->client, NULL, FOREVER, &result, l->error);
    library_assert_failed(l, r, -EINVAL, COMPLETION_INVALID_ARGUMENT);
    r = completion_create(l->client, l->request, FOREVER, NULL, l->error);
    library_assert_failed(l, r, -EINVAL, COMPLETION_INVALID_ARGUMENT);
    r = completion_stream_open(NULL, l->request, FOREVER, &stream, l->error);
    library_assert_failed(l, r, -EINVAL, COMPLETION_INVALID_ARGUMENT);
    r = completion_stream_open(l->client, NULL, FOREVER, &stream, l->error);
    library_assert_failed(l, r, -EINVAL, COMPLETION_INVALID_ARGUMENT);
    r = completion_stream_open(l->client, l->request, FOREVER, NULL, l->error);
    library_assert_failed(l, r, -EINVAL, COMPLETION_INVALID_ARGUMENT);
    r = completion_stream_next(NULL, &chunk, l->error);
    library_assert_failed(l, r, -EINVAL, COMPLETION_INVALID_ARGUMENT);
    r = completion_client_check(NULL, FOREVER, l->error);
    library_assert_failed(l, r, -EINVAL, COMPLETION_INVALID_ARGUMENT);
    assert_int_equal(completion_create(NULL, NULL, FOREVER, NULL, NULL), -EINVAL);
    completion_call *call = NULL;
    r = completion_call_start(NULL, l->request, FOREVER, &call, l->error);
    library_assert_failed(l, r, -EINVAL, COMPLETION_INVALID_ARGUMENT);
    r = completion_call_start(l->client, NULL, FOREVER, &call, l->error);
    library_assert_failed(l, r, -EINVAL, COMPLETION_INVALID_ARGUMENT);
    r = completion_call_start_stream(l->client, l->request, FOREVER, NULL, l->error);
    library_assert_failed(l, r, -EINVAL, COMPLETION_INVALID_ARGUMENT);
    r = completion_call_next(NULL, &chunk, l->error);
    library_assert_failed(l, r, -EINVAL, COMPLETION_INVALID_ARGUMENT);
    assert_null(call);
    assert_int_equal(completion_client_process(l->client), 0);
    /* Nothing was sent for any of them. */
    assert_int_equal(fake_count(l->scene.fake, FAKE_REQUESTED), 0);

    /* A stream survives the question without a place for the answer. */
    stream = library_open(l, FOREVER);
    assert_int_equal(completion_stream_next(stream, NULL, NULL), -EINVAL);
    completion_stream_free(stream);
    library_stop(l);
}

static void test_null_is_nothing(void **state)
{
    completion_client *client = NULL;
    (void)state;

    assert_null(completion_client_free(NULL));
    assert_null(completion_request_free(NULL));
    assert_null(completion_result_free(NULL));
    assert_null(completion_stream_free(NULL));
    assert_null(completion_error_free(NULL));
    assert_null(completion_call_free(NULL));
    assert_null(completion_gather_free(NULL));
    completion_stream_cancel(NULL);
    completion_call_cancel(NULL);
    completion_call_pause(NULL);
    completion_call_resume(NULL);
    completion_call_set_callback(NULL, NULL, NULL);
    assert_null(completion_call_user(NULL));
    completion_client_set_wake(NULL, NULL, NULL);
    assert_null(completion_client_next_ready(NULL));
    assert_int_equal(completion_client_get_fd(NULL), -EINVAL);
    assert_int_equal(completion_client_get_events(NULL), 0);
    assert_int_equal(completion_client_get_timeout(NULL), -1);
    assert_int_equal(completion_client_process(NULL), -EINVAL);
    assert_int_equal(completion_request_set_priority(NULL, 1), -EINVAL);
    assert_int_equal(completion_result_copy(NULL, NULL), -EINVAL);
    completion_client_set_wait(NULL, NULL, NULL, 0);
    assert_string_equal(completion_client_socket(NULL), "");
    assert_int_equal(completion_request_set_model(NULL, "m", TEXT), -EINVAL);
    assert_int_equal(completion_request_set_prompt(NULL, "p", TEXT), -EINVAL);
    assert_int_equal(completion_request_add_prompt(NULL, "p", TEXT), -EINVAL);
    assert_int_equal(completion_request_set_prompt_tokens(NULL, NULL, 0), -EINVAL);
    assert_int_equal(completion_request_add_stop(NULL, "p", TEXT), -EINVAL);
    assert_int_equal(completion_request_set_n(NULL, 1), -EINVAL);
    assert_int_equal(completion_request_set_top_p(NULL, 1), -EINVAL);
    assert_int_equal(completion_request_add_logit_bias(NULL, 1, 1), -EINVAL);
    assert_int_equal(completion_request_set_include_usage(NULL, 1), -EINVAL);
    assert_int_equal(completion_request_set_api_key(NULL, "k", TEXT), -EINVAL);
    assert_int_equal(completion_error_status(NULL), COMPLETION_UNKNOWN);
    assert_string_equal(completion_error_message(NULL), "");
    assert_int_equal(completion_error_retry_after_ms(NULL), -1);

    assert_int_equal(completion_client_new("", &client), -EINVAL);
    assert_null(client);
}

static void test_path_of_the_socket(void **state)
{
    struct library *l = *state;
    completion_client *client = NULL;
    char path[110];

    memset(path, 'x', sizeof path);
    path[108] = '\0';
    assert_int_equal(completion_client_new(path, &client), -ENAMETOOLONG);
    path[107] = '\0';
    assert_int_equal(completion_client_new(path, &client), 0);
    assert_string_equal(completion_client_socket(client), path);
    completion_client_free(client);

    library_start(l, answer, NULL, NULL);
    setenv("COMPLETIOND_SOCKET", l->scene.daemon.socket, 1);
    assert_int_equal(completion_client_new(NULL, &client), 0);
    unsetenv("COMPLETIOND_SOCKET");
    assert_string_equal(completion_client_socket(client), l->scene.daemon.socket);
    assert_int_equal(completion_client_check(client, FOREVER, NULL), 1);
    completion_client_free(client);

    setenv("XDG_RUNTIME_DIR", l->scene.daemon.directory.path, 1);
    assert_int_equal(completion_client_new(NULL, &client), 0);
    unsetenv("XDG_RUNTIME_DIR");
    assert_string_equal(completion_client_socket(client), "/run/completiond/rpc.sock");
    completion_client_free(client);
    library_stop(l);
}

/* ---- Freed at any time ---- */

static void test_stream_is_freed_in_every_state(void **state)
{
    struct library *l = *state;
    const completion_result *chunk;
    int before = library_n_descriptors();

    library_start(l, answer, NULL, NULL);
    for (int steps = 0; steps < 6; steps++) {
        completion_stream *stream = library_open(l, 60000);
        if (steps == 1 || steps == 2)
            completion_stream_cancel(stream);
        for (int i = 1; i < steps; i++)
            completion_stream_next(stream, &chunk, NULL);
        completion_stream_free(stream);
    }
    assert_string_equal(library_create(l), "ok");
    library_stop(l);
    fake_free(l->scene.fake);
    l->scene.fake = NULL;
    daemon_done(&l->scene.daemon);
    assert_int_equal(library_n_descriptors(), before);
}

/* A client that is freed first takes the life of its streams, and not the program's. */
static void test_client_is_freed_before_its_streams(void **state)
{
    struct library *l = *state;
    const completion_result *chunk;
    completion_result *copy;

    library_start(l, answer, NULL, NULL);
    completion_stream *fresh = library_open(l, FOREVER), *read = library_open(l, FOREVER),
                      *ended = library_open(l, FOREVER);
    assert_int_equal(completion_stream_next(ended, &chunk, l->error), 1);
    assert_int_equal(completion_stream_next(ended, &chunk, l->error), 0);
    assert_int_equal(completion_stream_next(read, &chunk, l->error), 1);
    l->client = completion_client_free(l->client);
    library_assert_text(completion_choice_text(chunk, 0), "ok");
    assert_int_equal(completion_result_copy(chunk, &copy), 0);
    library_assert_next_fails(l, read, -EPIPE, COMPLETION_CANCELLED);
    library_assert_next_fails(l, fresh, -EPIPE, COMPLETION_CANCELLED);
    library_assert_next_fails(l, fresh, -EPIPE, COMPLETION_FAILED_PRECONDITION);
    assert_int_equal(completion_stream_next(ended, &chunk, l->error), 0);
    completion_stream_cancel(read);
    completion_stream_free(fresh);
    completion_stream_free(read);
    completion_stream_free(ended);
    library_assert_text(completion_choice_text(copy, 0), "ok");
    completion_result_free(copy);
    library_stop(l);
}

/* ---- fork() ---- */

struct inherited {
    struct library *library;
    completion_stream *stream;
};

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition))                                                                          \
            return __LINE__ & 0xff;                                                                \
    } while (0)

static int use_what_is_the_parents(void *user)
{
    struct inherited *i = user;
    struct library *l = i->library;
    const completion_result *chunk;
    completion_result *result;
    completion_stream *stream;
    completion_client *client;

    CHECK(completion_create(l->client, l->request, FOREVER, &result, l->error) == -ECHILD);
    CHECK(completion_error_status(l->error) == COMPLETION_FAILED_PRECONDITION);
    CHECK(completion_stream_open(l->client, l->request, FOREVER, &stream, NULL) == -ECHILD);
    CHECK(completion_client_check(l->client, FOREVER, NULL) == -ECHILD);
    CHECK(completion_stream_next(i->stream, &chunk, NULL) == -ECHILD);
    completion_stream_cancel(i->stream);
    completion_stream_free(i->stream);
    completion_client_free(l->client);

    /* One of its own works. */
    CHECK(completion_client_new(l->scene.daemon.socket, &client) == 0);
    CHECK(completion_client_check(client, FOREVER, NULL) == 1);
    completion_client_free(client);
    return 0;
}

static void test_child_leaves_the_stream_of_its_parent_alone(void **state)
{
    struct library *l = *state;
    const completion_result *chunk;

    library_start(l, stream_on_demand, NULL, NULL);
    struct inherited inherited = {l, library_open(l, FOREVER)};
    assert_int_equal(completion_stream_next(inherited.stream, &chunk, l->error), 1);
    for (int i = 0; i < 3; i++)
        library_assert_child(use_what_is_the_parents, &inherited);
    assert_int_equal(completion_client_check(l->client, FOREVER, l->error), 1);
    assert_int_equal(fake_count(l->scene.fake, FAKE_REQUESTED), 1);
    fake_mark(l->scene.fake, FAKE_GO);
    assert_string_equal(library_read(l, inherited.stream), "b");
    completion_stream_free(inherited.stream);
    library_stop(l);
}

/* ---- Descriptors ---- */

/* In a process without the fake's threads, which would take descriptors too. */
static int use_descriptor_zero(void *user)
{
    struct library *l = user;
    const completion_result *chunk;
    completion_stream *stream;
    completion_client *client;

    for (int i = 0; i < 3; i++)
        close(i);
    CHECK(completion_client_new(l->scene.daemon.socket, &client) == 0);
    CHECK(completion_client_check(client, FOREVER, l->error) == 1);
    CHECK(completion_stream_open(client, l->request, FOREVER, &stream, l->error) == 0);
    CHECK(completion_stream_next(stream, &chunk, l->error) == 1);
    CHECK(fcntl(0, F_GETFD) == FD_CLOEXEC);
    CHECK(fcntl(1, F_GETFD) == -1);
    completion_stream_free(stream);
    completion_client_free(client);
    CHECK(fcntl(0, F_GETFD) == -1); /* it was closed */
    return 0;
}

static void test_descriptor_zero_is_a_descriptor(void **state)
{
    struct library *l = *state;

    library_start(l, answer, NULL, NULL);
    library_assert_child(use_descriptor_zero, l);
    library_stop(l);
}

static void test_no_descriptor_left(void **state)
{
    struct library *l = *state;
    struct rlimit limit, tight;

    library_start(l, answer, NULL, DAEMON_ONE_WORKER);
    /* The upstream's connection, which stays, is this program's too. */
    assert_string_equal(library_create(l), "ok");
    completion_client_free(l->client);
    assert_int_equal(completion_client_new(l->scene.daemon.socket, &l->client), 0);
    int before = library_n_descriptors();
    int next = dup(0);
    close(next);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    tight = (struct rlimit){(rlim_t)next, limit.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &tight), 0);
    completion_result *result = NULL;
    int r = completion_create(l->client, l->request, FOREVER, &result, l->error);
    int checked = completion_client_check(l->client, FOREVER, l->error);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    library_assert_failed(l, r, -EMFILE, COMPLETION_RESOURCE_EXHAUSTED);
    library_assert_said(l, strerror(EMFILE));
    assert_int_equal(checked, -EMFILE);
    assert_int_equal(completion_error_maybe_executed(l->error), 0);
    assert_int_equal(library_n_descriptors(), before);
    assert_string_equal(library_create(l), "ok");
    assert_int_equal(library_n_descriptors(), before + 1);
    l->client = completion_client_free(l->client);
    assert_int_equal(library_n_descriptors(), before);
    library_stop(l);
}

/* ---- Signals ---- */

static volatile sig_atomic_t n_alarms, alarms_are_over;

static void count_alarm(int number)
{
    (void)number;
    n_alarms++;
}

/* Chunks a few signals apart. */
static void slowly(struct fake_connection *c)
{
    enum { ALARMS_BETWEEN = 5 };

    while (fake_read_request(c) && fake_stream_begin(c)) {
        for (int i = 0; i < 20; i++) {
            sig_atomic_t until = n_alarms + ALARMS_BETWEEN;
            while (n_alarms < until && !alarms_are_over)
                poll(NULL, 0, 1);
            if (!fake_event(c, FAKE_PART("a")))
                return;
        }
        if (!fake_stream_done(c))
            return;
    }
}

static void test_interrupted_by_a_thousand_signals_a_second(void **state)
{
    struct library *l = *state;
    struct sigaction action = {.sa_handler = count_alarm}, old; /* no SA_RESTART */
    struct itimerval timer = {{0, 1000}, {0, 1000}}, none = {0};
    sigset_t alarm, before;

    /* The fake's threads are none of its business. */
    sigemptyset(&alarm);
    sigaddset(&alarm, SIGALRM);
    pthread_sigmask(SIG_BLOCK, &alarm, &before);
    library_start(l, slowly, NULL, NULL);
    sigaction(SIGALRM, &action, &old);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    setitimer(ITIMER_REAL, &timer, NULL);
    completion_stream *streams[8];
    for (int i = 0; i < 8; i++)
        streams[i] = library_open(l, 60000);
    for (int i = 7; i >= 0; i--) {
        assert_string_equal(library_read(l, streams[i]), "aaaaaaaaaaaaaaaaaaaa");
        completion_stream_free(streams[i]);
    }
    /* Deadlines are not put off by it either; on a busy machine one may be over at once. */
    for (int i = 0; i < 3; i++) {
        completion_stream *stream = NULL;
        const completion_result *chunk;
        int r = completion_stream_open(l->client, l->request, 5, &stream, l->error);
        while (stream && (r = completion_stream_next(stream, &chunk, l->error)) == 1)
            ;
        library_assert_failed(l, r, -ETIMEDOUT, COMPLETION_DEADLINE_EXCEEDED);
        completion_stream_free(stream);
    }
    setitimer(ITIMER_REAL, &none, NULL);
    sigaction(SIGALRM, &old, NULL);
    alarms_are_over = 1; /* for what is left of the upstream's threads */
    assert_true(n_alarms >= 100);
    library_stop(l);
}

static int count_and_go_on(void *user, int64_t elapsed_ms)
{
    (void)elapsed_ms;
    ++*(int *)user;
    return *(int *)user >= 3;
}

static void say_nothing(struct fake_connection *c)
{
    if (fake_read_request(c))
        fake_wait_for_close(c);
}

/* However long the interval is: a Ctrl-C must get through. */
static void test_signal_calls_the_hook(void **state)
{
    struct library *l = *state;
    struct sigaction action = {.sa_handler = count_alarm}, old;
    struct itimerval timer = {{0, 20000}, {0, 20000}}, none = {0};
    sigset_t alarm, before;
    int n_calls = 0;

    sigemptyset(&alarm);
    sigaddset(&alarm, SIGALRM);
    pthread_sigmask(SIG_BLOCK, &alarm, &before);
    library_start(l, say_nothing, NULL, NULL);
    sigaction(SIGALRM, &action, &old);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    completion_client_set_wait(l->client, count_and_go_on, &n_calls, 1000000);
    setitimer(ITIMER_REAL, &timer, NULL);
    library_assert_create_fails(l, FOREVER, -ECANCELED, COMPLETION_CANCELLED);
    setitimer(ITIMER_REAL, &none, NULL);
    sigaction(SIGALRM, &old, NULL);
    assert_int_equal(n_calls, 3);
    library_stop(l);
}

/* Were SIGPIPE raised, this program would end. */
static void test_killed_daemon_raises_no_signal(void **state)
{
    struct library *l = *state;
    const completion_result *chunk;

    signal(SIGPIPE, SIG_DFL);
    library_start(l, stream_on_demand, NULL, NULL);
    completion_stream *stream = library_open(l, FOREVER), *other = library_open(l, FOREVER);
    assert_int_equal(completion_stream_next(stream, &chunk, l->error), 1);
    daemon_signal(&l->scene.daemon, SIGKILL);
    daemon_wait(&l->scene.daemon);
    completion_stream_cancel(other); /* writes */
    library_assert_next_fails(l, stream, -EIO, COMPLETION_UNAVAILABLE);
    assert_int_equal(completion_error_maybe_executed(l->error), 1);
    assert_int_equal(completion_error_retryable(l->error), 1);
    completion_stream_free(stream);
    completion_stream_free(other);

    daemon_start(&l->scene.daemon, NULL);
    fake_mark(l->scene.fake, FAKE_GO);
    stream = library_open(l, FOREVER);
    assert_string_equal(library_read(l, stream), "ab");
    completion_stream_free(stream);
    library_stop(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        library_test(test_null_is_refused),
        cmocka_unit_test(test_null_is_nothing),
        library_test(test_path_of_the_socket),
        library_test(test_stream_is_freed_in_every_state),
        library_test(test_client_is_freed_before_its_streams),
        library_test(test_child_leaves_the_stream_of_its_parent_alone),
        library_test(test_descriptor_zero_is_a_descriptor),
        library_test(test_no_descriptor_left),
        library_test(test_interrupted_by_a_thousand_signals_a_second),
        library_test(test_signal_calls_the_hook),
        library_test(test_killed_daemon_raises_no_signal),
    };

    /* The machine's own settings are not the test's. */
    unsetenv("COMPLETIOND_SOCKET");
    unsetenv("XDG_RUNTIME_DIR");
    return cmocka_run_group_tests(tests, NULL, NULL);
}

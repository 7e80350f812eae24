/*
 * A daemon in this program, whose memory runs out while it starts, is configured and takes callers:
 * it fails these, and never itself. The callers are a thread, which has all the memory that it
 * wants. What asks an upstream is another matter: tests/torture.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <curl/curl.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../client/completion.h"
#include "config.h"
#include "crew.h"
#include "curl_memory.h"
#include "directory.h"
#include "failing_memory.h"
#include "log.h"
#include "server.h"
#include "upstream.h"
#include "worker.h"

enum { CALL_TIMEOUT_MS = 10000, N_WORKERS = 3 };

struct fixture {
    struct directory directory;
    char socket[128];
    struct config *config;
    struct log log;
    struct crew crew;
};

/* ---- The callers: nothing fails the test on their thread ---- */

struct outcome {
    int r;
    char message[512];
};

struct callers {
    const char *socket;
    int to_worker;   /* a byte: memory is to come back; closed: stop */
    int from_worker; /* a byte: it is back */
    struct outcome before, after;
};

static void call(const char *socket, struct outcome *o)
{
    completion_client *client = NULL;
    completion_error *error = completion_error_new();

    completion_client_new(socket, &client);
    o->r = completion_client_check(client, CALL_TIMEOUT_MS, error);
    snprintf(o->message, sizeof o->message, "%s", completion_error_message(error));
    completion_error_free(error);
    completion_client_free(client);
}

static void *make_calls(void *user)
{
    struct callers *c = user;
    char byte = 0;

    call(c->socket, &c->before);
    if (write(c->to_worker, &byte, 1) == 1 && read(c->from_worker, &byte, 1) == 1)
        call(c->socket, &c->after);
    close(c->to_worker);
    return NULL;
}

/* ---- The daemon ---- */

struct control {
    struct worker *worker;
    struct failing_memory *memory;
    struct event event;
    int fd;
};

static void on_control(evutil_socket_t fd, short what, void *user)
{
    struct control *c = user;
    char byte;
    (void)what;

    if (read(fd, &byte, 1) != 1) {
        c->worker->stop = true;
        return;
    }
    failing_memory_end(c->memory);
    assert_int_equal(write(c->fd, &byte, 1), 1);
}

static int start(struct fixture *f, size_t n_workers)
{
    int fd = server_listen(f->socket);
    int r = crew_init(&f->crew, &f->log, n_workers);

    assert_true(fd >= 0);
    if (r == 0)
        r = crew_configure(&f->crew, f->config, NULL, NULL);
    if (r == 0)
        r = crew_serve(&f->crew, &fd, 1);
    if (r < 0)
        close(fd);
    return r;
}

static void stop(struct fixture *f)
{
    crew_done(&f->crew);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    struct config_error error;
    char text[512];

    signal(SIGPIPE, SIG_IGN);
    assert_int_equal(curl_memory_init(), 0);
    directory_init(&f->directory);
    snprintf(f->socket, sizeof f->socket, "%s", directory_path(&f->directory, "s"));
    snprintf(text, sizeof text,
             "[upstream fake]\nbase_url = http://127.0.0.1:9\ncredential_file = %s\n",
             directory_write(&f->directory, "key", "sk-key"));
    if (config_load(directory_write(&f->directory, "c.conf", text), NULL, &f->config, &error) < 0)
        fail_msg("%s", error.text);
    log_init_fd(&f->log, STDERR_FILENO);
    f->log.level = LOG_EMERG;
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    log_done(&f->log);
    config_unref(f->config);
    directory_done(&f->directory);
    free(f);
    curl_global_cleanup();
    return 0;
}

/* ---- Tests ---- */

static void a_daemon_starts_or_says_that_there_is_no_memory(void **state)
{
    struct fixture *f = *state;

    for (struct failing_memory m = {0}; failing_memory_next(&m);) {
        failing_memory_begin(&m);
        int r = start(f, N_WORKERS);
        failing_memory_end(&m);
        assert_true(r == 0 || (m.failed && r == -ENOMEM));
        stop(f);
    }
}

static void a_configuration_that_does_not_fit_leaves_the_old_one(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(start(f, N_WORKERS), 0);
    for (struct failing_memory m = {0}; failing_memory_next(&m);) {
        struct upstream *before[N_WORKERS];

        for (size_t i = 0; i < N_WORKERS; i++)
            before[i] = crew_worker(&f->crew, i)->upstreams[0];
        failing_memory_begin(&m);
        int r = crew_configure(&f->crew, f->config, NULL, NULL);
        failing_memory_end(&m);
        /* Without memory for numbers of its own an upstream is counted with others. */
        assert_true(r == 0 || (m.failed && r == -ENOMEM));
        for (size_t i = 0; i < N_WORKERS; i++) {
            assert_int_equal(crew_worker(&f->crew, i)->n_upstreams, 1);
            assert_int_equal(crew_worker(&f->crew, i)->upstreams[0] == before[i], r < 0);
        }
    }
    stop(f);
}

static void callers_are_served_again_once_there_is_memory(void **state)
{
    struct fixture *f = *state;

    for (struct failing_memory m = {0}; failing_memory_next(&m);) {
        int to_worker[2], from_worker[2];
        pthread_t thread;

        assert_int_equal(start(f, 1), 0);
        struct worker *worker = crew_worker(&f->crew, 0);
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, to_worker), 0);
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, from_worker), 0);
        struct control control = {.worker = worker, .memory = &m, .fd = from_worker[0]};
        struct callers callers = {
            .socket = f->socket, .to_worker = to_worker[1], .from_worker = from_worker[1]};
        event_assign(&control.event, worker->base, to_worker[0], EV_READ | EV_PERSIST, on_control,
                     &control);
        assert_int_equal(event_add(&control.event, NULL), 0);
        assert_int_equal(pthread_create(&thread, NULL, make_calls, &callers), 0);
        failing_memory_begin(&m);
        int r = worker_run(worker);
        assert_int_equal(r, 0);
        assert_int_equal(pthread_join(thread, NULL), 0);
        event_del(&control.event);
        close(to_worker[0]);
        close(from_worker[0]);
        close(from_worker[1]);
        stop(f);
        /* The first one was told; it did not wait for its deadline. */
        if (callers.before.r != 1 && (!m.failed || callers.before.r == -ETIMEDOUT))
            fail_msg("%d: %s", callers.before.r, callers.before.message);
        if (callers.after.r != 1)
            fail_msg("it serves no more: %d, %s", callers.after.r, callers.after.message);
    }
}

#define worker_test(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        worker_test(a_daemon_starts_or_says_that_there_is_no_memory),
        worker_test(a_configuration_that_does_not_fit_leaves_the_old_one),
        worker_test(callers_are_served_again_once_there_is_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

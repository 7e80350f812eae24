/*
 * The listening socket when accepting fails: every errno that it can fail with is survived without
 * a spin, logged once a second, and over as soon as its cause is. accept4() is the test's.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <syslog.h>
#include <unistd.h>

#include "config.h"
#include "crew.h"
#include "log.h"
#include "server.h"

static int failure;       /* what accept4() fails with; 0: it does not */
static unsigned n_accept; /* calls of it */

int accept4(int fd, struct sockaddr *restrict address, socklen_t *restrict len, int flags)
{
    n_accept++;
    if (failure) {
        errno = failure;
        if (failure == ECONNABORTED || failure == EINTR)
            failure = 0;
        return -1;
    }
    return (int)syscall(SYS_accept4, fd, address, len, flags);
}

struct scene {
    struct crew crew;
    struct worker *worker;
    struct log log;
    struct event until;
    char path[64];
    int client;
};

static void on_until(evutil_socket_t fd, short what, void *user)
{
    (void)fd, (void)what;
    ((struct worker *)user)->stop = true;
}

static void on_look(evutil_socket_t fd, short what, void *user)
{
    struct scene *s = user;

    (void)fd, (void)what;
    if (s->worker->server->n_connections > 0)
        s->worker->stop = true;
    else
        worker_arm(&s->until, 1000);
}

/* Runs for so long, or with 0 until there is a connection. */
static void run(struct scene *s, int64_t for_us)
{
    s->worker->stop = false;
    evtimer_assign(&s->until, s->worker->base, for_us ? on_until : on_look,
                   for_us ? (void *)s->worker : s);
    assert_int_equal(worker_arm(&s->until, for_us ? for_us : 1000), 0);
    assert_int_equal(worker_run(s->worker), 0);
    evtimer_del(&s->until);
}

static void open_scene(struct scene *s)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    *s = (struct scene){.log = {.level = LOG_INFO}};
    strcpy(s->path, "/tmp/completiond-test-XXXXXX");
    assert_non_null(mkdtemp(s->path));
    snprintf(address.sun_path, sizeof address.sun_path, "%s/s", s->path);
    int fd = server_listen(address.sun_path);
    assert_true(fd >= 0);
    assert_int_equal(crew_init(&s->crew, &s->log, 1), 0);
    s->worker = crew_worker(&s->crew, 0);
    s->worker->config = calloc(1, sizeof *s->worker->config);
    assert_non_null(s->worker->config);
    *s->worker->config = (struct config){
        .n_refs = 1,
        .caller_first_byte_timeout_us = CONFIG_INFINITY,
        .caller_request_timeout_us = CONFIG_INFINITY,
        .caller_stall_timeout_us = CONFIG_INFINITY,
    };
    assert_int_equal(crew_serve(&s->crew, &fd, 1), 0);
    s->client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(s->client, (struct sockaddr *)&address, sizeof address), 0);
    unlink(address.sun_path);
    rmdir(s->path);
    n_accept = 0;
}

static void close_scene(struct scene *s)
{
    close(s->client);
    crew_done(&s->crew);
}

static void want_of_resources_makes_it_rest(void **state)
{
    static const int errors[] = {EMFILE, ENFILE, ENOMEM, ENOBUFS, EPERM};
    (void)state;

    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) {
        struct scene s;
        open_scene(&s);
        failure = errors[i];
        run(&s, 450000);
        assert_int_equal(s.worker->server->n_connections, 0);
        assert_in_range(n_accept, 1, 6);
        failure = 0;
        run(&s, 0);
        assert_int_equal(s.worker->server->n_connections, 1);
        close_scene(&s);
    }
}

static void a_caller_who_gave_up_is_no_reason_to_rest(void **state)
{
    static const int errors[] = {ECONNABORTED, EINTR};
    (void)state;

    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) {
        struct scene s;
        open_scene(&s);
        failure = errors[i];
        run(&s, 0);
        assert_int_equal(n_accept, 3);
        close_scene(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(want_of_resources_makes_it_rest),
        cmocka_unit_test(a_caller_who_gave_up_is_no_reason_to_rest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

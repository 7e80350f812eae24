/*
 * Daemons that are not there, may not be reached, are busy, restart, drain, or die.
 */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "library.h"

enum { FOREVER = -1, DEADLINE_MS = 300, LATE_MS = 2000 };

static void answer(struct fake_connection *c)
{
    while (fake_read_request(c) && fake_answer(c, 200, "application/json", "", FAKE_LAST("ok")))
        ;
}

/* Streams go on when the test says so; anything else is answered at once. */
static void stream_on_demand(struct fake_connection *c)
{
    while (fake_read_request(c)) {
        if (strstr(c->body, "\"stream\":true")
                ? !fake_stream_begin(c) || !fake_event(c, FAKE_PART("a")) ||
                      !fake_await(c->fake, FAKE_GO, 1) || !fake_event(c, FAKE_LAST("b")) ||
                      !fake_stream_done(c)
                : !fake_answer(c, 200, "application/json", "", FAKE_LAST("ok")))
            return;
    }
}

static int listen_on(const char *path, int backlog)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(fd, backlog), 0);
    return fd;
}

/* A client of a socket in the test's directory. */
static void aim(struct library *l, const char *name)
{
    completion_client_free(l->client);
    assert_int_equal(
        completion_client_new(directory_path(&l->scene.daemon.directory, name), &l->client), 0);
}

/* ---- Not there ---- */

static void test_no_daemon(void **state)
{
    struct library *l = *state;
    completion_stream *stream;
    int before = library_n_descriptors();

    aim(l, "none.sock");
    library_assert_create_fails(l, FOREVER, -ENOENT, COMPLETION_UNAVAILABLE);
    library_assert_said(l, "none.sock");
    library_assert_said(l, "systemctl start");
    assert_int_equal(completion_error_maybe_executed(l->error), 0);
    assert_int_equal(completion_error_retryable(l->error), 1);
    int r = completion_stream_open(l->client, l->request, FOREVER, &stream, l->error);
    library_assert_failed(l, r, -ENOENT, COMPLETION_UNAVAILABLE);
    r = completion_client_check(l->client, FOREVER, l->error);
    library_assert_failed(l, r, -ENOENT, COMPLETION_UNAVAILABLE);

    aim(l, "none/rpc.sock");
    library_assert_create_fails(l, FOREVER, -ENOENT, COMPLETION_UNAVAILABLE);

    /* One that was left behind, and what is no socket at all. */
    close(listen_on(directory_path(&l->scene.daemon.directory, "stale.sock"), 1));
    aim(l, "stale.sock");
    library_assert_create_fails(l, FOREVER, -ECONNREFUSED, COMPLETION_UNAVAILABLE);
    directory_write(&l->scene.daemon.directory, "file.sock", "");
    aim(l, "file.sock");
    library_assert_create_fails(l, FOREVER, -ECONNREFUSED, COMPLETION_UNAVAILABLE);
    aim(l, "file.sock/rpc.sock");
    library_assert_create_fails(l, FOREVER, -ENOTDIR, COMPLETION_UNAVAILABLE);
    assert_int_equal(library_n_descriptors(), before);
    library_stop(l);
}

/* In a child. The client is made in it: one of the parent's would be refused for that. */
static int call_as_nobody(void *user)
{
    enum { NOBODY = 65534 };
    struct library *l = user;
    completion_result *result;

    if (setresgid(NOBODY, NOBODY, NOBODY) < 0 || setresuid(NOBODY, NOBODY, NOBODY) < 0)
        return 1;
    if (completion_client_new(l->scene.daemon.socket, &l->client) < 0)
        return 2;
    if (completion_create(l->client, l->request, FOREVER, &result, l->error) != -EACCES)
        return 3;
    if (completion_error_status(l->error) != COMPLETION_PERMISSION_DENIED)
        return 4;
    return strstr(completion_error_message(l->error), "usermod -aG completiond") ? 0 : 5;
}

static void test_no_permission(void **state)
{
    struct library *l = *state;

    if (getuid() != 0) {
        print_message("skipped: only root can be someone else\n");
        skip();
    }
    library_start(l, answer, NULL, NULL);
    /* The way to the socket is open, the socket is not. */
    assert_int_equal(chmod(l->scene.daemon.directory.path, 0755), 0);
    assert_int_equal(chmod(l->scene.daemon.socket, 0600), 0);
    library_assert_child(call_as_nobody, l);
    assert_int_equal(chmod(l->scene.daemon.directory.path, 0700), 0);
    assert_int_equal(chmod(l->scene.daemon.socket, 0666), 0);
    library_assert_child(call_as_nobody, l);
    library_stop(l);
}

/* ---- Busy ---- */

static int stop_at_third(void *user, int64_t elapsed_ms)
{
    (void)elapsed_ms;
    return ++*(int *)user >= 3;
}

static void test_full_backlog(void **state)
{
    struct library *l = *state;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int n_calls = 0, guests[16], n_guests = 0;
    const char *path = directory_path(&l->scene.daemon.directory, "full.sock");
    int fd = listen_on(path, 0);

    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    do {
        guests[n_guests] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    } while (connect(guests[n_guests++], (struct sockaddr *)&address, sizeof address) == 0 &&
             n_guests < 16);
    assert_int_equal(errno, EAGAIN);
    int before = library_n_descriptors();

    aim(l, "full.sock");
    int64_t start = harness_now_ms();
    library_assert_create_fails(l, DEADLINE_MS, -ETIMEDOUT, COMPLETION_DEADLINE_EXCEEDED);
    int64_t took_ms = harness_now_ms() - start;
    assert_true(took_ms >= DEADLINE_MS && took_ms < DEADLINE_MS + LATE_MS);
    assert_int_equal(completion_error_maybe_executed(l->error), 0);
    library_assert_create_fails(l, 0, -ETIMEDOUT, COMPLETION_DEADLINE_EXCEEDED);
    completion_client_set_wait(l->client, stop_at_third, &n_calls, 20);
    library_assert_create_fails(l, FOREVER, -ECANCELED, COMPLETION_CANCELLED);
    assert_int_equal(n_calls, 3);
    assert_int_equal(library_n_descriptors(), before);
    while (n_guests > 0)
        close(guests[--n_guests]);
    close(fd);
    library_stop(l);
}

/* ---- Restarting ---- */

static void test_daemon_restarts_between_calls(void **state)
{
    struct library *l = *state;

    library_start(l, answer, NULL, NULL);
    for (int i = 0; i < 6; i++) {
        assert_string_equal(library_create(l), "ok");
        daemon_signal(&l->scene.daemon, i % 2 ? SIGKILL : SIGTERM);
        daemon_wait(&l->scene.daemon);
        if (i % 3 == 0)
            assert_true(completion_client_check(l->client, FOREVER, NULL) < 0);
        daemon_start(&l->scene.daemon, NULL);
    }
    assert_string_equal(library_create(l), "ok");
    library_stop(l);
}

/* The same configuration on the same listening socket, as systemd restarts it. */
static void start_another(struct daemon *d, const struct daemon *like, int listen_fd)
{
    char *config = directory_read(like->config);

    daemon_init(d, config);
    free(config);
    daemon_start(d, &(struct daemon_options){.listen_fd = listen_fd, .no_listen = true});
}

static void test_no_call_is_lost_while_daemons_take_turns(void **state)
{
    enum { ROUNDS = 20 };
    struct library *l = *state;
    struct daemon daemons[ROUNDS + 1];
    unsigned n_calls = 0;

    scene_prepare(&l->scene, answer, NULL, NULL);
    aim(l, "activated.sock");
    int fd = listen_on(completion_client_socket(l->client), 64);
    start_another(&daemons[0], &l->scene.daemon, fd);
    for (int i = 0; i < ROUNDS; i++) {
        start_another(&daemons[i + 1], &l->scene.daemon, fd);
        daemon_signal(&daemons[i], SIGTERM);
        /* All the time from its first goodbye to its end. */
        struct pollfd ended = {daemons[i].pidfd, POLLIN, 0};
        do {
            assert_string_equal(library_create(l), "ok");
            n_calls++;
        } while (poll(&ended, 1, 0) == 0);
        daemon_wait_exit(&daemons[i], 0);
        daemon_done(&daemons[i]);
    }
    daemon_stop(&daemons[ROUNDS]);
    daemon_done(&daemons[ROUNDS]);
    assert_int_equal(fake_count(l->scene.fake, FAKE_REQUESTED), n_calls);
    close(fd);
    library_stop(l);
}

static void test_draining_daemon_finishes_its_stream(void **state)
{
    struct library *l = *state;
    struct daemon old, new;
    const completion_result *chunk;

    scene_prepare(&l->scene, stream_on_demand, NULL, NULL);
    aim(l, "activated.sock");
    int fd = listen_on(completion_client_socket(l->client), 64);
    start_another(&old, &l->scene.daemon, fd);
    completion_stream *stream = library_open(l, FOREVER);
    assert_int_equal(completion_stream_next(stream, &chunk, l->error), 1);
    daemon_signal(&old, SIGTERM);
    daemon_await(&old, "STOPPING=1");
    start_another(&new, &l->scene.daemon, fd);
    for (int i = 0; i < 10; i++)
        assert_string_equal(library_create(l), "ok");
    fake_mark(l->scene.fake, FAKE_GO);
    assert_string_equal(library_read(l, stream), "b");
    completion_stream_free(stream);
    daemon_wait_exit(&old, 0);
    assert_string_equal(library_create(l), "ok");
    daemon_stop(&new);
    daemon_done(&old);
    daemon_done(&new);
    close(fd);
    library_stop(l);
}

/* ---- Dying ---- */

static void test_stream_of_a_killed_daemon_never_looks_whole(void **state)
{
    struct library *l = *state;
    const completion_result *chunk;

    library_start(l, stream_on_demand, NULL, NULL);
    for (int taken = 0; taken < 2; taken++) {
        completion_stream *stream = library_open(l, FOREVER);
        if (taken)
            assert_int_equal(completion_stream_next(stream, &chunk, l->error), 1);
        /* The upstream has it, whether or not the caller has read of it. */
        assert_true(fake_await(l->scene.fake, FAKE_REQUESTED, (unsigned)taken + 1));
        daemon_signal(&l->scene.daemon, SIGKILL);
        daemon_wait(&l->scene.daemon);
        int64_t start = harness_now_ms();
        int r;
        while ((r = completion_stream_next(stream, &chunk, l->error)) == 1)
            library_assert_text(completion_choice_text(chunk, 0), "a");
        library_assert_failed(l, r, -EIO, COMPLETION_UNAVAILABLE);
        assert_int_equal(completion_error_maybe_executed(l->error), 1);
        assert_true(harness_now_ms() - start < LATE_MS);
        completion_stream_free(stream);
        library_assert_create_fails(l, FOREVER, -ECONNREFUSED, COMPLETION_UNAVAILABLE);
        daemon_start(&l->scene.daemon, NULL);
        assert_int_equal(completion_client_check(l->client, FOREVER, l->error), 1);
    }
    library_stop(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        library_test(test_no_daemon),
        library_test(test_no_permission),
        library_test(test_full_backlog),
        library_test(test_daemon_restarts_between_calls),
        library_test(test_no_call_is_lost_while_daemons_take_turns),
        library_test(test_draining_daemon_finishes_its_stream),
        library_test(test_stream_of_a_killed_daemon_never_looks_whole),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

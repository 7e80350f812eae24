/*
 * Connecting without blocking: to a daemon that has no room, that is not there yet, that is not who
 * it should be; and what a client may be told to do about it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "library.h"
#include "peer.h"

enum { FOREVER = -1, DEADLINE_MS = 200, EARLY_MS = 2, LATE_MS = 4000, BLOCKING_MS = 50 };

static void answer(struct fake_connection *c)
{
    while (fake_read_request(c) && fake_answer(c, 200, "application/json", "", FAKE_LAST("ok")))
        ;
}

static void peer_answers(struct fake_connection *c)
{
    uint32_t stream;

    if (!peer_greet(c))
        return;
    while ((stream = peer_read_call(c)) && peer_answer(c, stream, "ok"))
        ;
}

static const char *aim(struct library *l, const char *name)
{
    const char *path = directory_path(&l->scene.daemon.directory, name);

    completion_client_free(l->client);
    assert_int_equal(completion_client_new(path, &l->client), 0);
    return completion_client_socket(l->client);
}

static void assert_took(int64_t since_ms, int64_t ms)
{
    int64_t took_ms = harness_now_ms() - since_ms;

    if (took_ms < ms - EARLY_MS || took_ms > ms + LATE_MS)
        fail_msg("it took %d ms, not %d", (int)took_ms, (int)ms);
}

/* ---- No room ---- */

static void test_full_backlog_does_not_block(void **state)
{
    enum { GUESTS_MAX = 16 };
    struct library *l = *state;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int guests[GUESTS_MAX], n_guests = 0;
    const char *path = aim(l, "full.sock");
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(listener, 0), 0);
    do {
        guests[n_guests] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    } while (connect(guests[n_guests++], (struct sockaddr *)&address, sizeof address) == 0 &&
             n_guests < GUESTS_MAX);

    int64_t start = harness_now_ms();
    completion_call *call = library_start_call(l, 0, FOREVER),
                    *late = library_start_call(l, 1, DEADLINE_MS);
    for (int i = 0; i < 100; i++)
        assert_int_equal(completion_client_process(l->client), 0);
    assert_true(harness_now_ms() - start < DEADLINE_MS);
    /* It tries again, but not all the time. */
    int timeout_ms = completion_client_get_timeout(l->client);
    assert_true(timeout_ms > 0 && timeout_ms <= BLOCKING_MS);
    library_assert_failed(l, library_finish(l, late), -ETIMEDOUT, COMPLETION_DEADLINE_EXCEEDED);
    library_assert_said(l, "while connecting");
    assert_int_equal(completion_error_maybe_executed(l->error), 0);
    assert_took(start, DEADLINE_MS);
    completion_call_free(late);
    while (n_guests > 0)
        close(guests[--n_guests]);
    /* The guests were never accepted; whoever is now, is the client. */
    for (int accepted = 0; accepted < 1;) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        char byte;
        assert_true(completion_client_process(l->client) >= 0);
        accepted += fd >= 0 && recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 1;
        if (fd >= 0)
            close(fd);
    }
    library_assert_failed(l, library_finish(l, call), -EIO, COMPLETION_UNAVAILABLE);
    completion_call_free(call);
    close(listener);
}

/* ---- Nobody there ---- */

static void test_without_patience(void **state)
{
    struct library *l = *state;

    aim(l, "none.sock");
    for (int i = 0; i < 3; i++) {
        completion_call *call = library_start_call(l, i % 2, FOREVER);
        assert_int_equal(completion_client_process(l->client), 1);
        library_assert_failed(l, library_finish(l, call), -ENOENT, COMPLETION_UNAVAILABLE);
        assert_int_equal(completion_error_maybe_executed(l->error), 0);
        assert_int_equal(completion_error_retryable(l->error), 1);
        completion_call_free(call);
        assert_int_equal(completion_client_get_timeout(l->client), -1);
    }
    assert_int_equal(completion_client_set_reconnect(l->client, 0, -1), -EINVAL);
    assert_int_equal(completion_client_set_reconnect(NULL, 0, 1), -EINVAL);
}

static void test_patience_ends(void **state)
{
    struct library *l = *state;
    completion_stream *stream = NULL;

    aim(l, "none.sock");
    assert_int_equal(completion_client_set_reconnect(l->client, DEADLINE_MS, 1), 0);
    int64_t start = harness_now_ms();
    library_assert_create_fails(l, FOREVER, -ENOENT, COMPLETION_UNAVAILABLE);
    assert_took(start, DEADLINE_MS);
    start = harness_now_ms();
    completion_call *call = library_start_call(l, 0, FOREVER);
    library_assert_failed(l, library_finish(l, call), -ENOENT, COMPLETION_UNAVAILABLE);
    assert_took(start, DEADLINE_MS);
    completion_call_free(call);
    /* Its deadline, where that is sooner, and where there is no other end. */
    start = harness_now_ms();
    library_assert_create_fails(l, DEADLINE_MS / 4, -ETIMEDOUT, COMPLETION_DEADLINE_EXCEEDED);
    assert_took(start, DEADLINE_MS / 4);
    assert_int_equal(completion_client_set_reconnect(l->client, FOREVER, 1), 0);
    start = harness_now_ms();
    int r = completion_stream_open(l->client, l->request, DEADLINE_MS, &stream, l->error);
    library_assert_failed(l, r, -ETIMEDOUT, COMPLETION_DEADLINE_EXCEEDED);
    assert_took(start, DEADLINE_MS);
}

/* It comes while calls wait for it, with patience and without. */
static void test_daemon_that_comes_late(void **state)
{
    struct library *l = *state;
    char path[128];

    snprintf(path, sizeof path, "%s", aim(l, "late.sock"));
    assert_int_equal(completion_client_set_reconnect(l->client, FOREVER, 1), 0);
    completion_call *calls[3];
    for (int i = 0; i < 3; i++)
        calls[i] = library_start_call(l, i % 2, HARNESS_TIMEOUT_MS);
    for (int i = 0; i < 4; i++)
        assert_int_equal(library_turn(l), 0);
    assert_int_equal(completion_client_set_reconnect(l->client, 0, 1), 0);
    completion_call *hasty = library_start_call(l, 0, HARNESS_TIMEOUT_MS);
    library_assert_failed(l, library_finish(l, hasty), -ENOENT, COMPLETION_UNAVAILABLE);
    completion_call_free(hasty);

    struct fake *fake = fake_new(path, peer_answers, NULL);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(library_finish(l, calls[i]), 0);
        assert_string_equal(l->text, "ok");
        completion_call_free(calls[i]);
    }
    assert_int_equal(fake_count(fake, FAKE_ACCEPTED), 1);
    l->client = completion_client_free(l->client);
    fake_free(fake);
}

/* ---- Made again ---- */

static void refuse(struct fake_connection *c)
{
    uint32_t stream;

    if (!peer_greet(c))
        return;
    while ((stream = peer_read_call(c)) && peer_reset(c, stream, PEER_REFUSED_STREAM))
        ;
}

static void test_how_often_a_call_is_made_again(void **state)
{
    struct library *l = *state;

    library_pretend(l, refuse, NULL);
    unsigned n_requests = 0;
    for (int resend = 0; resend < 6; resend++) {
        assert_int_equal(completion_client_set_reconnect(l->client, 0, resend), 0);
        completion_call *call = library_start_call(l, resend % 2, HARNESS_TIMEOUT_MS);
        library_assert_failed(l, library_finish(l, call), -EIO, COMPLETION_UNAVAILABLE);
        assert_int_equal(completion_error_maybe_executed(l->error), 0);
        completion_call_free(call);
        n_requests += (unsigned)resend + 1;
        assert_int_equal(fake_count(l->scene.fake, FAKE_REQUESTED), n_requests);
        library_assert_create_fails(l, HARNESS_TIMEOUT_MS, -EIO, COMPLETION_UNAVAILABLE);
        n_requests += (unsigned)resend + 1;
        assert_int_equal(fake_count(l->scene.fake, FAKE_REQUESTED), n_requests);
    }
    library_stop(l);
}

/* The first connection says goodbye to all, half of which it never saw. */
static void say_goodbye_at_first(struct fake_connection *c)
{
    uint32_t stream;

    if (!peer_greet(c))
        return;
    if (c->number == 1) {
        peer_read_call(c);
        peer_goaway(c, 0, PEER_NO_ERROR);
        fake_wait_for_close(c);
        return;
    }
    while ((stream = peer_read_call(c)) && peer_answer(c, stream, "ok"))
        ;
}

static void count(completion_call *call, void *user)
{
    struct library *l = user;
    const completion_result *result;
    int r;

    while ((r = completion_call_next(call, &result, l->error)) == 1)
        library_assert_text(completion_choice_text(result, 0), "ok");
    if (r != -EAGAIN) {
        assert_int_equal(r, 0);
        completion_call_free(call);
        l->text[0]++;
    }
}

static void test_goodbye_to_many_calls(void **state)
{
    enum { N = 100 };
    struct library *l = *state;

    library_pretend(l, say_goodbye_at_first, NULL);
    l->text = calloc(1, 2);
    for (int i = 0; i < N; i++)
        completion_call_set_callback(library_start_call(l, i % 2, HARNESS_TIMEOUT_MS), count, l);
    while (l->text[0] < N)
        assert_true(library_turn(l) >= 0);
    assert_int_equal(fake_count(l->scene.fake, FAKE_ACCEPTED), 2);
    library_stop(l);
}

/* ---- Who it is ---- */

static void test_server_of_another_user(void **state)
{
    struct library *l = *state;
    uid_t me = getuid();

    library_start(l, answer, NULL, NULL);
    assert_int_equal(completion_client_allow_server_uid(NULL, 0), -EINVAL);
    assert_int_equal(completion_client_allow_server_uid(l->client, -1), -EINVAL);
    assert_int_equal(completion_client_allow_server_uid(l->client, UINT32_MAX), -EINVAL);
    assert_int_equal(completion_client_allow_server_uid(l->client, (int64_t)1 << 32), -EINVAL);
    assert_string_equal(library_create(l), "ok");
    /* It counts from the next connection on. */
    assert_int_equal(completion_client_allow_server_uid(l->client, me + 1), 0);
    assert_string_equal(library_create(l), "ok");

    completion_client_free(l->client);
    assert_int_equal(completion_client_new(l->scene.daemon.socket, &l->client), 0);
    assert_int_equal(completion_client_allow_server_uid(l->client, me + 1), 0);
    library_assert_create_fails(l, FOREVER, -EPERM, COMPLETION_PERMISSION_DENIED);
    library_assert_said(l, "not trusted");
    assert_int_equal(completion_error_maybe_executed(l->error), 0);
    assert_int_equal(completion_error_retryable(l->error), 0);
    completion_call *call = library_start_call(l, 1, FOREVER);
    library_assert_failed(l, library_finish(l, call), -EPERM, COMPLETION_PERMISSION_DENIED);
    completion_call_free(call);
    assert_int_equal(fake_count(l->scene.fake, FAKE_REQUESTED), 2);

    assert_int_equal(completion_client_allow_server_uid(l->client, me), 0);
    assert_string_equal(library_create(l), "ok");
    for (int i = 2; i < 8; i++)
        assert_int_equal(completion_client_allow_server_uid(l->client, i), 0);
    assert_int_equal(completion_client_allow_server_uid(l->client, 9), -ENOSPC);
    library_stop(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        library_test(test_full_backlog_does_not_block),
        library_test(test_without_patience),
        library_test(test_patience_ends),
        library_test(test_daemon_that_comes_late),
        library_test(test_how_often_a_call_is_made_again),
        library_test(test_goodbye_to_many_calls),
        library_test(test_server_of_another_user),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * A daemon's reply, cut at every byte: it never passes for a whole one before the trailers are
 * there. A relay records what a real daemon says; a fake one says so much of it, and closes.
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "library.h"
#include "peer.h"

enum { FOREVER = -1, RECORDING_MAX = 1 << 20, FRAME_HEADER = 9 };

static void answer_each(struct fake_connection *c)
{
    while (fake_read_request(c) &&
           (strstr(c->body, "\"stream\":true")
                ? fake_stream_begin(c) && fake_event(c, FAKE_PART("one, ")) &&
                      fake_event(c, FAKE_PART("two, ")) && fake_event(c, FAKE_LAST("three")) &&
                      fake_stream_done(c)
                : fake_answer(c, 200, "application/json", "", FAKE_LAST("whole"))))
        ;
}

/* ---- Recording ---- */

struct recording {
    const char *socket; /* of the daemon */
    struct buffer bytes;
    size_t whole; /* bytes up to the end of the trailers */
};

static int connect_to(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0)
        return fd;
    close(fd);
    return -1;
}

/* What comes from one side goes to the other, until the first closes. */
static void relay(struct fake_connection *c)
{
    struct recording *recording = *(struct recording *const *)c->user;
    int daemon = connect_to(recording->socket);
    struct pollfd fds[] = {{c->fd, POLLIN, 0}, {daemon, POLLIN, 0}};
    uint8_t data[4096];
    ssize_t n = 1;

    while (daemon >= 0 && n > 0 && poll(fds, 2, HARNESS_TIMEOUT_MS) > 0) {
        bool from_daemon = fds[1].revents != 0;
        n = recv(fds[from_daemon].fd, data, sizeof data, 0);
        if (n <= 0 || send(fds[!from_daemon].fd, data, (size_t)n, MSG_NOSIGNAL) != n)
            break;
        if (from_daemon)
            buffer_append(&recording->bytes, data, (size_t)n);
    }
    close(daemon);
    fake_mark(c->fake, FAKE_STEP);
}

/* Where the frame ends that ends the first stream. */
static size_t find_end(const struct buffer *bytes)
{
    const uint8_t *p = buffer_bytes(bytes);

    for (size_t at = 0; at + FRAME_HEADER <= buffer_length(bytes);) {
        const uint8_t *h = p + at;
        at += FRAME_HEADER + ((size_t)h[0] << 16 | (size_t)h[1] << 8 | h[2]);
        if (h[3] == PEER_HEADERS && h[4] & PEER_END_STREAM)
            return at;
    }
    return 0;
}

static int create(struct library *l)
{
    completion_result *result = NULL;
    int r = completion_create(l->client, l->request, HARNESS_TIMEOUT_MS, &result, l->error);

    if (r == 0)
        library_assert_text(completion_choice_text(result, 0), "whole");
    completion_result_free(result);
    return r;
}

static int read_all(struct library *l)
{
    static const char *const parts[] = {"one, ", "two, ", "three"};
    const completion_result *chunk;
    completion_stream *stream = library_open(l, HARNESS_TIMEOUT_MS);
    int n = 0, r;

    while ((r = completion_stream_next(stream, &chunk, l->error)) == 1) {
        assert_true(n < 3);
        library_assert_text(completion_choice_text(chunk, 0), parts[n++]);
    }
    if (r == 0)
        assert_int_equal(n, 3);
    completion_stream_free(stream);
    return r;
}

static void record(struct library *l, struct recording *ret, int (*call)(struct library *l))
{
    const char *path = directory_path(&l->scene.daemon.directory, "relay.sock");

    *ret =
        (struct recording){.socket = l->scene.daemon.socket, .bytes = BUFFER_INIT(RECORDING_MAX)};
    struct fake *fake = fake_new(path, relay, &ret);
    completion_client_free(l->client);
    assert_int_equal(completion_client_new(path, &l->client), 0);
    assert_int_equal(call(l), 0);
    l->client = completion_client_free(l->client);
    assert_true(fake_await(fake, FAKE_STEP, 1));
    fake_free(fake);
    ret->whole = find_end(&ret->bytes);
    assert_true(ret->whole > 100);
    print_message("%zu bytes, whole after %zu\n", buffer_length(&ret->bytes), ret->whole);
}

/* ---- Playing ---- */

struct tape {
    const struct recording *recording;
    size_t cut;
};

/* As soon as the client has begun to speak. */
static void play(struct fake_connection *c)
{
    const struct tape *tape = c->user;
    uint8_t byte;

    if (recv(c->fd, &byte, 1, 0) == 1)
        fake_write(c, buffer_bytes(&tape->recording->bytes), tape->cut);
}

static void cut_everywhere(struct library *l, int (*call)(struct library *l))
{
    struct recording recording;

    library_start(l, answer_each, NULL, NULL);
    record(l, &recording, call);
    struct tape tape = {&recording, 0};
    const char *path = directory_path(&l->scene.daemon.directory, "play.sock");
    struct fake *fake = fake_new(path, play, &tape);
    assert_int_equal(completion_client_new(path, &l->client), 0);
    int before = library_n_descriptors();
    for (; tape.cut <= buffer_length(&recording.bytes); tape.cut++) {
        int r = call(l);
        if (tape.cut >= recording.whole && r != 0)
            fail_msg("%zu bytes have all of it, and are %d: %s", tape.cut, r,
                     completion_error_message(l->error));
        if (tape.cut >= recording.whole)
            continue;
        if (r == 0)
            fail_msg("%zu of %zu bytes pass for a whole answer", tape.cut, recording.whole);
        library_assert_failed(l, r, -EIO, COMPLETION_UNAVAILABLE);
        assert_int_equal(completion_error_maybe_executed(l->error), 1);
    }
    /* Each was called once: it may have been executed. */
    assert_true(fake_await(fake, FAKE_ACCEPTED, (unsigned)tape.cut));
    assert_int_equal(fake_count(fake, FAKE_ACCEPTED), tape.cut);
    l->client = completion_client_free(l->client);
    fake_free(fake);
    assert_int_equal(library_n_descriptors(), before - 1); /* the listening one */
    buffer_done(&recording.bytes);
    library_stop(l);
}

static void test_cut_answer(void **state)
{
    cut_everywhere(*state, create);
}

static void test_cut_stream(void **state)
{
    cut_everywhere(*state, read_all);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        library_test(test_cut_answer),
        library_test(test_cut_stream),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

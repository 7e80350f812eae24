/*
 * A call that the daemon provably did nothing with is made again, once, without the caller
 * noticing; any other never is: it might be billed twice. The daemon here is one of frames.
 */
#include <stdio.h>
#include <string.h>

#include "library.h"
#include "peer.h"

enum { FOREVER = -1, CALLS_MAX = 4 };

enum act {
    ANSWER,
    REFUSE,          /* REFUSED_STREAM */
    SAY_GOODBYE,     /* GOAWAY that leaves the call out */
    SAY_GOODBYE_TO,  /* GOAWAY that has it in, and closes */
    CLOSE,           /* without a word */
    RESET,           /* CANCEL */
    BEGIN_AND_CLOSE, /* after response headers and, of a stream, a message */
    SAY_UNAVAILABLE, /* a status, in trailers */
    SAY_CANCELLED,
};

struct script {
    const char *name;
    enum act acts[CALLS_MAX]; /* for each request that comes */
    unsigned n_requests, n_connections;
    int r;
    enum completion_status status;
    int maybe_executed;
};

static bool act(struct fake_connection *c, enum act what, uint32_t stream)
{
    switch (what) {
    case ANSWER:
        return peer_answer(c, stream, "ok");
    case REFUSE:
        return peer_reset(c, stream, PEER_REFUSED_STREAM);
    case SAY_GOODBYE:
        return peer_goaway(c, stream > 2 ? stream - 2 : 0, PEER_NO_ERROR);
    case SAY_GOODBYE_TO:
        peer_goaway(c, stream, PEER_NO_ERROR);
        return false;
    case CLOSE:
        return false;
    case RESET:
        return peer_reset(c, stream, PEER_CANCEL);
    case BEGIN_AND_CLOSE:
        if (peer_begin(c, stream))
            peer_completion(c, stream, "half");
        return false;
    case SAY_UNAVAILABLE:
        return peer_begin(c, stream) && peer_end(c, stream, "14", "not now", NULL);
    case SAY_CANCELLED:
        return peer_begin(c, stream) && peer_end(c, stream, "1", "shutting down", NULL);
    }
    return false;
}

static void play(struct fake_connection *c)
{
    const struct script *script = *(const struct script *const *)c->user;
    uint32_t stream;

    if (!peer_greet(c))
        return;
    while ((stream = peer_read_call(c))) {
        /* Calls come one after the other, also on several connections. */
        unsigned i = fake_count(c->fake, FAKE_REQUESTED) - 1;
        if (i >= CALLS_MAX || !act(c, script->acts[i], stream))
            return;
    }
}

static const struct script scripts[] = {
    {"answered", {ANSWER}, 1, 1, 0, COMPLETION_OK, 0},
    {"refused once", {REFUSE, ANSWER}, 2, 1, 0, COMPLETION_OK, 0},
    {"refused twice", {REFUSE, REFUSE, ANSWER}, 2, 1, -EIO, COMPLETION_UNAVAILABLE, 0},
    {"goodbye", {SAY_GOODBYE, ANSWER}, 2, 2, 0, COMPLETION_OK, 0},
    {"goodbye twice", {SAY_GOODBYE, SAY_GOODBYE, ANSWER}, 2, 2, -EIO, COMPLETION_UNAVAILABLE, 0},
    {"goodbye, then closed", {SAY_GOODBYE, CLOSE, ANSWER}, 2, 2, -EIO, COMPLETION_UNAVAILABLE, 1},
    {"goodbye after it", {SAY_GOODBYE_TO, ANSWER}, 1, 1, -EIO, COMPLETION_UNAVAILABLE, 1},
    {"closed", {CLOSE, ANSWER}, 1, 1, -EIO, COMPLETION_UNAVAILABLE, 1},
    {"reset", {RESET, ANSWER}, 1, 1, -EIO, COMPLETION_CANCELLED, 1},
    {"half", {BEGIN_AND_CLOSE, ANSWER}, 1, 1, -EIO, COMPLETION_UNAVAILABLE, 1},
    {"unavailable", {SAY_UNAVAILABLE, ANSWER}, 1, 1, -EIO, COMPLETION_UNAVAILABLE, 1},
    {"cancelled there", {SAY_CANCELLED, ANSWER}, 1, 1, -EIO, COMPLETION_CANCELLED, 1},
};

static int read_all(struct library *l)
{
    const completion_result *chunk;
    completion_stream *stream = NULL;
    int r = completion_stream_open(l->client, l->request, HARNESS_TIMEOUT_MS, &stream, l->error);

    while (r == 0 && (r = completion_stream_next(stream, &chunk, l->error)) == 1)
        r = 0;
    completion_stream_free(stream);
    return r;
}

static int create(struct library *l)
{
    completion_result *result = NULL;
    int r = completion_create(l->client, l->request, HARNESS_TIMEOUT_MS, &result, l->error);

    completion_result_free(result);
    return r;
}

static void run(struct library *l, const struct script **now, const struct script *script,
                int (*call)(struct library *l))
{
    char path[128];

    print_message("%s\n", script->name);
    *now = script;
    snprintf(path, sizeof path, "%s", directory_path(&l->scene.daemon.directory, script->name));
    struct fake *fake = fake_new(path, play, now);
    assert_int_equal(completion_client_new(path, &l->client), 0);
    int r = call(l);
    if (script->r == 0 && r != 0)
        fail_msg("%d: %s", r, completion_error_message(l->error));
    if (script->r != 0) {
        library_assert_failed(l, r, script->r, script->status);
        assert_int_equal(completion_error_maybe_executed(l->error), script->maybe_executed);
    }
    l->client = completion_client_free(l->client);
    assert_int_equal(fake_count(fake, FAKE_REQUESTED), script->n_requests);
    assert_int_equal(fake_count(fake, FAKE_ACCEPTED), script->n_connections);
    fake_free(fake);
    remove(path);
}

static void test_answers(void **state)
{
    struct library *l = *state;
    const struct script *now;

    for (size_t i = 0; i < sizeof scripts / sizeof *scripts; i++)
        run(l, &now, &scripts[i], create);
}

static void test_streams(void **state)
{
    struct library *l = *state;
    const struct script *now;

    for (size_t i = 0; i < sizeof scripts / sizeof *scripts; i++)
        run(l, &now, &scripts[i], read_all);
}

/* ---- Several at once ---- */

enum { FIRST = 1 };

/* Takes one call, says goodbye to all others, and answers it when the new connection has served. */
static void say_goodbye_to_all_but_one(struct fake_connection *c)
{
    uint32_t stream;

    if (!peer_greet(c))
        return;
    if (c->number > 1) {
        while ((stream = peer_read_call(c)))
            if (!peer_answer(c, stream, "new"))
                return;
        return;
    }
    for (int i = 0; i < 3; i++)
        if (!peer_read_call(c))
            return;
    if (peer_goaway(c, FIRST, PEER_NO_ERROR) && fake_await(c->fake, FAKE_GO, 1))
        peer_answer(c, FIRST, "old");
}

static void test_old_connection_serves_what_it_took(void **state)
{
    struct library *l = *state;
    completion_stream *streams[3];

    library_pretend(l, say_goodbye_to_all_but_one, NULL);
    for (int i = 0; i < 3; i++)
        streams[i] = library_open(l, FOREVER);
    assert_string_equal(library_read(l, streams[2]), "new");
    assert_string_equal(library_read(l, streams[1]), "new");
    assert_string_equal(library_create(l), "new");
    fake_mark(l->scene.fake, FAKE_GO);
    assert_string_equal(library_read(l, streams[0]), "old");
    for (int i = 0; i < 3; i++)
        completion_stream_free(streams[i]);
    assert_int_equal(fake_count(l->scene.fake, FAKE_ACCEPTED), 2);
    library_stop(l);
}

static void greet_and_refuse_for_ever(struct fake_connection *c)
{
    uint32_t stream;

    if (peer_greet(c) && (stream = peer_read_call(c)) && peer_goaway(c, 0, PEER_NO_ERROR)) {
        /* The second connection is taken, and nothing is said on it. */
        fake_wait_for_close(c);
    }
}

static void say_nothing_on_the_second(struct fake_connection *c)
{
    if (c->number == 1)
        greet_and_refuse_for_ever(c);
    else
        fake_wait_for_close(c);
}

/* The deadline is that of both tries together. */
static void test_deadline_covers_both_tries(void **state)
{
    enum { DEADLINE_MS = 300, LATE_MS = 2000 };
    struct library *l = *state;

    library_pretend(l, say_nothing_on_the_second, NULL);
    int64_t start = harness_now_ms();
    library_assert_create_fails(l, DEADLINE_MS, -ETIMEDOUT, COMPLETION_DEADLINE_EXCEEDED);
    assert_true(harness_now_ms() - start >= DEADLINE_MS - 10);
    assert_true(harness_now_ms() - start < DEADLINE_MS + LATE_MS);
    assert_int_equal(fake_count(l->scene.fake, FAKE_ACCEPTED), 2);
    library_stop(l);
}

static void serve_health(struct fake_connection *c)
{
    static const uint8_t serving[] = {8, 1}, not_serving[] = {8, 2};
    uint32_t stream;

    if (!peer_greet(c))
        return;
    for (int i = 0; (stream = peer_read_call(c)); i++)
        if (!peer_begin(c, stream) || !peer_message(c, stream, i ? not_serving : serving, 2) ||
            !peer_end(c, stream, "0", NULL, NULL))
            return;
}

static void test_check_tells_serving_from_shutting_down(void **state)
{
    struct library *l = *state;

    library_pretend(l, serve_health, NULL);
    assert_int_equal(completion_client_check(l->client, FOREVER, l->error), 1);
    assert_int_equal(completion_client_check(l->client, FOREVER, l->error), 0);
    library_stop(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        library_test(test_answers),
        library_test(test_streams),
        library_test(test_old_connection_serves_what_it_took),
        library_test(test_deadline_covers_both_tries),
        library_test(test_check_tells_serving_from_shutting_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

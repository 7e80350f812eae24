/*
 * A stream that is paused holds up its own upstream, by flow control all the way, and nothing else;
 * and so does one whose chunks are not taken. Chunks are views that last as long as they say.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "library.h"

enum { FOREVER = -1, N_EVENTS = 400, TEXT_BYTES = 32 << 10, QUIET_MS = 300 };

/* 12 MB, more than all windows and buffers on the way hold. FAKE_STEP for each event that is taken,
 * FAKE_STALLED once if one is not; or a short answer. */
static void flood_or_answer(struct fake_connection *c)
{
    char *event = malloc(TEXT_BYTES + 256), *text = malloc(TEXT_BYTES + 1);

    memset(text, 'x', TEXT_BYTES);
    text[TEXT_BYTES] = '\0';
    while (fake_read_request(c)) {
        if (!strstr(c->body, "\"stream\":true")) {
            if (!fake_answer(c, 200, "application/json", "", FAKE_LAST("small")))
                break;
            continue;
        }
        bool ok = fake_stream_begin(c);
        for (int i = 0; ok && i < N_EVENTS; i++) {
            int json =
                snprintf(NULL, 0, "{\"choices\":[{\"index\":0,\"text\":\"%04d%s\"}]}", i, text);
            size_t n =
                (size_t)snprintf(event, TEXT_BYTES + 256,
                                 "%x\r\ndata: {\"choices\":[{\"index\":0,\"text\":\"%04d%s\"}]}"
                                 "\n\n\r\n",
                                 json + 8, i, text);
            size_t done = fake_write_some(c, event, n, QUIET_MS);
            if (done < n) {
                fake_mark(c->fake, FAKE_STALLED);
                ok = fake_write(c, event + done, n - done);
            }
            if (ok)
                fake_mark(c->fake, FAKE_STEP);
        }
        if (!ok || !fake_event(c, FAKE_LAST("")) || !fake_stream_done(c))
            break;
    }
    free(event);
    free(text);
}

struct reader {
    struct library *library;
    int n_taken, pause_at, r;
    bool is_paused;
};

static void check_chunk(const completion_result *chunk, int number)
{
    completion_text text = completion_choice_text(chunk, 0);
    char expected[8];

    if (number == N_EVENTS) {
        assert_int_equal(text.length, 0);
        return;
    }
    snprintf(expected, sizeof expected, "%04d", number);
    assert_int_equal(text.length, 4 + TEXT_BYTES);
    assert_memory_equal(text.data, expected, 4);
    assert_int_equal(text.data[text.length - 1], 'x');
}

static void read_some(completion_call *call, void *user)
{
    struct reader *reader = user;
    const completion_result *chunk;

    assert_false(reader->is_paused);
    while ((reader->r = completion_call_next(call, &chunk, reader->library->error)) == 1) {
        check_chunk(chunk, reader->n_taken);
        if (++reader->n_taken == reader->pause_at) {
            completion_call_pause(call);
            reader->is_paused = true;
            /* It says so at once; the chunk is still there. */
            check_chunk(chunk, reader->n_taken - 1);
        }
    }
}

static void test_pause_reaches_the_upstream(void **state)
{
    struct library *l = *state;
    struct reader reader = {.library = l, .pause_at = 3};

    library_start(l, flood_or_answer, NULL, NULL);
    completion_call *call = library_start_call(l, 1, FOREVER);
    completion_call_set_callback(call, read_some, &reader);
    while (fake_count(l->scene.fake, FAKE_STALLED) == 0) {
        /* Others go on meanwhile; without them nothing would happen here any more. */
        completion_call *other = library_start_call(l, 0, FOREVER);
        assert_int_equal(library_finish(l, other), 0);
        assert_string_equal(l->text, "small");
        completion_call_free(other);
    }
    assert_int_equal(reader.n_taken, 3);
    unsigned n_sent = fake_count(l->scene.fake, FAKE_STEP);
    assert_true(n_sent < N_EVENTS / 2);
    reader.is_paused = false;
    completion_call_resume(call);
    completion_call_resume(call);
    assert_int_equal(completion_client_get_timeout(l->client), 0);
    while (reader.r == 1 || reader.r == -EAGAIN)
        assert_true(library_turn(l) >= 0);
    assert_int_equal(reader.r, 0);
    assert_int_equal(reader.n_taken, N_EVENTS + 1);
    completion_call_free(call);
    library_stop(l);
}

/* One that asks, and does so one chunk at a time, however long it takes. */
static void test_chunks_that_are_not_taken(void **state)
{
    struct library *l = *state;
    const completion_result *chunk;
    int n = 0, r;

    library_start(l, flood_or_answer, NULL, NULL);
    completion_call *call = library_start_call(l, 1, FOREVER);
    while (fake_count(l->scene.fake, FAKE_STALLED) == 0) {
        completion_call *other = library_start_call(l, 0, FOREVER);
        assert_int_equal(library_finish(l, other), 0);
        completion_call_free(other);
    }
    /* What makes room is said without being asked for more. */
    while ((r = completion_call_next(call, &chunk, l->error)) != 0) {
        if (r == 1)
            check_chunk(chunk, n++);
        else
            assert_int_equal(r, -EAGAIN);
        if (r == -EAGAIN || completion_client_get_timeout(l->client) == 0)
            assert_true(library_turn(l) >= 0);
    }
    assert_int_equal(n, N_EVENTS + 1);
    completion_call_free(call);
    library_stop(l);
}

static void test_paused_call_ends_when_it_is_resumed(void **state)
{
    struct library *l = *state;
    const completion_result *chunk;
    struct reader reader = {.library = l};

    library_start(l, flood_or_answer, NULL, NULL);
    completion_call *call = library_start_call(l, 0, 200), *other = library_start_call(l, 1, 200);
    completion_call_set_callback(other, read_some, &reader);
    completion_call_pause(call);
    completion_call_pause(other);
    reader.is_paused = true;
    /* The deadline holds, and nobody is told. */
    while (completion_client_get_timeout(l->client) >= 0)
        assert_int_equal(library_turn(l), 0);
    assert_int_equal(completion_call_next(call, &chunk, l->error), -EAGAIN);
    completion_call_cancel(call);
    completion_call_resume(call);
    completion_call_resume(other);
    reader.is_paused = false;
    assert_int_equal(library_turn(l), 2);
    assert_int_equal(reader.r, -ETIMEDOUT);
    /* Its answer was there long before, but was not taken. */
    library_assert_failed(l, completion_call_next(call, &chunk, l->error), -ECANCELED,
                          COMPLETION_CANCELLED);
    completion_call_free(call);
    completion_call_free(other);
    library_stop(l);
}

/* ---- Views ---- */

static void test_chunk_lasts_while_others_are_read(void **state)
{
    enum { N = 4 };
    struct library *l = *state;
    const completion_result *chunks[N];
    completion_result *copies[N];
    completion_stream *streams[N];

    library_start(l, flood_or_answer, NULL, NULL);
    for (int i = 0; i < N; i++)
        streams[i] = library_open(l, FOREVER);
    for (int n = 0; n < 40; n++) {
        for (int i = 0; i < N; i++) {
            assert_int_equal(completion_stream_next(streams[i], &chunks[i], l->error), 1);
            /* It is part of the stream: to free it is no crash. */
            completion_result_free((completion_result *)(uintptr_t)chunks[i]);
        }
        for (int i = 0; i < N; i++)
            check_chunk(chunks[i], n);
    }
    for (int i = 0; i < N; i++) {
        assert_int_equal(completion_result_copy(chunks[i], &copies[i]), 0);
        completion_stream_cancel(streams[i]);
        check_chunk(chunks[i], 39);
        completion_stream_free(streams[i]);
    }
    l->client = completion_client_free(l->client);
    for (int i = 0; i < N; i++) {
        completion_result *again = NULL;
        check_chunk(copies[i], 39);
        assert_int_equal(completion_result_copy(copies[i], &again), 0);
        completion_result_free(copies[i]);
        check_chunk(again, 39);
        completion_result_free(again);
    }
    assert_int_equal(completion_result_copy(NULL, copies), -EINVAL);
    library_stop(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        library_test(test_pause_reaches_the_upstream),
        library_test(test_chunks_that_are_not_taken),
        library_test(test_paused_call_ends_when_it_is_resumed),
        library_test(test_chunk_lasts_while_others_are_read),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

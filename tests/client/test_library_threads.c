/* A client for each thread, a request for all: what the library says is safe. */
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "library.h"

enum { N_THREADS = 6, N_ROUNDS = 25, FOREVER = -1 };

static void answer_each(struct fake_connection *c)
{
    while (fake_read_request(c)) {
        bool ok = strstr(c->body, "\"stream\":true")
                      ? fake_stream_begin(c) && fake_event(c, FAKE_PART("one, ")) &&
                            fake_event(c, FAKE_LAST("two")) && fake_stream_done(c)
                      : fake_answer(c, 200, "application/json", "", FAKE_LAST("whole"));
        if (!ok)
            return;
    }
}

struct worker {
    pthread_t thread;
    const struct library *library;
    char error[256]; /* "": all went well; here nothing may fail the test */
};

static bool read_stream(completion_client *client, const completion_request *request,
                        completion_error *error)
{
    const completion_result *chunk;
    completion_stream *stream = NULL;
    int r = completion_stream_open(client, request, FOREVER, &stream, error), n = 0;

    while (r == 0 && (r = completion_stream_next(stream, &chunk, error)) == 1) {
        n += (int)completion_choice_text(chunk, 0).length;
        r = 0;
    }
    completion_stream_free(stream);
    return r == 0 && n == 8;
}

static bool run_loop(completion_client *client, const completion_request *request,
                     completion_error *error)
{
    completion_call *calls[4] = {NULL};
    const completion_result *result;
    int r = 0, n = 0;

    for (int i = 0; r == 0 && i < 4; i++)
        r = completion_call_start_stream(client, request, FOREVER, &calls[i], error);
    for (int i = 0; r == 0 && i < 4; i++) {
        while ((r = completion_call_next(calls[i], &result, error)) == 1 || r == -EAGAIN) {
            struct pollfd p = {completion_client_get_fd(client), POLLIN, 0};
            n += r == 1;
            if (r == -EAGAIN && poll(&p, 1, completion_client_get_timeout(client)) >= 0)
                completion_client_process(client);
        }
    }
    for (int i = 0; i < 4; i++)
        completion_call_free(calls[i]);
    return r == 0 && n == 8;
}

static void *work(void *user)
{
    struct worker *w = user;
    completion_error *error = completion_error_new();
    completion_client *client = NULL;
    completion_result *result;

    if (!error || completion_client_new(w->library->scene.daemon.socket, &client) < 0)
        snprintf(w->error, sizeof w->error, "no client");
    for (int i = 0; !*w->error && i < N_ROUNDS; i++) {
        int r = completion_create(client, w->library->request, FOREVER, &result, error);
        if (r == 0)
            completion_result_free(result);
        if (r != 0 || !read_stream(client, w->library->request, error) ||
            !run_loop(client, w->library->request, error))
            snprintf(w->error, sizeof w->error, "round %d: %.200s", i,
                     completion_error_message(error));
    }
    completion_client_free(client);
    completion_error_free(error);
    return NULL;
}

static void test_a_client_for_each_thread(void **state)
{
    struct library *l = *state;
    struct worker workers[N_THREADS];

    library_start(l, answer_each, NULL, NULL);
    assert_int_equal(completion_request_set_priority(l->request, 1), 0);
    for (int i = 0; i < N_THREADS; i++) {
        workers[i] = (struct worker){.library = l};
        assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    for (int i = 0; i < N_THREADS; i++) {
        pthread_join(workers[i].thread, NULL);
        assert_string_equal(workers[i].error, "");
    }
    library_stop(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        library_test(test_a_client_for_each_thread),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

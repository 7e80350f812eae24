/*
 * What the examples of event loops have in common, and nothing of it knows which loop it is: a call
 * is started for each prompt, all at once; each is gathered, and printed as a line of JSON when it
 * has ended; then `done` is called.
 */
#include <completion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

struct asked {
    struct ask *ask;
    int number;
    completion_gather *gather;
};

struct ask {
    completion_client *client;
    completion_error *error;
    int n_running, n_failed;
    void (*done)(struct ask *ask); /* may be NULL */
    void *loop;
};

static void ask_end(completion_call *call, struct asked *a, int r)
{
    struct ask *ask = a->ask;
    completion_result *whole = NULL;
    char *json = NULL;

    if (r < 0) {
        fprintf(stderr, "%d: %s\n", a->number, completion_error_message(ask->error));
        ask->n_failed++;
    } else if (completion_gather_result(a->gather, &whole) == 0 &&
               completion_result_to_json(whole, &json, NULL) == 0) {
        printf("%d: %s\n", a->number, json);
    }
    free(json);
    completion_result_free(whole);
    completion_gather_free(a->gather);
    free(a);
    completion_call_free(call);
    if (--ask->n_running == 0 && ask->done)
        ask->done(ask);
}

static void ask_on_news(completion_call *call, void *user)
{
    struct asked *a = (struct asked *)user;
    const completion_result *chunk;
    int r;

    while ((r = completion_call_next(call, &chunk, a->ask->error)) == 1)
        completion_gather_add(a->gather, chunk);
    if (r != -EAGAIN)
        ask_end(call, a, r);
}

static int ask_one(struct ask *ask, completion_request *request, const char *prompt, int number)
{
    struct asked *a = (struct asked *)calloc(1, sizeof *a);
    completion_call *call;

    if (!a)
        return -1;
    a->ask = ask;
    a->number = number;
    completion_request_set_prompt(request, prompt, COMPLETION_ZERO_TERMINATED);
    if (completion_gather_new(&a->gather) < 0 ||
        completion_call_start_stream(ask->client, request, 30000, &call, ask->error) < 0) {
        completion_gather_free(a->gather);
        free(a);
        return -1;
    }
    completion_call_set_callback(call, ask_on_news, a);
    ask->n_running++;
    return 0;
}

/* A client with a call for each prompt; nothing has been sent yet. */
static int ask_begin(struct ask *ask, char **prompts, int n)
{
    completion_request *request = NULL;
    int r = 0, i;

    ask->error = completion_error_new();
    if (n < 1 || completion_client_new(NULL, &ask->client) < 0 ||
        completion_request_new(&request) < 0)
        r = -1;
    if (r == 0) {
        completion_request_set_model(request, "gpt-3.5-turbo-instruct", COMPLETION_ZERO_TERMINATED);
        completion_request_set_max_tokens(request, 24);
        completion_request_set_seed(request, 1);
    }
    for (i = 0; r == 0 && i < n; i++)
        r = ask_one(ask, request, prompts[i], i + 1);
    completion_request_free(request);
    return r;
}

static int ask_status(struct ask *ask)
{
    completion_client_free(ask->client);
    completion_error_free(ask->error);
    return ask->n_failed > 0;
}

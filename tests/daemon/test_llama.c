/*
 * A real server of the API with a real, small model: llama.cpp's llama-server. The environment's
 * LLAMA_SERVER is a folder with `setup.sh DEST`, which unpacks it, and `start.sh DEST SOCKET`,
 * which becomes it. Without the folder this is skipped. What the server does, it says in its log.
 */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "scene.h"

enum { SKIPPED = 77, LOG_MAX_BYTES = 1 << 20 };

struct llama {
    struct directory directory;
    char socket[96];
    pid_t pid;
    int log; /* read end of its stdout and stderr */
    struct buffer said;
};

/* ---- The server ---- */

/* Unpacked once for all runs, which must not do so at the same time. Returns the folder, to be
 * freed, or NULL. */
static char *llama_set_up(const char *scripts)
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    char *folder = NULL, *command = NULL;
    bool has_cache = cache && *cache;

    assert_true(asprintf(&folder, "%s%s/completiond-tests/llama-server",
                         has_cache ? cache
                         : home    ? home
                                   : "/tmp",
                         has_cache ? "" : "/.cache") > 0);
    assert_true(asprintf(&command, "mkdir -p '%s' && flock '%s.lock' bash '%s/setup.sh' '%s'",
                         folder, folder, scripts, folder) > 0);
    if (system(command) != 0) {
        free(folder);
        folder = NULL;
    }
    free(command);
    return folder;
}

/* Waits until its log has this text, behind what was waited for before. */
static void llama_await(struct llama *l, const char *text)
{
    char *found = NULL;

    while (buffer_length(&l->said) == 0 ||
           !(found = memmem(buffer_bytes(&l->said), buffer_length(&l->said), text, strlen(text)))) {
        struct pollfd fd = {l->log, POLLIN, 0};
        uint8_t *space = buffer_reserve(&l->said, 4096);
        assert_non_null(space);
        if (poll(&fd, 1, HARNESS_TIMEOUT_MS) != 1)
            fail_msg("llama-server does not say \"%s\"", text);
        ssize_t n = read(l->log, space, 4096);
        if (n <= 0)
            fail_msg("llama-server has ended: %.*s", (int)buffer_length(&l->said),
                     (char *)buffer_bytes(&l->said));
        buffer_commit(&l->said, (size_t)n);
    }
    buffer_consume(&l->said, (size_t)(found - (char *)buffer_bytes(&l->said)) + strlen(text));
}

static void llama_start(struct llama *l, const char *scripts, const char *folder)
{
    char script[1024];
    int out[2];

    *l = (struct llama){.said = BUFFER_INIT(LOG_MAX_BYTES)};
    directory_init(&l->directory);
    snprintf(l->socket, sizeof l->socket, "%s/llama.sock", l->directory.path);
    snprintf(script, sizeof script, "%s/start.sh", scripts);
    assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    l->pid = fork();
    if (l->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(out[1], 1);
        dup2(out[1], 2);
        execlp("bash", "bash", script, folder, l->socket, (char *)NULL);
        _exit(127);
    }
    assert_true(l->pid > 0);
    close(out[1]);
    l->log = out[0];
    llama_await(l, "listening on");
}

static void llama_stop(struct llama *l)
{
    kill(l->pid, SIGKILL);
    waitpid(l->pid, NULL, 0);
    close(l->log);
    buffer_done(&l->said);
    directory_done(&l->directory);
}

/* ---- Asking it ---- */

/* One server for all tests. */
static struct llama *llama;

static void no_fake(struct fake_connection *c)
{
    fake_reset(c);
}

static void start(struct scene *s, const char *path)
{
    char settings[256];

    snprintf(settings, sizeof settings, "base_url = unix:%s:%s\nauth = none\n", llama->socket,
             path);
    scene_start(s, no_fake, NULL, settings);
}

/* Says the same each time. */
static rpc_request request_new(const char *prompt)
{
    rpc_request request = rpc_request_new("gpt-3.5-turbo-instruct", prompt);

    request.has_temperature = request.has_max_tokens = request.has_seed = true;
    request.max_tokens = 12;
    request.seed = 1;
    return request;
}

static void test_stream_says_what_the_whole_answer_says(void **state)
{
    struct scene *s = *state;
    rpc_request request = request_new("Once upon a time");
    struct rpc_result whole, stream;

    start(s, "/v1");
    rpc_call(&s->rpc, RPC_CREATE, &request, &whole);
    rpc_assert_ok(&whole, NULL);
    assert_true(buffer_length(&whole.text) > 10);
    assert_int_equal(whole.last->choices[0]->finish_reason,
                     COMPLETION__V1__FINISH_REASON__FINISH_REASON_LENGTH);
    assert_int_equal(whole.last->usage->completion_tokens, 12);
    /* What only this server sends is kept. */
    assert_true(whole.last->has_extra);
    assert_non_null(memmem(whole.last->extra.data, whole.last->extra.len, "\"timings\"", 9));

    rpc_call(&s->rpc, RPC_CREATE_STREAM, &request, &stream);
    rpc_assert_ok(&stream, (char *)buffer_bytes(&whole.text));
    assert_in_range(stream.n_messages, 12, 14);
    rpc_result_done(&whole);
    rpc_result_done(&stream);
    scene_stop(s);
}

/* Counts the choices that came to an end, by index. */
static void count_ends(struct scene *s, const char *path, const rpc_request *request,
                       unsigned ends[static 4])
{
    struct grpc_client_call *call = rpc_start(&s->rpc, path, request, -1);
    Completion__V1__Completion *completion;

    memset(ends, 0, 4 * sizeof *ends);
    while ((completion = rpc_next(&s->rpc, call))) {
        for (size_t i = 0; i < completion->n_choices; i++) {
            assert_in_range(completion->choices[i]->index, 0, 3);
            ends[completion->choices[i]->index] +=
                (unsigned)completion->choices[i]->has_finish_reason;
        }
        rpc_completion_free(completion);
    }
    assert_int_equal(grpc_client_call_status(call), GRPC_OK);
    grpc_client_call_free(call);
}

static void test_several_choices_and_prompts(void **state)
{
    static const unsigned two[4] = {1, 1, 0, 0};
    struct scene *s = *state;
    rpc_request choices = request_new("Once"), prompts = request_new(NULL);
    ProtobufCBinaryData texts[] = {rpc_text("Once"), rpc_text("The dog")};
    Completion__V1__Strings strings;
    unsigned ends[4];

    completion__v1__strings__init(&strings);
    strings.n_values = 2;
    strings.values = texts;
    prompts.prompt_case = COMPLETION__V1__CREATE_COMPLETION_REQUEST__PROMPT_PROMPT_STRINGS;
    prompts.prompt_strings = &strings;
    choices.has_n = true;
    choices.n = 2;
    start(s, "/v1");
    /* Streams of several prompts begin with `data: null`. */
    count_ends(s, RPC_CREATE, &prompts, ends);
    assert_memory_equal(ends, two, sizeof two);
    count_ends(s, RPC_CREATE_STREAM, &prompts, ends);
    assert_memory_equal(ends, two, sizeof two);
    count_ends(s, RPC_CREATE, &choices, ends);
    assert_memory_equal(ends, two, sizeof two);
    count_ends(s, RPC_CREATE_STREAM, &choices, ends);
    assert_memory_equal(ends, two, sizeof two);
    scene_stop(s);
}

static void test_stop_sequence(void **state)
{
    struct scene *s = *state;
    rpc_request request = request_new("Once upon a time");
    struct rpc_result result;

    start(s, "/v1");
    request.max_tokens = 100;
    request.stop_case = COMPLETION__V1__CREATE_COMPLETION_REQUEST__STOP_STOP_STRING;
    request.stop_string = rpc_text(".");
    rpc_call(&s->rpc, RPC_CREATE_STREAM, &request, &result);
    rpc_assert_ok(&result, NULL);
    assert_null(strchr((char *)buffer_bytes(&result.text), '.'));
    rpc_result_done(&result);
    scene_stop(s);
}

static void test_server_sees_the_cancel(void **state)
{
    struct scene *s = *state;
    rpc_request request = request_new("Once upon a time");

    start(s, "/v1");
    request.max_tokens = 1000000;
    request.has_extra_body = true;
    request.extra_body = rpc_text("{\"ignore_eos\":true}");
    struct grpc_client_call *call = rpc_start(&s->rpc, RPC_CREATE_STREAM, &request, -1);
    rpc_completion_free(rpc_next(&s->rpc, call));
    rpc_cancel(&s->rpc, call);
    llama_await(llama, "cancel task");
    grpc_client_call_free(call);
    scene_stop(s);
}

static void test_base_url_without_v1_is_pointed_out(void **state)
{
    struct scene *s = *state;
    rpc_request request = request_new("Once");
    struct rpc_result result;

    /* There is an API there, but another one. */
    start(s, "");
    for (int stream = 0; stream < 2; stream++) {
        rpc_call(&s->rpc, stream ? RPC_CREATE_STREAM : RPC_CREATE, &request, &result);
        rpc_assert_failed(&result, GRPC_INTERNAL, "WRONG_BASE_URL");
        rpc_assert_said(&result, "/v1");
        rpc_result_done(&result);
    }
    scene_stop(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_stream_says_what_the_whole_answer_says),
        scene_test(test_several_choices_and_prompts),
        scene_test(test_stop_sequence),
        scene_test(test_server_sees_the_cancel),
        scene_test(test_base_url_without_v1_is_pointed_out),
    };
    const char *scripts = getenv("LLAMA_SERVER");
    char *folder;
    struct llama server;

    if (!scripts || !*scripts) {
        puts("skipped: LLAMA_SERVER names no folder with llama-server");
        return SKIPPED;
    }
    if (!(folder = llama_set_up(scripts))) {
        puts("skipped: llama-server can't be fetched");
        return SKIPPED;
    }
    llama_start(&server, scripts, folder);
    free(folder);
    llama = &server;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    llama_stop(&server);
    return failed;
}

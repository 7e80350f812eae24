#include "library.h"

#include <dirent.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- Life ---- */

static void add_client(struct library *l)
{
    assert_int_equal(completion_client_new(l->scene.daemon.socket, &l->client), 0);
}

void library_start(struct library *l, fake_handler handler, const void *user, const char *settings)
{
    scene_prepare(&l->scene, handler, user, settings);
    daemon_start(&l->scene.daemon, NULL);
    add_client(l);
}

void library_pretend(struct library *l, fake_handler handler, const void *user)
{
    l->scene.fake = fake_new(l->scene.daemon.socket, handler, user);
    add_client(l);
}

void library_stop(struct library *l)
{
    l->client = completion_client_free(l->client);
    if (l->scene.daemon.pid > 0)
        scene_stop(&l->scene);
}

int library_setup(void **state)
{
    struct library *l = calloc(1, sizeof *l);

    assert_non_null(l);
    l->scene.rpc.fd = -1;
    daemon_init(&l->scene.daemon, NULL);
    l->error = completion_error_new();
    assert_non_null(l->error);
    assert_int_equal(completion_request_new(&l->request), 0);
    assert_int_equal(completion_request_set_model(l->request, "m", TEXT), 0);
    assert_int_equal(completion_request_set_prompt(l->request, "CANARY prompt", TEXT), 0);
    *state = l;
    return 0;
}

int library_teardown(void **state)
{
    struct library *l = *state;

    completion_client_free(l->client);
    completion_request_free(l->request);
    completion_error_free(l->error);
    daemon_done(&l->scene.daemon);
    fake_free(l->scene.fake);
    free(l->text);
    free(l);
    return 0;
}

/* ---- Calls ---- */

static void keep_text(struct library *l, const char *data, size_t length)
{
    size_t before = l->text ? strlen(l->text) : 0;
    char *text = realloc(l->text, before + length + 1);

    assert_non_null(text);
    l->text = text;
    if (length > 0)
        memcpy(text + before, data, length);
    text[before + length] = '\0';
}

static void forget_text(struct library *l)
{
    free(l->text);
    l->text = NULL;
    keep_text(l, "", 0);
}

static void keep_first_choice(struct library *l, const completion_result *result)
{
    completion_text text = completion_choice_text(result, 0);

    keep_text(l, text.data, text.length);
}

const char *library_create(struct library *l)
{
    completion_result *result = NULL;
    int r = completion_create(l->client, l->request, HARNESS_TIMEOUT_MS, &result, l->error);

    if (r != 0)
        fail_msg("the call fails with %d: %s", r, completion_error_message(l->error));
    forget_text(l);
    keep_first_choice(l, result);
    completion_result_free(result);
    return l->text;
}

completion_stream *library_open(struct library *l, int64_t timeout_ms)
{
    completion_stream *stream = NULL;
    int r = completion_stream_open(l->client, l->request, timeout_ms, &stream, l->error);

    if (r != 0)
        fail_msg("no stream: %d: %s", r, completion_error_message(l->error));
    return stream;
}

const char *library_read(struct library *l, completion_stream *stream)
{
    const completion_result *result;
    int r;

    forget_text(l);
    while ((r = completion_stream_next(stream, &result, l->error)) == 1)
        keep_first_choice(l, result);
    if (r != 0)
        fail_msg("the stream ends with %d: %s", r, completion_error_message(l->error));
    return l->text;
}

/* ---- Calls in a loop ---- */

int library_turn(struct library *l)
{
    int timeout_ms = completion_client_get_timeout(l->client);
    struct pollfd p = {completion_client_get_fd(l->client),
                       (short)completion_client_get_events(l->client), 0};
    bool is_endless = timeout_ms < 0 || timeout_ms > HARNESS_TIMEOUT_MS;

    assert_true(p.fd >= 0);
    int n = poll(&p, 1, is_endless ? HARNESS_TIMEOUT_MS : timeout_ms);
    if (n == 0 && is_endless)
        fail_msg("nothing happens");
    return completion_client_process(l->client);
}

completion_call *library_start_call(struct library *l, int is_stream, int64_t timeout_ms)
{
    completion_call *call = NULL;
    int r = is_stream
                ? completion_call_start_stream(l->client, l->request, timeout_ms, &call, l->error)
                : completion_call_start(l->client, l->request, timeout_ms, &call, l->error);

    if (r != 0)
        fail_msg("no call: %d: %s", r, completion_error_message(l->error));
    return call;
}

int library_finish(struct library *l, completion_call *call)
{
    const completion_result *result;
    int r;

    forget_text(l);
    while ((r = completion_call_next(call, &result, l->error)) == 1 || r == -EAGAIN)
        if (r == 1)
            keep_first_choice(l, result);
        else
            assert_true(library_turn(l) >= 0);
    return r;
}

/* ---- Assertions ---- */

void library_assert_failed(struct library *l, int r, int expected, enum completion_status status)
{
    if (r != expected || completion_error_status(l->error) != status)
        fail_msg("%d and %s, not %d and status %d: %s", r, completion_error_status_name(l->error),
                 expected, status, completion_error_message(l->error));
    assert_true(*completion_error_message(l->error));
    assert_null(strstr(completion_error_message(l->error), SCENE_SECRET));
}

void library_assert_create_fails(struct library *l, int64_t timeout_ms, int expected,
                                 enum completion_status status)
{
    completion_result *untouched = (completion_result *)l, *result = untouched;
    int r = completion_create(l->client, l->request, timeout_ms, &result, l->error);

    if (r == 0)
        completion_result_free(result);
    library_assert_failed(l, r, expected, status);
    assert_ptr_equal(result, untouched);
}

void library_assert_next_fails(struct library *l, completion_stream *stream, int expected,
                               enum completion_status status)
{
    const completion_result *untouched = (const completion_result *)l, *result = untouched;

    library_assert_failed(l, completion_stream_next(stream, &result, l->error), expected, status);
    assert_ptr_equal(result, untouched);
}

void library_assert_said(struct library *l, const char *text)
{
    if (!strstr(completion_error_message(l->error), text))
        fail_msg("\"%s\" lacks \"%s\"", completion_error_message(l->error), text);
}

void library_assert_text(completion_text text, const char *expected)
{
    if (!expected) {
        assert_null(text.data);
        assert_int_equal(text.length, 0);
        return;
    }
    if (!text.data || text.length != strlen(expected) ||
        memcmp(text.data, expected, text.length) != 0)
        fail_msg("the text is \"%.*s\", not \"%s\"", (int)text.length, text.data ? text.data : "",
                 expected);
}

/* ---- What the kernel knows ---- */

int library_n_connections(const char *socket_path)
{
    char line[512];
    int n = 0;
    FILE *f = fopen("/proc/net/unix", "re");

    assert_non_null(f);
    while (fgets(line, sizeof line, f)) {
        /* Num RefCount Protocol Flags Type St Inode Path; state 3 is connected. */
        unsigned state;
        char path[256];
        if (sscanf(line, "%*s %*s %*s %*s %*s %x %*s %255s", &state, path) == 2 && state == 3 &&
            strcmp(path, socket_path) == 0)
            n++;
    }
    fclose(f);
    return n;
}

int library_n_descriptors(void)
{
    DIR *directory = opendir("/proc/self/fd");
    int n = 0;

    assert_non_null(directory);
    while (readdir(directory))
        n++;
    closedir(directory);
    return n - 3; /* ".", ".." and the directory itself */
}

void library_assert_child(int (*run)(void *user), void *user)
{
    int status;
    pid_t pid = fork();

    if (pid == 0)
        _exit(run(user));
    assert_true(pid > 0);
    while (waitpid(pid, &status, 0) < 0)
        assert_int_equal(errno, EINTR);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        fail_msg("the child was ended with status %#x (line or signal)", status);
}

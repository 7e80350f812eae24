/*
 * libcompletion in an event loop, with a daemon that sends arbitrary bytes: calls of both kinds
 * end once the daemon has gone, with an error object that says something; nothing hangs. The first
 * byte is the size of the pieces, the second what is done between them.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "completion.h"

enum { N_CALLS = 4 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define require(ok)                                                                                \
    do {                                                                                           \
        if (!(ok)) {                                                                               \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #ok);                               \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

static struct {
    int listener;
    char path[64];
    completion_request *request;
    completion_error *error;
    completion_gather *gather;
} all = {.listener = -1};

static void clean_up(void)
{
    unlink(all.path);
}

static void begin(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    snprintf(all.path, sizeof all.path, "/tmp/fuzz-client-%d.sock", (int)getpid());
    memcpy(address.sun_path, all.path, sizeof all.path);
    all.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    require(bind(all.listener, (struct sockaddr *)&address, sizeof address) == 0);
    require(listen(all.listener, 8) == 0);
    atexit(clean_up);
    require(completion_request_new(&all.request) == 0);
    require(completion_request_set_model(all.request, "m", COMPLETION_ZERO_TERMINATED) == 0);
    all.error = completion_error_new();
    require(all.error);
}

static void look_at(const completion_result *result)
{
    char *json;

    for (size_t i = 0; i < completion_result_n_choices(result); i++) {
        completion_text text = completion_choice_text(result, i);
        volatile char sum = 0;
        for (size_t k = 0; k < text.length; k++)
            sum = (char)(sum + text.data[k]);
    }
    if (completion_result_to_json(result, &json, NULL) == 0)
        free(json);
    completion_gather_add(all.gather, result);
}

/* True: it has ended. */
static int read_call(completion_call *call)
{
    const completion_result *result;
    int r;

    while ((r = completion_call_next(call, &result, all.error)) == 1)
        look_at(result);
    if (r < 0 && r != -EAGAIN)
        require(*completion_error_message(all.error));
    return r != -EAGAIN;
}

static void on_news(completion_call *call, void *user)
{
    completion_call **place = user;

    if (read_call(call))
        *place = completion_call_free(call);
}

static void do_something(completion_call *call, uint8_t what)
{
    switch (what) {
    case 0:
        completion_call_pause(call);
        break;
    case 1:
        completion_call_resume(call);
        break;
    case 2:
        completion_call_cancel(call);
        break;
    case 3:
        if (call)
            read_call(call);
        break;
    default:
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    completion_call *calls[N_CALLS] = {NULL};
    completion_client *client;
    completion_result *whole;
    int fd = -1;

    if (all.listener < 0)
        begin();
    if (size < 2)
        return 0;
    require(completion_client_new(all.path, &client) == 0);
    require(completion_client_set_reconnect(client, 0, 0) == 0);
    require(completion_gather_new(&all.gather) == 0);
    require(completion_client_get_fd(client) >= 0);
    for (int i = 0; i < N_CALLS; i++) {
        require((i % 2 ? completion_call_start : completion_call_start_stream)(
                    client, all.request, -1, &calls[i], NULL) == 0);
        if (i < 2)
            completion_call_set_callback(calls[i], on_news, &calls[i]);
    }
    require(completion_client_process(client) == 0);
    fd = accept4(all.listener, NULL, NULL, SOCK_CLOEXEC);
    require(fd >= 0);
    for (size_t at = 2; at < size; at += (size_t)data[0] + 1) {
        size_t n = size - at < (size_t)data[0] + 1 ? size - at : (size_t)data[0] + 1;
        char answers[4096];
        if (send(fd, data + at, n, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
            break;
        require(completion_client_process(client) >= 0);
        while (recv(fd, answers, sizeof answers, MSG_DONTWAIT) > 0)
            ;
        do_something(calls[at % N_CALLS], (uint8_t)((data[1] + at) % 7));
    }
    close(fd);
    for (int i = 0; i < N_CALLS; i++)
        completion_call_resume(calls[i]);
    for (int i = 0; i < 4; i++)
        require(completion_client_process(client) >= 0);
    require(completion_client_get_timeout(client) != 0);
    require(!calls[0] && !calls[1]);
    for (int i = 2; i < N_CALLS; i++) {
        require(read_call(calls[i]));
        if (data[1] & 1)
            completion_call_free(calls[i]);
    }
    if (completion_gather_result(all.gather, &whole) == 0)
        completion_result_free(whole);
    completion_gather_free(all.gather);
    completion_client_free(client);
    for (int i = 2; i < N_CALLS && !(data[1] & 1); i++)
        completion_call_free(calls[i]);
    return 0;
}

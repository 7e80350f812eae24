/*
 * Callers who never rest, for tests of what a service does to them: each makes one call after the
 * other until SIGTERM, half of them on a connection of its own each time, half of them streamed;
 * one more only connects. At the end one line counts how it went; a file counts calls on the way,
 * for tests to wait by.
 *
 *     callers SOCKET PROGRESS-FILE N
 *
 * "refused": a connection was. "wrong": a call ended well with less than its text. "late": it had
 * no end in time. None of them may be. "cut": told to have failed.
 */
#include <completion.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define PROMPT "Once upon a time"
#define TEXT   " there was a miller who lived by the river. The miller"

enum { TOKENS = 12, CALL_MS = 60000, REST_US = 2000, CALLERS_MAX = 64 };

struct counts {
    atomic_long ok, cut, refused, wrong, late, connected, slowest_ms;
};

struct crowd {
    const char *socket;
    struct counts counts;
    char *progress;
    atomic_bool over;
    atomic_int next;
};

static int64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static bool is_refusal(int r)
{
    return r == -ECONNREFUSED || r == -ENOENT || r == -EACCES || r == -EPERM || r == -ENOTDIR;
}

static void count(struct crowd *c, int r, bool whole, const completion_error *error, int64_t took)
{
    struct counts *n = &c->counts;
    long slowest = n->slowest_ms;

    while (took > slowest && !atomic_compare_exchange_weak(&n->slowest_ms, &slowest, (long)took))
        ;
    if (r == 0) {
        ++*(whole ? &n->ok : &n->wrong);
        snprintf(c->progress, 32, "%ld\n", (long)n->ok);
        return;
    }
    ++*(is_refusal(r) ? &n->refused : r == -ETIMEDOUT ? &n->late : &n->cut);
    fprintf(stderr, "%s: %s\n", strerror(-r), completion_error_message(error));
}

/* ---- Calls ---- */

static bool is_text(completion_text t, size_t offset)
{
    return offset + t.length <= strlen(TEXT) && !memcmp(&TEXT[offset], t.data, t.length);
}

static int call_unary(completion_client *client, const completion_request *request,
                      completion_error *error, bool *ret_whole)
{
    completion_result *result;
    int r = completion_create(client, request, CALL_MS, &result, error);

    if (r < 0)
        return r;
    completion_text t = completion_choice_text(result, 0);
    *ret_whole = t.length == strlen(TEXT) && is_text(t, 0);
    completion_result_free(result);
    return 0;
}

static int call_streamed(completion_client *client, const completion_request *request,
                         completion_error *error, bool *ret_whole)
{
    completion_stream *stream;
    const completion_result *chunk;
    size_t length = 0;
    bool right = true;
    int r = completion_stream_open(client, request, CALL_MS, &stream, error);

    if (r < 0)
        return r;
    while ((r = completion_stream_next(stream, &chunk, error)) > 0) {
        completion_text t = completion_choice_text(chunk, 0);
        right = right && is_text(t, length);
        length += t.length;
    }
    *ret_whole = right && length == strlen(TEXT);
    completion_stream_free(stream);
    return r;
}

static completion_request *new_request(void)
{
    completion_request *request;

    if (completion_request_new(&request) < 0)
        abort();
    completion_request_set_model(request, "gpt-3.5-turbo-instruct", COMPLETION_ZERO_TERMINATED);
    completion_request_set_prompt(request, PROMPT, COMPLETION_ZERO_TERMINATED);
    completion_request_set_temperature(request, 0);
    completion_request_set_max_tokens(request, TOKENS);
    return request;
}

static void *run_caller(void *user)
{
    struct crowd *c = user;
    int number = c->next++;
    completion_request *request = new_request();
    completion_error *error = completion_error_new();
    completion_client *client = NULL;

    while (!c->over) {
        bool whole = false;
        if (!client && completion_client_new(c->socket, &client) < 0)
            abort();
        int64_t start = now_ms();
        int r = (number & 1 ? call_streamed : call_unary)(client, request, error, &whole);
        count(c, r, whole, error, now_ms() - start);
        if (number & 2)
            client = completion_client_free(client);
        usleep(REST_US);
    }
    completion_client_free(client);
    completion_error_free(error);
    completion_request_free(request);
    return NULL;
}

static void *run_connector(void *user)
{
    struct crowd *c = user;
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    snprintf(address.sun_path, sizeof address.sun_path, "%s", c->socket);
    while (!c->over) {
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0) {
            c->counts.connected++;
        } else {
            c->counts.refused++;
            fprintf(stderr, "connect: %s\n", strerror(errno));
        }
        close(fd);
        usleep(REST_US);
    }
    return NULL;
}

/* ---- Start and end ---- */

static char *open_progress(const char *path)
{
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

    if (fd < 0 || ftruncate(fd, 32) < 0)
        return NULL;
    char *map = mmap(NULL, 32, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    return map == MAP_FAILED ? NULL : map;
}

int main(int argc, char **argv)
{
    static struct crowd c;
    pthread_t threads[CALLERS_MAX + 1];
    sigset_t end;
    int n, number;

    if (argc != 4 || (n = atoi(argv[3])) < 1 || n > CALLERS_MAX)
        return 2;
    c.socket = argv[1];
    c.progress = open_progress(argv[2]);
    if (!c.progress)
        return 1;
    sigemptyset(&end);
    sigaddset(&end, SIGTERM);
    sigprocmask(SIG_BLOCK, &end, NULL);
    for (int i = 0; i <= n; i++)
        if (pthread_create(&threads[i], NULL, i < n ? run_caller : run_connector, &c))
            return 1;
    sigwait(&end, &number);
    c.over = true;
    for (int i = 0; i <= n; i++)
        pthread_join(threads[i], NULL);
    printf("ok=%ld cut=%ld connected=%ld refused=%ld wrong=%ld late=%ld slowest_ms=%ld\n",
           c.counts.ok, c.counts.cut, c.counts.connected, c.counts.refused, c.counts.wrong,
           c.counts.late, c.counts.slowest_ms);
    return c.counts.refused || c.counts.wrong || c.counts.late;
}

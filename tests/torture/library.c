/*
 * A program that calls libcompletion when it is told to: a line on stdin ("create", "stream",
 * "check") is one call with a client of its own, while what has been planned fails. A line on
 * stdout says what came of it: "what|problem|text", with "-" for no problem.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "completion.h"
#include "control.h"
#include "upstream.h"

enum { TIMEOUT_MS = 15000 };

struct run {
    const char *socket;
    completion_client *client;
    completion_request *request;
    completion_error *error;
    char text[256];
    unsigned n_chunks;
};

static struct control *find_control(void)
{
    int fd = open(getenv(CONTROL_VARIABLE), O_RDWR | O_CLOEXEC);
    void *p = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    close(fd);
    return p == MAP_FAILED ? NULL : p;
}

static int prepare(struct run *run)
{
    int r = completion_client_new(run->socket, &run->client);

    run->error = completion_error_new();
    if (r == 0)
        r = completion_request_new(&run->request);
    if (r == 0)
        r = completion_request_set_model(run->request, "warm", COMPLETION_ZERO_TERMINATED);
    if (r == 0)
        r = completion_request_set_prompt(run->request, "count", COMPLETION_ZERO_TERMINATED);
    return r;
}

static void add_text(struct run *run, const completion_result *result)
{
    completion_text text = completion_choice_text(result, 0);
    size_t have = strlen(run->text);

    run->n_chunks++;
    snprintf(run->text + have, sizeof run->text - have, "%.*s", (int)text.length, text.data);
}

static int create(struct run *run)
{
    completion_result *result = NULL;
    int r = completion_create(run->client, run->request, TIMEOUT_MS, &result, run->error);

    if (r == 0)
        add_text(run, result);
    completion_result_free(result);
    return r;
}

static int stream(struct run *run)
{
    completion_stream *s = NULL;
    const completion_result *chunk;
    int r = completion_stream_open(run->client, run->request, TIMEOUT_MS, &s, run->error);

    if (r == 0)
        while ((r = completion_stream_next(s, &chunk, run->error)) > 0)
            add_text(run, chunk);
    completion_stream_free(s);
    return r;
}

static int check(struct run *run)
{
    int r = completion_client_check(run->client, TIMEOUT_MS, run->error);

    if (r == 1)
        snprintf(run->text, sizeof run->text, UPSTREAM_TEXT);
    return r < 0 ? r : 0;
}

static const char *fault(const struct run *run, int r)
{
    if (r == 0)
        return strcmp(run->text, UPSTREAM_TEXT) ? "OK without the whole text" : "-";
    if (strncmp(run->text, UPSTREAM_TEXT, strlen(run->text)))
        return "wrong text";
    if (r == -ETIMEDOUT || r == -EINVAL || r == -ECANCELED)
        return "no fit error";
    if (run->error && completion_error_status(run->error) == COMPLETION_OK)
        return "failed, but the error object says OK";
    if (run->error && !*completion_error_message(run->error))
        return "failed without a word";
    return "-";
}

static void obey(struct control *control, const char *socket, const char *command)
{
    struct run run = {.socket = socket};
    char line[512];

    atomic_store(&control->armed, 1);
    int r = prepare(&run);
    bool is_prepared = r == 0;
    if (r == 0)
        r = *command == 'c' && command[1] == 'r' ? create(&run)
            : *command == 's'                    ? stream(&run)
                                                 : check(&run);
    atomic_store(&control->armed, 0);
    /* Setters have no error object. */
    const char *problem = is_prepared ? fault(&run, r) : r == -ENOMEM ? "-" : "no fit error";
    const char *status = r == 0 ? "OK" : strerrorname_np(-r);
    int n = snprintf(line, sizeof line, "%s|%s|%.60s: %.300s\n", status ? status : "?", problem,
                     completion_error_status_name(run.error), completion_error_message(run.error));
    completion_client_free(run.client);
    completion_request_free(run.request);
    completion_error_free(run.error);
    if (write(STDOUT_FILENO, line, (size_t)n) < 0)
        exit(1);
}

int main(int argc, char **argv)
{
    struct control *control = find_control();
    char command[64];
    ssize_t n;

    if (argc != 2 || !control)
        return 2;
    while ((n = read(STDIN_FILENO, command, sizeof command - 1)) > 0) {
        command[n] = '\0';
        obey(control, argv[1], command);
    }
    return 0;
}

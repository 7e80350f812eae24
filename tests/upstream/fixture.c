/* A process and a libcurl easy handle. */
#include "fixture.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { READY_FD = 3, ARGUMENTS_MAX = 16, TIMEOUT_SECONDS = 60 };

/* ---- The process ---- */

static void run_child(const char *const *arguments, int ready, pid_t parent)
{
    const char *list[ARGUMENTS_MAX] = {SANDBOX_BINARY, "--ready-fd", "3"};
    int n = 3, null = open("/dev/null", O_WRONLY | O_CLOEXEC);

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent || dup2(null, 1) < 0 ||
        (ready == READY_FD ? fcntl(ready, F_SETFD, 0) : dup2(ready, READY_FD)) < 0)
        _exit(126);
    for (; arguments && *arguments && n + 1 < ARGUMENTS_MAX; arguments++)
        list[n++] = *arguments;
    execv(SANDBOX_BINARY, (char **)list);
    _exit(127);
}

/* The line that says where it listens. */
static void read_url(int fd, char *url, size_t size)
{
    size_t len = 0;
    ssize_t n;

    while (len + 1 < size && (n = read(fd, url + len, size - len - 1)) > 0)
        len += (size_t)n;
    assert_true(len > 0);
    assert_int_equal(url[len - 1], '\n');
    url[len - 1] = '\0';
}

void sandbox_start(struct sandbox *s, const char *const *arguments)
{
    char url[192];
    int ready[2];
    pid_t parent = getpid();

    *s = (struct sandbox){.curl = curl_easy_init()};
    assert_non_null(s->curl);
    assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
    s->pid = fork();
    if (s->pid == 0)
        run_child(arguments, ready[1], parent);
    assert_true(s->pid > 0);
    close(ready[1]);
    read_url(ready[0], url, sizeof url);
    close(ready[0]);

    char *path = strstr(url, "/v1");
    assert_non_null(path);
    *path = '\0';
    if (!strncmp(url, "unix:", 5)) {
        url[strlen(url) - 1] = '\0'; /* "unix:PATH:" */
        snprintf(s->unix_path, sizeof s->unix_path, "%.120s", url + 5);
        snprintf(s->url, sizeof s->url, "http://localhost");
    } else {
        snprintf(s->url, sizeof s->url, "%s", url);
        s->port = atoi(strrchr(url, ':') + 1);
    }
}

void sandbox_stop(struct sandbox *s)
{
    int status = -1;

    curl_easy_cleanup(s->curl);
    assert_int_equal(kill(s->pid, SIGTERM), 0);
    assert_int_equal(waitpid(s->pid, &status, 0), s->pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    *s = (struct sandbox){0};
}

int sandbox_connect(const struct sandbox *s)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)s->port),
                                  .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct timeval timeout = {TIMEOUT_SECONDS, 0};

    assert_true(fd >= 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

/* ---- Asking ---- */

static size_t append(char *data, size_t size, size_t n, void *stream)
{
    return fwrite(data, size, n, stream);
}

static struct curl_slist *headers(const char *key, const char *content_type)
{
    struct curl_slist *list = NULL;
    char line[256];

    snprintf(line, sizeof line, "Content-Type: %s",
             content_type ? content_type : "application/json");
    list = curl_slist_append(list, line);
    list = curl_slist_append(list, "Expect:");
    snprintf(line, sizeof line, "Authorization: Bearer %s", key ? key : "");
    return key ? curl_slist_append(list, line) : list;
}

struct answer sandbox_ask(struct sandbox *s, const char *path, const char *body, size_t len,
                          const char *key, const char *content_type)
{
    struct answer a = {0};
    struct curl_slist *list = headers(key, content_type);
    size_t head_len;
    char url[256];
    FILE *out = open_memstream(&a.body, &a.len), *head = open_memstream(&a.head, &head_len);

    assert_true(list && out && head);
    snprintf(url, sizeof url, "%s%s", s->url, path);
    curl_easy_reset(s->curl);
    curl_easy_setopt(s->curl, CURLOPT_URL, url);
    if (*s->unix_path)
        curl_easy_setopt(s->curl, CURLOPT_UNIX_SOCKET_PATH, s->unix_path);
    curl_easy_setopt(s->curl, CURLOPT_PROXY, "");
    curl_easy_setopt(s->curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(s->curl, CURLOPT_TIMEOUT, (long)TIMEOUT_SECONDS);
    curl_easy_setopt(s->curl, CURLOPT_HTTPHEADER, list);
    curl_easy_setopt(s->curl, CURLOPT_WRITEFUNCTION, append);
    curl_easy_setopt(s->curl, CURLOPT_WRITEDATA, out);
    curl_easy_setopt(s->curl, CURLOPT_HEADERFUNCTION, append);
    curl_easy_setopt(s->curl, CURLOPT_HEADERDATA, head);
    if (body) {
        curl_easy_setopt(s->curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)len);
        curl_easy_setopt(s->curl, CURLOPT_POSTFIELDS, body);
    }
    assert_int_equal(curl_easy_perform(s->curl), CURLE_OK);
    curl_easy_getinfo(s->curl, CURLINFO_RESPONSE_CODE, &a.status);
    curl_easy_getinfo(s->curl, CURLINFO_NUM_CONNECTS, &a.n_new_connections);
    curl_slist_free_all(list);
    fclose(out);
    fclose(head);
    a.json = json_tokener_parse(a.body);
    return a;
}

void answer_done(struct answer *a)
{
    json_object_put(a->json);
    free(a->body);
    free(a->head);
    *a = (struct answer){0};
}

__attribute__((format(printf, 3, 0))) static struct answer
post(struct sandbox *s, const char *before, const char *members, va_list list)
{
    char *given, *body;

    assert_true(vasprintf(&given, members, list) >= 0);
    int len = asprintf(&body, "{%s%s%s%s}", before, FIXTURE_MODEL, *given ? "," : "", given);
    assert_true(len > 0);
    struct answer a = sandbox_ask(s, "/v1/completions", body, (size_t)len, NULL, NULL);
    if (a.status != 200)
        print_error("%s", a.body);
    assert_int_equal(a.status, 200);
    free(body);
    free(given);
    return a;
}

json_object *sandbox_complete(struct sandbox *s, const char *members, ...)
{
    va_list list;

    va_start(list, members);
    struct answer a = post(s, "", members, list);
    va_end(list);
    json_object *json = json_object_get(a.json);
    answer_done(&a);
    assert_non_null(json);
    return json;
}

json_object *sandbox_stream(struct sandbox *s, const char *members, ...)
{
    json_object *chunks = json_object_new_array();
    bool is_done = false;
    va_list list;

    va_start(list, members);
    struct answer a = post(s, "\"stream\":true,", members, list);
    va_end(list);
    assert_non_null(strcasestr(a.head, "Content-Type: text/event-stream"));
    for (char *event = a.body, *end; *event; event = end + 2) {
        end = strstr(event, "\n\n");
        assert_non_null(end);
        assert_int_equal(strncmp(event, "data: ", 6), 0);
        assert_false(is_done);
        *end = '\0';
        is_done = !strcmp(event + 6, "[DONE]");
        if (is_done)
            continue;
        json_object *chunk = json_tokener_parse(event + 6);
        assert_non_null(chunk);
        json_object_array_add(chunks, chunk);
    }
    assert_true(is_done);
    answer_done(&a);
    return chunks;
}

int64_t sandbox_count(struct sandbox *s, const char *name)
{
    struct answer a = sandbox_ask(s, "/stats", NULL, 0, NULL, NULL);
    int64_t count = number_at(a.json, name);

    answer_done(&a);
    return count;
}

/* ---- Reading answers ---- */

json_object *at(json_object *object, const char *path)
{
    char name[128];

    while (*path) {
        size_t len = strcspn(path, ".");
        snprintf(name, sizeof name, "%.*s", (int)len, path);
        if (json_object_is_type(object, json_type_array)) {
            size_t i = strtoul(name, NULL, 10);
            assert_true(i < json_object_array_length(object));
            object = json_object_array_get_idx(object, i);
        } else if (!json_object_object_get_ex(object, name, &object)) {
            fail_msg("there is no %s in the answer", name);
        }
        path += len + (path[len] == '.');
    }
    return object;
}

const char *text_at(json_object *object, const char *path)
{
    json_object *value = at(object, path);

    assert_true(json_object_is_type(value, json_type_string));
    return json_object_get_string(value);
}

int64_t number_at(json_object *object, const char *path)
{
    json_object *value = at(object, path);

    assert_true(json_object_is_type(value, json_type_int));
    return json_object_get_int64(value);
}

const char *text_of(json_object *completion, size_t choice)
{
    char path[32];

    snprintf(path, sizeof path, "choices.%zu.text", choice);
    return text_at(completion, path);
}

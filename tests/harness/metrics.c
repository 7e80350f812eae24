#include "metrics.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

void metrics_start(struct scene *s, fake_handler handler, const void *user, const char *settings)
{
    scene_prepare(s, handler, user, settings);
    const char *path = directory_path(&s->daemon.directory, "metrics.sock");
    daemon_start(&s->daemon, &(struct daemon_options){
                                 .arguments = (const char *const[]){"--metrics-listen", path, NULL},
                             });
    rpc_connect(&s->rpc, s->daemon.socket);
}

int metrics_connect(const struct scene *s)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct timeval patience = {.tv_sec = HARNESS_TIMEOUT_MS / 1000};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(address.sun_path, sizeof address.sun_path, "%s",
             directory_path(&s->daemon.directory, "metrics.sock"));
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        fail_msg("can't connect to the metrics: %s", strerror(errno));
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    return fd;
}

char *metrics_receive(int fd)
{
    size_t n = 0, size = 1 << 20;
    char *text = malloc(size);
    ssize_t got;

    assert_non_null(text);
    while ((got = recv(fd, text + n, size - 1 - n, 0)) > 0)
        n += (size_t)got;
    if (got < 0)
        fail_msg("the metrics do not come to their end: %s", strerror(errno));
    text[n] = '\0';
    return text;
}

char *metrics_ask(const struct scene *s, const char *request)
{
    int fd = metrics_connect(s);

    assert_int_equal(send(fd, request, strlen(request), MSG_NOSIGNAL), strlen(request));
    char *answer = metrics_receive(fd);
    close(fd);
    return answer;
}

char *metrics_get(const struct scene *s)
{
    char *answer = metrics_ask(s, METRICS_GET);

    assert_int_equal(strncmp(answer, "HTTP/1.1 200 OK\r\n", 17), 0);
    assert_null(strstr(answer, SCENE_SECRET));
    assert_null(strstr(answer, "sk-"));
    return answer;
}

double metrics_value(const char *page, const char *series)
{
    size_t len = strlen(series);

    for (const char *line = page; (line = strstr(line, series)); line += len)
        if (line[-1] == '\n' && line[len] == ' ')
            return strtod(line + len, NULL);
    return -1;
}

void metrics_expect(const char *page, const char *series, double expected)
{
    double value = metrics_value(page, series);

    if (value != expected)
        fail_msg("%s is %g and not %g in:\n%s", series, value, expected, page);
}

void metrics_await(const struct scene *s, const char *series, double expected)
{
    int64_t until = harness_now_ms() + HARNESS_TIMEOUT_MS;

    for (;;) {
        char *page = metrics_get(s);
        double value = metrics_value(page, series);
        free(page);
        if (value == expected)
            return;
        if (harness_now_ms() > until)
            fail_msg("%s is %g and not %g", series, value, expected);
    }
}

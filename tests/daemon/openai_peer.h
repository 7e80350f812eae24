/*
 * A caller that speaks HTTP/1.1 by hand: any bytes over a socket, and what comes back, read as far
 * as it is a response. Failures and long waits fail the test.
 */
#ifndef OPENAI_PEER_H
#define OPENAI_PEER_H

#include <ctype.h>
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "buffer.h"
#include "scene.h"

#define HTTP_SOCKET "openai.sock"

enum { CHUNK_LINE_MAX = 32 };

struct http {
    int fd; /* -1: closed */
    struct buffer in;
    char *head, *body; /* of the last response; end in NUL */
    size_t body_len;
    int status;
    bool is_whole; /* it did not end by the connection's end, or was to do so */
};

/* Starts the scene's daemon with a Unix socket, or, where there is an address, with that; options
 * may be NULL. */
static inline void http_start_daemon(struct scene *s, const char *address,
                                     const struct daemon_options *options)
{
    char path[128];
    const char *arguments[12] = {"--openai-listen", address ? address : path};
    struct daemon_options all = options ? *options : (struct daemon_options){0};

    snprintf(path, sizeof path, "%s/" HTTP_SOCKET, s->daemon.directory.path);
    for (size_t i = 0; all.arguments && all.arguments[i]; i++)
        arguments[2 + i] = all.arguments[i];
    all.arguments = arguments;
    daemon_start(&s->daemon, &all);
    rpc_connect(&s->rpc, s->daemon.socket);
}

static inline void http_start_scene(struct scene *s, fake_handler handler, const void *user,
                                    const char *settings)
{
    scene_prepare(s, handler, user, settings);
    http_start_daemon(s, NULL, NULL);
}

static inline void http_connect(struct http *h, const struct scene *s)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    *h = (struct http){.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0),
                       .in = BUFFER_INIT(256 << 20)};
    snprintf(address.sun_path, sizeof address.sun_path, "%s/" HTTP_SOCKET,
             s->daemon.directory.path);
    if (h->fd < 0 || connect(h->fd, (struct sockaddr *)&address, sizeof address) < 0)
        fail_msg("can't connect to %s: %s", address.sun_path, strerror(errno));
}

static inline void http_forget(struct http *h)
{
    free(h->head);
    free(h->body);
    h->head = h->body = NULL;
}

static inline void http_close(struct http *h)
{
    if (h->fd >= 0)
        close(h->fd);
    h->fd = -1;
    http_forget(h);
    buffer_done(&h->in);
}

/* False: the other side has closed. */
static inline bool http_send_bytes(struct http *h, const void *data, size_t len)
{
    const char *p = data;

    while (len > 0) {
        ssize_t n = send(h->fd, p, len, MSG_NOSIGNAL);
        if (n < 0)
            return false;
        p += n;
        len -= (size_t)n;
    }
    return true;
}

static inline void http_send(struct http *h, const char *text)
{
    assert_true(http_send_bytes(h, text, strlen(text)));
}

/* A whole request with a body; headers: further lines, each with CR LF. */
static inline void http_post(struct http *h, const char *headers, const char *body)
{
    struct buffer request = BUFFER_INIT(64 << 20);

    buffer_printf(&request,
                  "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n%s"
                  "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
                  headers, strlen(body));
    buffer_append(&request, body, strlen(body));
    http_send_bytes(h, buffer_bytes(&request), buffer_length(&request));
    buffer_done(&request);
}

/* Waits for bytes. False: the connection is at its end. */
static inline bool http_read(struct http *h)
{
    struct pollfd fd = {.fd = h->fd, .events = POLLIN};
    char data[65536];

    if (poll(&fd, 1, HARNESS_TIMEOUT_MS) <= 0)
        fail_msg("nothing came for a long time, after: %.*s", (int)buffer_length(&h->in),
                 (char *)buffer_bytes(&h->in));
    ssize_t n = recv(h->fd, data, sizeof data, 0);
    if (n <= 0)
        return false;
    buffer_append(&h->in, data, (size_t)n);
    return true;
}

static inline bool http_has(struct http *h, const char *text, size_t *ret_end)
{
    uint8_t *found = buffer_length(&h->in)
                         ? memmem(buffer_bytes(&h->in), buffer_length(&h->in), text, strlen(text))
                         : NULL;

    if (found && ret_end)
        *ret_end = (size_t)(found - buffer_bytes(&h->in)) + strlen(text);
    return found;
}

/* Until this has come, somewhere. */
static inline void http_await(struct http *h, const char *text)
{
    while (!http_has(h, text, NULL))
        if (!http_read(h))
            fail_msg("closed before \"%s\": %.*s", text, (int)buffer_length(&h->in),
                     (char *)buffer_bytes(&h->in));
}

static inline void http_await_close(struct http *h)
{
    while (http_read(h))
        ;
}

/* NULL: there is no such header. Up to its line's end. */
static inline const char *http_header(const struct http *h, const char *name)
{
    size_t len = strlen(name);

    for (const char *line = h->head; (line = strchr(line, '\n')); line++)
        if (!strncasecmp(line + 1, name, len) && line[1 + len] == ':')
            return line + 1 + len + 2;
    return NULL;
}

static inline void http_assert_header(const struct http *h, const char *name, const char *value)
{
    const char *found = http_header(h, name);

    if (!found || strncmp(found, value, strlen(value)) != 0 || found[strlen(value)] != '\r')
        fail_msg("no header %s: %s in %s", name, value, h->head);
}

/* One chunk is moved to the body. False: there is no whole one yet. */
static inline bool http_take_chunk(struct http *h, struct buffer *body, bool *ret_last)
{
    size_t n = buffer_length(&h->in);
    uint8_t *start = buffer_bytes(&h->in);
    uint8_t *end = n ? memchr(start, '\n', n < CHUNK_LINE_MAX ? n : CHUNK_LINE_MAX) : NULL;

    if (!end)
        return false;
    size_t line = (size_t)(end + 1 - start), len = strtoul((char *)start, NULL, 16);
    if (buffer_length(&h->in) < line + len + 2)
        return false;
    buffer_append(body, buffer_bytes(&h->in) + line, len);
    buffer_consume(&h->in, line + len + 2);
    *ret_last = len == 0;
    return true;
}

/* Reads a response; of HEAD: has_body is false. */
static inline void http_read_response(struct http *h, bool has_body)
{
    struct buffer body = BUFFER_INIT(256 << 20);
    size_t end = 0;

    http_forget(h);
    http_await(h, "\r\n\r\n");
    http_has(h, "\r\n\r\n", &end);
    h->head = strndup((char *)buffer_bytes(&h->in), end);
    buffer_consume(&h->in, end);
    if (sscanf(h->head, "HTTP/1.%*d %d", &h->status) != 1)
        fail_msg("no status in %s", h->head);
    const char *length = http_header(h, "Content-Length");
    h->is_whole = true;
    if (has_body && http_header(h, "Transfer-Encoding")) {
        bool last = false;
        while (!last)
            if (!http_take_chunk(h, &body, &last) && !http_read(h)) {
                h->is_whole = false;
                break;
            }
    } else if (has_body && length) {
        size_t len = strtoul(length, NULL, 10);
        while (buffer_length(&h->in) < len)
            if (!http_read(h))
                fail_msg("closed before the body's end");
        buffer_append(&body, buffer_bytes(&h->in), len);
        buffer_consume(&h->in, len);
    } else if (has_body) {
        http_await_close(h);
        buffer_append(&body, buffer_bytes(&h->in), buffer_length(&h->in));
        buffer_consume(&h->in, buffer_length(&h->in));
    }
    h->body_len = buffer_length(&body);
    buffer_append_byte(&body, '\0');
    h->body = (char *)body.data;
}

static inline void http_assert_status(const struct http *h, int status)
{
    if (h->status != status)
        fail_msg("not %d: %s%s", status, h->head, h->body);
}

static inline void http_assert_says(const struct http *h, const char *text)
{
    if (!strstr(h->body, text))
        fail_msg("no \"%s\" in %s%s", text, h->head, h->body);
}

/* One request and its answer on a connection of its own, which is left closed. */
static inline void http_ask(struct http *h, const struct scene *s, const char *headers,
                            const char *body)
{
    http_connect(h, s);
    http_post(h, headers, body);
    http_read_response(h, true);
    close(h->fd);
    h->fd = -1;
}

#endif

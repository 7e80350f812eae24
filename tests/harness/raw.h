/*
 * A caller that sends any bytes over a socket and sees the frames that come back (http2_peer.h).
 * Failures and long waits fail the test.
 */
#ifndef RAW_H
#define RAW_H

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "../unit/http2_peer.h"
#include "harness.h"
#include "rpc.h"

struct raw {
    int fd; /* -1: closed, by whomever */
    struct peer peer;
    struct buffer sent; /* to be sent by raw_send() */
};

static inline int raw_socket(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        fail_msg("can't connect to %s: %s", path, strerror(errno));
    return fd;
}

static inline void raw_open(struct raw *r, const char *path)
{
    r->sent = BUFFER_INIT(SIZE_MAX);
    peer_init(&r->peer, 1);
    r->fd = raw_socket(path);
}

static inline void raw_close(struct raw *r)
{
    if (r->fd >= 0)
        close(r->fd);
    r->fd = -1;
    peer_done(&r->peer);
    buffer_done(&r->sent);
}

/* The DATA of a request, to be sent. */
static inline void raw_append_request(struct buffer *out, uint32_t stream)
{
    rpc_request request = rpc_request_new("m", "p");
    uint8_t packed[256];
    struct buffer data = BUFFER_INIT(512);
    size_t len = completion__v1__create_completion_request__pack(&request, packed);

    peer_append_message(&data, packed, len);
    peer_frame(out, NGHTTP2_DATA, NGHTTP2_FLAG_END_STREAM, stream, buffer_bytes(&data),
               buffer_length(&data));
    buffer_done(&data);
}

#define raw_append_call(out, stream, path)                                                         \
    do {                                                                                           \
        peer_headers(out, stream, 0, PEER_REQUEST(path));                                          \
        raw_append_request(out, stream);                                                           \
    } while (0)

/* False: the other side has closed. */
static inline bool raw_send(struct raw *r)
{
    while (buffer_length(&r->sent) > 0) {
        ssize_t n = send(r->fd, buffer_bytes(&r->sent), buffer_length(&r->sent), MSG_NOSIGNAL);
        if (n < 0)
            break;
        buffer_consume(&r->sent, (size_t)n);
    }
    bool all = buffer_length(&r->sent) == 0;
    buffer_done(&r->sent);
    return all;
}

/* Waits for bytes and reads them. False: the other side has closed. */
static inline bool raw_read(struct raw *r)
{
    struct pollfd fd = {.fd = r->fd, .events = POLLIN};
    uint8_t data[65536];

    if (poll(&fd, 1, HARNESS_TIMEOUT_MS) <= 0)
        fail_msg("nothing came for a long time");
    ssize_t n = recv(r->fd, data, sizeof data, 0);
    if (n <= 0)
        return false;
    peer_receive(&r->peer, data, (size_t)n);
    return true;
}

/* Until the transcript of the stream has this text. */
static inline void raw_await(struct raw *r, const char *text)
{
    while (!strstr(peer_text(&r->peer), text))
        if (!raw_read(r))
            fail_msg("closed before \"%s\":\n%s", text, peer_text(&r->peer));
}

static inline void raw_await_close(struct raw *r)
{
    while (raw_read(r))
        ;
}

#endif

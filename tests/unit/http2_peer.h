/*
 * The other side of an HTTP/2 connection, by hand: writes any frame, right or wrong, and turns
 * frames into text, one transcript a stream. DATA frames that follow each other are one line, so
 * that a transcript does not depend on how bytes were cut.
 */
#ifndef HTTP2_PEER_H
#define HTTP2_PEER_H

/* cmocka wants these four before itself. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <nghttp2/nghttp2.h>
#include <stdio.h>
#include <string.h>

#include "buffer.h"

#define PEER_PREFACE "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

enum { PEER_STREAMS = 512, PEER_FRAME_HEADER = 9 };

static inline void peer_frame(struct buffer *out, uint8_t type, uint8_t flags, uint32_t stream,
                              const void *payload, size_t len)
{
    const uint8_t header[PEER_FRAME_HEADER] = {
        (uint8_t)(len >> 16),
        (uint8_t)(len >> 8),
        (uint8_t)len,
        type,
        flags,
        (uint8_t)(stream >> 24),
        (uint8_t)(stream >> 16),
        (uint8_t)(stream >> 8),
        (uint8_t)stream,
    };
    buffer_append(out, header, sizeof header);
    buffer_append(out, payload, len);
}

static inline void peer_number_frame(struct buffer *out, uint8_t type, uint32_t stream,
                                     uint32_t value)
{
    const uint8_t payload[] = {(uint8_t)(value >> 24), (uint8_t)(value >> 16),
                               (uint8_t)(value >> 8), (uint8_t)value};
    peer_frame(out, type, 0, stream, payload, sizeof payload);
}

static inline void peer_reset(struct buffer *out, uint32_t stream, uint32_t code)
{
    peer_number_frame(out, NGHTTP2_RST_STREAM, stream, code);
}

static inline void peer_window(struct buffer *out, uint32_t stream, uint32_t bytes)
{
    peer_number_frame(out, NGHTTP2_WINDOW_UPDATE, stream, bytes);
}

static inline void peer_setting(struct buffer *out, uint16_t id, uint32_t value)
{
    const uint8_t payload[] = {(uint8_t)(id >> 8),     (uint8_t)id,
                               (uint8_t)(value >> 24), (uint8_t)(value >> 16),
                               (uint8_t)(value >> 8),  (uint8_t)value};
    peer_frame(out, NGHTTP2_SETTINGS, 0, 0, payload, sizeof payload);
}

/* ---- Headers: literals that are not indexed ---- */

static inline void peer_hpack_string(struct buffer *out, const char *text, size_t len)
{
    if (len < 127) {
        buffer_append_byte(out, (uint8_t)len);
    } else {
        size_t rest = len - 127;
        buffer_append_byte(out, 127);
        for (; rest >= 128; rest >>= 7)
            buffer_append_byte(out, (uint8_t)(rest | 128));
        buffer_append_byte(out, (uint8_t)rest);
    }
    buffer_append(out, text, len);
}

static inline void peer_hpack(struct buffer *out, const char *name, const char *value)
{
    buffer_append_byte(out, 0);
    peer_hpack_string(out, name, strlen(name));
    peer_hpack_string(out, value, strlen(value));
}

/* "name: value" lines; a name may begin with a colon. */
static inline void peer_hpack_lines(struct buffer *out, const char *lines)
{
    while (*lines) {
        const char *colon = strstr(lines, ": "), *end = strchr(lines, '\n');
        buffer_append_byte(out, 0);
        peer_hpack_string(out, lines, (size_t)(colon - lines));
        peer_hpack_string(out, colon + 2, (size_t)(end - colon - 2));
        lines = end + 1;
    }
}

static inline void peer_headers(struct buffer *out, uint32_t stream, uint8_t flags,
                                const char *lines)
{
    struct buffer block = BUFFER_INIT(1 << 20);

    peer_hpack_lines(&block, lines);
    peer_frame(out, NGHTTP2_HEADERS, flags | NGHTTP2_FLAG_END_HEADERS, stream, buffer_bytes(&block),
               buffer_length(&block));
    buffer_done(&block);
}

/* ---- gRPC on it ---- */

/* What stock clients send. */
#define PEER_REQUEST(path)                                                                         \
    ":method: POST\n:scheme: http\n:path: " path "\n:authority: localhost\n"                       \
    "content-type: application/grpc\nte: trailers\n"

static inline void peer_append_message(struct buffer *out, const void *message, size_t len)
{
    const uint8_t prefix[] = {0, (uint8_t)(len >> 24), (uint8_t)(len >> 16), (uint8_t)(len >> 8),
                              (uint8_t)len};
    buffer_append(out, prefix, sizeof prefix);
    buffer_append(out, message, len);
}

/* One message in one frame. */
static inline void peer_message(struct buffer *out, uint32_t stream, uint8_t flags,
                                const char *message)
{
    struct buffer data = BUFFER_INIT(1 << 20);

    peer_append_message(&data, message, strlen(message));
    peer_frame(out, NGHTTP2_DATA, flags, stream, buffer_bytes(&data), buffer_length(&data));
    buffer_done(&data);
}

static inline void peer_call(struct buffer *out, uint32_t stream, const char *lines,
                             const char *message)
{
    peer_headers(out, stream, 0, lines);
    peer_message(out, stream, NGHTTP2_FLAG_END_STREAM, message);
}

static inline void peer_hello(struct buffer *out)
{
    buffer_append_string(out, PEER_PREFACE);
    peer_frame(out, NGHTTP2_SETTINGS, 0, 0, NULL, 0);
}

/* ---- Reading ---- */

struct peer {
    nghttp2_hd_inflater *inflater;
    struct buffer in;     /* bytes of a frame that is not whole */
    struct buffer text;   /* of the stream whose transcript is asked for */
    uint32_t stream;      /* that stream */
    size_t n_window;      /* bytes of WINDOW_UPDATE for it */
    size_t n_data;        /* bytes of DATA in a row, all streams */
    struct buffer data;   /* of that stream, all of them */
    size_t n_secrets;     /* headers that are never to be indexed, all streams */
    size_t n_frames[16];  /* by type, all streams */
    uint32_t goaway_code; /* of the last GOAWAY */
    int32_t goaway_stream;
};

static inline void peer_init(struct peer *p, uint32_t stream)
{
    *p = (struct peer){.in = BUFFER_INIT(SIZE_MAX),
                       .text = BUFFER_INIT(1 << 20),
                       .data = BUFFER_INIT(SIZE_MAX),
                       .stream = stream};
    assert_int_equal(nghttp2_hd_inflate_new(&p->inflater), 0);
}

static inline void peer_done(struct peer *p)
{
    nghttp2_hd_inflate_del(p->inflater);
    buffer_done(&p->in);
    buffer_done(&p->text);
    buffer_done(&p->data);
}

static inline void peer_flush_data(struct peer *p)
{
    if (p->n_data)
        buffer_printf(&p->text, "DATA %zu\n", p->n_data);
    p->n_data = 0;
}

static inline void peer_read_headers(struct peer *p, bool wanted, const uint8_t *block, size_t len)
{
    nghttp2_nv nv;
    int flags = 0;

    for (;;) {
        ssize_t n = nghttp2_hd_inflate_hd2(p->inflater, &nv, &flags, block, len, 1);
        assert_true(n >= 0);
        block += n;
        len -= (size_t)n;
        if (flags & NGHTTP2_HD_INFLATE_EMIT && nv.flags & NGHTTP2_NV_FLAG_NO_INDEX)
            p->n_secrets++;
        if (wanted && flags & NGHTTP2_HD_INFLATE_EMIT) {
            buffer_printf(&p->text, "%.*s: ", (int)nv.namelen, (const char *)nv.name);
            buffer_append(&p->text, nv.value, nv.valuelen);
            buffer_append_byte(&p->text, '\n');
        }
        if (flags & NGHTTP2_HD_INFLATE_FINAL)
            break;
    }
    nghttp2_hd_inflate_end_headers(p->inflater);
}

static inline uint32_t peer_u32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static inline void peer_read_frame(struct peer *p, uint8_t type, uint8_t flags, uint32_t stream,
                                   const uint8_t *payload, size_t len)
{
    bool wanted = stream == p->stream;
    const char *end = flags & NGHTTP2_FLAG_END_STREAM ? " END" : "";

    assert_true(type < 16);
    p->n_frames[type]++;
    if (type == NGHTTP2_GOAWAY) {
        p->goaway_stream = (int32_t)peer_u32(payload);
        p->goaway_code = peer_u32(payload + 4);
    }
    if (wanted && type == NGHTTP2_WINDOW_UPDATE)
        p->n_window += peer_u32(payload);
    if (wanted && type != NGHTTP2_DATA && type != NGHTTP2_WINDOW_UPDATE)
        peer_flush_data(p);
    if (type == NGHTTP2_HEADERS) {
        assert_true(flags & NGHTTP2_FLAG_END_HEADERS);
        if (wanted)
            buffer_printf(&p->text, "HEADERS%s\n", end);
        peer_read_headers(p, wanted, payload, len);
    } else if (wanted && type == NGHTTP2_DATA) {
        p->n_data += len;
        buffer_append(&p->data, payload, len);
        if (*end) {
            peer_flush_data(p);
            buffer_append_string(&p->text, "END\n");
        }
    } else if (wanted && type == NGHTTP2_RST_STREAM) {
        buffer_printf(&p->text, "RST %u\n", peer_u32(payload));
    }
}

static inline void peer_receive(struct peer *p, const void *bytes, size_t len)
{
    buffer_append(&p->in, bytes, len);
    for (;;) {
        const uint8_t *h = buffer_bytes(&p->in);
        if (buffer_length(&p->in) < PEER_FRAME_HEADER)
            return;
        size_t n = (size_t)h[0] << 16 | (size_t)h[1] << 8 | h[2];
        if (buffer_length(&p->in) - PEER_FRAME_HEADER < n)
            return;
        peer_read_frame(p, h[3], h[4], peer_u32(h + 5) & INT32_MAX, h + PEER_FRAME_HEADER, n);
        buffer_consume(&p->in, PEER_FRAME_HEADER + n);
    }
}

/* The transcript so far, of the stream that was asked for. */
static inline const char *peer_text(struct peer *p)
{
    peer_flush_data(p);
    buffer_append_byte(&p->text, 0);
    buffer_truncate(&p->text, buffer_length(&p->text) - 1);
    return (const char *)buffer_bytes(&p->text);
}

#endif

/*
 * What one HTTP/2 client may make a server do that brings nobody further: budgets that work alike
 * with every version of nghttp2. They fill up again with time and with work that does get on, so
 * that no client in good faith meets them. Pure; one guard for each connection.
 *
 * Also follows where frames begin and end, which nghttp2 does not tell.
 */
#ifndef HTTP2_GUARD_H
#define HTTP2_GUARD_H

#include <nghttp2/nghttp2.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    HTTP2_GUARD_RESETS = 200, /* calls that end early, at once; each may have started work */
    HTTP2_GUARD_RESETS_PER_SECOND = 20,
    HTTP2_GUARD_FRAMES = 1000, /* frames without a call's headers or data in them */
    HTTP2_GUARD_FRAMES_PER_SECOND = 100,
    HTTP2_GUARD_FRAMES_PER_SENT = 4,     /* for each frame of ours that gets a call further */
    HTTP2_GUARD_CONTINUATIONS = 4,       /* of one block of headers */
    HTTP2_GUARD_HEADER_BYTES = 64 << 10, /* of one block, as HTTP/2 counts; more is a reset */
};

struct http2_budget {
    int64_t left, filled_us;
};

struct http2_guard {
    struct http2_budget resets, frames;
    int64_t now_us;
    unsigned n_continuations;
    size_t header_bytes;
    bool is_exceeded; /* once true, for ever */

    /* The input, behind the preface. */
    uint8_t head[9];     /* of the last frame whose head was complete, or of the next */
    uint8_t head_length; /* bytes of a frame's head that were there */
    bool is_in_headers;  /* a block of headers is not complete */
    size_t payload_left; /* of the frame that has begun */
    bool is_greeted;     /* the first frame is complete */
    int64_t since_us;    /* when began what is not complete */
};

void http2_guard_init(struct http2_guard *g);

/* The time has come to be this, on any clock that does not go back. Full at the first call. */
void http2_guard_set_time(struct http2_guard *g, int64_t now_us);

/* ---- What is counted: false if it is more than may be ---- */

/* The frame that begins (http2_guard_follow()); useful: it is DATA of a call that waits for it. */
bool http2_guard_frame(struct http2_guard *g, bool is_useful);
/* A block of headers begins; one of its headers. */
void http2_guard_begin_headers(struct http2_guard *g);
bool http2_guard_header(struct http2_guard *g, size_t name_len, size_t value_len);
/* A stream ended early, for whatever reason and by whomever. */
bool http2_guard_reset(struct http2_guard *g);

/* HEADERS or DATA were sent. */
void http2_guard_progress(struct http2_guard *g);

/* ---- Where the input is ---- */

/* Bytes of one frame: of its head, then of its payload. */
struct http2_piece {
    size_t n_head, n_payload;
    bool begins_frame; /* the head is complete with them */
};

/* The first piece of the bytes that came behind the preface. */
struct http2_piece http2_guard_follow(struct http2_guard *g, const uint8_t *data, size_t len);

/* Of the frame that begins. */
size_t http2_guard_frame_length(const struct http2_guard *g);
uint8_t http2_guard_frame_type(const struct http2_guard *g);
int32_t http2_guard_frame_stream(const struct http2_guard *g);

/* When the frame, or the block of headers, began that has not ended; -1: there is none. */
int64_t http2_guard_midway_since(const struct http2_guard *g);

#endif

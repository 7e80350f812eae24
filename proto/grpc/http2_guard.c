#include "http2_guard.h"

#include <string.h>

enum {
    HEADER_OVERHEAD = 32,      /* RFC 9113, 6.5.2 */
    FRAMES_LEFT_MAX = 1 << 16, /* what a client of long streams can save up */
};

void http2_guard_init(struct http2_guard *g)
{
    *g = (struct http2_guard){
        .resets = {.left = HTTP2_GUARD_RESETS},
        .frames = {.left = HTTP2_GUARD_FRAMES},
        .now_us = -1,
    };
}

/* Whole ones only; the rest of the time counts for the next. */
static void fill(struct http2_budget *b, int64_t max, int64_t per_second, int64_t now_us)
{
    int64_t each_us = 1000000 / per_second, n = (now_us - b->filled_us) / each_us;

    if (b->left + n >= max) {
        b->left = b->left > max ? b->left : max;
        b->filled_us = now_us;
    } else if (n > 0) {
        b->left += n;
        b->filled_us += n * each_us;
    }
}

void http2_guard_set_time(struct http2_guard *g, int64_t now_us)
{
    if (g->now_us < 0)
        g->resets.filled_us = g->frames.filled_us = now_us;
    if (now_us > g->now_us)
        g->now_us = now_us;
}

static bool spend(struct http2_guard *g, struct http2_budget *b, int64_t max, int64_t per_second)
{
    fill(b, max, per_second, g->now_us);
    if (b->left == 0)
        g->is_exceeded = true;
    else
        b->left--;
    return !g->is_exceeded;
}

bool http2_guard_frame(struct http2_guard *g, bool is_useful)
{
    if (http2_guard_frame_type(g) != NGHTTP2_CONTINUATION)
        g->n_continuations = 0;
    else if (++g->n_continuations > HTTP2_GUARD_CONTINUATIONS)
        g->is_exceeded = true;
    if (is_useful || g->is_exceeded)
        return !g->is_exceeded;
    return spend(g, &g->frames, HTTP2_GUARD_FRAMES, HTTP2_GUARD_FRAMES_PER_SECOND);
}

void http2_guard_begin_headers(struct http2_guard *g)
{
    g->header_bytes = 0;
}

bool http2_guard_header(struct http2_guard *g, size_t name_len, size_t value_len)
{
    size_t before = g->header_bytes;

    /* One byte of a block may stand for kilobytes; that they are not kept is for others to see to.
     */
    g->header_bytes += name_len + value_len + HEADER_OVERHEAD;
    if (before <= HTTP2_GUARD_HEADER_BYTES && g->header_bytes > HTTP2_GUARD_HEADER_BYTES)
        return http2_guard_reset(g);
    return !g->is_exceeded;
}

bool http2_guard_reset(struct http2_guard *g)
{
    return spend(g, &g->resets, HTTP2_GUARD_RESETS, HTTP2_GUARD_RESETS_PER_SECOND);
}

/* A client may answer each frame of ours with a few: windows for stream and connection, and a PING
 * by those who measure the way. It may do so long after, if it read late. */
void http2_guard_progress(struct http2_guard *g)
{
    int64_t left = g->frames.left;

    left = left < HTTP2_GUARD_FRAMES ? HTTP2_GUARD_FRAMES : left + HTTP2_GUARD_FRAMES_PER_SENT;
    g->frames.left = left < FRAMES_LEFT_MAX ? left : FRAMES_LEFT_MAX;
}

/* ---- Where the input is ---- */

size_t http2_guard_frame_length(const struct http2_guard *g)
{
    return (size_t)g->head[0] << 16 | (size_t)g->head[1] << 8 | g->head[2];
}

uint8_t http2_guard_frame_type(const struct http2_guard *g)
{
    return g->head[3];
}

int32_t http2_guard_frame_stream(const struct http2_guard *g)
{
    return (g->head[5] & 0x7f) << 24 | g->head[6] << 16 | g->head[7] << 8 | g->head[8];
}

static void end_frame(struct http2_guard *g)
{
    uint8_t type = http2_guard_frame_type(g), flags = g->head[4];

    if (type == NGHTTP2_HEADERS || type == NGHTTP2_CONTINUATION)
        g->is_in_headers = !(flags & NGHTTP2_FLAG_END_HEADERS);
    g->is_greeted = true;
    g->head_length = 0;
}

struct http2_piece http2_guard_follow(struct http2_guard *g, const uint8_t *data, size_t len)
{
    size_t wanted = sizeof g->head - g->head_length;
    struct http2_piece piece = {.n_head = wanted < len ? wanted : len};

    if (g->head_length == 0 && !g->is_in_headers)
        g->since_us = g->now_us;
    memcpy(g->head + g->head_length, data, piece.n_head);
    g->head_length += (uint8_t)piece.n_head;
    if (piece.n_head < wanted)
        return piece;
    piece.begins_frame = wanted > 0;
    if (piece.begins_frame)
        g->payload_left = http2_guard_frame_length(g);
    len -= piece.n_head;
    piece.n_payload = g->payload_left < len ? g->payload_left : len;
    g->payload_left -= piece.n_payload;
    if (g->payload_left == 0)
        end_frame(g);
    return piece;
}

int64_t http2_guard_midway_since(const struct http2_guard *g)
{
    return g->head_length > 0 || g->is_in_headers ? g->since_us : -1;
}

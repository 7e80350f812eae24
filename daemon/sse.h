/*
 * Server-sent events: bytes in, in any pieces, events' data out. Pure: no descriptors, no JSON.
 *
 * As the WHATWG specification has it, and as servers of the Completions API deviate: one BOM at the
 * beginning is dropped; lines end in CR, LF or CRLF, also split between two pieces; "data:" with or
 * without a space; the lines of one event are joined with LF; comments, event:, id:, retry: and
 * unknown fields are read over; an event without data, or with empty data, is none; an event that
 * was not ended by a blank line before the end of the stream is dropped. "[DONE]" (white space
 * around it allowed), as the first data line of an event, ends the stream as soon as its line ends,
 * or at the end of the input; what follows is ignored.
 *
 * An event is handed out as soon as its blank line has come; nothing is read ahead of the callback.
 * An event whose single data line came in one piece is handed out in place, without a copy.
 */
#ifndef SSE_H
#define SSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../proto/buffer.h"

struct sse_parser {
    struct buffer line;      /* a line that has not ended yet */
    struct buffer data;      /* data lines of an event that has not ended yet ... */
    const uint8_t *in_place; /* ... or the only one of them, within the piece that is being fed */
    size_t in_place_len;
    size_t max_event_bytes;
    int error;
    uint8_t n_bom; /* bytes of a BOM seen at the beginning */
    bool at_start, after_cr, has_data;
    bool done;    /* [DONE] */
    bool surplus; /* more than line ends behind it */
    bool stopped; /* the callback said so */
};

/* Events (and lines, "data: " not counted) of more than max_event_bytes are refused. What is kept
 * between pieces is charged to the account; NULL: none. */
void sse_parser_init(struct sse_parser *p, size_t max_event_bytes, struct memory *memory);
void sse_parser_done(struct sse_parser *p);

/* One event. The data is valid during the callback. False stops the parser for good: the rest of
 * the input is ignored, as after [DONE]. */
typedef bool (*sse_event_fn)(void *user, const uint8_t *data, size_t len);

/* 0, or -EMSGSIZE (event too long), -ENOMEM or -EDQUOT (the account); after an error nothing is
 * parsed any more, and every call returns it again. */
int sse_parser_feed(struct sse_parser *p, const uint8_t *data, size_t len, sse_event_fn event,
                    void *user);

/* The input is at its end. */
int sse_parser_finish(struct sse_parser *p, sse_event_fn event, void *user);

/* "[DONE]" has been seen. */
bool sse_parser_is_done(const struct sse_parser *p);

/* The piece that it was in went on with more than line ends. */
bool sse_parser_has_surplus(const struct sse_parser *p);

#endif

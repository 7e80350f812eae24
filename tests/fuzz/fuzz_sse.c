/*
 * Event streams, cut at places that the input chooses: the events must be those of the uncut
 * stream. The first byte is the size of the pieces.
 */
#include <stdlib.h>
#include <string.h>

#include "buffer.h"
#include "sse.h"

enum { EVENT_MAX = 4096, OUTPUT_MAX = 16 * 1024 * 1024 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool on_event(void *user, const uint8_t *data, size_t len)
{
    struct buffer *events = user;

    if (len == 0 || len > EVENT_MAX)
        abort();
    buffer_printf(events, "%zu:", len);
    buffer_append(events, data, len);
    return len != 7; /* now and then the reader has enough */
}

static int parse(const uint8_t *data, size_t size, size_t piece, struct buffer *events,
                 bool *ret_done)
{
    struct sse_parser p;
    int r = 0;

    sse_parser_init(&p, EVENT_MAX, NULL);
    for (size_t at = 0; at < size && r == 0; at += piece) {
        size_t n = size - at < piece ? size - at : piece;
        uint8_t *copy = malloc(n);

        if (!copy)
            abort();
        memcpy(copy, data + at, n);
        r = sse_parser_feed(&p, copy, n, on_event, events);
        free(copy);
    }
    if (r == 0)
        r = sse_parser_finish(&p, on_event, events);
    *ret_done = sse_parser_is_done(&p);
    sse_parser_done(&p);
    return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct buffer whole = BUFFER_INIT(OUTPUT_MAX), cut = BUFFER_INIT(OUTPUT_MAX);
    bool whole_done, cut_done;

    if (size < 2)
        return 0;
    size_t piece = data[0] ? data[0] : 256;
    data++;
    size--;
    int r = parse(data, size, size, &whole, &whole_done);
    if (r != parse(data, size, piece, &cut, &cut_done) || whole_done != cut_done ||
        buffer_length(&whole) != buffer_length(&cut) ||
        (buffer_length(&whole) > 0 &&
         memcmp(buffer_bytes(&whole), buffer_bytes(&cut), buffer_length(&whole)) != 0))
        abort();
    buffer_done(&whole);
    buffer_done(&cut);
    return 0;
}

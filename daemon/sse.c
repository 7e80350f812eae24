/*
 * Server-sent events: lines, and what the lines of one event make together. It owns the two partial
 * things that can be pending between pieces, a line and an event, and refuses to own an opinion on
 * what the data means, but for [DONE].
 *
 * Every byte is looked at once by memchr(), whatever the pieces: a partial line is kept, not
 * searched again.
 */
#include "sse.h"

#include <errno.h>

enum {
    FIELD_BYTES = sizeof "data: " - 1,
    KEEP_BYTES = 64 * 1024, /* memory kept between events */
};

static const uint8_t bom[3] = {0xEF, 0xBB, 0xBF};

void sse_parser_init(struct sse_parser *p, size_t max_event_bytes, struct memory *memory)
{
    *p = (struct sse_parser){
        .line = BUFFER_INIT_IN(max_event_bytes + FIELD_BYTES, memory),
        .data = BUFFER_INIT_IN(max_event_bytes + FIELD_BYTES, memory),
        .max_event_bytes = max_event_bytes,
        .at_start = true,
    };
}

void sse_parser_done(struct sse_parser *p)
{
    buffer_done(&p->line);
    buffer_done(&p->data);
}

bool sse_parser_is_done(const struct sse_parser *p)
{
    return p->done;
}

bool sse_parser_has_surplus(const struct sse_parser *p)
{
    return p->surplus;
}

static bool is_over(const struct sse_parser *p)
{
    return p->done || p->stopped || p->error;
}

static bool is_sentinel(const uint8_t *data, size_t len)
{
    static const char sentinel[] = "[DONE]";

    while (len > 0 && (*data == ' ' || *data == '\t')) {
        data++;
        len--;
    }
    while (len > 0 && (data[len - 1] == ' ' || data[len - 1] == '\t'))
        len--;
    return len == sizeof sentinel - 1 && memcmp(data, sentinel, len) == 0;
}

/* The data line that was left where it came from moves to the parser's own memory. */
static void keep_in_place(struct sse_parser *p)
{
    if (p->in_place)
        buffer_append(&p->data, p->in_place, p->in_place_len);
    p->in_place = NULL;
}

/* A blank line. */
static void end_event(struct sse_parser *p, sse_event_fn event, void *user)
{
    const uint8_t *data = p->in_place ? p->in_place : buffer_bytes(&p->data);
    size_t len = p->in_place ? p->in_place_len : buffer_length(&p->data);

    if (len > 0 && !event(user, data, len))
        p->stopped = true;
    p->has_data = false;
    p->in_place = NULL;
    buffer_consume(&p->data, buffer_length(&p->data));
    buffer_trim(&p->data, KEEP_BYTES);
}

/* Data that stands in the line buffer: the buffers change places rather than copy it. */
static void take_line_buffer(struct sse_parser *p, size_t offset)
{
    struct buffer line = p->line;

    p->line = p->data;
    p->data = line;
    buffer_consume(&p->data, offset);
}

static void add_data(struct sse_parser *p, const uint8_t *data, size_t len, size_t offset)
{
    bool is_buffered = buffer_length(&p->line) > 0;

    if (!p->has_data && is_sentinel(data, len)) {
        p->done = true;
        return;
    }
    if (p->has_data) {
        keep_in_place(p);
        buffer_append_byte(&p->data, '\n');
        buffer_append(&p->data, data, len);
    } else if (is_buffered) {
        take_line_buffer(p, offset);
    } else {
        p->in_place = data;
        p->in_place_len = len;
    }
    p->has_data = true;
    if (buffer_length(&p->data) > p->max_event_bytes || (p->in_place && len > p->max_event_bytes))
        p->error = -EMSGSIZE;
    else
        p->error = p->data.error;
}

/* A line without its end. Only data counts; event, id, retry, comments and the unknown do not. */
static void end_line(struct sse_parser *p, const uint8_t *line, size_t len, sse_event_fn event,
                     void *user)
{
    static const char name[4] = "data";
    size_t offset = sizeof name;

    if (len == 0) {
        end_event(p, event, user);
        return;
    }
    if (len < offset || memcmp(line, name, offset) != 0 || (len > offset && line[offset] != ':'))
        return;
    if (len > offset)
        offset++;
    if (len > offset && line[offset] == ' ')
        offset++;
    add_data(p, line + offset, len - offset, offset);
}

/* A line whose end, and maybe whose beginning, is in this piece. */
static void complete_line(struct sse_parser *p, const uint8_t *data, size_t len, sse_event_fn event,
                          void *user)
{
    if (len > p->line.limit_bytes - buffer_length(&p->line)) {
        p->error = -EMSGSIZE;
        return;
    }
    if (buffer_length(&p->line) == 0) {
        end_line(p, data, len, event, user);
        return;
    }
    buffer_append(&p->line, data, len);
    p->error = p->line.error;
    if (p->error)
        return;
    end_line(p, buffer_bytes(&p->line), buffer_length(&p->line), event, user);
    buffer_consume(&p->line, buffer_length(&p->line));
    buffer_trim(&p->line, KEEP_BYTES);
}

/* How many bytes of data belong to a BOM. What looked like one and is none goes into the line. */
static size_t skip_bom(struct sse_parser *p, const uint8_t *data, size_t len)
{
    size_t n = 0;

    while (p->n_bom < sizeof bom && n < len && data[n] == bom[p->n_bom]) {
        p->n_bom++;
        n++;
    }
    if (p->n_bom == sizeof bom) {
        p->at_start = false;
    } else if (n < len) {
        p->at_start = false;
        if (p->n_bom > 0)
            buffer_append(&p->line, bom, p->n_bom);
        p->error = p->line.error;
    }
    return n;
}

int sse_parser_feed(struct sse_parser *p, const uint8_t *data, size_t len, sse_event_fn event,
                    void *user)
{
    const uint8_t *end = data + len;
    const uint8_t *line_feed = NULL;

    if (p->at_start)
        data += skip_bom(p, data, len);
    while (data < end && !is_over(p)) {
        if (p->after_cr) {
            p->after_cr = false;
            if (*data == '\n') {
                data++;
                continue;
            }
        }
        /* The next LF is searched once for all the CRs in front of it. */
        if (!line_feed || line_feed < data)
            line_feed = memchr(data, '\n', (size_t)(end - data));
        if (!line_feed)
            line_feed = end;
        const uint8_t *eol = memchr(data, '\r', (size_t)(line_feed - data));
        if (!eol)
            eol = line_feed;
        if (eol == end) {
            buffer_append(&p->line, data, (size_t)(end - data));
            p->error = p->line.error;
            break;
        }
        p->after_cr = *eol == '\r';
        complete_line(p, data, (size_t)(eol - data), event, user);
        data = eol + 1;
    }
    for (; p->done && data < end; data++)
        p->surplus = p->surplus || (*data != '\r' && *data != '\n');
    keep_in_place(p);
    if (!p->error)
        p->error = p->data.error;
    return p->error;
}

int sse_parser_finish(struct sse_parser *p, sse_event_fn event, void *user)
{
    if (!is_over(p) && buffer_length(&p->line) > 0)
        end_line(p, buffer_bytes(&p->line), buffer_length(&p->line), event, user);
    return p->error;
}

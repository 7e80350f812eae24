/*
 * A stream made whole. Nothing is decoded: parts of protobuf messages are put together as bytes.
 * That one behind the other is what protobuf itself makes of the elements of lists; of a scalar
 * that is there more than once the last one holds.
 */
#include <errno.h>
#include <stdlib.h>

#include "../proto/wire.h"
#include "internal.h"

enum { GATHER_MAX_BYTES = 64 << 20, CHOICES_MAX = 65536 };

/* Field numbers of completion.proto. */
enum { CHOICES = 2, USAGE = 7, EXTRA = 8 };
enum { FINISH_REASON = 1, INDEX = 2, LOGPROBS = 3, TEXT = 4, LAST_OF_CHOICE = 6 };

/* A field of a choice: its bytes so far. */
struct part {
    bool is_there;
    uint64_t value; /* of a number */
    struct buffer bytes;
};

struct choice {
    int32_t index;
    struct part parts[LAST_OF_CHOICE + 1]; /* by number */
};

struct completion_gather {
    int error;
    size_t n_bytes;     /* of all chunks */
    struct buffer head; /* the first of each field that is neither of those below */
    uint32_t seen;      /* which these are, a bit for each number */
    struct part usage, extra;
    struct choice **choices; /* in the order of their indexes */
    size_t n_choices, n_places;
};

EXPORT int completion_gather_new(completion_gather **ret)
{
    completion_gather *g = ret ? calloc(1, sizeof *g) : NULL;

    if (!g)
        return ret ? -ENOMEM : -EINVAL;
    g->head = g->usage.bytes = g->extra.bytes = BUFFER_INIT(GATHER_MAX_BYTES);
    *ret = g;
    return 0;
}

EXPORT completion_gather *completion_gather_free(completion_gather *g)
{
    if (!g)
        return NULL;
    for (size_t i = 0; i < g->n_choices; i++) {
        for (int k = 0; k <= LAST_OF_CHOICE; k++)
            buffer_done(&g->choices[i]->parts[k].bytes);
        free(g->choices[i]);
    }
    free(g->choices);
    buffer_done(&g->head);
    buffer_done(&g->usage.bytes);
    buffer_done(&g->extra.bytes);
    free(g);
    return NULL;
}

/* ---- Choices ---- */

/* Where the choice of this index is, or belongs. */
static size_t place_of(const completion_gather *g, int32_t index)
{
    size_t from = 0, to = g->n_choices;

    while (from < to) {
        size_t middle = from + (to - from) / 2;
        if (g->choices[middle]->index < index)
            from = middle + 1;
        else
            to = middle;
    }
    return from;
}

static int add_choice(completion_gather *g, size_t place, int32_t index)
{
    if (g->n_choices == CHOICES_MAX)
        return -EMSGSIZE;
    if (g->n_choices == g->n_places) {
        size_t n = g->n_places ? 2 * g->n_places : 4;
        struct choice **choices = reallocarray(g->choices, n, sizeof(struct choice *));
        if (!choices)
            return -ENOMEM;
        g->choices = choices;
        g->n_places = n;
    }
    struct choice *c = calloc(1, sizeof *c);
    if (!c)
        return -ENOMEM;
    c->index = index;
    for (int k = 0; k <= LAST_OF_CHOICE; k++)
        c->parts[k].bytes = BUFFER_INIT(GATHER_MAX_BYTES);
    memmove(&g->choices[place + 1], &g->choices[place],
            (g->n_choices - place) * sizeof(struct choice *));
    g->choices[place] = c;
    g->n_choices++;
    return 0;
}

static int put_part(struct part *p, const struct wire_field *w, bool is_appended)
{
    p->is_there = true;
    p->value = w->value;
    if (w->type == WIRE_LEN) {
        if (!is_appended)
            buffer_truncate(&p->bytes, 0);
        buffer_append(&p->bytes, w->data, w->len);
    }
    return p->bytes.error;
}

/* Choices without an index have that of their place in the message. */
static int gather_choice(completion_gather *g, const struct wire_field *choice, int32_t index)
{
    const uint8_t *p = choice->data, *end = p + choice->len;
    struct wire_field w;
    int r = 0;

    while (wire_next(&p, end, &w) > 0)
        if (w.number == INDEX)
            index = (int32_t)w.value;
    size_t place = place_of(g, index);
    if (place == g->n_choices || g->choices[place]->index != index)
        r = add_choice(g, place, index);
    for (p = choice->data; r == 0 && wire_next(&p, end, &w) > 0;)
        if (w.number <= LAST_OF_CHOICE)
            r = put_part(&g->choices[place]->parts[w.number], &w,
                         w.number == TEXT || w.number == LOGPROBS);
    return r;
}

static void append_part(struct buffer *out, uint32_t number, const struct part *p)
{
    if (!p->is_there)
        return;
    if (number == FINISH_REASON || number == INDEX)
        wire_append_int(out, number, (int64_t)p->value);
    else
        wire_append_bytes(out, number, buffer_bytes(&p->bytes), buffer_length(&p->bytes));
}

/* ---- Chunks ---- */

static int gather_field(completion_gather *g, const struct wire_field *w, const uint8_t *whole,
                        size_t whole_len, int32_t *n_choices)
{
    switch (w->number) {
    case CHOICES:
        return gather_choice(g, w, (*n_choices)++);
    case USAGE:
        return put_part(&g->usage, w, false);
    case EXTRA:
        return put_part(&g->extra, w, false);
    default:
        if (w->number > EXTRA || g->seen & 1U << w->number)
            return 0;
        g->seen |= 1U << w->number;
        buffer_append(&g->head, whole, whole_len);
        return g->head.error;
    }
}

EXPORT int completion_gather_add(completion_gather *g, const completion_result *chunk)
{
    struct wire_field w;
    int32_t n_choices = 0;

    if (!g || !chunk)
        return -EINVAL;
    const uint8_t *p = chunk->data, *end = p + chunk->len, *start = p;
    if (!g->error && chunk->len > GATHER_MAX_BYTES - g->n_bytes)
        g->error = -EMSGSIZE;
    for (; !g->error && wire_next(&p, end, &w) > 0; start = p)
        g->error = gather_field(g, &w, start, (size_t)(p - start), &n_choices);
    if (!g->error)
        g->n_bytes += chunk->len;
    return g->error;
}

EXPORT int completion_gather_result(const completion_gather *g, completion_result **ret)
{
    struct buffer out = BUFFER_INIT(SIZE_MAX);

    if (!g || !ret)
        return -EINVAL;
    if (g->error)
        return g->error;
    buffer_append(&out, buffer_bytes(&g->head), buffer_length(&g->head));
    for (size_t i = 0; i < g->n_choices; i++) {
        size_t mark = wire_begin(&out, CHOICES);
        for (uint32_t k = 1; k <= LAST_OF_CHOICE; k++)
            append_part(&out, k, &g->choices[i]->parts[k]);
        wire_end(&out, mark);
    }
    append_part(&out, USAGE, &g->usage);
    append_part(&out, EXTRA, &g->extra);
    int r = result_new(&out, ret);
    buffer_done(&out);
    return r;
}

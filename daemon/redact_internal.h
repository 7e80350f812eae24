/* Between the halves of redact.h: one knows the texts, the other reads the request. */
#ifndef REDACT_INTERNAL_H
#define REDACT_INTERNAL_H

#include "redact.h"

enum {
    REDACT_LEAST = 6,                  /* shorter strings are words that any error may hold */
    REDACT_WINDOW = 12,                /* so many bytes in a row are no chance */
    REDACT_TOTAL = 2 * REDACT_MAX + 2, /* the texts as they are, and without escapes */
    REDACT_MODEL_MAX = 256,
    REDACT_FILTER_BITS = 18,
};

/* What takes time beside going through a request's plain text, in nanoseconds or so. */
enum {
    REDACT_WORK_STEP = 4, /* a bracket, a window that is looked up */
    REDACT_WORK_ESCAPE = 8,
    REDACT_WORK_STRING = 20,
    REDACT_WORK_MAX = 4000000
};

struct redact {
    uint64_t seed[2];
    size_t len; /* of the texts */
    size_t all; /* with their unescaped twins, which begin at REDACT_MAX + 1; or len */
    bool prepared, hide_all, has_numbers, has_windows[REDACT_WINDOW + 1];
    unsigned work;
    uint8_t model[REDACT_MODEL_MAX];
    size_t model_len;
    size_t name_from, name_to; /* a text that may be the name of a parameter; none if it is empty */
    bool is_parameter;         /* and is one */
    /* A bit for each anchor of the texts, few of many. */
    uint64_t filter[(1 << REDACT_FILTER_BITS) / 64];
    bool marks[REDACT_TOTAL];
    uint16_t origin[REDACT_TOTAL]; /* of a twin's byte: where it comes from, and where that ends */
    uint16_t origin_end[REDACT_TOTAL];
    uint8_t data[REDACT_TOTAL];
    /* Distinct windows, n_slots for each of their lengths: FOUND | where + 1, or 0. */
    uint16_t *slots;
    size_t n_slots; /* a power of two, twice the windows at least */
};

static inline bool redact_is_spent(const struct redact *r)
{
    return r->work > REDACT_WORK_MAX;
}

static inline bool redact_is_digit(uint8_t c)
{
    return c >= '0' && c <= '9';
}

/* Looks in the texts for all windows of this one; or for all of it, of at most REDACT_WINDOW bytes.
 */
void redact_look_for_parts(struct redact *r, const uint8_t *text, size_t len);
void redact_look_for_whole(struct redact *r, const uint8_t *text, size_t len);

/* Looks for all strings of the request, and finds its model, its lists of numbers, and the
 * parameter. Ends early when the work is spent. */
void redact_look_for_request(struct redact *r, const uint8_t *json, const uint8_t *end);

#endif

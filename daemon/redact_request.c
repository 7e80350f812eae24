/* From a request's JSON to its strings, decoded. */
#include "redact_internal.h"

#include <endian.h>
#include <string.h>

#include "escape.h"

enum { PIECE = 4096 };

/* How many of the eight bytes come before one that, with the bits of mask set, is a, b or c. Each
 * test sets the top bit of a byte that is found, and maybe of those above it. */
static inline unsigned n_before(const uint8_t *p, uint8_t mask, uint8_t a, uint8_t b, uint8_t c)
{
    const uint64_t ones = UINT64_C(0x0101010101010101), tops = ones << 7;
    uint64_t word;

    memcpy(&word, p, sizeof word);
    word = le64toh(word) | ones * mask;
    uint64_t x = word ^ ones * a, y = word ^ ones * b, z = word ^ ones * c;
    uint64_t found = (((x - ones) & ~x) | ((y - ones) & ~y) | ((z - ones) & ~z)) & tops;
    return found ? (unsigned)__builtin_ctzll(found) / 8 : 8;
}

/* The first such byte, or end. */
static inline const uint8_t *find_any(const uint8_t *p, const uint8_t *end, uint8_t mask, uint8_t a,
                                      uint8_t b, uint8_t c)
{
    unsigned n = 8;

    while (n == 8 && end - p >= 8)
        p += n = n_before(p, mask, a, b, c);
    if (n < 8)
        return p;
    while (p < end && (*p | mask) != a && (*p | mask) != b && (*p | mask) != c)
        p++;
    return p;
}

/* Decodes what has space of a string, whose opening quote is behind us. Returns where it goes on;
 * ended: behind its closing quote. */
static const uint8_t *decode_piece(struct redact *r, const uint8_t *p, const uint8_t *end,
                                   uint8_t *out, size_t size, size_t *ret_len, bool *ret_ended)
{
    size_t n = 0;

    while (p < end && size - n >= 8 + 4) {
        if (end - p >= 8) {
            unsigned n_plain = n_before(p, 0, '"', '\\', '\\');
            memcpy(out + n, p, 8);
            n += n_plain;
            p += n_plain;
            if (n_plain == 8)
                continue;
        }
        if (*p == '"')
            break;
        size_t used = 0, n_decoded;
        if (*p == '\\') {
            used = escape_decode_backslash(p, (size_t)(end - p), out + n, &n_decoded);
            r->work += REDACT_WORK_ESCAPE;
        }
        if (used == 0) {
            out[n] = *p;
            used = n_decoded = 1;
        }
        p += used;
        n += n_decoded;
    }
    *ret_len = n;
    *ret_ended = p == end || *p == '"';
    return p + (p < end && *p == '"');
}

static const uint8_t *look_for_string(struct redact *r, const uint8_t *p, const uint8_t *end)
{
    uint8_t text[PIECE];
    size_t n, kept = 0;
    bool ended = false;

    for (bool is_first = true; !ended && !redact_is_spent(r); is_first = false) {
        p = decode_piece(r, p, end, text + kept, sizeof text - kept, &n, &ended);
        n += kept;
        if (ended && is_first && n < REDACT_WINDOW)
            redact_look_for_whole(r, text, n);
        else
            redact_look_for_parts(r, text, n);
        kept = n < REDACT_WINDOW - 1 ? n : REDACT_WINDOW - 1;
        memmove(text, text + n - kept, kept);
    }
    return p;
}

static const uint8_t *skip_string(struct redact *r, const uint8_t *p, const uint8_t *end)
{
    while ((p = find_any(p, end, 0, '"', '\\', '\\')) < end && *p == '\\' && !redact_is_spent(r)) {
        p += end - p < 2 ? 1 : 2;
        r->work += REDACT_WORK_ESCAPE;
    }
    return p + (p < end);
}

static const uint8_t *read_model(struct redact *r, const uint8_t *p, const uint8_t *end)
{
    bool ended;

    p = decode_piece(r, p, end, r->model, sizeof r->model, &r->model_len, &ended);
    if (ended)
        return p;
    r->model_len = 0;
    return skip_string(r, p, end);
}

/* Where we are in the request: JSON that we have written, so that its signs and strings tell all.
 */
struct place {
    const uint8_t *start;
    unsigned depth;
    uint64_t lists; /* bit d: the container that is d levels out is a list */
    bool at_model;  /* its value is next */
};

/* Of two strings in an object, the one behind a colon is the value. */
static bool is_key(const struct place *place, const uint8_t *quote)
{
    if (place->lists & 1)
        return false;
    while (quote > place->start && strchr(" \t\r\n", quote[-1]))
        quote--;
    return quote == place->start || quote[-1] != ':';
}

static const uint8_t *pass_key(struct redact *r, struct place *place, const uint8_t *p,
                               const uint8_t *end)
{
    static const char model[] = "model";
    const uint8_t *behind = skip_string(r, p, end);
    size_t len = (size_t)(behind - p) - 1, name_len = r->name_to - r->name_from;

    if (place->depth > 1 || behind == p)
        return behind;
    place->at_model = len == sizeof model - 1 && !memcmp(p, model, len);
    if (name_len > 0 && len == name_len && !memcmp(p, r->data + r->name_from, len))
        r->is_parameter = true;
    return behind;
}

static const uint8_t *pass_string(struct redact *r, struct place *place, const uint8_t *quote,
                                  const uint8_t *end)
{
    r->work += REDACT_WORK_STRING;
    if (is_key(place, quote))
        return pass_key(r, place, quote + 1, end);
    if (place->at_model && place->depth == 1)
        return read_model(r, quote + 1, end);
    return look_for_string(r, quote + 1, end);
}

static bool has_digit(const uint8_t *p, const uint8_t *end)
{
    while (p < end && !redact_is_digit(*p))
        p++;
    return p < end;
}

void redact_look_for_request(struct redact *r, const uint8_t *p, const uint8_t *end)
{
    struct place place = {.start = p};

    while (p < end && !redact_is_spent(r)) {
        const uint8_t *sign = find_any(p, end, 0x20, '"', '{', '}'); /* and brackets */
        if (place.lists & 1 && !r->has_numbers)
            r->has_numbers = has_digit(p, sign);
        if (sign == end)
            break;
        p = sign + 1;
        r->work += REDACT_WORK_STEP;
        if (*sign == '"') {
            p = pass_string(r, &place, sign, end);
        } else if (*sign == '[' || *sign == '{') {
            place.lists = place.lists << 1 | (*sign == '[');
            place.depth++;
        } else if (*sign == ']' || *sign == '}') {
            place.lists >>= 1;
            place.depth--;
        }
    }
}

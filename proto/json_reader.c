/*
 * The text is walked once, from left to right, and nothing is remembered of it but the kinds of the
 * containers around the current position: a bit each.
 */
#include "json_reader.h"

#include <assert.h>
#include <endian.h>
#include <limits.h>
#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "utf8.h"

enum { NUMBER_MAX = 1024 }; /* characters of a number that is to be read as double */

static bool fail(struct json_reader *r, const char *error)
{
    assert(!r->error); /* nothing is pending any more, so that nobody comes twice */
    r->error = error;
    r->pending = false;
    return false;
}

static void skip_space(struct json_reader *r)
{
    while (r->at < r->end && (*r->at == ' ' || *r->at == '\n' || *r->at == '\r' || *r->at == '\t'))
        r->at++;
}

static void begin_value(struct json_reader *r)
{
    skip_space(r);
    r->pending = true;
    if (json_peek(r) == JSON_NONE)
        fail(r, r->at == r->end ? "cut short" : "a value is expected");
}

void json_reader_init(struct json_reader *r, const void *text, size_t len)
{
    const char *start = text;

    *r = (struct json_reader){.start = start, .at = start, .end = start + len};
    begin_value(r);
}

const char *json_reader_error(const struct json_reader *r, size_t *ret_offset)
{
    if (r->error && ret_offset)
        *ret_offset = (size_t)(r->at - r->start);
    return r->error;
}

bool json_reader_end(struct json_reader *r)
{
    if (r->error)
        return false;
    if (r->pending || r->depth > 0)
        return fail(r, "the value was not read to its end");
    skip_space(r);
    if (r->at != r->end)
        return fail(r, "more than one value");
    return true;
}

enum json_type json_peek(struct json_reader *r)
{
    if (!r->pending || r->at == r->end)
        return JSON_NONE;
    switch (*r->at) {
    case 'n':
        return JSON_NULL;
    case 't':
    case 'f':
        return JSON_BOOL;
    case '"':
        return JSON_STRING;
    case '[':
        return JSON_ARRAY;
    case '{':
        return JSON_OBJECT;
    default:
        return *r->at == '-' || (*r->at >= '0' && *r->at <= '9') ? JSON_NUMBER : JSON_NONE;
    }
}

/* ---- Strings ---- */

static bool is_hex(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/* p stands behind a backslash. Where the escape ends, or NULL. */
static const char *check_escape(struct json_reader *r, const char *p)
{
    if (p < r->end && *p && strchr("\"\\/bfnrt", *p))
        return p + 1;
    if (r->end - p >= 5 && *p == 'u' && is_hex(p[1]) && is_hex(p[2]) && is_hex(p[3]) &&
        is_hex(p[4]))
        return p + 5;
    r->at = p;
    fail(r, "an escape that JSON does not have");
    return NULL;
}

/* How many of the eight bytes come before one that needs a look: a quote, backslash or control
 * character; and whether any of the eight belongs to a longer sequence. Each test sets the top bit
 * of a byte that is found, and maybe of those above it; the lowest one is right. */
static unsigned n_plain(const char *p, uint64_t *high)
{
    const uint64_t ones = UINT64_C(0x0101010101010101), tops = UINT64_C(0x8080808080808080);
    uint64_t word;

    memcpy(&word, p, sizeof word);
    word = le64toh(word);
    *high |= word & tops;
    uint64_t quote = word ^ (ones * '"'), backslash = word ^ (ones * '\\');
    uint64_t found = ((word - ones * 0x20) | (quote - ones) | (backslash - ones)) & ~word & tops;
    return found ? (unsigned)__builtin_ctzll(found) / 8 : sizeof word;
}

static bool scan_string(struct json_reader *r, struct json_string *ret)
{
    const char *from = r->at + 1, *p = from;
    bool has_escapes = false;
    uint64_t high = 0;

    for (;;) {
        unsigned n = 8;
        while (n == 8 && r->end - p >= 8)
            p += n = n_plain(p, &high);
        if (p == r->end) {
            r->at = p;
            return fail(r, "cut short");
        }
        unsigned char c = (unsigned char)*p;
        if (c == '"')
            break;
        if (c < 0x20) {
            r->at = p;
            return fail(r, "a control character in a string");
        }
        high |= c & 0x80;
        p++;
        if (c == '\\') {
            has_escapes = true;
            p = check_escape(r, p);
            if (!p)
                return false;
        }
    }
    size_t len = (size_t)(p - from), valid = high ? utf8_valid_prefix(from, len) : len;
    if (valid < len) {
        r->at = from + valid;
        return fail(r, "not valid UTF-8");
    }
    *ret = (struct json_string){from, len, has_escapes};
    r->at = p + 1;
    r->pending = false;
    return true;
}

static uint32_t hex_value(const char *p)
{
    uint32_t value = 0;

    for (int i = 0; i < 4; i++) {
        uint32_t digit = (uint32_t)(p[i] <= '9' ? p[i] - '0' : (p[i] | 0x20) - 'a' + 10);
        value = value << 4 | digit;
    }
    return value;
}

/* p stands behind "\u". */
static const char *decode_unicode(const char *p, const char *end, uint32_t *ret)
{
    uint32_t c = hex_value(p);

    p += 4;
    if (c >= 0xd800 && c <= 0xdbff && end - p >= 6 && p[0] == '\\' && p[1] == 'u') {
        uint32_t low = hex_value(p + 2);
        if (low >= 0xdc00 && low <= 0xdfff) {
            *ret = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
            return p + 6;
        }
    }
    *ret = c;
    return p;
}

/* The character at p, or a byte of it, decoded to out (at most four bytes). Where it ends. */
static const char *decode_one(const char *p, const char *end, uint8_t *out, size_t *ret_n)
{
    static const char letters[] = "bfnrt", plain[] = "\b\f\n\r\t";

    *ret_n = 1;
    *out = (uint8_t)*p;
    if (*p != '\\')
        return p + 1;
    char letter = p[1];
    p += 2;
    if (letter == 'u') {
        uint32_t c;
        p = decode_unicode(p, end, &c);
        *ret_n = utf8_encode(c, out);
        return p;
    }
    const char *found = strchr(letters, letter);
    *out = (uint8_t)(found ? plain[found - letters] : letter);
    return p;
}

size_t json_string_decode(const struct json_string *s, void *out)
{
    const char *p = s->data, *end = p + s->len;
    uint8_t *o = out;
    size_t n;

    if (!s->has_escapes) {
        if (s->len)
            memcpy(out, s->data, s->len);
        return s->len;
    }
    for (; p < end; o += n)
        p = decode_one(p, end, o, &n);
    return (size_t)(o - (uint8_t *)out);
}

void json_string_append(const struct json_string *s, struct buffer *out)
{
    uint8_t *p = buffer_reserve(out, s->len);

    if (p)
        buffer_commit(out, json_string_decode(s, p));
}

bool json_string_equals(const struct json_string *s, const char *text)
{
    size_t len = strlen(text);

    if (!s->has_escapes)
        return s->len == len && memcmp(s->data, text, len) == 0;
    const char *p = s->data, *end = p + s->len, *text_end = text + len;
    while (p < end) {
        uint8_t c[4];
        size_t n;
        p = decode_one(p, end, c, &n);
        if ((size_t)(text_end - text) < n || memcmp(text, c, n) != 0)
            return false;
        text += n;
    }
    return text == text_end;
}

/* ---- Numbers ---- */

static const char *skip_digits(const char *p, const char *end)
{
    while (p < end && *p >= '0' && *p <= '9')
        p++;
    return p;
}

/* The number at `at`, checked but not consumed. */
static bool scan_number(struct json_reader *r, struct json_slice *ret)
{
    const char *p = r->at, *digits;

    if (*p == '-')
        p++;
    digits = p;
    p = skip_digits(p, r->end);
    bool ok = p > digits && (*digits != '0' || p == digits + 1);
    if (ok && p < r->end && *p == '.') {
        digits = ++p;
        p = skip_digits(p, r->end);
        ok = p > digits;
    }
    if (ok && p < r->end && (*p == 'e' || *p == 'E')) {
        p++;
        if (p < r->end && (*p == '+' || *p == '-'))
            p++;
        digits = p;
        p = skip_digits(p, r->end);
        ok = p > digits;
    }
    if (!ok) {
        r->at = p;
        return fail(r, "not a number");
    }
    *ret = (struct json_slice){r->at, (size_t)(p - r->at)};
    return true;
}

static void consume(struct json_reader *r, const struct json_slice *s)
{
    r->at = s->data + s->len;
    r->pending = false;
}

bool json_read_number(struct json_reader *r, struct json_slice *ret)
{
    struct json_slice s;

    if (json_peek(r) != JSON_NUMBER || !scan_number(r, &s))
        return false;
    consume(r, &s);
    *ret = s;
    return true;
}

/* strtod() wants a NUL behind the number and the locale's decimal point, of several bytes maybe, in
 * it. */
static bool to_double(const struct json_slice *s, double *ret)
{
    char text[NUMBER_MAX + MB_LEN_MAX + 1];
    const char *dot = memchr(s->data, '.', s->len), *point = localeconv()->decimal_point;
    size_t n = dot ? (size_t)(dot - s->data) : s->len, n_point = strnlen(point, MB_LEN_MAX);

    if (s->len > NUMBER_MAX)
        return false;
    memcpy(text, s->data, n);
    if (dot) {
        size_t n_behind = s->len - n - 1;
        memcpy(text + n, point, n_point);
        memcpy(text + n + n_point, dot + 1, n_behind);
        n += n_point + n_behind;
    }
    text[n] = '\0';
    double value = strtod(text, NULL);
    if (!isfinite(value))
        return false;
    *ret = value;
    return true;
}

bool json_read_double(struct json_reader *r, double *ret)
{
    struct json_slice s;

    if (json_peek(r) != JSON_NUMBER || !scan_number(r, &s) || !to_double(&s, ret))
        return false;
    consume(r, &s);
    return true;
}

/* By how many digits the exponent moves the point; so far, if it is more, that no text has as many
 * digits. */
static int64_t read_exponent(const char *p, const char *end)
{
    int64_t value = 0;

    if (p == end)
        return 0;
    p++;
    bool negative = *p == '-';
    for (p += *p == '-' || *p == '+'; p < end && value < INT64_MAX / 100; p++)
        value = value * 10 + (*p - '0');
    return negative ? -value : value;
}

/* Exact in every spelling: the digits in front of the point, where the exponent has moved it to,
 * are the number, and those behind it must be zeros. */
static bool to_int64(const struct json_slice *s, int64_t *ret)
{
    bool negative = *s->data == '-';
    const char *p = s->data + negative, *end = s->data + s->len, *digits_end = p, *point;
    int64_t value = 0;

    while (digits_end < end && *digits_end != 'e' && *digits_end != 'E')
        digits_end++;
    point = memchr(p, '.', (size_t)(digits_end - p));
    int64_t n_whole = (point ? point : digits_end) - p + read_exponent(digits_end, end);
    for (; p < digits_end; p++) {
        if (p == point)
            continue;
        int digit = *p - '0';
        if (n_whole-- > 0 ? __builtin_mul_overflow(value, 10, &value) ||
                                __builtin_sub_overflow(value, digit, &value)
                          : digit != 0)
            return false;
    }
    for (; n_whole > 0 && value != 0; n_whole--)
        if (__builtin_mul_overflow(value, 10, &value))
            return false;
    /* Counted below zero, where there is one number more. */
    if (!negative && value == INT64_MIN)
        return false;
    *ret = negative ? value : -value;
    return true;
}

bool json_read_int64(struct json_reader *r, int64_t *ret)
{
    struct json_slice s;

    if (json_peek(r) != JSON_NUMBER || !scan_number(r, &s) || !to_int64(&s, ret))
        return false;
    consume(r, &s);
    return true;
}

bool json_read_int32(struct json_reader *r, int32_t *ret)
{
    struct json_reader before = *r;
    int64_t value;

    if (!json_read_int64(r, &value))
        return false;
    if (value < INT32_MIN || value > INT32_MAX) {
        *r = before;
        return false;
    }
    *ret = (int32_t)value;
    return true;
}

/* ---- Other scalars ---- */

static bool read_word(struct json_reader *r, const char *word)
{
    size_t len = strlen(word);

    if ((size_t)(r->end - r->at) < len || memcmp(r->at, word, len) != 0)
        return fail(r, "a word that JSON does not have");
    r->at += len;
    r->pending = false;
    return true;
}

bool json_read_null(struct json_reader *r)
{
    return json_peek(r) == JSON_NULL && read_word(r, "null");
}

bool json_read_bool(struct json_reader *r, bool *ret)
{
    if (json_peek(r) != JSON_BOOL)
        return false;
    bool value = *r->at == 't';
    if (!read_word(r, value ? "true" : "false"))
        return false;
    *ret = value;
    return true;
}

bool json_read_string(struct json_reader *r, struct json_string *ret)
{
    return json_peek(r) == JSON_STRING && scan_string(r, ret);
}

/* ---- Containers ---- */

static bool enter(struct json_reader *r, bool object)
{
    if (r->depth == JSON_DEPTH_MAX)
        return fail(r, "nested too deeply");
    uint64_t bit = UINT64_C(1) << r->depth++;
    r->objects = object ? r->objects | bit : r->objects & ~bit;
    r->at++;
    r->pending = false;
    r->first = true;
    return true;
}

bool json_enter_object(struct json_reader *r)
{
    return json_peek(r) == JSON_OBJECT && enter(r, true);
}

bool json_enter_array(struct json_reader *r)
{
    return json_peek(r) == JSON_ARRAY && enter(r, false);
}

static bool in_object(const struct json_reader *r)
{
    return r->objects >> (r->depth - 1) & 1;
}

/* At the comma or bracket behind a member: true if another member follows. At the closing bracket
 * the container is left. */
static bool next_in_container(struct json_reader *r)
{
    char close = in_object(r) ? '}' : ']';

    skip_space(r);
    if (r->at == r->end)
        return fail(r, "cut short");
    if (*r->at == close) {
        r->at++;
        r->depth--;
        r->first = false;
        return false;
    }
    if (!r->first) {
        if (*r->at != ',')
            return fail(r, "a comma is expected");
        r->at++;
        skip_space(r);
    }
    r->first = false;
    return true;
}

static bool read_key(struct json_reader *r, struct json_string *ret)
{
    if (r->at == r->end || *r->at != '"')
        return fail(r, "a member's name is expected");
    if (!scan_string(r, ret))
        return false;
    skip_space(r);
    if (r->at == r->end || *r->at != ':')
        return fail(r, "a colon is expected");
    r->at++;
    begin_value(r);
    return !r->error;
}

bool json_next_member(struct json_reader *r, struct json_string *ret_key)
{
    if (r->error || (r->pending && !json_skip(r, NULL)))
        return false;
    return next_in_container(r) && read_key(r, ret_key);
}

bool json_next_element(struct json_reader *r)
{
    if (r->error || (r->pending && !json_skip(r, NULL)) || !next_in_container(r))
        return false;
    begin_value(r);
    return !r->error;
}

/* One scalar, or the opening of a container. */
static bool skip_one(struct json_reader *r)
{
    struct json_string string;
    struct json_slice number;
    bool value;

    switch (json_peek(r)) {
    case JSON_NULL:
        return json_read_null(r);
    case JSON_BOOL:
        return json_read_bool(r, &value);
    case JSON_NUMBER:
        return json_read_number(r, &number);
    case JSON_STRING:
        return scan_string(r, &string);
    case JSON_ARRAY:
        return enter(r, false);
    case JSON_OBJECT:
        return enter(r, true);
    default:
        return fail(r, "a value is expected");
    }
}

bool json_skip(struct json_reader *r, struct json_slice *ret)
{
    const char *from = r->at;
    unsigned depth = r->depth;
    struct json_string key;

    /* Not recursive: the depth of the text is not the depth of our stack. */
    if (r->error || !skip_one(r))
        return false;
    while (r->depth > depth) {
        if (!next_in_container(r)) {
            if (r->error)
                return false;
            continue;
        }
        if (in_object(r)) {
            if (!read_key(r, &key))
                return false;
        } else {
            begin_value(r);
        }
        if (r->error || !skip_one(r))
            return false;
    }
    if (ret)
        *ret = (struct json_slice){from, (size_t)(r->at - from)};
    return true;
}

/*
 * The JSON reader beside json-c, strict: both take a text, or neither does, and then both see the
 * same values. What was walked, skipped or only looked over gets the same verdict at the same
 * place; and what the writer makes of it reads as before.
 *
 * Where the two differ, and the reader is right (json-c 0.16):
 *   depth      ours ends at JSON_DEPTH_MAX; json-c is given more.
 *   NUL        ends a text for json-c, wherever it stands; names end at \u0000.
 *   UTF-8      json-c counts continuation bytes only: overlong forms, surrogates and what lies
 *              above U+10FFFF pass. A decoder here has the last word.
 *   controls   json-c takes control characters in strings, in spite of its flags.
 *   words      json-c takes NaN, Infinity and -Infinity.
 *   numbers    json-c takes leading zeros (007), and a point without digits on one side (-.5, 1.);
 *              what overflows it reads as infinity, which json_read_double() refuses, and integers
 *              beyond 64 bits as the nearest.
 *   pairs      json-c takes \ud836\ude00 and 32,767 others for surrogates once more: it looks at
 * the lower 16 bits of U+1DA00 only. A text with one is not compared. duplicates json-c keeps the
 * last of two members: looked up, each name must give that.
 */
/* Both have a name of their own for these. */
#define json_type json_c_type
#define json_bool json_c_bool
#include <json-c/json.h>
#undef json_type
#undef json_bool
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json_reader.h"
#include "json_writer.h"

enum { OUTPUT_MAX = 64 << 20, JSON_C_DEPTH = 4 * JSON_DEPTH_MAX };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define require(ok)                                                                                \
    do {                                                                                           \
        if (!(ok)) {                                                                               \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #ok);                               \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/* ---- One value, three ways ---- */

static void look_over(struct json_reader *r)
{
    struct json_string key;

    if (json_enter_array(r))
        while (json_next_element(r)) {
        }
    else if (json_enter_object(r))
        while (json_next_member(r, &key)) {
        }
    else
        json_skip(r, NULL);
}

static void write_string(struct json_writer *w, const struct json_string *s)
{
    uint8_t *decoded = malloc(s->len + 1);

    require(decoded);
    json_string(w, decoded, json_string_decode(s, decoded));
    free(decoded);
}

static void check_number(struct json_reader *r, struct json_writer *w)
{
    struct json_reader as_double = *r, as_int64 = *r, as_int32 = *r;
    struct json_slice text;
    double d = 0;
    int64_t wide = 0;
    int32_t narrow = 0;

    bool is_double = json_read_double(&as_double, &d);
    bool is_int64 = json_read_int64(&as_int64, &wide);
    bool is_int32 = json_read_int32(&as_int32, &narrow);
    if (!json_read_number(r, &text)) {
        require(!is_double && !is_int64 && !is_int32);
        return;
    }
    require(!is_double || isfinite(d));
    require(!is_int32 || (is_int64 && narrow == wide));
    require(!is_int64 || is_int32 || wide < INT32_MIN || wide > INT32_MAX);
    require(!is_int64 || !is_double || (double)wide == d);
    bool plain = !memchr(text.data, '.', text.len) && !memchr(text.data, 'e', text.len) &&
                 !memchr(text.data, 'E', text.len);
    if (is_int64 && plain && (wide || text.data[0] != '-'))
        json_int(w, wide);
    else if (is_double)
        json_double(w, d);
    else
        json_raw(w, text.data, text.len);
}

/* Written again without what is not content. */
static void rewrite(struct json_reader *r, struct json_writer *w)
{
    struct json_string s;
    bool value;

    if (json_read_null(r)) {
        json_null(w);
    } else if (json_read_bool(r, &value)) {
        json_bool(w, value);
    } else if (json_read_string(r, &s)) {
        write_string(w, &s);
    } else if (json_enter_array(r)) {
        json_begin_array(w);
        while (json_next_element(r))
            rewrite(r, w);
        json_end_array(w);
    } else if (json_enter_object(r)) {
        json_begin_object(w);
        while (json_next_member(r, &s)) {
            write_string(w, &s);
            buffer_append_byte(w->out, ':');
            w->comma = false;
            rewrite(r, w);
        }
        json_end_object(w);
    } else {
        check_number(r, w);
    }
}

/* The verdict, and the text rewritten. */
static const char *read_ours(const uint8_t *text, size_t len, struct buffer *out)
{
    struct json_reader walked, skipped, seen;
    struct json_writer w = json_writer(out);
    size_t at = 0, skipped_at = 0, seen_at = 0;

    json_reader_init(&walked, text, len);
    rewrite(&walked, &w);
    bool ok = json_reader_end(&walked);
    json_reader_init(&skipped, text, len);
    json_skip(&skipped, NULL);
    require(json_reader_end(&skipped) == ok);
    json_reader_init(&seen, text, len);
    look_over(&seen);
    require(json_reader_end(&seen) == ok);

    const char *error = json_reader_error(&walked, &at);
    require(!error == ok && at <= len);
    require(json_reader_error(&skipped, &skipped_at) == error && skipped_at == at);
    require(json_reader_error(&seen, &seen_at) == error && seen_at == at);
    return error;
}

static void check_rewritten(const struct buffer *text)
{
    struct buffer again = BUFFER_INIT(OUTPUT_MAX);

    require(!read_ours(buffer_bytes(text), buffer_length(text), &again));
    require(buffer_length(&again) == buffer_length(text) &&
            memcmp(buffer_bytes(&again), buffer_bytes(text), buffer_length(text)) == 0);
    buffer_done(&again);
}

/* ---- Beside json-c ---- */

/* The surrogate of this kind whose escape is there; 0: none. */
static unsigned surrogate_at(const uint8_t *text, size_t len, unsigned kind)
{
    unsigned unit = 0;
    char escape[7] = "";
    int n = 0;

    if (len < 6)
        return 0;
    memcpy(escape, text, 6);
    return sscanf(escape, "\\u%4x%n", &unit, &n) == 1 && n == 6 && (unit & 0xFC00) == kind ? unit
                                                                                           : 0;
}

static bool has_odd_pair(const uint8_t *text, size_t len)
{
    for (size_t i = 0; i + 12 <= len; i++) {
        unsigned high = text[i] == '\\' ? surrogate_at(text + i, 6, 0xD800) : 0;
        unsigned low = high ? surrogate_at(text + i + 6, 6, 0xDC00) : 0;
        if (low && ((0x10000 + ((high & 0x3FF) << 10 | (low & 0x3FF))) & 0xF800) == 0xD800)
            return true;
    }
    return false;
}

static void compare(struct json_reader *r, struct json_object *value);

static void compare_number(struct json_reader *r, struct json_object *value)
{
    struct json_slice text;
    struct json_reader as_number = *r;
    int64_t wide;
    double d;

    require(json_read_number(&as_number, &text));
    if (json_object_is_type(value, json_type_double)) {
        double theirs = json_object_get_double(value);
        if (text.len <= 1024 && json_read_double(r, &d))
            require(d == theirs && !signbit(d) == !signbit(theirs));
        else
            require(text.len > 1024 || isinf(theirs));
    } else {
        require(json_object_is_type(value, json_type_int));
        if (json_read_int64(r, &wide))
            require(wide < 0 ? wide == json_object_get_int64(value)
                             : (uint64_t)wide == json_object_get_uint64(value));
        else
            require(json_object_get_uint64(value) > INT64_MAX ||
                    json_object_get_int64(value) == INT64_MIN);
    }
    *r = as_number;
}

static void compare_string(struct json_reader *r, struct json_object *value)
{
    struct json_string s;

    require(json_read_string(r, &s));
    char *decoded = malloc(s.len + 1);
    require(decoded);
    size_t n = json_string_decode(&s, decoded);
    require(n == (size_t)json_object_get_string_len(value) &&
            memcmp(decoded, json_object_get_string(value), n) == 0);
    free(decoded);
}

/* Where a name comes twice, only the last counts: whether this is it, the rest of the text says. */
static bool comes_again(struct json_reader rest, const char *name)
{
    struct json_string key;

    while (json_next_member(&rest, &key)) {
        char *decoded = malloc(key.len + 1);
        require(decoded);
        decoded[json_string_decode(&key, decoded)] = '\0';
        bool same = strcmp(decoded, name) == 0;
        free(decoded);
        if (same)
            return true;
    }
    return false;
}

static void compare_object(struct json_reader *r, struct json_object *value)
{
    struct json_string key;
    int n = 0;

    require(json_enter_object(r));
    while (json_next_member(r, &key)) {
        char *name = malloc(key.len + 1);
        require(name);
        name[json_string_decode(&key, name)] = '\0';
        struct json_object *member;
        require(json_object_object_get_ex(value, name, &member));
        if (!comes_again(*r, name)) {
            compare(r, member);
            n++;
        }
        free(name);
    }
    require(n == json_object_object_length(value));
}

static void compare(struct json_reader *r, struct json_object *value)
{
    size_t n = 0;
    bool b;

    switch (json_object_get_type(value)) {
    case json_type_null:
        require(json_read_null(r));
        break;
    case json_type_boolean:
        require(json_read_bool(r, &b) && b == json_object_get_boolean(value));
        break;
    case json_type_double:
    case json_type_int:
        compare_number(r, value);
        break;
    case json_type_string:
        compare_string(r, value);
        break;
    case json_type_array:
        require(json_enter_array(r));
        while (json_next_element(r))
            compare(r, json_object_array_get_idx(value, n++));
        require(n == json_object_array_length(value));
        break;
    case json_type_object:
        compare_object(r, value);
        break;
    }
}

/* False: json-c refuses it. */
static bool read_theirs(const uint8_t *text, size_t len, struct json_object **ret)
{
    struct json_tokener *tokener = json_tokener_new_ex(JSON_C_DEPTH);
    /* The NUL behind it tells json-c that a number is at its end. */
    char *copy = malloc(len + 1);

    require(tokener && copy);
    memcpy(copy, text, len);
    copy[len] = '\0';
    json_tokener_set_flags(tokener, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
    *ret = json_tokener_parse_ex(tokener, copy, (int)len + 1);
    bool ok = json_tokener_get_error(tokener) == json_tokener_success;
    json_tokener_free(tokener);
    free(copy);
    return ok;
}

/* ---- Differences ---- */

/* One character at p by the rules of RFC 3629, told without the reader's help. */
static bool is_character(const uint8_t *p, size_t len)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t n = p[0] < 0x80 ? 1 : p[0] >> 5 == 6 ? 2 : p[0] >> 4 == 14 ? 3 : p[0] >> 3 == 30 ? 4 : 0;

    if (n == 0 || n > len)
        return false;
    uint32_t c = n == 1 ? p[0] : p[0] & (0x7fu >> n);
    for (size_t i = 1; i < n; i++) {
        if (p[i] >> 6 != 2)
            return false;
        c = c << 6 | (p[i] & 0x3f);
    }
    return c >= least[n] && c <= 0x10ffff && (c < 0xd800 || c > 0xdfff);
}

static bool starts(const uint8_t *at, const uint8_t *end, const char *word)
{
    return (size_t)(end - at) >= strlen(word) && memcmp(at, word, strlen(word)) == 0;
}

/* The digits in front of p are two or more, the first of them 0. */
static bool has_leading_zero(const uint8_t *text, const uint8_t *p)
{
    size_t n = 0;

    for (; p > text && p[-1] >= '0' && p[-1] <= '9'; p--)
        n++;
    return n >= 2 && *p == '0';
}

/* "-.5", "1." or "1.e5". There is a byte in front of at: a number has begun. */
static bool has_bare_point(const uint8_t *at, const uint8_t *end)
{
    return at[-1] == '.' || (at[-1] == '-' && at < end && *at == '.');
}

/* json-c took what ours refused with this error at this place. */
static bool is_known(const uint8_t *text, size_t len, const char *error, size_t offset)
{
    const uint8_t *at = text + offset, *end = text + len;

    if (strcmp(error, "nested too deeply") == 0)
        return true;
    if (strcmp(error, "not valid UTF-8") == 0)
        return at < end && !is_character(at, (size_t)(end - at));
    if (strcmp(error, "a control character in a string") == 0)
        return at < end && *at < 0x20;
    if (strcmp(error, "not a number") == 0 &&
        (has_leading_zero(text, at) || has_bare_point(at, end)))
        return true;
    return starts(at, end, "NaN") || starts(at, end, "Infinity");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct buffer rewritten = BUFFER_INIT(OUTPUT_MAX);
    struct json_object *value = NULL;
    struct json_reader r;
    size_t offset = 0;

    const char *error = read_ours(data, size, &rewritten);
    if (!error)
        check_rewritten(&rewritten);
    buffer_done(&rewritten);
    if (memchr(data, '\0', size)) {
        require(error);
        return 0;
    }
    if (memmem(data, size, "\\u0000", 6))
        return 0; /* maybe in a name */
    bool taken = read_theirs(data, size, &value);
    json_reader_init(&r, data, size);
    if (taken && !error) {
        if (!has_odd_pair(data, size))
            compare(&r, value);
    } else if (taken) {
        json_skip(&r, NULL);
        json_reader_end(&r);
        error = json_reader_error(&r, &offset);
        require(is_known(data, size, error, offset));
    } else {
        require(error);
    }
    json_object_put(value);
    return 0;
}

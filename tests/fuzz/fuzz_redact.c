/*
 * Texts that repeat parts of a request and of a key, as they are and escaped: what redact.h says is
 * hidden, all else is whole characters. A request that is not ours, and so no JSON, does no harm.
 */
#include <stdbool.h>
#include <string.h>

#include "buffer.h"
#include "input.h"
#include "json_writer.h"
#include "redact.h"
#include "utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { STRINGS = 3, STRING_MAX = 64, TEXTS = 3, PARTS = 5, REGIONS = TEXTS * PARTS, KEY_MAX = 40 };
enum { LEAST = 6, WINDOW = 12, KEY_BEGINNING = 8 };

struct region {
    size_t from, to;
};

struct trial {
    struct input in;
    struct buffer strings[STRINGS], request;
    char key[KEY_MAX + 1];
    size_t key_len;
    struct redact *redact;
    struct region texts[TEXTS], hidden[REGIONS]; /* in the texts of redact, as bytes */
    size_t n_texts, n_hidden;
    bool has_model;
};

/* ---- The request ---- */

static struct buffer take_string(struct trial *t)
{
    struct buffer b = BUFFER_INIT(1 << 16);
    size_t len;
    const uint8_t *text = input_text(&t->in, STRING_MAX, &len);

    utf8_append_repaired(&b, text, len);
    return b;
}

static size_t character_length(const uint8_t *p, size_t left)
{
    size_t n = 1;

    while (n < left && (p[n] & 0xC0) == 0x80)
        n++;
    return n;
}

static uint32_t code_point(const uint8_t *p, size_t n)
{
    uint32_t c = n == 1 ? p[0] : p[0] & (0x7Fu >> n);

    for (size_t i = 1; i < n; i++)
        c = c << 6 | (p[i] & 0x3F);
    return c;
}

static void append_unicode(struct buffer *out, uint32_t c, bool upper)
{
    if (c > 0xFFFF) {
        append_unicode(out, 0xD800 + ((c - 0x10000) >> 10), upper);
        c = 0xDC00 + (c & 0x3FF);
    }
    buffer_printf(out, upper ? "\\u%04X" : "\\u%04x", c);
}

/* As our writer has it, or as some other may: extra_body is passed on as it is. */
static void append_json_string(struct trial *t, const struct buffer *s)
{
    const uint8_t *p = buffer_bytes(s);
    size_t len = buffer_length(s);
    struct json_writer w = json_writer(&t->request);

    if (input_byte(&t->in) % 2 == 0) {
        json_string(&w, p, len);
        return;
    }
    buffer_append_byte(&t->request, '"');
    for (size_t i = 0, n; i < len; i += n) {
        n = character_length(p + i, len - i);
        if (input_byte(&t->in) % 2 == 0 || p[i] < ' ' || p[i] == '"' || p[i] == '\\')
            append_unicode(&t->request, code_point(p + i, n), input_byte(&t->in) % 2);
        else
            buffer_append(&t->request, p + i, n);
    }
    buffer_append_byte(&t->request, '"');
}

static void make_request(struct trial *t)
{
    static const char *const frames[][2] = {
        {"\"prompt\":", ""},
        {"\"prompt\" :\n [", "]"},
        {"\"stop\":[\"\",", ", 1]"},
        {"\"extra\":{\"a\":[[{\"model\":", "}]]}"},
        {"\"logit_bias\":{\"1\":-1.5e3},\"user\":", ""},
    };

    buffer_append_string(&t->request, "{\"model\":");
    t->has_model = input_byte(&t->in) % 4 == 3;
    if (t->has_model)
        append_json_string(t, &t->strings[0]);
    else
        buffer_append_string(&t->request, "\"m\"");
    for (size_t i = 0; i < STRINGS; i++) {
        const char *const *frame = frames[input_byte(&t->in) % (sizeof frames / sizeof *frames)];
        buffer_printf(&t->request, ",%s", frame[0]);
        append_json_string(t, &t->strings[i]);
        buffer_append_string(&t->request, frame[1]);
    }
    buffer_append_byte(&t->request, '}');
}

/* ---- The texts ---- */

static void append_bytes_as(struct buffer *out, const char *prefix, bool upper, const uint8_t *p,
                            size_t n)
{
    for (size_t i = 0; i < n; i++)
        buffer_printf(out, upper ? "%s%02X" : "%s%02x", prefix, p[i]);
}

/* One that a short escape stands for. */
static bool append_short(struct buffer *out, uint8_t c)
{
    static const char from[] = "\n\r\t\b\f\v\a\"'\\/", to[] = "nrtbfva\"'\\/";
    static const char *const entities[] = {"&&amp;", "<&lt;", ">&gt;", "\"&quot;", "'&apos;"};
    const char *found = c ? strchr(from, c) : NULL;

    for (size_t i = 0; i < sizeof entities / sizeof *entities; i++) {
        if ((uint8_t)entities[i][0] == c) {
            buffer_append_string(out, entities[i] + 1);
            return true;
        }
    }
    if (found)
        buffer_printf(out, "\\%c", to[found - from]);
    return found;
}

/* Plain is only what begins no escape. */
static void append_escaped(struct buffer *out, uint8_t way, const uint8_t *p, size_t n)
{
    uint32_t c = code_point(p, n);

    switch (way % 8) {
    case 0:
        append_unicode(out, c, way & 8);
        return;
    case 1:
        buffer_printf(out, "\\U%08x", c);
        return;
    case 2:
        append_bytes_as(out, "\\x", way & 8, p, n);
        return;
    case 3:
        append_bytes_as(out, "%", way & 8, p, n);
        return;
    case 4:
        buffer_printf(out, "&#%u;", c);
        return;
    case 5:
        buffer_printf(out, way & 8 ? "&#x%X;" : "&#X%x;", c);
        return;
    case 6:
        if (append_short(out, *p))
            return;
        break;
    }
    if (*p == '\\' || *p == '&' || *p == '%')
        append_bytes_as(out, "%", way & 8, p, n);
    else
        buffer_append(out, p, n);
}

/* A part of it, at the edges of characters; escaped in many ways, or not at all. */
static struct region append_part(struct trial *t, struct buffer *out, const uint8_t *p, size_t len)
{
    size_t from = len && input_byte(&t->in) % 2 ? input_byte(&t->in) % len : 0, to = len;
    bool plain = input_byte(&t->in) % 4 == 0;

    if (input_byte(&t->in) % 2)
        to = from + input_byte(&t->in) % (len - from + 1);
    while (from > 0 && from < len && (p[from] & 0xC0) == 0x80)
        from--;
    while (to < len && (p[to] & 0xC0) == 0x80)
        to++;
    for (size_t i = from, n; i < to; i += n) {
        n = character_length(p + i, to - i);
        if (plain)
            buffer_append(out, p + i, n);
        else
            append_escaped(out, input_byte(&t->in), p + i, n);
    }
    return (struct region){from, to};
}

static bool append_of_string(struct trial *t, struct buffer *out, const struct buffer *s)
{
    size_t len = buffer_length(s);
    struct region part = append_part(t, out, buffer_bytes(s), len);

    return !t->has_model && len >= LEAST && part.to - part.from >= (len < WINDOW ? len : WINDOW);
}

static bool append_of_key(struct trial *t, struct buffer *out)
{
    struct region part = append_part(t, out, (const uint8_t *)t->key, t->key_len);
    size_t n = part.to - part.from;
    size_t beginning = t->key_len < KEY_BEGINNING ? t->key_len : KEY_BEGINNING;

    return n >= WINDOW || (n > 0 && part.from == 0 && n >= beginning);
}

static bool append_junk(struct trial *t, struct buffer *out)
{
    size_t len;
    const uint8_t *junk = input_text(&t->in, STRING_MAX, &len);

    utf8_append_repaired(out, junk, len);
    return false;
}

/* A space ends whatever escape may have begun. */
static void append_something(struct trial *t, struct buffer *out, size_t start)
{
    size_t from = buffer_length(out);
    uint8_t what = input_byte(&t->in) % (STRINGS + 2);
    bool is_hidden = what < STRINGS    ? append_of_string(t, out, &t->strings[what])
                     : what == STRINGS ? append_of_key(t, out)
                                       : append_junk(t, out);

    if (is_hidden)
        t->hidden[t->n_hidden++] = (struct region){start + from, start + buffer_length(out)};
    buffer_append_byte(out, ' ');
}

static void add_texts(struct trial *t)
{
    for (size_t i = 0; i < TEXTS; i++) {
        struct buffer text = BUFFER_INIT(1 << 16);
        size_t start = redact_end(t->redact), n_hidden = t->n_hidden;

        for (size_t k = input_byte(&t->in) % PARTS; k > 0; k--)
            append_something(t, &text, start);
        size_t len = redact_add(t->redact, buffer_bytes(&text), buffer_length(&text));
        require(len <= buffer_length(&text) && utf8_is_valid(buffer_bytes(&text), len));
        if (len < buffer_length(&text)) /* what was cut may be what told */
            t->n_hidden = n_hidden;
        t->texts[t->n_texts++] = (struct region){start, start + len};
        buffer_done(&text);
    }
}

/* ---- What is seen ---- */

static bool has(const uint8_t *text, size_t len, const void *part, size_t part_len)
{
    return part_len > 0 && memmem(text, len, part, part_len);
}

static void check_unseen(const uint8_t *seen, size_t len, const uint8_t *s, size_t s_len)
{
    if (s_len < WINDOW)
        require(s_len < LEAST || !has(seen, len, s, s_len));
    for (size_t i = 0; i + WINDOW <= s_len; i++)
        require(!has(seen, len, s + i, WINDOW));
}

static void check_seen(const struct trial *t, const uint8_t *seen, size_t len)
{
    size_t least = t->key_len < KEY_BEGINNING ? t->key_len : KEY_BEGINNING;

    require(utf8_is_valid(seen, len));
    require(!has(seen, len, t->key, least));
    for (size_t i = 0; i + WINDOW <= t->key_len; i++)
        require(!has(seen, len, t->key + i, WINDOW));
    for (size_t i = 0; i < STRINGS && !t->has_model; i++)
        check_unseen(seen, len, buffer_bytes(&t->strings[i]), buffer_length(&t->strings[i]));
}

static void check_texts(const struct trial *t)
{
    for (size_t i = 0; i < t->n_hidden; i++)
        for (size_t at = t->hidden[i].from; at < t->hidden[i].to; at++)
            require(redact_is_hidden(t->redact, at));
    for (size_t i = 0; i < t->n_texts; i++) {
        size_t to = t->texts[i].to;
        for (size_t from = t->texts[i].from, n; from < to; from += n + 1) {
            for (n = 0; from + n < to && !redact_is_hidden(t->redact, from + n);)
                n++;
            check_seen(t, redact_text(t->redact, from), n);
        }
    }
}

/* ---- Trials ---- */

static void try_one(struct trial *t)
{
    size_t len;
    const uint8_t *key = input_text(&t->in, KEY_MAX, &len);

    for (size_t i = 0; i < len; i++)
        t->key[t->key_len++] = (char)('!' + key[i] % ('~' - '!' + 1));
    for (size_t i = 0; i < STRINGS; i++)
        t->strings[i] = take_string(t);
    make_request(t);
    add_texts(t);
    redact_request(t->redact, buffer_bytes(&t->request), buffer_length(&t->request));
    redact_secret(t->redact, t->key);
    check_texts(t);
    for (size_t i = 0; i < STRINGS; i++)
        buffer_done(&t->strings[i]);
}

static void try_nonsense(struct trial *t)
{
    size_t len;
    const uint8_t *request = input_text(&t->in, 1 << 12, &len);

    redact_add(t->redact, "model prompt a text of that kind", 32);
    redact_name(t->redact, 0, 5);
    redact_request(t->redact, request, len);
    redact_secret(t->redact, NULL);
    redact_is_hidden(t->redact, 31);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct trial t = {.in = {data, data + size}, .request = BUFFER_INIT(1 << 20)};

    t.redact = redact_new();
    require(t.redact);
    if (input_byte(&t.in) % 8 == 7)
        try_nonsense(&t);
    else
        try_one(&t);
    redact_free(t.redact);
    buffer_done(&t.request);
    return 0;
}

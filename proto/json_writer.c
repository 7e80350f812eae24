#include "json_writer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

struct json_writer json_writer(struct buffer *out)
{
    return (struct json_writer){.out = out};
}

static void begin_value(struct json_writer *w)
{
    if (w->comma)
        buffer_append_byte(w->out, ',');
    w->comma = true;
}

static void begin_container(struct json_writer *w, char bracket)
{
    begin_value(w);
    buffer_append_byte(w->out, (uint8_t)bracket);
    w->comma = false;
}

static void end_container(struct json_writer *w, char bracket)
{
    buffer_append_byte(w->out, (uint8_t)bracket);
    w->comma = true;
}

void json_begin_object(struct json_writer *w)
{
    begin_container(w, '{');
}

void json_end_object(struct json_writer *w)
{
    end_container(w, '}');
}

void json_begin_array(struct json_writer *w)
{
    begin_container(w, '[');
}

void json_end_array(struct json_writer *w)
{
    end_container(w, ']');
}

void json_key(struct json_writer *w, const char *name)
{
    begin_value(w);
    buffer_append_byte(w->out, '"');
    buffer_append_string(w->out, name);
    buffer_append(w->out, "\":", 2);
    w->comma = false;
}

static bool needs_escape(uint8_t c)
{
    return c < 0x20 || c == '"' || c == '\\' || c == 0x7f;
}

static void append_escape(struct buffer *out, uint8_t c)
{
    static const char hex[] = "0123456789abcdef";
    static const char plain[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt";
    const char *found = c ? strchr(plain, c) : NULL;

    if (found) {
        buffer_append(out, (char[]){'\\', letters[found - plain]}, 2);
        return;
    }
    buffer_append(out, (char[]){'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]}, 6);
}

void json_string(struct json_writer *w, const void *data, size_t len)
{
    const uint8_t *p = data;

    begin_value(w);
    buffer_append_byte(w->out, '"');
    for (size_t i = 0; i < len;) {
        size_t from = i;
        while (i < len && !needs_escape(p[i]))
            i++;
        buffer_append(w->out, p + from, i - from);
        if (i < len)
            append_escape(w->out, p[i++]);
    }
    buffer_append_byte(w->out, '"');
}

/* Prompts may be a million of them: printf() takes four times as long. */
void json_int(struct json_writer *w, int64_t value)
{
    char text[24], *end = text + sizeof text, *p = end;
    uint64_t rest = value < 0 ? -(uint64_t)value : (uint64_t)value;

    do
        *--p = (char)('0' + rest % 10);
    while ((rest /= 10) > 0);
    if (value < 0)
        *--p = '-';
    begin_value(w);
    buffer_append(w->out, p, (size_t)(end - p));
}

void json_double(struct json_writer *w, double value)
{
    char text[64];

    if (!isfinite(value)) {
        json_null(w);
        return;
    }
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        /* Both in the same locale, whatever it is. */
        if (strtod(text, NULL) == value)
            break;
    }
    begin_value(w);
    for (const char *c = text; *c; c++) {
        if (strchr("0123456789+-eE", *c)) {
            buffer_append_byte(w->out, (uint8_t)*c);
            continue;
        }
        /* The locale's decimal point, which may have several bytes. */
        buffer_append_byte(w->out, '.');
        while (c[1] && !strchr("0123456789", c[1]))
            c++;
    }
}

static void append_word(struct json_writer *w, const char *word)
{
    begin_value(w);
    buffer_append_string(w->out, word);
}

void json_bool(struct json_writer *w, bool value)
{
    append_word(w, value ? "true" : "false");
}

void json_null(struct json_writer *w)
{
    append_word(w, "null");
}

void json_raw(struct json_writer *w, const void *text, size_t len)
{
    begin_value(w);
    buffer_append(w->out, text, len);
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

void json_raw_members(struct json_writer *w, const void *object, size_t len)
{
    const char *from = object, *to = from + len;

    while (from < to && (is_space(*from) || *from == '{'))
        if (*from++ == '{')
            break;
    while (to > from && (is_space(to[-1]) || to[-1] == '}'))
        if (*--to == '}')
            break;
    while (from < to && is_space(*from))
        from++;
    while (to > from && is_space(to[-1]))
        to--;
    if (to > from)
        json_raw(w, from, (size_t)(to - from));
}

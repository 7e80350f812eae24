/* The forms that a prompt may have, and files. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "../../proto/json_reader.h"
#include "completionctl.h"

enum { FILE_MAX_BYTES = 4 << 20 };

static const char too_long[] = "longer than the 4 MiB that a request may have";
static const char wanted[] = "an array of texts, of token ids, or of arrays of token ids is wanted";

int file_read(const char *path, struct buffer *out)
{
    FILE *f = strcmp(path, "-") ? fopen(path, "re") : stdin;
    size_t n;

    if (!f)
        return -errno;
    do {
        uint8_t *p = buffer_reserve(out, 4096);
        errno = 0;
        n = p ? fread(p, 1, 4096, f) : 0;
        if (n > 0)
            buffer_commit(out, n);
    } while (n == 4096); /* less is the end; a terminal would have to be told twice */
    int r = out->error ? out->error : ferror(f) ? -(errno ? errno : EIO) : 0;
    if (f != stdin)
        fclose(f);
    return r;
}

/* The ids of an array that has been entered. */
static int add_tokens(struct json_reader *reader, completion_request *r,
                      int (*take)(completion_request *r, const int32_t *ids, size_t n))
{
    struct buffer ids = BUFFER_INIT(4 * FILE_MAX_BYTES);
    int32_t id;
    int e = 0;

    while (e == 0 && json_next_element(reader)) {
        if (json_read_int32(reader, &id))
            buffer_append(&ids, &id, sizeof id);
        else
            e = -EINVAL;
    }
    if (e == 0)
        e = ids.error ? ids.error
                      : take(r, (const int32_t *)(const void *)buffer_bytes(&ids),
                             buffer_length(&ids) / sizeof id);
    buffer_done(&ids);
    return e;
}

static int read_text(struct json_reader *reader, completion_request *r,
                     int (*take)(completion_request *r, const char *text, size_t length))
{
    struct buffer text = BUFFER_INIT(FILE_MAX_BYTES);
    struct json_string string;

    if (!json_read_string(reader, &string))
        return -EINVAL;
    json_string_append(&string, &text);
    int e = text.error ? text.error : take(r, (char *)buffer_bytes(&text), buffer_length(&text));
    buffer_done(&text);
    return e;
}

/* All elements must be what the first one is: one form of prompt takes the place of another. */
static int read_array(struct json_reader *reader, completion_request *r)
{
    struct json_reader first = *reader;
    int e = 0, n = 0;

    if (!json_enter_array(&first) || !json_next_element(&first))
        return -EINVAL;
    enum json_type type = json_peek(&first);
    json_enter_array(reader);
    if (type == JSON_NUMBER) {
        e = add_tokens(reader, r, completion_request_set_prompt_tokens);
        return e < 0 ? e : 1;
    }
    while (e == 0 && json_next_element(reader)) {
        if (json_peek(reader) != type)
            e = -EINVAL;
        else if (json_enter_array(reader))
            e = add_tokens(reader, r, completion_request_add_prompt_tokens);
        else
            e = read_text(reader, r, completion_request_add_prompt);
        n++;
    }
    return e < 0 ? e : n;
}

int prompt_read(completion_request *r, struct json_reader *reader, const char **ret_why)
{
    *ret_why = "a text, or an array of texts, of token ids, or of arrays of token ids is wanted";
    int e = json_peek(reader) == JSON_ARRAY ? read_array(reader, r)
                                            : read_text(reader, r, completion_request_set_prompt);
    return e < 0 ? e : 0;
}

int stops_set(completion_request *r, const char *const *stops, size_t n)
{
    int e = 0;

    for (size_t i = 0; e == 0 && i < n; i++)
        e = n > 1 ? completion_request_add_stop(r, stops[i], COMPLETION_ZERO_TERMINATED)
                  : completion_request_set_stop(r, stops[i], COMPLETION_ZERO_TERMINATED);
    return e;
}

int stop_read(completion_request *r, struct json_reader *reader, const char **ret_why)
{
    int e = 0;

    *ret_why = "a text, or an array of up to four is wanted";
    if (!json_enter_array(reader))
        return read_text(reader, r, completion_request_set_stop);
    while (e == 0 && json_next_element(reader))
        e = read_text(reader, r, completion_request_add_stop);
    return e;
}

/* A text that merely begins with a bracket is a text. */
static bool is_array(const char *value)
{
    struct json_reader reader;

    json_reader_init(&reader, value, strlen(value));
    return json_peek(&reader) == JSON_ARRAY && json_skip(&reader, NULL) && json_reader_end(&reader);
}

int prompt_set(completion_request *r, const char *value, bool several, const char **ret_why)
{
    int (*take)(completion_request *, const char *, size_t) =
        several ? completion_request_add_prompt : completion_request_set_prompt;
    struct buffer file = BUFFER_INIT(FILE_MAX_BYTES + 4096);
    struct json_reader reader;
    int e;

    *ret_why = too_long;
    if (is_array(value)) {
        json_reader_init(&reader, value, strlen(value));
        *ret_why = several ? "an array can't be combined with other prompts" : wanted;
        return several ? -EINVAL : read_array(&reader, r);
    }
    if (*value != '@' && strcmp(value, "-") != 0) {
        e = take(r, value, COMPLETION_ZERO_TERMINATED);
        return e < 0 ? e : 1;
    }
    e = file_read(*value == '@' ? value + 1 : value, &file);
    if (e < 0 && e != -EMSGSIZE)
        *ret_why = strerror(-e);
    if (e == 0)
        e = take(r, (char *)buffer_bytes(&file), buffer_length(&file));
    buffer_done(&file);
    return e < 0 ? e : 1;
}

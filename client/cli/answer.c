#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "../../proto/json_writer.h"
#include "../../proto/utf8.h"
#include "batch.h"

enum { TEXT_MAX_BYTES = 1 << 16 };

/* What is absent is left out. */
static void put_text(struct json_writer *w, const char *key, const char *text)
{
    struct buffer repaired = BUFFER_INIT(TEXT_MAX_BYTES);

    if (!*text)
        return;
    utf8_append_repaired(&repaired, text, strlen(text));
    json_key(w, key);
    json_string(w, buffer_bytes(&repaired), buffer_length(&repaired));
    buffer_done(&repaired);
}

static void put_int(struct json_writer *w, const char *key, int64_t value)
{
    json_key(w, key);
    json_int(w, value);
}

static void put_bool(struct json_writer *w, const char *key, bool value)
{
    json_key(w, key);
    json_bool(w, value);
}

static struct json_writer begin(struct buffer *out, uint64_t index, completion_text custom_id)
{
    struct json_writer w = json_writer(out);

    json_begin_object(&w);
    put_int(&w, "index", (int64_t)index);
    if (custom_id.data) {
        json_key(&w, "custom_id");
        json_raw(&w, custom_id.data, custom_id.length);
    }
    json_key(&w, "response");
    return w;
}

void answer_write(struct buffer *out, uint64_t index, completion_text custom_id,
                  const completion_result *result)
{
    char *json;
    size_t length;

    if (completion_result_to_json(result, &json, &length) < 0) {
        out->error = -ENOMEM;
        return;
    }
    struct json_writer w = begin(out, index, custom_id);
    json_begin_object(&w);
    put_int(&w, "status_code", 200);
    json_key(&w, "body");
    json_raw(&w, json, length);
    json_end_object(&w);
    json_key(&w, "error");
    json_null(&w);
    json_end_object(&w);
    free(json);
}

void answer_write_error(struct buffer *out, uint64_t index, completion_text custom_id,
                        const completion_error *e)
{
    struct json_writer w = begin(out, index, custom_id);

    json_null(&w);
    json_key(&w, "error");
    json_begin_object(&w);
    put_text(&w, "status", completion_error_status_name(e));
    put_text(&w, "message", completion_error_message(e));
    put_text(&w, "reason", completion_error_reason(e));
    if (completion_error_http_status(e))
        put_int(&w, "http_status", completion_error_http_status(e));
    put_text(&w, "type", completion_error_type(e));
    put_text(&w, "param", completion_error_param(e));
    put_text(&w, "code", completion_error_code(e));
    put_text(&w, "upstream", completion_error_upstream(e));
    put_text(&w, "endpoint", completion_error_endpoint(e));
    put_text(&w, "request_id", completion_error_request_id(e));
    put_text(&w, "call_id", completion_error_call_id(e));
    if (completion_error_retry_after_ms(e) >= 0)
        put_int(&w, "retry_after_ms", completion_error_retry_after_ms(e));
    put_bool(&w, "retryable", completion_error_retryable(e));
    put_bool(&w, "maybe_executed", completion_error_maybe_executed(e));
    json_end_object(&w);
    json_end_object(&w);
}

void answer_write_refusal(struct buffer *out, uint64_t index, completion_text custom_id,
                          const char *param, const char *why)
{
    struct json_writer w = begin(out, index, custom_id);

    json_null(&w);
    json_key(&w, "error");
    json_begin_object(&w);
    put_text(&w, "status", "INVALID_ARGUMENT");
    put_text(&w, "message", why);
    put_text(&w, "reason", "INVALID_REQUEST");
    put_text(&w, "param", param);
    put_bool(&w, "retryable", false);
    put_bool(&w, "maybe_executed", false);
    json_end_object(&w);
    json_end_object(&w);
}

void answer_escape(struct buffer *line)
{
    struct buffer out = BUFFER_INIT(ANSWER_MAX_BYTES);
    const char *data = (const char *)buffer_bytes(line);
    size_t length = data ? buffer_length(line) : 0;

    for (size_t i = 0, n; i < length; i += n ? n : 1) {
        n = terminal_control_length(data + i, length - i);
        if (n)
            buffer_printf(&out, "\\u%04x", (unsigned char)data[i + n - 1]);
        else
            buffer_append_byte(&out, (uint8_t)data[i]);
    }
    out.error = out.error ? out.error : line->error;
    buffer_done(line);
    *line = out;
}

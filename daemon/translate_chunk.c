/*
 * The shortest way from an event to a reply: most chunks of a stream repeat the one before but for
 * the text. That they do is seen by comparing bytes, several times as fast as reading them.
 *
 * Why it may: what a text translates to depends on its bytes alone, and the text of a choice is one
 * field of its own. So where all bytes in front of the text and behind it are the same, so are all
 * other fields. Chunks that count for the progress never become a pattern.
 */
#include "json_reader.h"
#include "translate_internal.h"
#include "utf8.h"
#include "wire.h"

enum {
    PATTERN_MAX_BYTES = 4096,
    DECODED_MAX_BYTES = 512, /* of a text with escapes; longer ones are read in full */
    MISSES_MAX = 8,          /* in a row: this stream has something new in every chunk */
};

void translate_pattern_init(struct translate_pattern *p, struct memory *memory)
{
    *p = (struct translate_pattern){.bytes = BUFFER_INIT_IN(PATTERN_MAX_BYTES, memory)};
}

void translate_pattern_done(struct translate_pattern *p)
{
    buffer_done(&p->bytes);
}

/* ---- A chunk that agrees ---- */

/* The text between the pattern's head and tail, still in its quotes. */
static bool find_text(const struct translate_pattern *p, const uint8_t *json, size_t len,
                      struct json_string *ret)
{
    const uint8_t *head = buffer_bytes(&p->bytes), *tail = head + p->n_json_head;
    struct json_reader reader;

    if (buffer_length(&p->bytes) == 0 || len < p->n_json_head + p->n_json_tail ||
        memcmp(json, head, p->n_json_head) != 0 ||
        memcmp(json + len - p->n_json_tail, tail, p->n_json_tail) != 0)
        return false;
    json_reader_init(&reader, json + p->n_json_head - 1, len - p->n_json_head - p->n_json_tail + 2);
    return json_read_string(&reader, ret) && json_reader_end(&reader);
}

static uint8_t *put(uint8_t *out, const void *data, size_t n)
{
    memcpy(out, data, n);
    return out + n;
}

/* False: nothing was appended. */
static bool append_with_text(const struct translate_pattern *p, const struct json_string *s,
                             struct buffer *out)
{
    const uint8_t *piece = buffer_bytes(&p->bytes) + p->n_json_head + p->n_json_tail;
    const char *text = s->data;
    char decoded[DECODED_MAX_BYTES];
    size_t text_len = s->len;
    uint8_t field[1 + WIRE_VARINT_MAX];

    if (s->has_escapes) {
        if (s->len > sizeof decoded)
            return false;
        text_len = json_string_decode(s, decoded);
        text = decoded;
    }
    field[0] = TRANSLATE_TEXT_FIELD << 3 | WIRE_LEN;
    size_t field_len = 1 + wire_put_varint(field + 1, text_len);
    size_t choice_len = p->n_head + field_len + text_len + p->n_tail;
    uint8_t *at = buffer_reserve(out, p->n_before + WIRE_VARINT_MAX + choice_len + p->n_behind);
    if (!at)
        return true;

    const uint8_t *start = at;
    at = put(at, piece, p->n_before);
    at += wire_put_varint(at, choice_len);
    at = put(at, piece + p->n_before, p->n_head);
    at = put(at, field, field_len);
    at = put(at, text, text_len);
    at = put(at, piece + p->n_before + p->n_head, p->n_tail + p->n_behind);
    buffer_commit(out, (size_t)(at - start));
    return true;
}

/* ---- A chunk that others may agree with ---- */

static void remember(struct translate_pattern *p, const uint8_t *json, size_t len,
                     const uint8_t *reply, size_t reply_len, const struct translate_place *place)
{
    size_t json_tail = place->json_text + place->json_text_len;
    uint8_t prefix[WIRE_VARINT_MAX];
    size_t n_prefix = wire_put_varint(prefix, place->choice_len);

    /* In front of a choice stand its tag and its length. */
    p->n_json_head = place->json_text;
    p->n_json_tail = len - json_tail;
    p->n_before = place->choice - 1;
    p->n_head = place->text - place->choice;
    p->n_tail = place->choice_len - p->n_head - place->text_len;
    p->n_behind = reply_len - p->n_before - n_prefix - place->choice_len;

    const uint8_t *choice = reply + p->n_before + n_prefix;
    buffer_consume(&p->bytes, buffer_length(&p->bytes));
    buffer_append(&p->bytes, json, p->n_json_head);
    buffer_append(&p->bytes, json + json_tail, p->n_json_tail);
    buffer_append(&p->bytes, reply, p->n_before);
    buffer_append(&p->bytes, choice, p->n_head);
    buffer_append(&p->bytes, choice + p->n_head + place->text_len, p->n_tail);
    buffer_append(&p->bytes, choice + place->choice_len, p->n_behind);
    if (p->bytes.error)
        buffer_done(&p->bytes);
}

enum translate_kind translate_chunk(struct translate_pattern *p, const uint8_t *json, size_t len,
                                    bool keep_obfuscation, struct translate_progress *progress,
                                    struct buffer *out, const char **ret_why)
{
    const size_t start = buffer_length(out);
    struct translate_place place;
    struct json_string text;

    if (find_text(p, json, len, &text) && append_with_text(p, &text, out)) {
        p->n_misses = 0;
        return TRANSLATE_COMPLETION;
    }
    if (p->n_misses > MISSES_MAX)
        return translate_response(json, len, false, keep_obfuscation, progress, out, ret_why);

    enum translate_kind kind =
        translate_valid(json, len, false, keep_obfuscation, progress, out, ret_why, &place);
    p->n_misses++;
    if (kind == TRANSLATE_MALFORMED && !out->error && !utf8_is_valid(json, len))
        return translate_response(json, len, false, keep_obfuscation, progress, out, ret_why);
    if (kind == TRANSLATE_COMPLETION && !out->error && place.n_choices == 1 && place.n_texts == 1 &&
        !place.is_counted) {
        place.choice -= start;
        place.text -= start;
        remember(p, json, len, buffer_bytes(out) + start, buffer_length(out) - start, &place);
    }
    return kind;
}

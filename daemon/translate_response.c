/*
 * From the JSON of an answer to the protobuf bytes of a Completion: the hot path. Each known member
 * is written where it is read, in the order of the text (protobuf allows any), strings with one
 * copy. It owns the table of members and the rule for what does not fit; what an error says is
 * translate_error.c's.
 *
 * What has no field is gathered in a second buffer, of which the common chunk needs nothing: there
 * the `extra` objects of the messages that are open lie behind one another, the innermost last.
 */
#include "json_reader.h"
#include "translate_internal.h"
#include "utf8.h"
#include "wire.h"

enum { USAGE_COMPLETION = 1, USAGE_PROMPT = 2, USAGE_TOTAL = 3 };

struct translation {
    struct json_reader json;
    struct buffer *out;
    struct buffer extras;
    struct translate_progress progress;
    struct translate_place place;
    const char *why;
    uint32_t choice_index;
    int64_t usage[USAGE_TOTAL + 1]; /* by field number, -1 if absent */
    bool keep_obfuscation;
    bool has_choices, has_choices_member, has_usage;
    bool is_error;      /* an error object */
    bool is_error_type; /* "object":"error" */
    bool is_finished;   /* the choice that is being read */
    bool stop;
};

/* A member with a field. take() consumes the value; or returns false, with nothing consumed and
 * nothing written, if it has another type. */
struct member {
    const char *name;
    uint8_t len;
    uint8_t field;
    bool (*take)(struct translation *t, uint32_t field);
};

#define MEMBER(name, field, take)                                                                  \
    {                                                                                              \
        name, sizeof(name) - 1, field, take                                                        \
    }

struct members {
    const struct member *list;
    uint8_t n;
    uint8_t extra_field;
};

#define MEMBERS(list, extra_field)                                                                 \
    {                                                                                              \
        list, sizeof(list) / sizeof *(list), extra_field                                           \
    }

static const struct member *find_member(const struct members *members,
                                        const struct json_string *key)
{
    const struct member *end = members->list + members->n;

    for (const struct member *m = members->list; m < end; m++)
        if (key->has_escapes ? json_string_equals(key, m->name)
                             : key->len == m->len && memcmp(key->data, m->name, m->len) == 0)
            return m;
    return NULL;
}

static void add_extra(struct translation *t, const struct json_string *key, size_t start)
{
    struct json_slice value;

    if (!json_skip(&t->json, &value))
        return;
    buffer_append_byte(&t->extras, buffer_length(&t->extras) > start ? ',' : '{');
    buffer_append(&t->extras, key->data - 1, key->len + 2); /* with its quotes */
    buffer_append_byte(&t->extras, ':');
    buffer_append(&t->extras, value.data, value.len);
}

static void end_extra(struct translation *t, uint32_t field, size_t start)
{
    buffer_append_byte(&t->extras, '}');
    if (!t->extras.error)
        wire_append_bytes(t->out, field, buffer_bytes(&t->extras) + start,
                          buffer_length(&t->extras) - start);
    buffer_truncate(&t->extras, start);
}

/* The members of the object that has been entered; returns how many. */
static size_t read_members(struct translation *t, const struct members *members)
{
    const size_t start = buffer_length(&t->extras);
    struct json_string key;
    size_t n = 0;

    for (; !t->stop && json_next_member(&t->json, &key); n++) {
        const struct member *m = find_member(members, &key);
        if (!m || (!m->take(t, m->field) && !json_read_null(&t->json)))
            add_extra(t, &key, start);
    }
    if (buffer_length(&t->extras) > start)
        end_extra(t, members->extra_field, start);
    return n;
}

/* ---- Values ---- */

static void put_string(struct buffer *out, uint32_t field, const struct json_string *s)
{
    if (s->has_escapes) {
        size_t mark = wire_begin(out, field);
        json_string_append(s, out);
        wire_end(out, mark);
    } else {
        wire_append_bytes(out, field, s->data, s->len);
    }
}

static bool take_string(struct translation *t, uint32_t field)
{
    struct json_string s;

    if (!json_read_string(&t->json, &s))
        return false;
    put_string(t->out, field, &s);
    return true;
}

static bool take_int64(struct translation *t, uint32_t field)
{
    int64_t value;

    if (!json_read_int64(&t->json, &value))
        return false;
    wire_append_int(t->out, field, value);
    return true;
}

static bool take_object(struct translation *t, uint32_t field, const struct members *members)
{
    if (!json_enter_object(&t->json))
        return false;
    size_t mark = wire_begin(t->out, field);
    read_members(t, members);
    wire_end(t->out, mark);
    return true;
}

/* ---- Logprobs ---- */

/*
 * All elements, or nothing: a list in which one element has another type goes to `extra` as a
 * whole, so the text is read again from where the list began.
 */
static bool take_list(struct translation *t, uint32_t field,
                      bool (*take_element)(struct translation *t, uint32_t field))
{
    const struct json_reader before = t->json;
    const size_t length = buffer_length(t->out);
    bool ok = json_enter_array(&t->json);

    while (ok && json_next_element(&t->json))
        ok = take_element(t, field);
    if (!ok) {
        t->json = before;
        buffer_truncate(t->out, length);
    }
    return ok;
}

static bool take_offset(struct translation *t, uint32_t field)
{
    int32_t value;

    (void)field; /* the list is packed */
    if (!json_read_int32(&t->json, &value))
        return false;
    wire_append_varint(t->out, (uint64_t)value);
    return true;
}

static bool take_offsets(struct translation *t, uint32_t field)
{
    const size_t length = buffer_length(t->out);
    size_t mark = wire_begin(t->out, field);

    if (!take_list(t, field, take_offset)) {
        buffer_truncate(t->out, length);
        return false;
    }
    wire_end(t->out, mark);
    return true;
}

/* A number, or null for none. */
static bool take_logprob(struct translation *t, uint32_t field)
{
    double value;

    if (json_read_double(&t->json, &value)) {
        wire_append_double(t->out, field, value);
        return true;
    }
    return json_read_null(&t->json);
}

static bool take_token_logprob(struct translation *t, uint32_t field)
{
    size_t mark = wire_begin(t->out, field);

    if (!take_logprob(t, 1))
        return false;
    wire_end(t->out, mark);
    return true;
}

static bool take_token_logprobs(struct translation *t, uint32_t field)
{
    return take_list(t, field, take_token_logprob);
}

static bool take_tokens(struct translation *t, uint32_t field)
{
    return take_list(t, field, take_string);
}

/* {"token": logprob, ...} as entries in the same order, or null. */
static bool take_top_entries(struct translation *t, uint32_t field)
{
    size_t mark = wire_begin(t->out, field);
    struct json_string token;

    if (json_read_null(&t->json)) {
        wire_append_int(t->out, 2, true);
        wire_end(t->out, mark);
        return true;
    }
    if (!json_enter_object(&t->json))
        return false;
    while (json_next_member(&t->json, &token)) {
        size_t entry = wire_begin(t->out, 1);
        put_string(t->out, 1, &token);
        if (!take_logprob(t, 2))
            return false;
        wire_end(t->out, entry);
    }
    wire_end(t->out, mark);
    return true;
}

static bool take_top_logprobs(struct translation *t, uint32_t field)
{
    return take_list(t, field, take_top_entries);
}

static bool take_logprobs(struct translation *t, uint32_t field)
{
    static const struct member list[] = {
        MEMBER("tokens", 3, take_tokens),
        MEMBER("token_logprobs", 2, take_token_logprobs),
        MEMBER("top_logprobs", 4, take_top_logprobs),
        MEMBER("text_offset", 1, take_offsets),
    };
    static const struct members members = MEMBERS(list, 5);

    return take_object(t, field, &members);
}

/* ---- Choices ---- */

static bool take_text(struct translation *t, uint32_t field)
{
    struct translate_place *p = &t->place;
    struct json_string s;

    if (!json_read_string(&t->json, &s))
        return false;
    p->n_texts++;
    p->json_text = (size_t)(s.data - t->json.start);
    p->json_text_len = s.len;
    p->text = buffer_length(t->out);
    put_string(t->out, field, &s);
    p->text_len = buffer_length(t->out) - p->text;
    return true;
}

static bool take_index(struct translation *t, uint32_t field)
{
    int32_t value;

    if (!json_read_int32(&t->json, &value))
        return false;
    wire_append_int(t->out, field, value);
    t->choice_index = (uint32_t)value;
    return true;
}

static bool take_finish_reason(struct translation *t, uint32_t field)
{
    enum { FINISH_REASON_TEXT = 6 };
    struct json_string s;
    int value = COMPLETION__V1__FINISH_REASON__FINISH_REASON_OTHER;

    if (!json_read_string(&t->json, &s))
        return false;
    if (s.len == 0)
        return true;
    if (json_string_equals(&s, "stop"))
        value = COMPLETION__V1__FINISH_REASON__FINISH_REASON_STOP;
    else if (json_string_equals(&s, "length"))
        value = COMPLETION__V1__FINISH_REASON__FINISH_REASON_LENGTH;
    else if (json_string_equals(&s, "content_filter"))
        value = COMPLETION__V1__FINISH_REASON__FINISH_REASON_CONTENT_FILTER;
    wire_append_int(t->out, field, value);
    t->is_finished = true;
    if (value == COMPLETION__V1__FINISH_REASON__FINISH_REASON_OTHER)
        put_string(t->out, FINISH_REASON_TEXT, &s);
    return true;
}

static void count_finished(struct translate_progress *p, uint32_t index)
{
    const uint32_t n_bits = sizeof p->finished * 8;

    if (index < n_bits) {
        uint64_t bit = (uint64_t)1 << index % 64;
        if (p->finished[index / 64] & bit)
            return;
        p->finished[index / 64] |= bit;
    }
    p->n_finished++;
}

static bool take_choice(struct translation *t, uint32_t field)
{
    static const struct member list[] = {
        MEMBER("text", TRANSLATE_TEXT_FIELD, take_text),
        MEMBER("index", 2, take_index),
        MEMBER("logprobs", 3, take_logprobs),
        MEMBER("finish_reason", 1, take_finish_reason),
    };
    static const struct members members = MEMBERS(list, 5);

    if (!json_enter_object(&t->json))
        return false;
    t->is_finished = false;
    size_t mark = wire_begin(t->out, field);
    read_members(t, &members);
    t->place.n_choices++;
    t->place.choice = mark;
    t->place.choice_len = buffer_length(t->out) - mark;
    wire_end(t->out, mark);
    if (t->is_finished) {
        count_finished(&t->progress, t->choice_index);
        t->place.is_counted = true;
    }
    return true;
}

static bool take_choices(struct translation *t, uint32_t field)
{
    t->has_choices_member = true;
    if (json_peek(&t->json) == JSON_NULL)
        return false;

    bool ok = json_enter_array(&t->json);
    for (uint32_t i = 0; ok && json_next_element(&t->json); i++) {
        t->choice_index = i; /* unless it says otherwise */
        ok = take_choice(t, field);
    }
    t->has_choices = ok;
    if (!ok) {
        t->why = "choices is not a list of objects";
        t->stop = true;
    }
    return true;
}

/* ---- Usage ---- */

static bool take_usage_count(struct translation *t, uint32_t field)
{
    int64_t value;

    if (!json_read_int64(&t->json, &value))
        return false;
    wire_append_int(t->out, field, value);
    t->usage[field] = value;
    return true;
}

static bool take_completion_details(struct translation *t, uint32_t field)
{
    static const struct member list[] = {
        MEMBER("accepted_prediction_tokens", 1, take_int64),
        MEMBER("audio_tokens", 2, take_int64),
        MEMBER("reasoning_tokens", 3, take_int64),
        MEMBER("rejected_prediction_tokens", 4, take_int64),
        MEMBER("text_tokens", 5, take_int64),
    };
    static const struct members members = MEMBERS(list, 6);

    return take_object(t, field, &members);
}

static bool take_prompt_details(struct translation *t, uint32_t field)
{
    static const struct member list[] = {
        MEMBER("audio_tokens", 1, take_int64),       MEMBER("cached_tokens", 2, take_int64),
        MEMBER("cache_write_tokens", 3, take_int64), MEMBER("image_tokens", 4, take_int64),
        MEMBER("text_tokens", 5, take_int64),
    };
    static const struct members members = MEMBERS(list, 6);

    return take_object(t, field, &members);
}

/* Zeros do not count: some servers send them with every chunk but the last. */
static void count_usage(struct translate_progress *p, const int64_t *usage)
{
    if (usage[USAGE_TOTAL] <= 0)
        return;
    p->completion_tokens = usage[USAGE_COMPLETION];
    p->prompt_tokens = usage[USAGE_PROMPT];
    p->total_tokens = usage[USAGE_TOTAL];
}

static bool take_usage(struct translation *t, uint32_t field)
{
    static const struct member list[] = {
        MEMBER("prompt_tokens", USAGE_PROMPT, take_usage_count),
        MEMBER("completion_tokens", USAGE_COMPLETION, take_usage_count),
        MEMBER("total_tokens", USAGE_TOTAL, take_usage_count),
        MEMBER("completion_tokens_details", 4, take_completion_details),
        MEMBER("prompt_tokens_details", 5, take_prompt_details),
    };
    static const struct members members = MEMBERS(list, 6);

    for (int i = USAGE_COMPLETION; i <= USAGE_TOTAL; i++)
        t->usage[i] = -1;
    if (!take_object(t, field, &members))
        return false;
    t->has_usage = t->place.is_counted = true;
    count_usage(&t->progress, t->usage);
    return true;
}

/* ---- Completions ---- */

static bool take_object_name(struct translation *t, uint32_t field)
{
    struct json_string s;

    if (!json_read_string(&t->json, &s))
        return false;
    t->is_error_type = json_string_equals(&s, "error");
    put_string(t->out, field, &s);
    return true;
}

/* null, false and "" say that there is none; nothing is read behind any other. */
static bool take_error(struct translation *t, uint32_t field)
{
    const struct json_reader before = t->json;
    struct json_string s;
    bool b;

    (void)field;
    bool is_none =
        (json_read_bool(&t->json, &b) && !b) || (json_read_string(&t->json, &s) && s.len == 0);
    t->json = before;
    if (is_none || json_peek(&t->json) == JSON_NULL)
        return false;
    t->is_error = t->stop = true;
    return true;
}

static bool take_obfuscation(struct translation *t, uint32_t field)
{
    (void)field;
    return !t->keep_obfuscation && json_skip(&t->json, NULL);
}

static const struct member completion_list[] = {
    MEMBER("id", 1, take_string),
    MEMBER("object", 5, take_object_name),
    MEMBER("created", 3, take_int64),
    MEMBER("model", 4, take_string),
    MEMBER("choices", 2, take_choices),
    MEMBER("usage", 7, take_usage),
    MEMBER("system_fingerprint", 6, take_string),
    MEMBER("obfuscation", 0, take_obfuscation),
    MEMBER("error", 0, take_error),
};
static const struct members completion_members = MEMBERS(completion_list, 8);

static enum translate_kind read_response(struct translation *t, bool whole)
{
    size_t n_members = 0;

    if (json_enter_object(&t->json))
        n_members = read_members(t, &completion_members);
    else if (!json_read_null(&t->json))
        t->why = "not a JSON object";

    if (t->is_error)
        return TRANSLATE_ERROR;
    if (!t->why)
        json_reader_end(&t->json);
    if (json_reader_error(&t->json, NULL))
        t->why = json_reader_error(&t->json, NULL);
    else if (!t->why && t->extras.error)
        t->why = "out of memory";
    if (t->why)
        return TRANSLATE_MALFORMED;
    if (n_members == 0)
        return TRANSLATE_NOTHING;
    if (t->has_choices || (!whole && (t->has_choices_member || t->has_usage)))
        return TRANSLATE_COMPLETION;
    return t->is_error_type ? TRANSLATE_ERROR : TRANSLATE_NO_CHOICES;
}

enum translate_kind translate_valid(const uint8_t *json, size_t len, bool whole,
                                    bool keep_obfuscation, struct translate_progress *progress,
                                    struct buffer *out, const char **ret_why,
                                    struct translate_place *ret)
{
    const size_t length = buffer_length(out);
    struct translation t = {
        .out = out,
        .extras = BUFFER_INIT(2 * len),
        .progress = *progress,
        .keep_obfuscation = keep_obfuscation,
    };

    json_reader_init(&t.json, json, len);
    enum translate_kind kind = read_response(&t, whole);
    if (t.extras.error && !out->error)
        out->error = t.extras.error;
    if (kind == TRANSLATE_COMPLETION && !out->error)
        *progress = t.progress;
    else
        buffer_truncate(out, length);
    if (kind == TRANSLATE_MALFORMED && ret_why)
        *ret_why = t.why;
    buffer_done(&t.extras);
    *ret = t.place;
    return kind;
}

enum translate_kind translate_response(const uint8_t *json, size_t len, bool whole,
                                       bool keep_obfuscation, struct translate_progress *progress,
                                       struct buffer *out, const char **ret_why)
{
    struct translate_place place;
    enum translate_kind kind =
        translate_valid(json, len, whole, keep_obfuscation, progress, out, ret_why, &place);

    /* The reader has checked the UTF-8; only what it refused is worth another look. */
    if (kind != TRANSLATE_MALFORMED || out->error || utf8_is_valid(json, len))
        return kind;

    struct buffer repaired = BUFFER_INIT(3 * len);
    utf8_append_repaired(&repaired, json, len);
    if (repaired.error)
        out->error = repaired.error;
    else
        kind = translate_valid(buffer_bytes(&repaired), buffer_length(&repaired), whole,
                               keep_obfuscation, progress, out, ret_why, &place);
    buffer_done(&repaired);
    return kind;
}

void translate_progress_init(struct translate_progress *p, uint64_t n_expected)
{
    *p = (struct translate_progress){
        .n_expected = n_expected,
        .prompt_tokens = -1,
        .completion_tokens = -1,
        .total_tokens = -1,
    };
}

bool translate_progress_is_complete(const struct translate_progress *p)
{
    return p->n_finished >= p->n_expected;
}

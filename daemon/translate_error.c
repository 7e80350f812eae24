/*
 * What an upstream says when it fails, whatever its dialect: who speaks JSON says message, type,
 * param and code somewhere; proxies say HTML; frameworks say plain text. It owns the way from there
 * to a gRPC status and a reason; it refuses to own the sentence that the caller is told.
 *
 * Nothing here fails: what can't be read becomes an empty text, and the HTTP status decides.
 */
#include <stdio.h>
#include <strings.h>

#include "json_reader.h"
#include "redact.h"
#include "translate.h"
#include "utf8.h"

enum {
    BODY_MAX = 64 * 1024,
    NESTING_MAX = 4,
};

/* Texts as they stand in the body. */
struct findings {
    struct json_string message, type, param, code;
    struct json_string status;     /* of HTTP, repeated in the body */
    struct json_string inner_code; /* Azure's innererror */
    struct json_string raw;        /* OpenRouter: what the server behind it said */
    bool is_api_error;             /* an error object of this kind of API, not a framework's */
};

/* ---- Reading ---- */

static void take_text(struct json_reader *r, struct json_string *slot)
{
    struct json_string s = {0};
    struct json_slice raw;

    if (!json_read_string(r, &s) && !json_read_null(r) && json_skip(r, &raw))
        s = (struct json_string){.data = raw.data, .len = raw.len};
    if (slot->len == 0)
        *slot = s;
}

/* The last name of FastAPI's path to the culprit: ["body","prompt"]. */
static void take_location(struct json_reader *r, struct json_string *slot)
{
    if (!json_enter_array(r))
        return;
    while (json_next_element(r))
        json_read_string(r, slot);
}

static struct json_string *find_slot(struct findings *f, const struct json_string *key)
{
    const struct {
        const char *name;
        struct json_string *slot;
    } slots[] = {
        {"message", &f->message},   {"msg", &f->message},   {"type", &f->type},
        {"error_type", &f->type},   {"param", &f->param},   {"code", &f->code},
        {"statusCode", &f->status}, {"status", &f->status}, {"http_status_code", &f->status},
        {"raw", &f->raw},
    };

    for (size_t i = 0; i < sizeof slots / sizeof *slots; i++)
        if (json_string_equals(key, slots[i].name))
            return slots[i].slot;
    return NULL;
}

static void read_members(struct json_reader *r, struct findings *f, unsigned depth);

/* `error` or `detail`: an object, a list of which the first counts, or the message itself. */
static void read_error(struct json_reader *r, struct findings *f, unsigned depth)
{
    if (depth < NESTING_MAX && json_enter_array(r)) {
        for (bool first = true; json_next_element(r); first = false)
            if (first)
                read_error(r, f, depth + 1);
    } else if (depth < NESTING_MAX && json_enter_object(r)) {
        read_members(r, f, depth + 1);
    } else {
        take_text(r, &f->message);
    }
}

/* One text out of an object beside the message. */
static void read_detail(struct json_reader *r, const char *name, struct json_string *slot)
{
    struct json_string key;

    if (!json_enter_object(r))
        return;
    while (json_next_member(r, &key))
        if (json_string_equals(&key, name))
            take_text(r, slot);
}

static void read_members(struct json_reader *r, struct findings *f, unsigned depth)
{
    struct json_string key, object;

    while (json_next_member(r, &key)) {
        struct json_string *slot = find_slot(f, &key);

        if (slot) {
            take_text(r, slot);
        } else if (json_string_equals(&key, "error") && json_peek(r) != JSON_NULL) {
            if (json_peek(r) == JSON_OBJECT)
                *f = (struct findings){0}; /* it knows better than what stands around it */
            f->is_api_error = true;
            read_error(r, f, depth);
        } else if (json_string_equals(&key, "detail")) {
            read_error(r, f, depth);
        } else if (json_string_equals(&key, "metadata")) {
            read_detail(r, "raw", &f->raw);
        } else if (json_string_equals(&key, "innererror")) {
            read_detail(r, "code", &f->inner_code);
        } else if (json_string_equals(&key, "loc")) {
            take_location(r, &f->param);
        } else if (json_string_equals(&key, "object") && json_read_string(r, &object)) {
            f->is_api_error |= json_string_equals(&object, "error");
        }
    }
}

/* An HTML page's title; empty if there is none. */
static struct json_string find_title(const char *text, size_t len)
{
    static const char tag[] = "<title";
    const char *end = text + len;

    for (const char *p = text; (p = memchr(p, '<', (size_t)(end - p))); p++) {
        if ((size_t)(end - p) < sizeof tag || strncasecmp(p, tag, sizeof tag - 1) != 0)
            continue;
        const char *title = memchr(p, '>', (size_t)(end - p));
        if (!title)
            break;
        title++;
        const char *title_end = memchr(title, '<', (size_t)(end - title));
        return (struct json_string){
            .data = title,
            .len = (size_t)((title_end ? title_end : end) - title),
        };
    }
    return (struct json_string){0};
}

static struct findings read_body(const char *text, size_t len)
{
    struct findings f = {0};
    struct json_reader r;
    enum json_type type;

    while (len > 0 && strchr(" \t\r\n", *text) && *text) {
        text++;
        len--;
    }
    if (len > 0 && *text == '<') {
        f.message = find_title(text, len);
        return f;
    }
    json_reader_init(&r, text, len);
    type = json_peek(&r);
    if (type == JSON_OBJECT || type == JSON_ARRAY || type == JSON_STRING)
        read_error(&r, &f, 0);
    if (f.message.len == 0)
        f.message = (struct json_string){.data = text, .len = len};
    return f;
}

/* The API's code, or what comes nearest to one. */
static const struct json_string *find_code(const struct findings *f)
{
    bool is_number = f->status.len > 0 && f->status.data[0] >= '0' && f->status.data[0] <= '9';

    return f->code.len > 0                       ? &f->code
           : f->inner_code.len > 0 || !is_number ? &f->inner_code
                                                 : &f->status;
}

/* ---- Status ---- */

/* proto/PROTOCOL.md has this table. The first that fits holds. */
static const struct {
    short first, last;
    enum grpc_status status;
    const char *reason;
    bool retryable;
} statuses[] = {
    {300, 399, GRPC_FAILED_PRECONDITION, "UPSTREAM_REDIRECT", false},
    {401, 401, GRPC_UNAUTHENTICATED, "UPSTREAM_AUTH", false},
    {402, 402, GRPC_FAILED_PRECONDITION, "UPSTREAM_QUOTA", false},
    {403, 403, GRPC_PERMISSION_DENIED, "UPSTREAM_ERROR", false},
    {404, 404, GRPC_NOT_FOUND, "UPSTREAM_ERROR", false},
    {408, 408, GRPC_UNAVAILABLE, "UPSTREAM_TIMEOUT", true},
    {409, 409, GRPC_ABORTED, "UPSTREAM_ERROR", true},
    {424, 424, GRPC_INTERNAL, "UPSTREAM_ERROR", false},
    {429, 429, GRPC_RESOURCE_EXHAUSTED, "UPSTREAM_RATE_LIMIT", true},
    {400, 499, GRPC_INVALID_ARGUMENT, "UPSTREAM_ERROR", false},
    {501, 501, GRPC_UNIMPLEMENTED, "UPSTREAM_ERROR", false},
    {503, 503, GRPC_UNAVAILABLE, "UPSTREAM_OVERLOADED", true},
    {504, 504, GRPC_UNAVAILABLE, "UPSTREAM_TIMEOUT", true},
    {522, 522, GRPC_UNAVAILABLE, "UPSTREAM_TIMEOUT", true},
    {524, 524, GRPC_UNAVAILABLE, "UPSTREAM_TIMEOUT", true},
    {529, 529, GRPC_UNAVAILABLE, "UPSTREAM_OVERLOADED", true},
    {502, 502, GRPC_UNAVAILABLE, "UPSTREAM_ERROR", true},
    {520, 529, GRPC_UNAVAILABLE, "UPSTREAM_ERROR", true},
    {500, 599, GRPC_INTERNAL, "UPSTREAM_ERROR", true},
};

/* Codes and types that say as much as a status: the beginnings of words, in any case of letters. */
static const struct {
    const char *word;
    int http_status;
} words[] = {
    {"insufficient_quota", 429},
    {"billing", 429},
    {"rate_limit", 429},
    {"RateLimit", 429},
    {"too_many_requests", 429},
    {"overloaded", 503},
    {"server_is_overloaded", 503},
    {"engine_overloaded", 503},
    {"service_unavailable", 503},
    {"unavailable_error", 503},
    {"server_error", 500},
    {"internal_server_error", 500},
    {"InternalServerError", 500},
    {"api_error", 500},
    {"invalid_request", 400},
    {"BadRequest", 400},
    {"context_length_exceeded", 400},
    {"content_filter", 400},
    {"validation", 422},
    {"authentication", 401},
    {"invalid_api_key", 401},
    {"permission", 403},
    {"not_found", 404},
    {"NotFound", 404},
    {"model_not_found", 404},
    {"timeout", 504},
};

static bool begins_with(const char *text, const char *word)
{
    return strncasecmp(text, word, strlen(word)) == 0;
}

/* 429, "429", rate_limit_exceeded; 0 for what says nothing. */
static int read_status(const char *text)
{
    int n = 0;

    for (size_t i = 0; i < 3 && text[i] >= '0' && text[i] <= '9'; i++)
        n = n * 10 + (text[i] - '0');
    if (n >= 300 && n <= 599 && text[3] == '\0')
        return n;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (begins_with(text, words[i].word))
            return words[i].http_status;
    return 0;
}

static bool is_quota(const char *text)
{
    return begins_with(text, "insufficient_quota") || begins_with(text, "billing");
}

/* ---- Texts ---- */

/* Length of the control character that data begins with, or 0. C1 is among them: terminals obey. */
static size_t control_length(const uint8_t *data, size_t len)
{
    if (data[0] < ' ' || data[0] == 0x7F)
        return 1;
    return len > 1 && data[0] == 0xC2 && data[1] < 0xA0 ? 2 : 0;
}

static size_t character_length(const uint8_t *data, size_t len)
{
    size_t n = 1;

    while (n < len && (data[n] & 0xC0) == 0x80)
        n++;
    return n;
}

/* A text among those that are redacted together. */
struct span {
    size_t from, to;
};

/* Appends to the text, with a space for control characters and without what is hidden. */
static void append_clean(char *text, size_t size, const struct redact *r, struct span span)
{
    static const char redacted[] = "[redacted]";
    size_t n = strlen(text), at = span.from;
    bool after_control = false;

    while (at < span.to) {
        const uint8_t *data = redact_text(r, at);
        const void *piece = data;
        size_t step = 0, piece_len;

        while (at + step < span.to && redact_is_hidden(r, at + step))
            step++;
        if (step > 0) {
            piece = redacted;
            piece_len = sizeof redacted - 1;
            after_control = false;
        } else if ((step = control_length(data, span.to - at)) > 0) {
            piece = " ";
            piece_len = n > 0 && text[n - 1] != ' ';
            after_control = true;
        } else {
            step = piece_len = character_length(data, span.to - at);
            /* Indentation behind a line's end. */
            if (after_control && *data == ' ')
                piece_len = 0;
            else
                after_control = false;
        }
        if (piece_len >= size - n)
            break;
        memcpy(text + n, piece, piece_len);
        n += piece_len;
        at += step;
    }
    while (n > 0 && text[n - 1] == ' ')
        n--;
    text[n] = '\0';
}

/* The texts as they are to be shown, while they are looked through. */
struct texts {
    struct span type, param, code, message, raw;
};

/* What can't be kept is not shown. */
static struct span add_string(struct redact *r, const struct json_string *s, size_t max)
{
    struct span span = {.from = redact_end(r)};
    struct buffer decoded = BUFFER_INIT(BODY_MAX * 3);
    const void *text = s->data;
    size_t len = s->len;

    if (s->has_escapes) {
        json_string_append(s, &decoded);
        text = buffer_bytes(&decoded);
        len = buffer_length(&decoded);
    }
    span.to = span.from + redact_add(r, text, len > max ? utf8_truncate(text, len, max) : len);
    buffer_done(&decoded);
    return span;
}

/* A code of this kind of API is its word, even if the prompt has it too. */
static bool is_known_word(const struct redact *r, struct span span)
{
    char word[TRANSLATE_WORD_MAX];
    size_t len = span.to - span.from;

    if (len >= sizeof word)
        return false;
    memcpy(word, redact_text(r, span.from), len);
    word[len] = '\0';
    return read_status(word) != 0 &&
           strspn(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == len;
}

static void hide(struct redact *r, const struct texts *t, const char *secret,
                 const uint8_t *request, size_t request_len)
{
    redact_name(r, t->param.from, t->param.to);
    redact_request(r, request, request_len);
    if (is_known_word(r, t->type))
        redact_show(r, t->type.from, t->type.to);
    if (is_known_word(r, t->code))
        redact_show(r, t->code.from, t->code.to);
    redact_secret(r, secret);
}

static void copy_texts(const struct findings *f, const char *secret, const uint8_t *request,
                       size_t request_len, struct translate_error *e)
{
    struct redact *r = redact_new();

    if (!r)
        return;
    struct texts t = {
        .type = add_string(r, &f->type, 2 * TRANSLATE_WORD_MAX),
        .param = add_string(r, &f->param, 2 * TRANSLATE_WORD_MAX),
        .code = add_string(r, find_code(f), 2 * TRANSLATE_WORD_MAX),
        .message = add_string(r, &f->message, TRANSLATE_MESSAGE_MAX),
        .raw = add_string(r, &f->raw, TRANSLATE_MESSAGE_MAX),
    };
    hide(r, &t, secret, request, request_len);
    append_clean(e->type, sizeof e->type, r, t.type);
    append_clean(e->param, sizeof e->param, r, t.param);
    append_clean(e->code, sizeof e->code, r, t.code);
    append_clean(e->message, sizeof e->message, r, t.message);
    if (f->raw.len > 0) {
        char raw[TRANSLATE_MESSAGE_MAX] = "";
        size_t n = strlen(e->message);
        append_clean(raw, sizeof raw, r, t.raw);
        snprintf(e->message + n, sizeof e->message - n, "%s%s", n ? ": " : "", raw);
        e->message[utf8_valid_prefix(e->message, strlen(e->message))] = '\0';
    }
    redact_free(r);
}

/* ---- The outcome ---- */

/* A short text for comparing, as it came. */
static void copy_word(const struct json_string *s, char word[static TRANSLATE_WORD_MAX])
{
    struct json_string cut = *s;

    *word = '\0';
    if (s->len >= TRANSLATE_WORD_MAX)
        return;
    word[json_string_decode(&cut, word)] = '\0';
}

static int guess_status(const struct findings *f, const char *code, const char *type)
{
    char repeated[TRANSLATE_WORD_MAX];
    int status;

    copy_word(&f->status, repeated);
    status = read_status(repeated);
    if (!status)
        status = read_status(code);
    if (!status)
        status = read_status(type);
    return status ? status : 500;
}

/* By the words as they came: what stands in a prompt must not change the status. */
static void classify(int http_status, const struct findings *f, struct translate_error *e)
{
    char code[TRANSLATE_WORD_MAX], type[TRANSLATE_WORD_MAX];

    copy_word(find_code(f), code);
    copy_word(&f->type, type);
    if (http_status == 0)
        http_status = guess_status(f, code, type);
    e->http_status = http_status;
    e->status = GRPC_INTERNAL;
    e->reason = "UPSTREAM_ERROR";
    for (size_t i = 0; i < sizeof statuses / sizeof *statuses; i++) {
        if (http_status < statuses[i].first || http_status > statuses[i].last)
            continue;
        e->status = statuses[i].status;
        e->reason = statuses[i].reason;
        e->retryable = statuses[i].retryable;
        break;
    }
    if (is_quota(code) || is_quota(type)) {
        e->reason = "UPSTREAM_QUOTA";
        e->retryable = false;
    } else if (http_status == 404 && !f->is_api_error) {
        e->reason = "WRONG_BASE_URL";
    }
}

void translate_error(int http_status, const uint8_t *body, size_t len, const char *secret,
                     const uint8_t *request, size_t request_len, struct translate_error *ret)
{
    struct buffer repaired = BUFFER_INIT(BODY_MAX * 3);

    if (len > BODY_MAX)
        len = BODY_MAX;
    if (!utf8_is_valid(body, len)) {
        utf8_append_repaired(&repaired, body, len);
        body = buffer_bytes(&repaired);
        len = repaired.error ? 0 : buffer_length(&repaired);
    }

    struct findings f = read_body((const char *)body, len);
    *ret = (struct translate_error){0};
    copy_texts(&f, secret, request, request_len, ret);
    classify(http_status, &f, ret);
    buffer_done(&repaired);
}

/* Moves past the line's end; returns the line. */
static struct json_slice next_line(const char **p, const char *end)
{
    const char *line = *p, *eol = line;

    while (eol < end && *eol != '\n' && *eol != '\r')
        eol++;
    *p = eol < end ? eol + 1 : end;
    return (struct json_slice){.data = line, .len = (size_t)(eol - line)};
}

void translate_error_event(const uint8_t **body, size_t *len)
{
    static const char *const others[] = {":", "event:", "id:", "retry:"};
    const char *p = (const char *)*body, *end = p + *len;

    while (p < end) {
        struct json_slice line = next_line(&p, end);
        bool is_field = line.len == 0;

        if (line.len >= 5 && memcmp(line.data, "data:", 5) == 0) {
            *body = (const uint8_t *)line.data + 5;
            *len = line.len - 5;
            return;
        }
        for (size_t i = 0; i < sizeof others / sizeof *others; i++)
            is_field |= line.len >= strlen(others[i]) &&
                        memcmp(line.data, others[i], strlen(others[i])) == 0;
        if (!is_field)
            return;
    }
}

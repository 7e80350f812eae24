/*
 * Between protobuf and the JSON of the Completions API. Pure: bytes and messages in, bytes and
 * messages out; no descriptors, no events, no clock. Knows nothing of HTTP but status codes.
 */
#ifndef TRANSLATE_H
#define TRANSLATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../proto/buffer.h"
#include "../proto/grpc/grpc_status.h"
#include "completion/v1/completion.pb-c.h"

typedef Completion__V1__CreateCompletionRequest translate_request_message;

/* ---- Requests (translate_request.c) ---- */

struct translate_request_options {
    bool stream;             /* CreateStream: the body says "stream":true */
    bool validate;           /* check the API's documented ranges */
    bool allow_extra_body;   /* else extra_body is refused with PERMISSION_DENIED */
    const char *const *drop; /* NULL-terminated names of the API's parameters to leave out, or NULL;
                              * extra_body keeps its members */
};

/* What is wrong with a request, for the caller. */
struct translate_refusal {
    enum grpc_status status; /* INVALID_ARGUMENT or PERMISSION_DENIED */
    char field[64];          /* as in the .proto */
    char text[256];          /* the field, what is wrong with its value, the range, what to change;
                              * numbers are quoted, texts never are */
};

/*
 * Checks the request and appends it as a JSON body. Always checked, whatever `validate` says: model
 * is there, not empty and without control characters; user without control characters; numbers are
 * finite; token ids are not negative; lists are not empty; extra_body is a JSON object without
 * duplicate keys, of depth 32 at most, whose members are not fields of the request nor "stream", in
 * any case of letters; stream_options only if streaming. With validate: the ranges in the .proto,
 * best_of >= n, best_of not above n if streaming, at most four stops.
 *
 * Fields that are not set are not written; numbers keep their value; strings may hold NUL. The
 * order of members is that of the .proto, then extra_body's. 0; -EINVAL (ret is filled; body may
 * have been begun); -ENOMEM; or the buffer's error.
 */
int translate_request(const translate_request_message *request,
                      const struct translate_request_options *options, struct buffer *body,
                      struct translate_refusal *ret);

/* How many choices the answer will have: n times the number of prompts. */
uint64_t translate_request_n_choices(const translate_request_message *request);

/* How many tokens the request may cost: those of the prompts (exact for token ids, else guessed as
 * one for each four bytes) and the most that it lets the upstream generate. */
struct translate_tokens {
    int64_t prompt, completion;
};
struct translate_tokens translate_request_tokens(const translate_request_message *request);

/* ---- Responses (translate_response.c) ---- */

enum translate_kind {
    TRANSLATE_COMPLETION, /* a completion, or a chunk of one: appended */
    TRANSLATE_NOTHING,    /* `null`, `{}`: to be passed over */
    TRANSLATE_ERROR,      /* an object with an `error` that is not null, false or "", or without
                           * choices and with "object":"error" */
    TRANSLATE_NO_CHOICES, /* an object, but not this API's: neither choices nor usage */
    TRANSLATE_MALFORMED,  /* not JSON, not an object, or choices of the wrong type */
};

/* What the translation has seen of one call, over all of its chunks. */
struct translate_progress {
    uint64_t n_expected;  /* choices; see translate_request_n_choices() */
    uint64_t n_finished;  /* choices that have had a finish_reason */
    uint64_t finished[4]; /* by index, as bits; indices above 255 are only counted */
    int64_t prompt_tokens, completion_tokens, total_tokens; /* of the last usage above 0, else -1 */
};

void translate_progress_init(struct translate_progress *p, uint64_t n_expected);

/* Every choice has had a finish_reason. */
bool translate_progress_is_complete(const struct translate_progress *p);

/*
 * Translates the JSON of a response body or of one event into the protobuf bytes of a Completion,
 * in one pass, appended to out; appends nothing unless the result is TRANSLATE_COMPLETION. White
 * space in front is skipped. Bytes that are not UTF-8 are repaired with U+FFFD first.
 *
 * A known member of the API's type goes to its field; null is absent; any other member, and a known
 * one of another type (a null among `tokens`, a chat-shaped `logprobs`), goes word for word to
 * `extra` of the innermost message that has one. `obfuscation` is dropped unless keep_obfuscation.
 * An empty finish_reason counts as null.
 *
 * whole: a response body, where `choices` must be there. ret_why (may be NULL) gets a static text
 * for MALFORMED. progress changes only with a COMPLETION. Ask for out->error first: if memory or
 * out's limit ran out, it is set, nothing was appended, and the kind says nothing.
 */
enum translate_kind translate_response(const uint8_t *json, size_t len, bool whole,
                                       bool keep_obfuscation, struct translate_progress *progress,
                                       struct buffer *out, const char **ret_why);

/* ---- Chunks of a stream (translate_chunk.c) ---- */

/*
 * The JSON and the protobuf bytes of a chunk without its text. From one chunk of a stream to the
 * next the text is mostly all that changes: one that agrees with the pattern, byte by byte, is what
 * the pattern says with another text, and nothing else of it needs to be read.
 */
struct translate_pattern {
    struct buffer bytes; /* the six pieces, one behind the other; none: there is no pattern */
    size_t n_json_head, n_json_tail;
    size_t n_before, n_head, n_tail, n_behind; /* protobuf: up to the choice's length; the choice's
                                                * fields in front of and behind the text; the rest */
    unsigned n_misses; /* since it was of use */
};

/* Its memory, 4 KiB at most, is charged to memory. Without memory there is no pattern. */
void translate_pattern_init(struct translate_pattern *p, struct memory *memory);
void translate_pattern_done(struct translate_pattern *p);

/* As translate_response() of one event, and always with the same result. */
enum translate_kind translate_chunk(struct translate_pattern *p, const uint8_t *json, size_t len,
                                    bool keep_obfuscation, struct translate_progress *progress,
                                    struct buffer *out, const char **ret_why);

/* ---- Errors (translate_error.c) ---- */

enum { TRANSLATE_MESSAGE_MAX = 4096, TRANSLATE_WORD_MAX = 128 };

/* An upstream's error in whatever shape it came. Texts are valid UTF-8 without control characters,
 * cut to the size, empty if absent. */
struct translate_error {
    enum grpc_status status;
    const char *reason; /* static: UPSTREAM_ERROR, UPSTREAM_AUTH, ... see proto/PROTOCOL.md */
    bool retryable;
    int http_status; /* as given, or what the error itself says */
    char type[TRANSLATE_WORD_MAX];
    char param[TRANSLATE_WORD_MAX];
    char code[TRANSLATE_WORD_MAX];
    char message[TRANSLATE_MESSAGE_MAX];
};

/*
 * Reads an error body: {"error":{message,type,param,code}} and the other shapes in the field: error
 * as a string, the members at the top, {"detail":...}, {statusCode,message}, {"object":"error"},
 * Azure's innererror, HTML (its title only), plain text, nothing. http_status is the response's, or
 * 0 for an error inside a stream or a body of status 200: then code, http_status_code or type
 * decide as far as they are known, else INTERNAL. The status follows from http_status, code and
 * type as proto/PROTOCOL.md lists it.
 *
 * Texts are shown without the key that was sent, secret, and without what they repeat of the
 * request's JSON body, as redact.h has it: "[redacted]" stands there instead. Both may be left out
 * (NULL, 0). The API's own words in type and code, and names of parameters in param, are shown even
 * if the request has them too. Without memory for that the texts are empty, or hidden as a whole.
 */
void translate_error(int http_status, const uint8_t *body, size_t len, const char *secret,
                     const uint8_t *request, size_t request_len, struct translate_error *ret);

/* The `data` of the first event of an event-stream body, if it begins with one: servers that answer
 * an error status with text/event-stream. Otherwise all of the body. */
void translate_error_event(const uint8_t **body, size_t *len);

#endif

/*
 * libcompletion: text completions from completiond, over its Unix socket.
 *
 *     completion_client *client;
 *     completion_request *request;
 *     completion_result *result;
 *     completion_error *error = completion_error_new();
 *
 *     completion_client_new(NULL, &client);
 *     completion_request_new(&request);
 *     completion_request_set_model(request, "gpt-3.5-turbo-instruct", COMPLETION_ZERO_TERMINATED);
 *     completion_request_set_prompt(request, "Once upon a time", COMPLETION_ZERO_TERMINATED);
 *     if (completion_create(client, request, 30000, &result, error) < 0)
 *         fprintf(stderr, "%s\n", completion_error_message(error));
 *
 * Conventions
 *   - Functions that can fail return 0 (or a positive number that they describe), or a negative
 *     errno value. Results come last and are untouched on failure.
 *   - _free() takes NULL and returns NULL.
 *   - Texts go in with a length in bytes, or COMPLETION_ZERO_TERMINATED; they must be UTF-8,
 *     which the daemon checks. Texts come out as struct completion_text.
 *   - What is not set is not sent: the model's default holds. Ranges are the API's, documented in
 *     completion.proto; the daemon checks them and names the field.
 *   - The library has no global state, starts no thread, raises and handles no signal, and writes
 *     nothing. One client, and what comes from it, belongs to one thread at a time; different
 *     clients may be used in different threads. After fork() the child can't use the parent's
 *     client (-ECHILD), but free it.
 *   - A timeout is in milliseconds for the whole call; negative: none. The clock is monotonic.
 */
#ifndef COMPLETION_H
#define COMPLETION_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define COMPLETION_ZERO_TERMINATED ((size_t)-1)

typedef struct completion_client completion_client;
typedef struct completion_request completion_request;
typedef struct completion_result completion_result;
typedef struct completion_stream completion_stream;
typedef struct completion_error completion_error;

/* Bytes of UTF-8, which may hold NUL and do not end in it. data is NULL if the text is absent.
 * Valid as long as what it was asked of. */
typedef struct completion_text {
    const char *data;
    size_t length;
} completion_text;

/* ---- Errors ---- */

/* gRPC's status codes. */
enum completion_status {
    COMPLETION_OK = 0,
    COMPLETION_CANCELLED = 1,
    COMPLETION_UNKNOWN = 2,
    COMPLETION_INVALID_ARGUMENT = 3,
    COMPLETION_DEADLINE_EXCEEDED = 4,
    COMPLETION_NOT_FOUND = 5,
    COMPLETION_ALREADY_EXISTS = 6,
    COMPLETION_PERMISSION_DENIED = 7,
    COMPLETION_RESOURCE_EXHAUSTED = 8,
    COMPLETION_FAILED_PRECONDITION = 9,
    COMPLETION_ABORTED = 10,
    COMPLETION_OUT_OF_RANGE = 11,
    COMPLETION_UNIMPLEMENTED = 12,
    COMPLETION_INTERNAL = 13,
    COMPLETION_UNAVAILABLE = 14,
    COMPLETION_DATA_LOSS = 15,
    COMPLETION_UNAUTHENTICATED = 16
};

/* An error object is the caller's, may be used for any number of calls, and tells of the last one
 * that failed. NULL if there is no memory. Wherever one is taken, NULL may be given instead. */
completion_error *completion_error_new(void);
completion_error *completion_error_free(completion_error *error);

enum completion_status completion_error_status(const completion_error *error);
/* "UNAVAILABLE" */
const char *completion_error_status_name(const completion_error *error);
/* A sentence that says what happened and what to do. Never NULL. */
const char *completion_error_message(const completion_error *error);

/* What the daemon adds; completion.proto, ErrorDetail, says what each means. Texts are "" and
 * numbers are 0 (retry_after_ms: -1) if absent. Where the daemon had no last word (the connection
 * broke, the deadline passed, the call was cancelled), maybe_executed and retryable are the
 * library's: 1 and as the status says, but maybe_executed is 0 if nothing was sent. */
const char *completion_error_reason(const completion_error *error);
const char *completion_error_type(const completion_error *error);
const char *completion_error_param(const completion_error *error);
const char *completion_error_code(const completion_error *error);
const char *completion_error_api_message(const completion_error *error);
const char *completion_error_upstream(const completion_error *error);
const char *completion_error_request_id(const completion_error *error);
const char *completion_error_call_id(const completion_error *error);
const char *completion_error_phase(const completion_error *error);
int completion_error_http_status(const completion_error *error);
int64_t completion_error_retry_after_ms(const completion_error *error);
int completion_error_attempts(const completion_error *error);
int64_t completion_error_chunks_sent(const completion_error *error);
int completion_error_maybe_executed(const completion_error *error);
int completion_error_retryable(const completion_error *error);

/* ---- Clients ---- */

/*
 * A client connects at its first call, keeps one connection for all of its calls, and connects anew
 * when that is gone. socket_path NULL: $COMPLETIOND_SOCKET, else
 * $XDG_RUNTIME_DIR/completiond/rpc.sock if it is there, else /run/completiond/rpc.sock. Programs
 * that run with other rights than their user's do not look at the environment.
 * 0, -ENOMEM, -EINVAL ("") or -ENAMETOOLONG (more than 107 bytes).
 */
int completion_client_new(const char *socket_path, completion_client **ret);

/* Streams of the client must have been freed before. */
completion_client *completion_client_free(completion_client *client);

const char *completion_client_socket(const completion_client *client);

/*
 * While a call blocks, `wait` is called about every interval_ms, and when a signal interrupts the
 * wait; elapsed_ms counts from the beginning of this wait. Not 0: the call is cancelled, and fails
 * with -ECANCELED. It may call completion_stream_cancel(), and nothing else with this client. NULL:
 * nothing is called.
 */
void completion_client_set_wait(completion_client *client,
                                int (*wait)(void *user, int64_t elapsed_ms), void *user,
                                int interval_ms);

/* Is the daemon there and serving? 1: yes; 0: it is shutting down; or negative. */
int completion_client_check(completion_client *client, int64_t timeout_ms, completion_error *error);

/*
 * What the daemon is doing, as the text of a JSON object: GetStatusResponse of status.proto, with
 * its names. What has no value is not there, enum values are their names. To be freed with free();
 * ends in NUL, which ret_length (may be NULL) does not count. 0 or negative; with
 * COMPLETION_UNIMPLEMENTED the daemon is older than this, and completion_client_check() says what
 * there is to know.
 */
int completion_client_status_json(completion_client *client, int64_t timeout_ms, char **ret,
                                  size_t *ret_length, completion_error *error);

/* ---- Requests ---- */

/* A request may be used for any number of calls, and changed between them. Setters return 0,
 * -EINVAL (NULL with a length that is not 0, or a text of more than 4 MiB) or -ENOMEM, and then the
 * request is as it was. _set_ takes the place of what was set or added before, _add_ adds to what
 * was added; setting one form of prompt or stop takes the place of another. */
int completion_request_new(completion_request **ret);
completion_request *completion_request_free(completion_request *request);

int completion_request_set_model(completion_request *request, const char *model, size_t length);

/* One prompt. */
int completion_request_set_prompt(completion_request *request, const char *prompt, size_t length);
/* One of several prompts. */
int completion_request_add_prompt(completion_request *request, const char *prompt, size_t length);
/* One prompt as token ids. */
int completion_request_set_prompt_tokens(completion_request *request, const int32_t *ids, size_t n);
/* One of several prompts as token ids. */
int completion_request_add_prompt_tokens(completion_request *request, const int32_t *ids, size_t n);

int completion_request_set_best_of(completion_request *request, int32_t best_of);
int completion_request_set_echo(completion_request *request, int echo);
int completion_request_set_frequency_penalty(completion_request *request, double penalty);
int completion_request_add_logit_bias(completion_request *request, int32_t token, double bias);
int completion_request_set_logprobs(completion_request *request, int32_t logprobs);
int completion_request_set_max_tokens(completion_request *request, int32_t max_tokens);
int completion_request_set_n(completion_request *request, int32_t n);
int completion_request_set_presence_penalty(completion_request *request, double penalty);
int completion_request_set_seed(completion_request *request, int64_t seed);
/* One stop sequence. */
int completion_request_set_stop(completion_request *request, const char *stop, size_t length);
/* One of up to four, sent as an array. */
int completion_request_add_stop(completion_request *request, const char *stop, size_t length);
int completion_request_set_include_obfuscation(completion_request *request, int include);
int completion_request_set_include_usage(completion_request *request, int include);
int completion_request_set_suffix(completion_request *request, const char *suffix, size_t length);
int completion_request_set_temperature(completion_request *request, double temperature);
int completion_request_set_top_p(completion_request *request, double top_p);
int completion_request_set_user(completion_request *request, const char *user, size_t length);
/* Parameters beyond the API, as a JSON object. */
int completion_request_set_extra_body(completion_request *request, const char *json, size_t length);

/* A key of the caller's own for the upstream, where policy allows that. Printable ASCII. Wiped when
 * the request is freed. */
int completion_request_set_api_key(completion_request *request, const char *key, size_t length);

/* ---- Calls ---- */

/* One request, one whole answer. 0 or negative: -ECANCELED, -ETIMEDOUT, -ECONNREFUSED and the like
 * for what happens here, -EIO for a status from the daemon; the error object says more. If the
 * daemon provably did nothing with a call, because it was being restarted, the call is made again
 * once, within the same deadline; no other call is. */
int completion_create(completion_client *client, const completion_request *request,
                      int64_t timeout_ms, completion_result **ret, completion_error *error);

/* Starts a streamed answer. Several streams of a client may be open at once; one that is not read
 * holds up only its own upstream. 0 or negative, and made again, as above. */
int completion_stream_open(completion_client *client, const completion_request *request,
                           int64_t timeout_ms, completion_stream **ret, completion_error *error);

/* The next chunk, blocking: 1, and a result that lasts until the next call with this stream; 0: the
 * answer was whole; negative: it was not, and no more will come. */
int completion_stream_next(completion_stream *stream, const completion_result **ret,
                           completion_error *error);

/* Stops the generation. completion_stream_next() then fails with -ECANCELED. May be called again.
 */
void completion_stream_cancel(completion_stream *stream);

/* Stops the generation if it has not ended. */
completion_stream *completion_stream_free(completion_stream *stream);

/* ---- Results ---- */

enum completion_finish_reason {
    COMPLETION_FINISH_UNSPECIFIED = 0,
    COMPLETION_FINISH_STOP = 1,
    COMPLETION_FINISH_LENGTH = 2,
    COMPLETION_FINISH_CONTENT_FILTER = 3,
    COMPLETION_FINISH_OTHER = 4
};

enum completion_usage_field {
    COMPLETION_USAGE_COMPLETION_TOKENS,
    COMPLETION_USAGE_PROMPT_TOKENS,
    COMPLETION_USAGE_TOTAL_TOKENS,
    COMPLETION_USAGE_ACCEPTED_PREDICTION_TOKENS,
    COMPLETION_USAGE_COMPLETION_AUDIO_TOKENS,
    COMPLETION_USAGE_REASONING_TOKENS,
    COMPLETION_USAGE_REJECTED_PREDICTION_TOKENS,
    COMPLETION_USAGE_COMPLETION_TEXT_TOKENS,
    COMPLETION_USAGE_PROMPT_AUDIO_TOKENS,
    COMPLETION_USAGE_CACHED_TOKENS,
    COMPLETION_USAGE_CACHE_WRITE_TOKENS,
    COMPLETION_USAGE_IMAGE_TOKENS,
    COMPLETION_USAGE_PROMPT_TEXT_TOKENS
};

/* Functions that return int and fill ret (unless it is NULL): 1 if the value is there, else 0. A
 * choice (from 0, in the order of the message, not the API's index) or position that does not exist
 * has nothing. `extra` is the text of a JSON object: the members that the API does not have, as the
 * server sent them. */
completion_result *completion_result_free(completion_result *result);
completion_text completion_result_id(const completion_result *result);
completion_text completion_result_model(const completion_result *result);
completion_text completion_result_object(const completion_result *result);
completion_text completion_result_system_fingerprint(const completion_result *result);
completion_text completion_result_extra(const completion_result *result);
int completion_result_created(const completion_result *result, int64_t *ret);

int completion_result_has_usage(const completion_result *result);
int completion_result_usage(const completion_result *result, enum completion_usage_field field,
                            int64_t *ret);
completion_text completion_usage_extra(const completion_result *result);
completion_text completion_usage_completion_tokens_extra(const completion_result *result);
completion_text completion_usage_prompt_tokens_extra(const completion_result *result);

size_t completion_result_n_choices(const completion_result *result);
int completion_choice_index(const completion_result *result, size_t choice, int32_t *ret);
completion_text completion_choice_text(const completion_result *result, size_t choice);
completion_text completion_choice_extra(const completion_result *result, size_t choice);
enum completion_finish_reason completion_choice_finish_reason(const completion_result *result,
                                                              size_t choice);
/* The API's word: "stop", or the server's own. */
completion_text completion_choice_finish_reason_text(const completion_result *result,
                                                     size_t choice);

int completion_choice_has_logprobs(const completion_result *result, size_t choice);
completion_text completion_logprobs_extra(const completion_result *result, size_t choice);
size_t completion_logprobs_n_tokens(const completion_result *result, size_t choice);
completion_text completion_logprobs_token(const completion_result *result, size_t choice,
                                          size_t token);
int completion_logprobs_text_offset(const completion_result *result, size_t choice, size_t token,
                                    int32_t *ret);
/* 0 also where the server sent null. */
int completion_logprobs_token_logprob(const completion_result *result, size_t choice, size_t token,
                                      double *ret);
/* How many likeliest tokens are given for the position; -1: the server sent null. */
int completion_logprobs_n_top(const completion_result *result, size_t choice, size_t token);
/* The one at this rank, from 0, in the server's order. */
completion_text completion_logprobs_top_token(const completion_result *result, size_t choice,
                                              size_t token, size_t rank);
int completion_logprobs_top_logprob(const completion_result *result, size_t choice, size_t token,
                                    size_t rank, double *ret);

/* The result in the API's own form, one line of JSON with a NUL behind it, `extra` merged in where
 * it came from. To be freed with free(). ret_length may be NULL. 0, -EINVAL (NULL), -ENOMEM, or
 * -EBADMSG: an `extra` is not JSON. */
int completion_result_to_json(const completion_result *result, char **ret, size_t *ret_length);

#ifdef __cplusplus
}
#endif

#endif

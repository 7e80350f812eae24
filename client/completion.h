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
 *     clients may be used in different threads. A request may be read by several at once. After
 *     fork() the child can't use the parent's client (-ECHILD), but free it.
 *   - A timeout is in milliseconds for the whole call; negative: none. The clock is monotonic.
 *   - Functions that block and functions that do not may be mixed on one client: there is one core.
 *     Callbacks and hooks must return: not longjmp() or throw out of them.
 *   - The header is C89 but for <stdint.h>, and C++.
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
typedef struct completion_call completion_call;
typedef struct completion_gather completion_gather;
typedef struct completion_error completion_error;

/* Bytes of UTF-8, which may hold NUL and do not end in it. data is NULL if the text is absent.
 * Valid as long as what it was asked of. */
typedef struct completion_text {
    const char *data;
    size_t length;
} completion_text;

/* ---- Errors ---- */

/* An error object is the caller's, may be used for any number of calls, and tells of the last one
 * that failed. Wherever one is taken, NULL may be given instead. */

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

/* NULL if there is no memory. */
completion_error *completion_error_new(void);
completion_error *completion_error_free(completion_error *error);

/* The status of the call. */
enum completion_status completion_error_status(const completion_error *error);
/* Its name, as in "UNAVAILABLE". */
const char *completion_error_status_name(const completion_error *error);
/* A sentence that says what happened and what to do. Never NULL. */
const char *completion_error_message(const completion_error *error);

/* What the daemon adds; texts are "" and numbers are 0 (retry_after_ms: -1) if absent. What
 * happened, in a word for programs (completion(7) has them all); the API's type, param, code and
 * message; the upstream's name in the configuration, and which of its servers was asked last
 * (HOST:PORT, or the path of a socket); the ids of the upstream's response and of the call in the
 * daemon's log; how far the last attempt came ("connect", "headers", ...); the HTTP status; when to
 * try again; how many attempts were made; how many chunks had been sent. Then: whether the upstream
 * may have done, and bill, the work; whether the same request may succeed later. Where the daemon
 * had no last word (the connection broke, the deadline passed, the call was cancelled), these two
 * are the library's: 1, but 0 if nothing was sent, and as the status says. */
const char *completion_error_reason(const completion_error *error);
const char *completion_error_type(const completion_error *error);
const char *completion_error_param(const completion_error *error);
const char *completion_error_code(const completion_error *error);
const char *completion_error_api_message(const completion_error *error);
const char *completion_error_upstream(const completion_error *error);
const char *completion_error_endpoint(const completion_error *error);
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

/* Streams and calls of the client that have not ended end with -EPIPE; they must still be freed.
 * From inside of a callback it takes effect when that has returned, see
 * completion_client_process().
 */
completion_client *completion_client_free(completion_client *client);

/* Where it connects to. */
const char *completion_client_socket(const completion_client *client);

/*
 * Whom to trust: connections are used only if the process that listens runs as this user, or as
 * another that was allowed; else calls fail with -EPERM, and nothing is sent. A socket's path may
 * be within others' reach; none allowed, as at first: nobody is asked. It is the user who called
 * listen(), as the kernel knows it (SO_PEERCRED): under systemd's socket units that is the
 * manager's, 0 for the host's. Holds from the next connection on. 0, -EINVAL, or -ENOSPC (more than
 * 8).
 */
int completion_client_allow_server_uid(completion_client *client, int64_t uid);

/*
 * What is done about a daemon that is not there. 0 or -EINVAL.
 *   - wait_ms: how long a call waits for one to come where nobody listens, trying again after
 *     10 ms, then twice as long each time, at most 1 s; it never waits beyond its own deadline. 0,
 *     as at first: the call fails at once. Negative: until the deadline.
 *   - resend: how often a call is made again of which the daemon provably did nothing, because it
 *     was being restarted, within the same deadline. 1 at first. No other call is ever made again.
 *
 * A connection that is gone is made anew by the next call, whatever is set here.
 */
int completion_client_set_reconnect(completion_client *client, int64_t wait_ms, int resend);

/*
 * While a call blocks, `wait` is called about every interval_ms, and when a signal interrupts the
 * wait; elapsed_ms counts from the beginning of this wait. Not 0: the call is cancelled, and fails
 * with -ECANCELED. It may call completion_stream_cancel() and completion_call_cancel(), and nothing
 * else with this client (-EBUSY). It must return: no longjmp() out of it. NULL: nothing is called.
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

/*
 * A request may be used for any number of calls, and changed between them. Setters return 0,
 * -EINVAL (NULL with a length that is not 0, or a text of more than 4 MiB) or -ENOMEM, and then the
 * request is as it was. _set_ takes the place of what was set or added before, _add_ adds to what
 * was added; setting one form of prompt or stop takes the place of another. What numbers may be is
 * the daemon's to check, which answers with COMPLETION_INVALID_ARGUMENT.
 */

/* One in which nothing is set. 0, -EINVAL or -ENOMEM. */
int completion_request_new(completion_request **ret);
completion_request *completion_request_free(completion_request *request);

/* The model's name. Required. */
int completion_request_set_model(completion_request *request, const char *model, size_t length);

/* One prompt. Without any the model begins a new document. */
int completion_request_set_prompt(completion_request *request, const char *prompt, size_t length);
/* One of several prompts. */
int completion_request_add_prompt(completion_request *request, const char *prompt, size_t length);
/* One prompt as n token ids. */
int completion_request_set_prompt_tokens(completion_request *request, const int32_t *ids, size_t n);
/* One of several prompts as n token ids. */
int completion_request_add_prompt_tokens(completion_request *request, const int32_t *ids, size_t n);

/* How many completions the server makes for each prompt, to return the likeliest of them: 0 to 20,
 * by default 1. All are billed; streams can't have more than n. */
int completion_request_set_best_of(completion_request *request, int32_t best_of);
/* Not 0: the answer begins with the prompt. */
int completion_request_set_echo(completion_request *request, int echo);
/* Less (above 0) or more (below 0) of tokens the more often they are there already: -2 to 2. */
int completion_request_set_frequency_penalty(completion_request *request, double penalty);
/* Makes a token likelier, up to 100, or less likely, down to -100. */
int completion_request_add_logit_bias(completion_request *request, int32_t token, double bias);
/* Log probabilities of each token, and of the likeliest ones at its place: 0 to 5 of these. */
int completion_request_set_logprobs(completion_request *request, int32_t logprobs);
/* The most tokens of a choice, by default 16. */
int completion_request_set_max_tokens(completion_request *request, int32_t max_tokens);
/* How many choices for each prompt: 1 to 128. */
int completion_request_set_n(completion_request *request, int32_t n);
/* Less (above 0) or more (below 0) of tokens that are there already: -2 to 2. */
int completion_request_set_presence_penalty(completion_request *request, double penalty);
/* The same answer for the same seed, as far as the server can. */
int completion_request_set_seed(completion_request *request, int64_t seed);

/* One stop sequence. */
int completion_request_set_stop(completion_request *request, const char *stop, size_t length);
/* One of up to four, sent as an array. */
int completion_request_add_stop(completion_request *request, const char *stop, size_t length);

/* Of streams: not 0 asks for padding that hides the lengths of chunks, and passes it on. */
int completion_request_set_include_obfuscation(completion_request *request, int include);
/* Of streams: not 0 asks for a last chunk with the usage. */
int completion_request_set_include_usage(completion_request *request, int include);
/* What comes behind the completion, for insertion. */
int completion_request_set_suffix(completion_request *request, const char *suffix, size_t length);
/* 0, the likeliest tokens, to 2, very random ones; by default 1. */
int completion_request_set_temperature(completion_request *request, double temperature);
/* Only the likeliest tokens that together have this probability: 0 to 1, by default 1. */
int completion_request_set_top_p(completion_request *request, double top_p);
/* A name of the end user for the upstream. */
int completion_request_set_user(completion_request *request, const char *user, size_t length);

/* Parameters beyond the API, as a JSON object. */
int completion_request_set_extra_body(completion_request *request, const char *json, size_t length);

/* A key of the caller's own for the upstream, where policy allows that. Printable ASCII. Wiped when
 * the request is freed. */
int completion_request_set_api_key(completion_request *request, const char *key, size_t length);

/* Among the calls of the same user that wait for their turn in the daemon, those with a lower
 * number go first: 0 to 7, 3 if it is not set, as the urgency of RFC 9218. Between users the daemon
 * is fair, whatever they say. 0 or -EINVAL. */
int completion_request_set_priority(completion_request *request, int urgency);

/* ---- Calls that block ---- */

/* One request, one whole answer. 0 or negative: -EMSGSIZE (a request of more than 4 MiB in all),
 * -ECANCELED, -ETIMEDOUT, -ECONNREFUSED and the like for what happens here, -EIO for a status from
 * the daemon; the error object says more. If the daemon provably did nothing with a call, because
 * it was being restarted, the call is made again once, within the same deadline; no other call is
 * (completion_client_set_reconnect()). */
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

/* ---- Calls in an event loop ---- */

/*
 * Nothing in this section blocks. A loop without an adapter is
 *
 *     struct pollfd p = {completion_client_get_fd(client), 0, 0};
 *     for (;;) {
 *         p.events = (short)completion_client_get_events(client);
 *         poll(&p, 1, completion_client_get_timeout(client));
 *         completion_client_process(client);
 *         ... completion_call_next() of the calls, or their callbacks have done it ...
 *     }
 *
 * Adapters are in <completion/libevent.h>, <completion/sd-event.h>, <completion/glib.h> and
 * <completion/libuv.h>; completion_client_process() is theirs to call then.
 */

/* A descriptor that is readable when completion_client_process() has something to do. It is the
 * same as long as the client is there, whatever becomes of its connections, and belongs to the
 * client: only poll it. Negative: -EINVAL, -ECHILD, or the errno of epoll_create1(). */
int completion_client_get_fd(completion_client *client);

/* What to poll it for, as poll() has it: POLLIN. */
int completion_client_get_events(const completion_client *client);

/* After how many milliseconds completion_client_process() is to be called even if the descriptor is
 * not readable: 0: now; -1: never. Changes with every other function called for the client or its
 * calls. */
int completion_client_get_timeout(const completion_client *client);

/*
 * Does what there is to do: connects, sends, receives, ends calls whose deadline has passed, and
 * then calls the callbacks of calls that have something new. How many calls have, or negative:
 * -EINVAL, -ECHILD, -EBUSY (from inside a callback or hook), or -ESHUTDOWN: a callback has freed
 * the client, of which nothing is left. What happens to a connection is no error here: its calls
 * get it.
 */
int completion_client_process(completion_client *client);

/* `wake` is called when completion_client_get_timeout() has become 0, by other functions than
 * completion_client_process(): a call was started, cancelled or resumed, or a blocking call
 * received something for another. For loops that can't ask for the timeout before each wait; it
 * should make the loop call completion_client_process() soon, and must not call this library. NULL:
 * nothing. */
void completion_client_set_wake(completion_client *client, void (*wake)(void *user), void *user);

/* One of the calls without a callback that have something new, each named once for each time that
 * there is something; NULL: there is none. Saves asking all of many calls. */
completion_call *completion_client_next_ready(completion_client *client);

/*
 * Start a call: of one whole answer, or of one in pieces. The request may be freed or changed at
 * once. Nothing is sent before completion_client_process(), where all failures show too. Any number
 * may be started; they are answered out of order, and those beyond what the daemon takes at once on
 * a connection wait here. 0 or negative, -EINVAL, -ENOMEM, -EMSGSIZE (as with completion_create()),
 * -ECHILD or -EBUSY, with the error set; then there is no call.
 */
int completion_call_start(completion_client *client, const completion_request *request,
                          int64_t timeout_ms, completion_call **ret, completion_error *error);
int completion_call_start_stream(completion_client *client, const completion_request *request,
                                 int64_t timeout_ms, completion_call **ret,
                                 completion_error *error);

/*
 * `callback` is called by completion_client_process(), and only there, when completion_call_next()
 * has something that it had not before: chunks, or the end. It should call that until -EAGAIN or
 * the end; what it leaves lies there, and holds up the upstream, until it is called for something
 * newer. It may call all functions that do not block: free the call, start others, free the client.
 * It must return: no longjmp() or exception out of it. NULL: nothing is called. user is also what
 * completion_call_user() returns.
 */
void completion_call_set_callback(completion_call *call,
                                  void (*callback)(completion_call *call, void *user), void *user);
void *completion_call_user(const completion_call *call);

/*
 * The next chunk, or the whole answer, without blocking: 1, and a result that lasts until the next
 * completion_call_next() or _free() with this call; 0: the answer was whole, and has been taken;
 * -EAGAIN: nothing yet, error is untouched; other negative: it was not whole, and no more will
 * come, as with completion_create(). An answer that is not streamed is there only when the call has
 * ended well.
 */
int completion_call_next(completion_call *call, const completion_result **ret,
                         completion_error *error);

/* Paused, a call has nothing new and completion_call_next() says -EAGAIN. What arrives meanwhile
 * stays here up to 256 KiB and a chunk; then the daemon stops reading its upstream. The deadline
 * still holds, and so does the daemon's caller_stall_timeout. */
void completion_call_pause(completion_call *call);
void completion_call_resume(completion_call *call);

/* Stops the generation. completion_call_next() then fails with -ECANCELED. May be called again. */
void completion_call_cancel(completion_call *call);

/* Stops the generation if it has not ended, and calls no callback. */
completion_call *completion_call_free(completion_call *call);

/* ---- Results ---- */

/* Why a choice has ended, if it has. */
enum completion_finish_reason {
    COMPLETION_FINISH_UNSPECIFIED = 0,
    COMPLETION_FINISH_STOP = 1,
    COMPLETION_FINISH_LENGTH = 2,
    COMPLETION_FINISH_CONTENT_FILTER = 3,
    COMPLETION_FINISH_OTHER = 4
};

/* The API's counts of tokens. */
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

/*
 * Functions that return int and fill ret (unless it is NULL): 1 if the value is there, else 0. A
 * choice (from 0, in the order of the message, not the API's index) or position that does not exist
 * has nothing. `extra` is the text of a JSON object: the members that the API does not have, as the
 * server sent them. Texts last as long as the result; a chunk's lie in the bytes that came, and are
 * no copies.
 */

/* Only what completion_create() and the like gave to the caller; of a call's own, nothing is freed.
 */
completion_result *completion_result_free(completion_result *result);

/* The members of the answer itself; when it was created is in seconds since 1970. */
completion_text completion_result_id(const completion_result *result);
completion_text completion_result_model(const completion_result *result);
completion_text completion_result_object(const completion_result *result);
completion_text completion_result_system_fingerprint(const completion_result *result);
completion_text completion_result_extra(const completion_result *result);
int completion_result_created(const completion_result *result, int64_t *ret);

/* Tokens used, where the server said so. */
int completion_result_has_usage(const completion_result *result);
int completion_result_usage(const completion_result *result, enum completion_usage_field field,
                            int64_t *ret);
completion_text completion_usage_extra(const completion_result *result);
completion_text completion_usage_completion_tokens_extra(const completion_result *result);
completion_text completion_usage_prompt_tokens_extra(const completion_result *result);

/* A copy that lasts until it is freed: of a chunk, or of what completion_call_next() gave. 0,
 * -EINVAL or -ENOMEM. */
int completion_result_copy(const completion_result *result, completion_result **ret);

/* How many choices it has; a chunk, those that have something new. */
size_t completion_result_n_choices(const completion_result *result);

/* Which of the answers it belongs to; what it says; why it ended. */
int completion_choice_index(const completion_result *result, size_t choice, int32_t *ret);
completion_text completion_choice_text(const completion_result *result, size_t choice);
completion_text completion_choice_extra(const completion_result *result, size_t choice);
enum completion_finish_reason completion_choice_finish_reason(const completion_result *result,
                                                              size_t choice);
/* The API's word: "stop", or the server's own. */
completion_text completion_choice_finish_reason_text(const completion_result *result,
                                                     size_t choice);

/* Log probabilities, where they were asked for: of each token, of where it begins in the text, and
 * of the likeliest tokens at its place. */
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

/* ---- Streams made whole ---- */

/*
 * Gathers the chunks of one stream into what a call that is not streamed would have got: one choice
 * for each index, in their order, texts joined, entries of logprobs appended; of usage,
 * finish_reason and `extra` what came last, of id, created, model, object and system_fingerprint
 * what came first.
 */

/* 0, -EINVAL or -ENOMEM. */
int completion_gather_new(completion_gather **ret);
completion_gather *completion_gather_free(completion_gather *gather);

/* Copies what it needs. 0, -EINVAL, -ENOMEM or -EMSGSIZE (more than 64 MiB, or 65536 choices): no
 * more can be added then, and there is no result. */
int completion_gather_add(completion_gather *gather, const completion_result *chunk);

/* All that was added so far, to be freed. More may be added afterwards. 0, -EINVAL, -ENOMEM or
 * -EMSGSIZE. */
int completion_gather_result(const completion_gather *gather, completion_result **ret);

#ifdef __cplusplus
}
#endif

#endif

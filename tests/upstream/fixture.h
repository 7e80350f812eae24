/*
 * For tests: a completion-sandbox of a test's own, and a client that asks it over HTTP. Failures
 * fail the test.
 */
#ifndef FIXTURE_H
#define FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <json-c/json.h>
#include <sys/types.h>

/* What a model is asked for in JSON, without the braces around. */
#define FIXTURE_MODEL "\"model\":\"gpt-3.5-turbo-instruct\""

struct sandbox {
    pid_t pid;
    char url[192]; /* without the /v1 */
    char unix_path[128];
    int port;
    void *curl;
};

/* Waits until it listens. arguments: NULL-terminated, or NULL. */
void sandbox_start(struct sandbox *s, const char *const *arguments);

/* Ends it by SIGTERM; it must exit with 0. */
void sandbox_stop(struct sandbox *s);

struct answer {
    long status, n_new_connections;
    char *body, *head; /* terminated */
    size_t len;
    json_object *json; /* NULL: the body is none */
};

/* body NULL: GET. key NULL: none. content_type NULL: application/json. */
struct answer sandbox_ask(struct sandbox *s, const char *path, const char *body, size_t len,
                          const char *key, const char *content_type);
void answer_done(struct answer *a);

/* A completion request of FIXTURE_MODEL and these members; status 200. To be put. */
json_object *sandbox_complete(struct sandbox *s, const char *members, ...)
    __attribute__((format(printf, 2, 3)));

/* The same as a stream: its chunks as an array. The stream must end with [DONE]. */
json_object *sandbox_stream(struct sandbox *s, const char *members, ...)
    __attribute__((format(printf, 2, 3)));

/* A counter of /stats. */
int64_t sandbox_count(struct sandbox *s, const char *name);

/* A connection of its own, to write and read by hand. */
int sandbox_connect(const struct sandbox *s);

/* ---- Reading answers ---- */

/* A member of an object or an element of an array, each named by a path like "choices.0.text";
 * fails if there is none. May be NULL for null. */
json_object *at(json_object *object, const char *path);

const char *text_at(json_object *object, const char *path);
int64_t number_at(json_object *object, const char *path);
const char *text_of(json_object *completion, size_t choice);

#endif

/*
 * What tests of libcompletion begin with: the harness's scene, and a client, a request and an error
 * object that belong to it. Calls that fail show what the error object says.
 */
#ifndef LIBRARY_H
#define LIBRARY_H

#include <errno.h>

#include "completion.h"
#include "scene.h"

#define TEXT COMPLETION_ZERO_TERMINATED

struct library {
    struct scene scene;
    completion_client *client; /* NULL before library_start() */
    completion_request *request;
    completion_error *error;
    char *text; /* what library_create() and library_read() returned last */
};

/* The daemon of the scene, without its raw caller, and a client of it. */
void library_start(struct library *l, fake_handler handler, const void *user, const char *settings);

/* A fake daemon instead, and a client of it. */
void library_pretend(struct library *l, fake_handler handler, const void *user);

/* Frees the client, and stops what was started. */
void library_stop(struct library *l);

/* A call that has to work: the text of its first choice. Valid until the next of these two. */
const char *library_create(struct library *l);

/* Opens a stream, which has to work; reads what is left of one, which has to end well. */
completion_stream *library_open(struct library *l, int64_t timeout_ms);
const char *library_read(struct library *l, completion_stream *stream);

/* What a program's event loop does once: waits as long as the client says, and lets it work. Fails
 * if that takes for ever. Returns what completion_client_process() did. */
int library_turn(struct library *l);

/* Starts a call, of one answer or of a stream, which has to work. */
completion_call *library_start_call(struct library *l, int is_stream, int64_t timeout_ms);

/* library_turn() until the call has ended: how, or 0 and the text of all that it had for its first
 * choice. The text is valid as above. */
int library_finish(struct library *l, completion_call *call);

/* Calls that have to fail: with this errno and status. */
void library_assert_failed(struct library *l, int r, int expected, enum completion_status status);
void library_assert_create_fails(struct library *l, int64_t timeout_ms, int expected,
                                 enum completion_status status);
/* The next read of a stream, which is not over yet as far as the library was told. */
void library_assert_next_fails(struct library *l, completion_stream *stream, int expected,
                               enum completion_status status);
/* A part of what the error object says. */
void library_assert_said(struct library *l, const char *text);

void library_assert_text(completion_text text, const char *expected);

/* Connections that were made to the daemon and are still open. */
int library_n_connections(const char *socket_path);

/* How many descriptors this program has open. */
int library_n_descriptors(void);

/* In a child of fork(): whether run() returned 0. In it nothing may fail the test. */
void library_assert_child(int (*run)(void *user), void *user);

/* For cmocka: *state is a library. */
int library_setup(void **state);
int library_teardown(void **state);
#define library_test(function)                                                                     \
    cmocka_unit_test_setup_teardown(function, library_setup, library_teardown)

#endif

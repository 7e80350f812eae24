/*
 * An upstream made of bytes: it accepts connections on 127.0.0.1 or a Unix socket, and a handler
 * of the test's, on a thread of its own for each connection, reads and writes them with the
 * blocking helpers below. It knows just enough HTTP to find the end of a request.
 *
 * Handlers and test meet at marks, which count up and can be waited for. In a handler nothing fails
 * the test: helpers return false when the connection is of no use any more, and the handler
 * returns. The connection is closed behind it.
 */
#ifndef FAKE_H
#define FAKE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "buffer.h"

struct fake;

enum fake_mark {
    FAKE_ACCEPTED,  /* a connection */
    FAKE_REQUESTED, /* a whole request has been read */
    FAKE_CLOSED,    /* the other side was seen to close */
    FAKE_STALLED,   /* for a handler: nobody takes what it writes */
    FAKE_STEP,      /* for a handler, to tell the test */
    FAKE_GO,        /* for the test, to tell a handler */
    FAKE_N_MARKS
};

struct fake_connection {
    struct fake *fake;
    const void *user;    /* as given to fake_new() */
    int fd;              /* -1: closed */
    unsigned number;     /* in the order of accepting, from 1 */
    unsigned n_requests; /* on this connection */
    struct buffer in;    /* read and not used yet */
    char *head, *body;   /* of the last request; NULL before the first */
};

typedef void (*fake_handler)(struct fake_connection *c);

/* Listens at once. unix_path NULL: on 127.0.0.1, on a port that was free. Failures fail the test.
 */
struct fake *fake_new(const char *unix_path, fake_handler handler, const void *user);

/* Ends all connections and waits for their handlers, whatever they wait for. Takes NULL; returns
 * NULL. */
struct fake *fake_free(struct fake *f);

/* "http://127.0.0.1:PORT/v1", "unix:PATH:/v1" */
const char *fake_base_url(const struct fake *f);

/* ---- Marks ---- */

void fake_mark(struct fake *f, enum fake_mark mark);
unsigned fake_count(struct fake *f, enum fake_mark mark);
/* Waits until the mark counts n at least. False: the fake is being freed, or much time has gone. */
bool fake_await(struct fake *f, enum fake_mark mark, unsigned n);
/* When the last FAKE_CLOSED was, on harness_now_ms()'s clock. */
int64_t fake_closed_at_ms(struct fake *f);

/* Head and body of the last request on any connection, to be freed. */
char *fake_last_head(struct fake *f);
char *fake_last_body(struct fake *f);

/* ---- For handlers ---- */

bool fake_read_request(struct fake_connection *c);

bool fake_write(struct fake_connection *c, const void *data, size_t len);
bool fake_print(struct fake_connection *c, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* One byte at a time, each in a segment of its own as far as the kernel lets it. */
bool fake_drip(struct fake_connection *c, const void *data, size_t len);
/* Writes as much as the other side takes. Returns how much that was: less than len if it took
 * nothing for quiet_ms, or the connection is of no use any more. */
size_t fake_write_some(struct fake_connection *c, const void *data, size_t len, int quiet_ms);

/* A whole response with a Content-Length. headers: further lines, each with CR LF. */
bool fake_answer(struct fake_connection *c, int status, const char *type, const char *headers,
                 const char *body);

/* A chunked event stream. */
bool fake_stream_begin(struct fake_connection *c);
bool fake_chunk(struct fake_connection *c, const void *data, size_t len);
bool fake_event(struct fake_connection *c, const char *data);
/* [DONE] and the last chunk at once: the connection is free before the caller knows of the end. */
bool fake_stream_done(struct fake_connection *c);

/* No more from here; the other direction stays. */
void fake_shut_down(struct fake_connection *c);
/* Closes with a reset. */
void fake_reset(struct fake_connection *c);
/* Reads until the other side has closed, and marks FAKE_CLOSED. */
void fake_wait_for_close(struct fake_connection *c);

/* ---- JSON ---- */

/* A completion or chunk of one choice. text: JSON's inside of a string; reason: JSON. */
#define FAKE_CHOICE(text, reason)                                                                  \
    "{\"id\":\"cmpl-1\",\"object\":\"text_completion\",\"created\":1700000000,\"model\":\"m\","    \
    "\"choices\":[{\"index\":0,\"text\":\"" text "\",\"logprobs\":null,\"finish_reason\":" reason  \
    "}]}"
#define FAKE_PART(text) FAKE_CHOICE(text, "null")
#define FAKE_LAST(text) FAKE_CHOICE(text, "\"stop\"")

#endif

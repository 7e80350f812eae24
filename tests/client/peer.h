/*
 * A daemon made of HTTP/2 frames, for what no real one does. It stands on the harness's fake:
 * handlers run on a thread for each connection, read the client's calls and write frames with the
 * functions below, which return false when the connection is of no use any more.
 */
#ifndef PEER_H
#define PEER_H

#include "fake.h"

enum peer_frame_type {
    PEER_DATA = 0,
    PEER_HEADERS = 1,
    PEER_RST_STREAM = 3,
    PEER_SETTINGS = 4,
    PEER_PUSH_PROMISE = 5,
    PEER_PING = 6,
    PEER_GOAWAY = 7,
    PEER_WINDOW_UPDATE = 8,
    PEER_CONTINUATION = 9
};
enum { PEER_END_STREAM = 1, PEER_ACK = 1, PEER_END_HEADERS = 4 };
enum peer_error { PEER_NO_ERROR = 0, PEER_REFUSED_STREAM = 7, PEER_CANCEL = 8 };

/* Reads the client's preface and writes SETTINGS. */
bool peer_greet(struct fake_connection *c);

/* Reads frames until a call's request is whole, and marks FAKE_REQUESTED. Its stream, or 0. */
uint32_t peer_read_call(struct fake_connection *c);

bool peer_frame(struct fake_connection *c, enum peer_frame_type type, uint8_t flags,
                uint32_t stream, const void *data, size_t len);

/* A block of headers: names and values in turn, NULL behind the last. Split where it is too large
 * for one frame. */
bool peer_headers(struct fake_connection *c, uint32_t stream, uint8_t flags,
                  const char *const *headers);

bool peer_reset(struct fake_connection *c, uint32_t stream, enum peer_error code);
bool peer_goaway(struct fake_connection *c, uint32_t last_stream, enum peer_error code);

/* The parts of an answer: response headers; a message with its prefix; trailers with this
 * grpc-status, and a message and details if they are not NULL. */
bool peer_begin(struct fake_connection *c, uint32_t stream);
bool peer_message(struct fake_connection *c, uint32_t stream, const void *message, size_t len);
bool peer_completion(struct fake_connection *c, uint32_t stream, const char *text);
bool peer_end(struct fake_connection *c, uint32_t stream, const char *status, const char *message,
              const char *details);

/* All three, with one Completion of this text and status OK. */
bool peer_answer(struct fake_connection *c, uint32_t stream, const char *text);

#endif

/* Frames by hand: RFC 9113, 4.1; header blocks of literals without compression, RFC 7541, 6.2.2. */
#include "peer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "completion/v1/completion.pb-c.h"

enum { FRAME_HEADER = 9, FRAME_MAX = 16384, PREFACE = 24, BLOCK_MAX = 4 << 20, READ_BYTES = 65536 };

/* ---- Reading ---- */

static bool await_bytes(struct fake_connection *c, size_t n)
{
    while (buffer_length(&c->in) < n) {
        uint8_t *space = buffer_reserve(&c->in, READ_BYTES);
        if (!space || c->fd < 0)
            return false;
        ssize_t got = recv(c->fd, space, READ_BYTES, 0);
        if (got == 0 || (got < 0 && errno != EINTR))
            return false;
        buffer_commit(&c->in, got > 0 ? (size_t)got : 0);
    }
    return true;
}

bool peer_greet(struct fake_connection *c)
{
    if (!await_bytes(c, PREFACE))
        return false;
    buffer_consume(&c->in, PREFACE);
    return peer_frame(c, PEER_SETTINGS, 0, 0, NULL, 0);
}

uint32_t peer_read_call(struct fake_connection *c)
{
    while (await_bytes(c, FRAME_HEADER)) {
        const uint8_t *p = buffer_bytes(&c->in);
        size_t len = (size_t)p[0] << 16 | (size_t)p[1] << 8 | p[2];
        uint8_t type = p[3], flags = p[4];
        uint32_t stream = (uint32_t)p[5] << 24 | (uint32_t)p[6] << 16 | (uint32_t)p[7] << 8 | p[8];

        if (!await_bytes(c, FRAME_HEADER + len))
            return 0;
        buffer_consume(&c->in, FRAME_HEADER + len);
        if (type == PEER_SETTINGS && !(flags & PEER_ACK) &&
            !peer_frame(c, PEER_SETTINGS, PEER_ACK, 0, NULL, 0))
            return 0;
        if (type <= PEER_HEADERS && flags & PEER_END_STREAM) {
            fake_mark(c->fake, FAKE_REQUESTED);
            return stream;
        }
    }
    return 0;
}

/* ---- Writing ---- */

static void put_u32(uint8_t *p, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(value >> (24 - 8 * i));
}

bool peer_frame(struct fake_connection *c, enum peer_frame_type type, uint8_t flags,
                uint32_t stream, const void *data, size_t len)
{
    uint8_t header[FRAME_HEADER];

    put_u32(header, (uint32_t)len << 8 | type);
    header[4] = flags;
    put_u32(header + 5, stream);
    return fake_write(c, header, sizeof header) && (len == 0 || fake_write(c, data, len));
}

/* A number with a prefix of seven bits, and the text. */
static void put_literal(struct buffer *b, const char *text)
{
    size_t len = strlen(text);

    if (len < 127) {
        buffer_append_byte(b, (uint8_t)len);
    } else {
        size_t rest = len - 127;
        buffer_append_byte(b, 127);
        for (; rest >= 128; rest >>= 7)
            buffer_append_byte(b, (uint8_t)(rest | 128));
        buffer_append_byte(b, (uint8_t)rest);
    }
    buffer_append(b, text, len);
}

bool peer_headers(struct fake_connection *c, uint32_t stream, uint8_t flags,
                  const char *const *headers)
{
    struct buffer block = BUFFER_INIT(BLOCK_MAX);
    enum peer_frame_type type = PEER_HEADERS;
    bool written = true;

    for (; headers[0]; headers += 2) {
        buffer_append_byte(&block, 0);
        put_literal(&block, headers[0]);
        put_literal(&block, headers[1]);
    }
    do {
        size_t left = buffer_length(&block), n = left < FRAME_MAX ? left : FRAME_MAX;
        if (n == left)
            flags |= PEER_END_HEADERS;
        written = peer_frame(c, type, flags, stream, buffer_bytes(&block), n);
        buffer_consume(&block, n);
        type = PEER_CONTINUATION;
        flags = 0;
    } while (written && buffer_length(&block) > 0);
    buffer_done(&block);
    return written;
}

bool peer_reset(struct fake_connection *c, uint32_t stream, enum peer_error code)
{
    uint8_t payload[4];

    put_u32(payload, code);
    return peer_frame(c, PEER_RST_STREAM, 0, stream, payload, sizeof payload);
}

bool peer_goaway(struct fake_connection *c, uint32_t last_stream, enum peer_error code)
{
    uint8_t payload[8];

    put_u32(payload, last_stream);
    put_u32(payload + 4, code);
    return peer_frame(c, PEER_GOAWAY, 0, 0, payload, sizeof payload);
}

bool peer_begin(struct fake_connection *c, uint32_t stream)
{
    static const char *const headers[] = {":status", "200", "content-type", "application/grpc",
                                          NULL};

    return peer_headers(c, stream, 0, headers);
}

bool peer_message(struct fake_connection *c, uint32_t stream, const void *message, size_t len)
{
    uint8_t frame[FRAME_MAX] = {0};

    put_u32(frame + 1, (uint32_t)len);
    memcpy(frame + 5, message, len);
    return peer_frame(c, PEER_DATA, 0, stream, frame, len + 5);
}

bool peer_completion(struct fake_connection *c, uint32_t stream, const char *text)
{
    Completion__V1__Completion completion = COMPLETION__V1__COMPLETION__INIT;
    Completion__V1__CompletionChoice choice = COMPLETION__V1__COMPLETION_CHOICE__INIT;
    Completion__V1__CompletionChoice *choices[] = {&choice};
    uint8_t message[1024];

    choice.has_text = true;
    choice.text = (ProtobufCBinaryData){.data = (uint8_t *)text, .len = strlen(text)};
    completion.n_choices = 1;
    completion.choices = choices;
    if (completion__v1__completion__get_packed_size(&completion) > sizeof message)
        return false;
    return peer_message(c, stream, message, completion__v1__completion__pack(&completion, message));
}

bool peer_end(struct fake_connection *c, uint32_t stream, const char *status, const char *message,
              const char *details)
{
    const char *trailers[8] = {"grpc-status", status};
    size_t n = 2;

    if (message) {
        trailers[n++] = "grpc-message";
        trailers[n++] = message;
    }
    if (details) {
        trailers[n++] = "grpc-status-details-bin";
        trailers[n++] = details;
    }
    return peer_headers(c, stream, PEER_END_STREAM, trailers);
}

bool peer_answer(struct fake_connection *c, uint32_t stream, const char *text)
{
    return peer_begin(c, stream) && peer_completion(c, stream, text) &&
           peer_end(c, stream, "0", NULL, NULL);
}

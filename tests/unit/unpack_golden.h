/* A request with every field of the schema, as bytes, for tests of unpacking. */
#ifndef UNPACK_GOLDEN_H
#define UNPACK_GOLDEN_H

#include "completion/v1/completion.pb-c.h"
#include "unpack.h"
#include "wire.h"

#define REQUEST    (&completion__v1__create_completion_request__descriptor)
#define COMPLETION (&completion__v1__completion__descriptor)
typedef Completion__V1__CreateCompletionRequest request_message;

static inline void golden_bytes(struct buffer *b, uint32_t field, const char *text)
{
    wire_append_bytes(b, field, text, strlen(text));
}

/* A packed field of two ids, one of them of many bytes. */
static inline void golden_tokens(struct buffer *b, uint32_t field, int32_t a, int32_t c)
{
    size_t message = wire_begin(b, field), ids = wire_begin(b, 1);

    wire_append_varint(b, (uint64_t)(int64_t)a);
    wire_append_varint(b, (uint64_t)(int64_t)c);
    wire_end(b, ids);
    wire_end(b, message);
}

static inline void golden_bias(struct buffer *b, int32_t token, double value)
{
    size_t entry = wire_begin(b, 9);

    wire_append_int(b, 1, token);
    wire_append_double(b, 2, value);
    wire_end(b, entry);
}

/* All four prompts and both stops are there: the last of each holds. */
static inline struct buffer golden_request(void)
{
    struct buffer b = BUFFER_INIT(1 << 16);
    size_t mark;

    golden_bytes(&b, 1, "stories-260k");
    golden_bytes(&b, 2, "Once upon a time \xe2\x82\xac");
    mark = wire_begin(&b, 3);
    golden_bytes(&b, 1, "first");
    wire_append_bytes(&b, 1, "nul\0\xc3\xa4", 6);
    wire_end(&b, mark);
    golden_tokens(&b, 4, 1, 50256);
    mark = wire_begin(&b, 5);
    golden_tokens(&b, 1, 7, INT32_MAX);
    golden_tokens(&b, 1, -1, 0);
    wire_end(&b, mark);
    wire_append_int(&b, 6, 2);
    wire_append_int(&b, 7, 1);
    wire_append_double(&b, 8, -0.5);
    golden_bias(&b, 50256, -100);
    golden_bias(&b, 11, 0.25);
    wire_append_int(&b, 10, 5);
    wire_append_int(&b, 11, 1000);
    wire_append_int(&b, 12, 3);
    wire_append_double(&b, 13, 1e-300);
    wire_append_int(&b, 14, INT64_MIN);
    golden_bytes(&b, 15, "\n\n");
    mark = wire_begin(&b, 16);
    golden_bytes(&b, 1, "END");
    golden_bytes(&b, 1, "");
    wire_end(&b, mark);
    mark = wire_begin(&b, 17);
    wire_append_int(&b, 1, 0);
    wire_append_int(&b, 2, 1);
    wire_end(&b, mark);
    golden_bytes(&b, 18, "the end");
    wire_append_double(&b, 19, 2);
    wire_append_double(&b, 20, 0.1);
    golden_bytes(&b, 21, "someone");
    golden_bytes(&b, 22, "{\"top_k\":40}");
    return b;
}

#endif

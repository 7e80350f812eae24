/*
 * JSON from a caller over HTTP to the request message: what is accepted must be a message that a
 * gRPC caller could have sent, and must make one JSON object again, as json-c reads it; both must
 * agree on the members that they can be compared by.
 */
#include <errno.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "openai_request.h"
#include "unpack.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct json_object *parse(const void *text, size_t len)
{
    struct json_tokener *tokener = json_tokener_new_ex(128);
    struct json_object *object = json_tokener_parse_ex(tokener, text, (int)len);

    json_tokener_free(tokener);
    return object;
}

/* null is absent. */
static bool has_same(struct json_object *a, struct json_object *b, const char *name)
{
    struct json_object *x = NULL, *y = NULL;

    json_object_object_get_ex(a, name, &x);
    json_object_object_get_ex(b, name, &y);
    return json_object_equal(x, y);
}

static void compare(const uint8_t *data, size_t size, const struct buffer *body)
{
    static const char *const names[] = {"model", "echo", "stop", "suffix", "user"};
    struct json_object *in = parse(data, size);
    struct json_object *out = parse(buffer_bytes(body), buffer_length(body));

    if (!out || !json_object_is_type(out, json_type_object))
        abort();
    /* json-c takes some pairs for surrogates, and knows no NUL in a name. */
    bool is_plain = !memchr(data, '\\', size);
    for (size_t i = 0; in && is_plain && i < sizeof names / sizeof *names; i++)
        if (!has_same(in, out, names[i]))
            abort();
    json_object_put(in);
    json_object_put(out);
}

static void check_message(const uint8_t *data, size_t size, const struct buffer *message,
                          bool stream)
{
    const struct translate_request_options options = {.stream = stream, .allow_extra_body = true};
    struct buffer body = BUFFER_INIT(32 << 20);
    struct translate_refusal refusal;
    struct unpack_error error;
    ProtobufCMessage *unpacked;
    int r = unpack_message(UNPACK_REQUEST, &completion__v1__create_completion_request__descriptor,
                           buffer_bytes(message), buffer_length(message), &unpacked, &error);

    /* Very many small strings take more memory than a message may. */
    if (r == -EBADMSG && !strstr(error.text, "memory"))
        abort();
    if (r < 0)
        return;
    r = translate_request((translate_request_message *)unpacked, &options, &body, &refusal);
    if (r == 0)
        compare(data, size, &body);
    unpack_free(unpacked);
    buffer_done(&body);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct buffer message = BUFFER_INIT(4 << 20);
    struct translate_refusal refusal = {0};
    bool stream = false;
    int r = openai_request_read(data, size, &message, &stream, &refusal);

    if (r == 0)
        check_message(data, size, &message, stream);
    else if (r == -EINVAL && (!*refusal.text || refusal.status == GRPC_OK))
        abort();
    buffer_done(&message);
    return 0;
}

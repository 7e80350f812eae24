/*
 * Request messages from a caller to the JSON body: what is accepted must be one JSON object, as
 * json-c reads it. The first byte chooses the options.
 */
#include <errno.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "translate.h"
#include "unpack.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_json(const struct buffer *body)
{
    struct json_tokener *tokener = json_tokener_new_ex(64);
    struct json_object *object =
        json_tokener_parse_ex(tokener, (char *)buffer_bytes(body), (int)buffer_length(body));

    if (!object || !json_object_is_type(object, json_type_object) ||
        json_tokener_get_parse_end(tokener) != buffer_length(body))
        abort();
    json_object_put(object);
    json_tokener_free(tokener);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct buffer body = BUFFER_INIT(32 << 20);
    struct translate_refusal refusal;
    struct unpack_error error;
    ProtobufCMessage *message;

    if (size == 0 ||
        unpack_message(UNPACK_REQUEST, &completion__v1__create_completion_request__descriptor,
                       data + 1, size - 1, &message, &error) < 0)
        return 0;
    const translate_request_message *request = (translate_request_message *)message;
    const struct translate_request_options options = {
        .stream = data[0] & 1,
        .validate = data[0] & 2,
        .allow_extra_body = !(data[0] & 4),
    };
    int r = translate_request(request, &options, &body, &refusal);
    if (r == 0)
        check_json(&body);
    else if (r == -EINVAL && (!*refusal.text || refusal.status == GRPC_OK))
        abort();
    translate_request_n_choices(request);
    unpack_free(message);
    buffer_done(&body);
    return 0;
}

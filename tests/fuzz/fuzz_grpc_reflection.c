/* Any bytes as a ServerReflectionRequest: what comes back is well-formed, holds the question, and
 * is no larger than that and the largest file. */
#include <stdlib.h>
#include <string.h>

#include "descriptors.h"
#include "grpc_reflection.h"
#include "wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { FIELDS_MAX = 8 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct buffer reply = BUFFER_INIT(2 * size + proto_descriptors_len + 256);
    enum grpc_status status =
        grpc_reflection_answer(proto_descriptors, proto_descriptors_len, data, size, &reply);
    const uint8_t *p = buffer_bytes(&reply), *end = p + buffer_length(&reply);
    unsigned n_fields[FIELDS_MAX] = {0};
    struct wire_field field;
    int rc;

    if (reply.error)
        abort();
    if (status != GRPC_OK && buffer_length(&reply) > 0)
        abort();
    while ((rc = wire_next(&p, end, &field)) > 0) {
        if (field.number >= FIELDS_MAX || field.type != WIRE_LEN)
            abort();
        n_fields[field.number]++;
        if (field.number == 2 && (field.len != size || memcmp(field.data, data, size) != 0))
            abort();
    }
    if (rc < 0)
        abort();
    if (status == GRPC_OK &&
        (n_fields[2] != 1 || n_fields[4] + n_fields[5] + n_fields[6] + n_fields[7] != 1))
        abort();
    buffer_done(&reply);
    return 0;
}

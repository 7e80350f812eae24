/*
 * What the daemon takes from requests: reads messages from stdin, each behind its length, and
 * writes what it has understood of each in the same way, packed again; or REFUSED for a length.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "completion/v1/completion.pb-c.h"
#include "unpack.h"

enum { LENGTH_MAX = 1 << 20 };

#define REFUSED UINT32_MAX

/* In the byte order of this machine; 0 at the end of the input. */
static bool read_message(uint8_t *data, uint32_t *ret_len)
{
    return fread(ret_len, sizeof *ret_len, 1, stdin) == 1 && *ret_len <= LENGTH_MAX &&
           fread(data, 1, *ret_len, stdin) == *ret_len;
}

static void answer(uint32_t len, const uint8_t *data)
{
    fwrite(&len, sizeof len, 1, stdout);
    if (len != REFUSED)
        fwrite(data, 1, len, stdout);
}

int main(void)
{
    uint8_t *data = malloc(LENGTH_MAX), *packed = malloc(LENGTH_MAX);
    uint32_t len;

    if (!data || !packed)
        return 1;
    while (read_message(data, &len)) {
        ProtobufCMessage *message;
        struct unpack_error error;
        int r =
            unpack_message(UNPACK_REQUEST, &completion__v1__create_completion_request__descriptor,
                           data, len, &message, &error);
        if (r < 0) {
            answer(REFUSED, NULL);
            continue;
        }
        answer((uint32_t)protobuf_c_message_pack(message, packed), packed);
        unpack_free(message);
    }
    free(data);
    free(packed);
    return fflush(stdout) != 0;
}

/* Error bodies: texts are cut, plain and valid UTF-8, and the key is never among them. */
#include <stdlib.h>
#include <string.h>

#include "translate.h"
#include "utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char key[] = "sk-0123456789abcdef";

static const uint8_t request[] =
    "{\"model\":\"gpt-x\",\"prompt\":[\"Once upon a time\",[1,2]],\"stop\":\"\\u0000\\n stop\"}";

static void check(const char *text, size_t size)
{
    size_t len = strnlen(text, size);

    if (len == size || !utf8_is_valid(text, len) || memmem(text, len, key, sizeof key - 1))
        abort();
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)text[i] < ' ' || text[i] == 0x7f)
            abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const int statuses[] = {0, 200, 302, 400, 401, 404, 429, 500, 503, 999};
    struct translate_error error;

    if (size == 0)
        return 0;
    const uint8_t *body = data + 1;
    size_t len = size - 1;
    if (data[0] & 0x80)
        translate_error_event(&body, &len);
    translate_error(statuses[(data[0] & 0x7f) % (sizeof statuses / sizeof *statuses)], body, len,
                    key, request, sizeof request - 1, &error);
    check(error.type, sizeof error.type);
    check(error.param, sizeof error.param);
    check(error.code, sizeof error.code);
    check(error.message, sizeof error.message);
    if (error.status == GRPC_OK || !error.reason)
        abort();
    return 0;
}

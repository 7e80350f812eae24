/* What a target makes of its input: choices, and texts to choose from. At its end all is 0 or "".
 */
#ifndef INPUT_H
#define INPUT_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define require(ok)                                                                                \
    do {                                                                                           \
        if (!(ok)) {                                                                               \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #ok);                               \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

struct input {
    const uint8_t *at, *end;
};

static inline uint8_t input_byte(struct input *in)
{
    return in->at < in->end ? *in->at++ : 0;
}

/* Its length first, at most max bytes. Not copied. */
static inline const uint8_t *input_text(struct input *in, size_t max, size_t *ret_len)
{
    size_t len = (size_t)(input_byte(in) << 8);
    const uint8_t *text;

    len = (len | input_byte(in)) % (max + 1);
    text = in->at;
    if (len > (size_t)(in->end - in->at))
        len = (size_t)(in->end - in->at);
    in->at += len;
    *ret_len = len;
    return text;
}

#endif

/*
 * A request in the API's own JSON, as those callers send it who speak HTTP. Pure: bytes in, bytes
 * out.
 */
#ifndef OPENAI_REQUEST_H
#define OPENAI_REQUEST_H

#include <stdbool.h>
#include <stddef.h>

#include "../proto/buffer.h"
#include "translate.h"

/*
 * Appends the CreateCompletionRequest that the JSON body of a POST /v1/completions means, in
 * protobuf. Types are checked here; whether values make sense is for translate_request() to say,
 * as with a message that came as such.
 *
 * null is absent, as in the API. A member that the message has no field for goes to extra_body,
 * word for word. ret_stream: the answer is to be a stream ("stream": true).
 *
 * 0; -EINVAL (ret_refusal is filled, its field is the API's name or ""; message may have been
 * begun); or the buffer's error.
 */
int openai_request_read(const void *json, size_t len, struct buffer *message, bool *ret_stream,
                        struct translate_refusal *ret_refusal);

#endif

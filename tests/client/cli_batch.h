/* Batches of completionctl: an upstream that says what it is asked, and what comes out. */
#ifndef CLI_BATCH_H
#define CLI_BATCH_H

#include <json-c/json.h>

#include "cli.h"
#include "fake.h"

/* For a request that has been read: answers with its prompt, 2 tokens in and 3 out, and marks
 * FAKE_STEP. A prompt that begins with "hang" is answered at FAKE_GO. */
bool batch_echo(struct fake_connection *c);
/* A handler that does so. */
void batch_serve(struct fake_connection *c);
/* What begins a prompt of up to 63 characters. */
void batch_prompt(const struct fake_connection *c, char ret[static 64]);

/* All lines, parsed. To be put. */
json_object *batch_results(const char *text);
json_object *batch_member(json_object *object, const char *name);
/* The text of the answer to the i-th request, which is the i-th result; "" for an error. */
const char *batch_text_of(json_object *all, size_t i);
json_object *batch_error_of(json_object *all, size_t i);
void batch_assert_texts(const char *text, size_t n, const char *const *texts);
void batch_assert_error(json_object *all, size_t i, const char *name, const char *value);

#endif

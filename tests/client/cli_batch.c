#include "cli_batch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"

void batch_prompt(const struct fake_connection *c, char ret[static 64])
{
    const char *prompt = strstr(c->body, "\"prompt\":\"");

    *ret = '\0';
    if (prompt)
        sscanf(prompt, "\"prompt\":\"%63[^\"]", ret);
}

bool batch_echo(struct fake_connection *c)
{
    char text[64], answer[512];

    batch_prompt(c, text);
    fake_mark(c->fake, FAKE_STEP);
    if (!strncmp(text, "hang", 4) && !fake_await(c->fake, FAKE_GO, 1))
        return false;
    snprintf(
        answer, sizeof answer,
        "{\"id\":\"c\",\"object\":\"text_completion\",\"choices\":[{\"index\":0,\"text\":\"%s\","
        "\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":2,"
        "\"completion_tokens\":3,\"total_tokens\":5}}",
        text);
    return fake_answer(c, 200, "application/json", "", answer);
}

void batch_serve(struct fake_connection *c)
{
    while (fake_read_request(c) && batch_echo(c))
        ;
}

json_object *batch_results(const char *text)
{
    json_object *all = json_object_new_array();

    for (const char *line = text, *end; *line; line = end + 1) {
        end = strchr(line, '\n');
        assert_non_null(end);
        char *copy = strndup(line, (size_t)(end - line));
        json_object *one = json_tokener_parse(copy);
        free(copy);
        assert_true(json_object_is_type(one, json_type_object));
        json_object_array_add(all, one);
    }
    return all;
}

json_object *batch_member(json_object *object, const char *name)
{
    json_object *value = NULL;

    if (!json_object_object_get_ex(object, name, &value))
        fail_msg("%s is missing in %s", name, json_object_to_json_string(object));
    return value;
}

const char *batch_text_of(json_object *all, size_t i)
{
    json_object *result = json_object_array_get_idx(all, i), *response;

    assert_non_null(result);
    assert_int_equal(json_object_get_int64(batch_member(result, "index")), i);
    response = batch_member(result, "response");
    assert_true((response == NULL) != (batch_member(result, "error") == NULL));
    if (!response)
        return "";
    assert_int_equal(json_object_get_int(batch_member(response, "status_code")), 200);
    json_object *choices = batch_member(batch_member(response, "body"), "choices");
    return json_object_get_string(batch_member(json_object_array_get_idx(choices, 0), "text"));
}

void batch_assert_texts(const char *text, size_t n, const char *const *texts)
{
    json_object *all = batch_results(text);

    assert_int_equal(json_object_array_length(all), n);
    for (size_t i = 0; i < n; i++)
        assert_string_equal(batch_text_of(all, i), texts[i]);
    json_object_put(all);
}

json_object *batch_error_of(json_object *all, size_t i)
{
    json_object *error = batch_member(json_object_array_get_idx(all, i), "error");

    assert_non_null(error);
    return error;
}

void batch_assert_error(json_object *all, size_t i, const char *name, const char *value)
{
    assert_string_equal(json_object_get_string(batch_member(batch_error_of(all, i), name)), value);
}

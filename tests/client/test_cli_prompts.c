/* What the command line's words become in the request: every form of prompt, and every option. */
#include <json-c/json.h>
#include <pty.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "scene.h"

#define CREATE(...) CLI_ARGUMENTS("create", "--model", "m", __VA_ARGS__)

/* Text with a NUL inside. */
static void serve(struct fake_connection *c)
{
    while (fake_read_request(c) &&
           fake_answer(c, 200, "application/json", "", FAKE_LAST("a\\u0000b")))
        ;
}

/* Runs it, and compares a member of the body that came to the upstream; NULL: it is not there. */
static void assert_sends(struct scene *s, const char *member, const char *expected, const char *in,
                         size_t in_length, const char *const *arguments)
{
    struct cli_options options = {.in = in, .in_length = in_length};
    json_object *value = NULL;
    struct cli c;

    cli_run(&c, 0, s->daemon.socket, &options, arguments);
    cli_done(&c);
    char *text = fake_last_body(s->fake);
    json_object *body = json_tokener_parse(text), *wanted = NULL;
    assert_non_null(body);
    assert_int_equal(json_object_object_get_ex(body, member, &value), expected != NULL);
    if (expected && !(wanted = json_tokener_parse(expected)))
        fail_msg("the expectation is no JSON: %s", expected);
    if (!json_object_equal(value, wanted))
        fail_msg("%s lacks %s: %s", text, member, expected);
    json_object_put(wanted);
    json_object_put(body);
    free(text);
}

static void assert_prompt(struct scene *s, const char *expected, const char *prompt)
{
    assert_sends(s, "prompt", expected, NULL, 0, CREATE("--prompt", prompt));
}

/* It says this, and nothing is sent. */
static void assert_refuses(struct scene *s, const char *said, const char *const *arguments)
{
    struct cli c;

    cli_run(&c, 2, s->daemon.socket, NULL, arguments);
    cli_assert_has(cli_errors(&c), said);
    cli_assert_has(cli_errors(&c), "Try 'completionctl create --help'.");
    assert_string_equal(cli_text(&c), "");
    cli_done(&c);
    assert_int_equal(fake_count(s->fake, FAKE_REQUESTED), 0);
}

/* ---- Prompts ---- */

static void test_texts_are_texts(void **state)
{
    struct scene *s = *state;

    scene_start(s, serve, NULL, NULL);
    assert_prompt(s, "\"Once upon\"", "Once upon");
    assert_prompt(s, "\"\"", "");
    assert_prompt(s, "\"[not an array\"", "[not an array");
    assert_prompt(s, "\"[x]\"", "[x]");
    assert_prompt(s, "\"[1] and more\"", "[1] and more");
    assert_prompt(s, "\"{\\\"a\\\":1}\"", "{\"a\":1}");
    assert_prompt(s, "\"--help\"", "--help");
    assert_sends(s, "prompt", NULL, NULL, 0, CLI_ARGUMENTS("create", "--model", "m"));
    scene_stop(s);
}

static void test_prompts_may_be_repeated(void **state)
{
    struct scene *s = *state;

    scene_start(s, serve, NULL, NULL);
    assert_sends(s, "prompt", "[\"One\",\"\",\"Three\"]", NULL, 0,
                 CREATE("--prompt", "One", "--prompt", "", "--prompt", "Three"));
    assert_sends(s, "prompt", "[\"One\",\"from stdin\"]", "from stdin", 0,
                 CREATE("--prompt", "One", "--prompt", "-"));
    scene_stop(s);
}

static void test_arrays_are_texts_or_tokens_or_both_levels_of_them(void **state)
{
    struct scene *s = *state;

    scene_start(s, serve, NULL, NULL);
    assert_prompt(s, "[\"One\",\"Two\"]", " [\"One\", \"Two\"] ");
    assert_prompt(s, "[\"@home\"]", "[\"@home\"]");
    assert_prompt(s, "[\"a\\u0000b\\ud83d\\ude0d\"]", "[\"a\\u0000b\\ud83d\\ude0d\"]");
    assert_prompt(s, "[1212,318,0]", "[1212,318,0]");
    assert_prompt(s, "[[1212,318],[0]]", "[[1212,318],[0]]");
    scene_stop(s);
}

static void test_files_are_sent_to_their_last_byte(void **state)
{
    static const char text[] = "one\ntwo\0three\n";
    struct scene *s = *state;
    char option[160];

    scene_start(s, serve, NULL, NULL);
    const char *path = directory_path(&s->daemon.directory, "prompt");
    FILE *file = fopen(path, "we");
    assert_non_null(file);
    fwrite(text, 1, sizeof text - 1, file);
    fclose(file);
    snprintf(option, sizeof option, "@%s", path);
    assert_prompt(s, "\"one\\ntwo\\u0000three\\n\"", option);
    assert_sends(s, "prompt", "\"one\\ntwo\\u0000three\\n\"", text, sizeof text - 1,
                 CREATE("--prompt", "-"));
    scene_stop(s);
}

static void test_arrays_that_are_no_prompt_are_refused(void **state)
{
    static const char *const prompts[] = {
        "[]",        "[1,\"a\"]", "[\"a\",1]", "[[1],\"a\"]", "[\"a\",[1]]",  "[1,[1]]", "[1.5]",
        "[[\"a\"]]", "[null]",    "[{}]",      "[[[1]]]",     "[2147483648]", "[true]",
    };
    struct scene *s = *state;

    scene_start(s, serve, NULL, NULL);
    for (size_t i = 0; i < sizeof prompts / sizeof *prompts; i++)
        assert_refuses(s, "--prompt: an array of texts, of token ids, or of arrays",
                       CREATE("--prompt", prompts[i]));
    assert_refuses(s, "--prompt: an array can't be combined",
                   CREATE("--prompt", "[\"a\"]", "--prompt", "b"));
    scene_stop(s);
}

static void test_files_that_cannot_be_read_are_named(void **state)
{
    struct scene *s = *state;

    scene_start(s, serve, NULL, NULL);
    assert_refuses(s, "--prompt: /nonexistent: No such file or directory",
                   CREATE("--prompt", "@/nonexistent"));
    assert_refuses(s, "--prompt: /tmp: Is a directory", CREATE("--prompt", "@/tmp"));
    assert_refuses(s, "--prompt: /dev/zero: longer than the 4 MiB",
                   CREATE("--prompt", "@/dev/zero"));
    assert_refuses(s, "--api-key: /nonexistent: No such file or directory",
                   CREATE("--prompt", "p", "--api-key", "@/nonexistent"));
    scene_stop(s);
}

/* Ctrl-D, as a person types it. */
static void test_one_end_of_a_typed_prompt_is_enough(void **state)
{
    static const char typed[] = "typed\n\004";
    struct scene *s = *state;
    struct cli_options options = {0};
    struct cli c;
    int ours;

    scene_start(s, serve, NULL, NULL);
    assert_int_equal(openpty(&ours, &options.in_fd, NULL, NULL, NULL), 0);
    assert_int_equal(write(ours, typed, sizeof typed - 1), sizeof typed - 1);
    cli_run(&c, 0, s->daemon.socket, &options, CREATE("--prompt", "-"));
    cli_done(&c);
    char *body = fake_last_body(s->fake);
    cli_assert_has(body, "\"prompt\":\"typed\\n\"");
    free(body);
    close(options.in_fd);
    close(ours);
    scene_stop(s);
}

/* What is no UTF-8 is for the daemon to say, as it does to any caller. */
static void test_bytes_that_are_no_text_are_refused(void **state)
{
    struct cli_options options = {.in = "\xff\xfe"};
    struct scene *s = *state;
    struct cli c;

    scene_start(s, serve, NULL, NULL);
    cli_run(&c, 4, s->daemon.socket, &options, CREATE("--prompt", "-"));
    cli_assert_has(cli_errors(&c), "UTF-8");
    cli_done(&c);
    scene_stop(s);
}

/* ---- Options ---- */

static void assert_body(struct scene *s, const char *expected, const char *const *arguments)
{
    struct cli c;

    cli_run(&c, 0, s->daemon.socket, NULL, arguments);
    cli_done(&c);
    char *text = fake_last_body(s->fake);
    json_object *body = json_tokener_parse(text), *wanted = json_tokener_parse(expected);
    assert_non_null(wanted);
    if (!json_object_equal(body, wanted))
        fail_msg("%s is not %s", text, expected);
    json_object_put(body);
    json_object_put(wanted);
    free(text);
}

static void test_every_option_is_sent_as_it_was_given(void **state)
{
    struct scene *s = *state;

    scene_start(s, serve, NULL, NULL);
    assert_body(s,
                "{\"model\":\"m\",\"prompt\":\"p\",\"suffix\":\"s\",\"max_tokens\":7,"
                "\"temperature\":0.25,\"top_p\":0.5,\"n\":2,\"best_of\":3,\"stop\":\"x\","
                "\"seed\":9007199254740993,\"echo\":true,\"logprobs\":5,"
                "\"logit_bias\":{\"50256\":-100,\"7\":1.5},\"frequency_penalty\":-2,"
                "\"presence_penalty\":1.5,\"user\":\"u\",\"top_k\":40}",
                CREATE("--prompt", "p", "--suffix", "s", "--max-tokens", "7", "--temperature",
                       "0.25", "--top-p", "0.5", "--n", "2", "--best-of", "3", "--stop", "x",
                       "--seed", "9007199254740993", "--echo", "--logprobs", "5", "--logit-bias",
                       "{\"50256\":-100,\"7\":1.5}", "--frequency-penalty", "-2",
                       "--presence-penalty", "1.5", "--user", "u", "--extra-body",
                       "{\"top_k\":40}"));
    assert_body(s, "{\"model\":\"m\",\"stop\":[\"a\",\"\\n\"],\"echo\":false,\"temperature\":0}",
                CREATE("--stop", "a", "--stop", "\n", "--echo=no", "--temperature", "0"));
    scene_stop(s);
}

static void test_values_that_are_none_are_refused_by_name(void **state)
{
    static const struct {
        const char *option, *value, *said;
    } table[] = {
        {"--temperature", "warm", "--temperature: a number is wanted"},
        {"--temperature", "nan", "--temperature: a number is wanted"},
        {"--top-p", "", "--top-p: a number is wanted"},
        {"--max-tokens", "1.5", "--max-tokens: a whole number is wanted"},
        {"--max-tokens", "99999999999", "--max-tokens: a whole number is wanted"},
        {"--seed", "9223372036854775808", "--seed: a whole number of 64 bits is wanted"},
        {"--logit-bias", "{\"x\":1}", "--logit-bias: a JSON object of token ids"},
        {"--logit-bias", "{\"1\":1} 2", "--logit-bias: a JSON object of token ids"},
        {"--stream-options", "{\"usage\":true}", "--stream-options: a JSON object is wanted"},
        {"--stream-options", "{}", "--stream-options needs --stream"},
        {"--echo=maybe", "p", "--echo: true or false is wanted"},
        {"--output", "xml", "--output: json or text is wanted"},
        {"--timeout", "soon", "--timeout: write 30s, 2min or 500ms"},
        {"--timeout", "-1", "--timeout: write 30s, 2min or 500ms"},
        {"--socket", "", "--socket: a path is wanted"},
        {"--api-key", "two words", "--api-key: printable characters without spaces"},
        {"--api-key", "@/dev/null", "--api-key: /dev/null: printable characters"},
    };
    struct scene *s = *state;

    scene_start(s, serve, NULL, NULL);
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        assert_refuses(s, table[i].said, CREATE(table[i].option, table[i].value));
    scene_stop(s);
}

/* ---- And back ---- */

static void test_text_with_nul_is_written_whole(void **state)
{
    struct scene *s = *state;
    struct cli c;

    scene_start(s, serve, NULL, NULL);
    cli_run(&c, 0, s->daemon.socket, NULL, CREATE("--prompt", "p", "--output", "text"));
    assert_int_equal(buffer_length(&c.text), 4);
    assert_memory_equal(buffer_bytes(&c.text), "a\0b\n", 4);
    cli_done(&c);
    cli_run(&c, 0, s->daemon.socket, NULL, CREATE("--prompt", "p"));
    cli_assert_has(cli_text(&c), "\"text\":\"a\\u0000b\"");
    cli_done(&c);
    scene_stop(s);
}

#define SPREAD                                                                                     \
    "{\"id\":\"c\",\"object\":\"text_completion\",\"timings\":\r\n{\"a\":\t1,\r\n\"b\":[1,\n2]}"   \
    ",\n\"choices\":[{\"index\":0,\"text\":\"a\\nb\",\"logprobs\":null,\"finish_reason\":"         \
    "\"stop\","                                                                                    \
    "\"more\":{\n\"c\":\"d\\n\"\n}}]}"

static void spread(struct fake_connection *c)
{
    while (fake_read_request(c) && fake_answer(c, 200, "application/json", "", SPREAD))
        ;
}

static void test_an_answer_is_one_line_however_the_server_wrote_it(void **state)
{
    struct scene *s = *state;
    struct cli c;

    scene_start(s, spread, NULL, NULL);
    cli_run(&c, 0, s->daemon.socket, NULL, CREATE("--prompt", "p"));
    const char *end = strchr(cli_text(&c), '\n');
    assert_non_null(end);
    assert_string_equal(end, "\n");
    json_object *given = json_tokener_parse(cli_text(&c)), *wanted = json_tokener_parse(SPREAD);
    if (!json_object_equal(given, wanted))
        fail_msg("%s is not %s", cli_text(&c), SPREAD);
    json_object_put(given);
    json_object_put(wanted);
    cli_done(&c);
    scene_stop(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_texts_are_texts),
        scene_test(test_prompts_may_be_repeated),
        scene_test(test_arrays_are_texts_or_tokens_or_both_levels_of_them),
        scene_test(test_files_are_sent_to_their_last_byte),
        scene_test(test_arrays_that_are_no_prompt_are_refused),
        scene_test(test_files_that_cannot_be_read_are_named),
        scene_test(test_one_end_of_a_typed_prompt_is_enough),
        scene_test(test_bytes_that_are_no_text_are_refused),
        scene_test(test_every_option_is_sent_as_it_was_given),
        scene_test(test_values_that_are_none_are_refused_by_name),
        scene_test(test_text_with_nul_is_written_whole),
        scene_test(test_an_answer_is_one_line_however_the_server_wrote_it),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

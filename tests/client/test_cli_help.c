/* --help and the parser tell of the same options, and mistakes lead to --help. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "harness.h"

enum { OPTION_MAX = 64 };

static void assert_run(struct cli *c, int status, const char *const *arguments)
{
    cli_run(c, status, "/nonexistent", NULL, arguments);
    assert_string_equal(status ? cli_text(c) : cli_errors(c), "");
}

/* The next "--name" in a text; NULL: there is none. */
static const char *next_option(const char *text, char name[OPTION_MAX])
{
    const char *p = text;

    while ((p = strstr(p, "--"))) {
        size_t n = 2 + strspn(p + 2, "abcdefghijklmnopqrstuvwxyz-");
        if (n > 2 && n < OPTION_MAX && (p == text || !isalnum((unsigned char)p[-1]))) {
            memcpy(name, p, n);
            name[n] = '\0';
            return p + n;
        }
        p += n;
    }
    return NULL;
}

static bool has_option(const char *text, const char *option)
{
    char name[OPTION_MAX];

    while ((text = next_option(text, name)))
        if (!strcmp(name, option))
            return true;
    return false;
}

/* Each option of one text is in the other. Returns how many there were. */
static unsigned assert_options_are_in(const char *text, const char *other)
{
    char name[OPTION_MAX];
    unsigned n = 0;

    for (; (text = next_option(text, name)); n++)
        if (!has_option(other, name))
            fail_msg("%s is missing in: %s", name, other);
    return n;
}

/* getopt_long() tells all of its table where an abbreviation fits everything: the empty one. */
static void test_help_tells_of_the_options_that_the_parser_has(void **state)
{
    static const char *const commands[] = {"create", "models", "status", "top"};

    (void)state;
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        struct cli help, parser;
        assert_run(&help, 0, CLI_ARGUMENTS(commands[i], "--help"));
        assert_run(&parser, 2, CLI_ARGUMENTS(commands[i], "--=x"));
        const char *table = strstr(cli_errors(&parser), "possibilities:");
        assert_non_null(table);
        unsigned n = assert_options_are_in(table, cli_text(&help));
        assert_true(n >= (i == 0 ? 24 : 3));
        assert_true(assert_options_are_in(cli_text(&help), table) >= n);
        cli_done(&help);
        cli_done(&parser);
    }
}

static void test_help_tells_of_every_parameter_of_the_api(void **state)
{
    static const char *const parameters[] = {
        "--model",    "--prompt",      "--best-of", "--echo",   "--frequency-penalty",
        "--logprobs", "--logit-bias",  "--n",       "--seed",   "--presence-penalty",
        "--stop",     "--temperature", "--stream",  "--suffix", "--stream-options",
        "--top-p",    "--max-tokens",  "--user",
    };
    struct cli c;

    (void)state;
    assert_run(&c, 0, CLI_ARGUMENTS("help", "create"));
    for (size_t i = 0; i < sizeof parameters / sizeof *parameters; i++)
        if (!has_option(cli_text(&c), parameters[i]))
            fail_msg("%s is missing", parameters[i]);
    cli_done(&c);
}

static void test_every_help_has_examples_and_fits_the_screen(void **state)
{
    const char *const *commands[] = {CLI_ARGUMENTS("--help"),        CLI_ARGUMENTS("help"),
                                     CLI_ARGUMENTS("create", "-h"),  CLI_ARGUMENTS("status", "-h"),
                                     CLI_ARGUMENTS("models", "-h"),  CLI_ARGUMENTS("top", "-h"),
                                     CLI_ARGUMENTS("help", "create")};
    struct cli c;

    (void)state;
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        assert_run(&c, 0, commands[i]);
        assert_int_equal(strncmp(cli_text(&c), "Usage: completionctl ", 21), 0);
        const char *examples = strstr(cli_text(&c), "\nExample");
        assert_non_null(examples);
        cli_assert_has(examples, "  completionctl ");
        for (const char *line = cli_text(&c), *end; (end = strchr(line, '\n')); line = end + 1)
            if (end - line > 96)
                fail_msg("too long: %.*s", (int)(end - line), line);
        cli_done(&c);
    }
}

static void test_help_tells_of_the_exit_statuses(void **state)
{
    static const char *const statuses[] = {"0", "1", "2", "3", "4", "5", "6", "7", "8", "130"};
    struct cli c;

    (void)state;
    assert_run(&c, 0, CLI_ARGUMENTS("--help"));
    for (size_t i = 0; i < sizeof statuses / sizeof *statuses; i++) {
        char line[16];
        snprintf(line, sizeof line, "\n  %-5s", statuses[i]);
        cli_assert_has(cli_text(&c), line);
    }
    cli_done(&c);
}

/* A key in the environment that can't be used is in nobody's way to the help. */
static void test_help_is_there_whatever_else_is_wrong(void **state)
{
    struct cli_options options = {.environment = CLI_ARGUMENTS("COMPLETIOND_API_KEY=two words")};
    struct cli c;

    (void)state;
    cli_run(&c, 0, NULL, &options, CLI_ARGUMENTS("create", "--help", "--temperature", "warm"));
    cli_done(&c);
}

static void test_mistakes_are_2_and_lead_to_the_help(void **state)
{
    static const struct {
        const char *arguments[6], *says, *leads;
    } table[] = {
        {{"complete"}, "there is no command 'complete'", "'completionctl --help'"},
        {{"help", "complete"}, "there is no command 'complete'", "'completionctl --help'"},
        {{"--bogus"}, "there is no command '--bogus'", "'completionctl --help'"},
        {{"create"}, "--model is missing", "'completionctl create --help'"},
        {{"create", "--model"}, "'--model' requires an argument", "'completionctl create --help'"},
        {{"create", "--bogus"}, "option '--bogus'", "'completionctl create --help'"},
        {{"create", "--st"}, "'--st' is ambiguous", "'completionctl create --help'"},
        {{"create", "-x"}, "invalid option -- 'x'", "'completionctl create --help'"},
        {{"create", "--usage=1"}, "doesn't allow an argument", "'completionctl create --help'"},
        {{"create", "--stream=x"}, "--stream: true or false", "'completionctl create --help'"},
        {{"create", "--model", "m", "A word"},
         "argument 'A word'; a prompt stands behind --prompt",
         "'completionctl create --help'"},
        {{"models", "--bogus"}, "option '--bogus'", "'completionctl models --help'"},
        {{"models", "now"}, "unexpected argument 'now'", "'completionctl models --help'"},
        {{"models", "--output", "x"}, "table, text or json", "'completionctl models --help'"},
        {{"models", "--timeout", "x"}, "--timeout: write ", "'completionctl models --help'"},
        {{"models", "--socket", ""}, "--socket: a path is wanted", "'completionctl models --help'"},
        {{"status", "--bogus"}, "option '--bogus'", "'completionctl status --help'"},
        {{"status", "now"}, "unexpected argument 'now'", "'completionctl status --help'"},
        {{"status", "--timeout", "x"}, "--timeout: write ", "'completionctl status --help'"},
        {{"status", "--socket", ""}, "--socket: a path is wanted", "'completionctl status --help'"},
    };
    struct cli c;

    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        assert_run(&c, 2, table[i].arguments);
        assert_int_equal(strncmp(cli_errors(&c), "completionctl: ", 15), 0);
        cli_assert_has(cli_errors(&c), table[i].says);
        cli_assert_has(cli_errors(&c), table[i].leads);
        cli_done(&c);
    }
}

static void test_what_was_meant_is_guessed(void **state)
{
    static const struct {
        const char *arguments[4], *guess;
    } table[] = {
        {{"creat"}, "'create'"},
        {{"modles"}, "'models'"},
        {{"help", "statsu"}, "'status'"},
        {{"create", "--max_tokens", "3"}, "'--max-tokens'"},
        {{"create", "--promt=x"}, "'--prompt'"},
        {{"top", "--intervall", "1s"}, "'--interval'"},
        /* Nothing is like them, they are clear, or too many are. */
        {{"x"}, NULL},
        {{"complete"}, NULL},
        {{"create", "--bogus"}, NULL},
        {{"create", "--model"}, NULL},
        {{"create", "--sto", "a", "--t"}, NULL},
        {{"create", "-q"}, NULL},
    };
    struct cli c;

    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        assert_run(&c, 2, table[i].arguments);
        cli_assert_part(cli_errors(&c), "Did you mean ", table[i].guess, __FILE__, __LINE__);
        if (table[i].guess)
            cli_assert_has(strstr(cli_errors(&c), "Did you mean "), table[i].guess);
        cli_done(&c);
    }
}

static void test_a_newcomer_without_a_command_sees_the_help(void **state)
{
    struct cli c;

    (void)state;
    cli_run(&c, 2, NULL, NULL, CLI_ARGUMENTS(NULL));
    cli_assert_has(cli_errors(&c), "Usage: completionctl COMMAND");
    cli_assert_has(cli_errors(&c), "create");
    assert_string_equal(cli_text(&c), "");
    cli_done(&c);
}

static void test_version(void **state)
{
    struct cli c;

    (void)state;
    assert_run(&c, 0, CLI_ARGUMENTS("--version"));
    assert_int_equal(strncmp(cli_text(&c), "completionctl 0.", 16), 0);
    cli_done(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_help_tells_of_the_options_that_the_parser_has),
        cmocka_unit_test(test_help_tells_of_every_parameter_of_the_api),
        cmocka_unit_test(test_every_help_has_examples_and_fits_the_screen),
        cmocka_unit_test(test_help_tells_of_the_exit_statuses),
        cmocka_unit_test(test_help_is_there_whatever_else_is_wrong),
        cmocka_unit_test(test_mistakes_are_2_and_lead_to_the_help),
        cmocka_unit_test(test_what_was_meant_is_guessed),
        cmocka_unit_test(test_a_newcomer_without_a_command_sees_the_help),
        cmocka_unit_test(test_version),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

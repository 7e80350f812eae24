/* completionctl models: what may be asked for, and who serves it. */
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli.h"
#include "peer.h"
#include "scene.h"

enum { NOBODY = 65534 };

#define OTHER "[upstream other]\nbase_url = http://127.0.0.1:1/v1\nauth = none\n"

static void serve(struct fake_connection *c)
{
    while (fake_read_request(c) && fake_answer(c, 200, "application/json", "", FAKE_LAST("ok")))
        ;
}

static void assert_names(struct scene *s, const struct cli_options *options, const char *names)
{
    struct cli c;

    cli_run(&c, 0, s->daemon.socket, options, CLI_ARGUMENTS("models", "--output", "text"));
    assert_string_equal(cli_text(&c), names);
    assert_string_equal(cli_errors(&c), "");
    cli_done(&c);
}

static void test_models_are_the_configurations_in_its_order(void **state)
{
    struct scene *s = *state;
    struct cli c;

    scene_start(s, serve, NULL, "models = a-rather-long-name b-*\n" OTHER "models = b-1 c\n");
    assert_names(s, NULL, "a-rather-long-name\nb-*\nb-1\nc\n");
    cli_run(&c, 0, s->daemon.socket, NULL, CLI_ARGUMENTS("models"));
    assert_string_equal(cli_text(&c), "MODEL               UPSTREAM  STATE\n"
                                      "a-rather-long-name  fake      ok\n"
                                      "b-*                 fake      ok\n"
                                      "b-1                 other     ok\n"
                                      "c                   other     ok\n");
    cli_done(&c);
    scene_stop(s);
}

static void test_json_has_all_of_it(void **state)
{
    struct scene *s = *state;
    struct cli c;

    scene_start(s, serve, NULL, "models = x\n" OTHER "models = \"y\\\n");
    cli_run(&c, 0, s->daemon.socket, NULL, CLI_ARGUMENTS("models", "--output", "json"));
    assert_string_equal(
        cli_text(&c),
        "{\"models\":["
        "{\"model\":\"x\",\"upstream\":\"fake\",\"state\":\"UPSTREAM_STATE_OK\"},"
        "{\"model\":\"\\\"y\\\\\",\"upstream\":\"other\",\"state\":\"UPSTREAM_STATE_OK\"}]}\n");
    cli_done(&c);
    scene_stop(s);
}

static void test_an_upstream_that_is_down_is_seen(void **state)
{
    struct scene *s = *state;
    struct cli c;

    scene_start(s, serve, NULL, "models = x\n" OTHER "models = y\nmax_retries = 0\n");
    for (;;) {
        cli_run(&c, 5, s->daemon.socket, NULL,
                CLI_ARGUMENTS("create", "--model", "y", "--prompt", "CANARY"));
        bool is_down = !strstr(cli_errors(&c), "Couldn't connect");
        cli_done(&c);
        cli_run(&c, 0, s->daemon.socket, NULL, CLI_ARGUMENTS("models"));
        is_down = is_down || strstr(cli_text(&c), "y      other     unreachable\n");
        cli_assert_has(cli_text(&c), "x      fake      ok\n");
        if (is_down)
            cli_assert_has(cli_text(&c), "y      other     unreachable\n");
        cli_done(&c);
        if (is_down)
            break;
    }
    scene_stop(s);
}

/* What policy leaves of the upstreams' models. */
static void test_models_are_what_policy_allows(void **state)
{
    static const struct {
        const char *upstream, *policy, *names;
    } table[] = {
        {"*", "*", "*\n"},
        {"*", "a b-*", "a\nb-*\n"},
        {"a b", "b", "b\n"},
        {"a-1 b-1", "a-*", "a-1\n"},
        {"a-*", "a-1 b-1", "a-1\n"},
        /* Which of them is the narrower one is not found out. */
        {"a-*", "a-1* *-2", "a-*\n"},
        {"a a", "*", "a\n"},
    };
    struct scene *s = *state;
    char settings[256];

    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        snprintf(settings, sizeof settings, "models = %s\n[policy *]\nmodels = %s\n",
                 table[i].upstream, table[i].policy);
        scene_start(s, serve, NULL, settings);
        assert_names(s, NULL, table[i].names);
        scene_stop(s);
        scene_teardown(state);
        scene_setup(state);
        s = *state;
    }
}

static void test_nothing_to_ask_for_is_said(void **state)
{
    struct scene *s = *state;
    struct cli c;

    scene_start(s, serve, NULL, "models = a\n[policy *]\nmodels = b\n");
    assert_names(s, NULL, "");
    cli_run(&c, 0, s->daemon.socket, NULL, CLI_ARGUMENTS("models"));
    assert_string_equal(cli_text(&c), "");
    cli_assert_has(cli_errors(&c), "there is no model that you may ask for");
    cli_done(&c);
    scene_stop(s);
}

static void test_each_user_sees_its_own(void **state)
{
    struct cli_options nobody = {.uid = NOBODY};
    struct scene *s = *state;
    struct cli c;

    if (geteuid() != 0) {
        print_message("skipped: only root can run the command as somebody else\n");
        skip();
    }
    scene_start(s, serve, NULL, "models = a b\n[policy user:65534]\nmodels = b\n");
    assert_int_equal(chmod(s->daemon.directory.path, 0711), 0);
    assert_int_equal(chmod(s->daemon.socket, 0666), 0);
    assert_names(s, NULL, "a\nb\n");
    cli_start(&c, s->daemon.socket, &nobody, CLI_ARGUMENTS("models", "--output", "text"));
    if (cli_wait(&c) == 127)
        print_message("skipped: others may not run what was built\n");
    else
        assert_string_equal(cli_text(&c), "b\n");
    cli_done(&c);
    scene_stop(s);
}

static void test_nobody_there_is_3(void **state)
{
    struct scene *s = *state;
    struct cli c;

    cli_run(&c, 3, s->daemon.socket, NULL, CLI_ARGUMENTS("models"));
    cli_assert_has(cli_errors(&c), "completiond is not running");
    cli_done(&c);
}

/* ---- A daemon that is up to something ---- */

/* models { model: "\033[31mred", upstream: "\033up" } */
static const uint8_t evil[] = {0x6a, 15,  0x0a, 8,    0x1b, '[',  '3', '1', 'm',
                               'r',  'e', 'd',  0x12, 3,    0x1b, 'u', 'p'};

static void be_evil(struct fake_connection *c)
{
    uint32_t stream;

    if (!peer_greet(c))
        return;
    while ((stream = peer_read_call(c)) > 0)
        if (!peer_begin(c, stream) || !peer_message(c, stream, evil, sizeof evil) ||
            !peer_end(c, stream, "0", NULL, NULL))
            return;
}

static void test_names_can_not_play_with_the_terminal(void **state)
{
    static const char *const formats[] = {"table", "text", "json"};
    struct cli_options terminal = {.out_is_terminal = true};
    struct directory directory;
    struct cli c;

    (void)state;
    directory_init(&directory);
    const char *path = directory_path(&directory, "evil.sock");
    struct fake *fake = fake_new(path, be_evil, NULL);
    for (size_t i = 0; i < 3; i++) {
        cli_run(&c, 0, path, &terminal, CLI_ARGUMENTS("models", "--output", formats[i]));
        cli_assert_lacks(cli_text(&c), "\033");
        cli_assert_has(cli_text(&c), "[31mred");
        cli_done(&c);
    }
    fake_free(fake);
    directory_done(&directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_models_are_the_configurations_in_its_order),
        scene_test(test_json_has_all_of_it),
        scene_test(test_an_upstream_that_is_down_is_seen),
        scene_test(test_models_are_what_policy_allows),
        scene_test(test_nothing_to_ask_for_is_said),
        scene_test(test_each_user_sees_its_own),
        scene_test(test_nobody_there_is_3),
        cmocka_unit_test(test_names_can_not_play_with_the_terminal),
    };

    return cmocka_run_group_tests_name("cli models", tests, NULL, NULL);
}

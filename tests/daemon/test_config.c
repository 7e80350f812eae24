/*
 * Configurations that are refused, and how that is said: file, line, what is wrong; by a daemon
 * that starts, and by --check-config alike.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "scene.h"

#define GOOD "[upstream u]\nbase_url = http://127.0.0.1:1/v1\n"

static const struct daemon_options check = {
    .arguments = (const char *const[]){"--check-config", NULL},
    .no_listen = true,
    .no_notify = true,
};

static void run(struct daemon *d, const struct daemon_options *options, int status)
{
    daemon_spawn(d, options);
    daemon_wait_exit(d, status);
}

/* Both refuse it, and say this. */
static void expect_refused(struct daemon *d, const char *config, const char *message)
{
    daemon_configure(d, config);
    print_message("%s\n", message);
    run(d, &check, 1);
    daemon_assert_logged(d, message);
    remove(d->log);
    run(d, NULL, 1);
    daemon_assert_logged(d, message);
    remove(d->log);
}

static void test_mistakes_are_named_with_file_and_line(void **state)
{
    static const struct {
        const char *config, *message; /* behind the file's path */
    } cases[] = {
        {GOOD "colour = red\n", ":3: [upstream u] has no key \"colour\""},
        {"\n# a comment\n[serve]\nx = 1\n", ":3: unknown section [serve]"},
        {"[daemon]\ndrain_timeout = soon\n", ":2: "},
        {"[daemon]\nlog_level = loud\n", ":2: "},
        {"log_level = info\n", ":1: "},
        {GOOD "\nwhat is this\n", ":4: "},
        {GOOD "auth = password\n", ":3: "},
        {GOOD "strict_done = perhaps\n", ":3: "},
        {GOOD "first_byte_timeout = -1s\n", ":3: "},
        {GOOD "http_version = 3\n", ":3: "},
        {GOOD "header = no colon\n", ":3: "},
        {"[policy user:no-such-user-here]\nmodels = *\n", ":1: "},
    };
    struct scene *s = *state;
    char message[256];

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        snprintf(message, sizeof message, "%s%s", s->daemon.config, cases[i].message);
        expect_refused(&s->daemon, cases[i].config, message);
    }
}

static void test_values_that_make_no_upstream(void **state)
{
    static const struct {
        const char *config, *message;
    } cases[] = {
        {"[upstream u]\nauth = none\n", "base_url is missing"},
        {"[upstream u]\nbase_url = ftp://example.com/v1\n", "base_url must begin with"},
        {"[upstream u]\nbase_url = http:///v1\n", "base_url"},
        {"[upstream u]\nbase_url = unix:relative.sock:/v1\n", "base_url"},
        {"[upstream u]\nbase_url = https://user:CANARY@example.com/v1\n", "base_url"},
        {GOOD "credential = openai.key\n", "CREDENTIALS_DIRECTORY"},
        {GOOD "credential_file = /no/such/file\n", "/no/such/file"},
        {GOOD "credential_file = /dev/zero\n", "/dev/zero"},
        {GOOD "credential = a\ncredential_file = /b\n", "exclude each other"},
    };
    struct scene *s = *state;

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_refused(&s->daemon, cases[i].config, cases[i].message);
}

static void test_key_files_that_others_may_read(void **state)
{
    struct scene *s = *state;
    const char *key = directory_write(&s->daemon.directory, "key", SCENE_KEY "\n");
    char config[256];

    snprintf(config, sizeof config, GOOD "credential_file = %s\n", key);
    assert_int_equal(chmod(key, 0644), 0);
    expect_refused(&s->daemon, config, "chmod o=");
    assert_int_equal(chmod(key, 0640), 0);
    run(&s->daemon, &check, 0);
    daemon_assert_not_logged(&s->daemon, SCENE_SECRET);
}

static void test_good_configuration_is_checked_silently(void **state)
{
    struct scene *s = *state;

    daemon_configure(&s->daemon, "[daemon]\ndrain_timeout = 1min 30s\n" GOOD
                                 "[policy *]\nallow_own_key = yes\n");
    run(&s->daemon, &check, 0);
    char *log = daemon_log(&s->daemon);
    assert_string_equal(log, "");
    free(log);
}

static void test_drop_ins_are_merged_and_named(void **state)
{
    struct scene *s = *state;
    char path[128];

    daemon_configure(&s->daemon, GOOD "auth = none\n");
    snprintf(path, sizeof path, "%s.d", s->daemon.config);
    assert_int_equal(mkdir(path, 0700), 0);
    directory_write(&s->daemon.directory, "completiond.conf.d/10-a.conf",
                    "[upstream u]\nauth = bearer\n");
    directory_write(&s->daemon.directory, "completiond.conf.d/ignored.txt", "nonsense\n");
    run(&s->daemon, &check, 0);
    directory_write(&s->daemon.directory, "completiond.conf.d/20-b.conf",
                    "[upstream u]\n\nx = y\n");
    run(&s->daemon, &check, 1);
    daemon_assert_logged(&s->daemon, "completiond.conf.d/20-b.conf:3: ");
}

static void test_file_that_is_named_must_be_there(void **state)
{
    struct scene *s = *state;

    run(&s->daemon, &check, 1);
    daemon_assert_logged(&s->daemon, s->daemon.config);
    run(&s->daemon, NULL, 1);
}

static void test_mistaken_command_lines(void **state)
{
    static const char *const options[] = {"--nonsense", "--listen", "stray", "--config"};
    struct scene *s = *state;

    for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
        struct daemon_options o = {
            .arguments = (const char *const[]){options[i], NULL},
            .no_config = true,
            .no_listen = true,
        };
        run(&s->daemon, &o, 2);
        daemon_assert_logged(&s->daemon, "Try 'completiond --help'");
        remove(s->daemon.log);
    }
}

static void test_help_and_version(void **state)
{
    static const char *const options[][2] = {{"--help", "--check-config"},
                                             {"--version", "completiond "}};
    struct scene *s = *state;

    for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
        struct daemon_options o = {
            .arguments = (const char *const[]){options[i][0], NULL},
            .no_config = true,
            .no_listen = true,
        };
        run(&s->daemon, &o, 0);
        daemon_assert_logged(&s->daemon, options[i][1]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_mistakes_are_named_with_file_and_line),
        scene_test(test_values_that_make_no_upstream),
        scene_test(test_key_files_that_others_may_read),
        scene_test(test_good_configuration_is_checked_silently),
        scene_test(test_drop_ins_are_merged_and_named),
        scene_test(test_file_that_is_named_must_be_there),
        scene_test(test_mistaken_command_lines),
        scene_test(test_help_and_version),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

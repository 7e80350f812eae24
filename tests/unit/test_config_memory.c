/* A configuration that is loaded while memory runs out: all of it, or an error and nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "config.h"
#include "directory.h"
#include "environment.h"
#include "failing_memory.h"

/* Whoever reads the error should not look for a mistake in the file. That a user can't be looked up
 * for want of memory, the C library does not tell. */
static void assert_says_memory(const struct config_error *error)
{
    if (!strstr(error->text, "memory") && !strstr(error->text, "there is no such"))
        fail_msg("\"%s\" does not say that memory ran out", error->text);
}

static void check(const char *path, const struct environment *environment,
                  void (*whole)(const struct config *c))
{
    for (struct failing_memory m = {0}; failing_memory_next(&m);) {
        struct config *c = NULL;
        struct config_error error = {""};

        failing_memory_begin(&m);
        int r = config_load(path, environment, &c, &error);
        failing_memory_end(&m);
        if (r < 0) {
            assert_true(m.failed);
            assert_null(c);
            assert_says_memory(&error);
        } else {
            whole(c);
        }
        config_unref(c);
    }
}

static void has_all_keys(const struct config *c)
{
    assert_int_equal(c->n_upstreams, 2);
    assert_int_equal(c->n_policies, 3);
    const struct config_upstream *u = c->upstreams[0];

    assert_string_equal(u->models[1], "b*");
    assert_null(u->models[2]);
    assert_string_equal(u->endpoints[0].url, "https://h/v1/completions?x=1");
    assert_string_equal(u->headers[0], "X-A: 1");
    assert_string_equal(u->drop_parameters[0], "suffix");
    assert_string_equal(u->key->text, "sk-file");
    assert_non_null(strstr(u->ca_file, "/ca.pem"));
    assert_string_equal(u->proxy, "http://p");
    assert_string_equal(c->upstreams[1]->endpoints[0].unix_path, "/u.sock");
    assert_string_equal(c->upstreams[1]->endpoints[0].url, "http://localhost/v1/completions");
    assert_int_equal(c->upstreams[1]->n_endpoints, 3);
    assert_string_equal(c->upstreams[1]->endpoints[2].name, "http://h/2");
    assert_string_equal(c->upstreams[1]->models[0], "*");
    assert_string_equal(c->policies[1]->models[0], "x");
    assert_int_equal(c->policies[1]->kind, CONFIG_POLICY_USER);
    assert_int_equal(c->policies[2]->kind, CONFIG_POLICY_GROUP);
    /* The drop-in is not left out. */
    assert_false(c->policies[0]->allow_extra_body);
}

static void a_file_and_its_drop_ins_are_read_whole_or_not_at_all(void **state)
{
    struct directory d;
    char text[1024], path[128];
    (void)state;

    directory_init(&d);
    snprintf(text, sizeof text,
             "[upstream a]\nmodels = a* b*\nbase_url = https://h/v1/\nquery = x=1\n"
             "header = X-A: 1\ndrop_parameters = suffix\nca_file = %s\nproxy = http://p\n"
             "credential_file = %s\n"
             "[upstream b]\nbase_url = unix:/u.sock:/v1 http://h/1 http://h/2\n"
             "[policy *]\n[policy user:daemon]\nmodels = x\n[policy group:daemon]\n",
             directory_write(&d, "ca.pem", "-----BEGIN CERTIFICATE-----\n"),
             directory_write(&d, "key", "sk-file"));
    snprintf(path, sizeof path, "%s", directory_write(&d, "c.conf", text));
    assert_int_equal(mkdir(directory_path(&d, "c.conf.d"), 0755), 0);
    directory_write(&d, "c.conf.d/1.conf", "[policy *]\nallow_extra_body = no\n");
    check(path, NULL, has_all_keys);
    directory_done(&d);
}

static void has_the_environments_upstream(const struct config *c)
{
    assert_int_equal(c->n_upstreams, 1);
    assert_string_equal(c->upstreams[0]->endpoints[0].url, "https://api.openai.com/v1/completions");
    assert_string_equal(c->upstreams[0]->key->text, "sk-environment");
}

static void the_environments_upstream_is_whole_or_not_at_all(void **state)
{
    struct directory d;
    struct environment e = {0};
    (void)state;

    directory_init(&d);
    assert_int_equal(secret_new("sk-environment", 14, &e.key), 0);
    check(directory_write(&d, "c.conf", ""), &e, has_the_environments_upstream);
    environment_done(&e);
    directory_done(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_and_its_drop_ins_are_read_whole_or_not_at_all),
        cmocka_unit_test(the_environments_upstream_is_whole_or_not_at_all),
    };
    unsetenv("OPENAI_BASE_URL");
    return cmocka_run_group_tests(tests, NULL, NULL);
}

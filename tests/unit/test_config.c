/* The configuration: what is read, what is refused, and with which words. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <syslog.h>
#include <unistd.h>

#include "config.h"
#include "environment.h"

struct fixture {
    char directory[64], path[96];
};

static void write_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "we");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, strlen(text), f), strlen(text));
    assert_int_equal(fclose(f), 0);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);

    strcpy(f->directory, "/tmp/test_config.XXXXXX");
    assert_non_null(mkdtemp(f->directory));
    snprintf(f->path, sizeof f->path, "%s/c.conf", f->directory);
    unsetenv("CREDENTIALS_DIRECTORY");
    unsetenv("OPENAI_API_KEY");
    unsetenv("OPENAI_BASE_URL");
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    char command[128];

    snprintf(command, sizeof command, "rm -rf '%s'", f->directory);
    assert_int_equal(system(command), 0);
    free(f);
    return 0;
}

static struct config *load(struct fixture *f, const char *text)
{
    struct config *c = NULL;
    struct config_error error = {""};

    write_file(f->path, text);
    struct environment environment;

    environment_take(&environment);
    if (config_load(f->path, &environment, &c, &error) < 0)
        fail_msg("%s", error.text);
    environment_done(&environment);
    return c;
}

static void refuse(struct fixture *f, const char *text, const char *where, const char *what)
{
    struct config *c = NULL;
    struct config_error error = {""};

    write_file(f->path, text);
    struct environment environment;

    environment_take(&environment);
    assert_true(config_load(f->path, &environment, &c, &error) < 0);
    environment_done(&environment);
    assert_null(c);
    if (where) {
        char prefix[128];
        snprintf(prefix, sizeof prefix, "%s%s", f->path, where);
        if (strncmp(error.text, prefix, strlen(prefix)) != 0)
            fail_msg("\"%s\" does not begin with %s", error.text, prefix);
    }
    if (!strstr(error.text, what))
        fail_msg("\"%s\" does not say \"%s\"", error.text, what);
}

static void empty_file_means_the_environment(void **state)
{
    struct config *c = load(*state, "");

    assert_int_equal(c->n_upstreams, 1);
    assert_string_equal(c->upstreams[0]->name, "default");
    assert_string_equal(c->upstreams[0]->endpoints[0].url, "https://api.openai.com/v1/completions");
    assert_null(c->upstreams[0]->key);
    assert_int_equal(c->drain_timeout_us, 30000000);
    assert_true(c->idle_exit_us == CONFIG_INFINITY);
    assert_int_equal(c->caller_first_byte_timeout_us, 10000000);
    assert_int_equal(c->caller_request_timeout_us, 30000000);
    assert_int_equal(c->caller_stall_timeout_us, 60000000);
    assert_int_equal(c->log_level, LOG_INFO);
    config_unref(c);

    setenv("OPENAI_API_KEY", "sk-test\n", 1);
    setenv("OPENAI_BASE_URL", "http://127.0.0.1:8080/v1/", 1);
    c = load(*state, "# nothing\n; nothing\n");
    assert_string_equal(c->upstreams[0]->endpoints[0].url, "http://127.0.0.1:8080/v1/completions");
    assert_string_equal(c->upstreams[0]->key->text, "sk-test");
    config_unref(c);

    setenv("OPENAI_API_KEY", "two words", 1);
    refuse(*state, "", NULL, "OPENAI_API_KEY");
}

static void every_key_is_read(void **state)
{
    struct fixture *f = *state;
    char text[2048], key[128], ca[128];

    snprintf(key, sizeof key, "%s/key", f->directory);
    write_file(key, "sk-file\r\n");
    snprintf(ca, sizeof ca, "%s/ca.pem", f->directory);
    write_file(ca, "Ours:\n-----BEGIN CERTIFICATE-----\n");
    assert_int_equal(chmod(key, 0640), 0);
    snprintf(text, sizeof text,
             "[daemon]\ndrain_timeout = 1min 30s\nidle_exit = 5min\nlog_level = debug\n"
             "[upstream azure]\nmodels = gpt-* davinci\nmodels = more\n"
             "base_url = https://x.example/openai/deployments/d\nauth = api-key\n"
             "credential_file = %s\nquery = api-version=2024-10-21\nheader = X-One: 1\n"
             "header = X-Two: a, b\nca_file = %s\nproxy = http://127.0.0.1:3128\n"
             "http_version = 2\nconnect_timeout = 250ms\nfirst_byte_timeout = infinity\n"
             "idle_timeout = 7\ndrop_parameters = best_of suffix\nstrict_done = no\n"
             "validate = off\n"
             "[policy *]\nmodels = a*\nallow_own_key = yes\nallow_extra_body = no\n"
             "[policy user:root]\n[policy group:0]\n[policy user:12345]\nmodels = b\n",
             key, ca);
    struct config *c = load(f, text);
    const struct config_upstream *u = c->upstreams[0];

    assert_int_equal(c->drain_timeout_us, 90000000);
    assert_int_equal(c->idle_exit_us, 300000000);
    assert_int_equal(c->log_level, LOG_DEBUG);
    assert_string_equal(u->name, "azure");
    assert_string_equal(u->models[0], "gpt-*");
    assert_string_equal(u->models[1], "davinci");
    assert_string_equal(u->models[2], "more");
    assert_null(u->models[3]);
    assert_string_equal(
        u->endpoints[0].url,
        "https://x.example/openai/deployments/d/completions?api-version=2024-10-21");
    assert_int_equal(u->auth, CONFIG_AUTH_API_KEY);
    assert_string_equal(u->key->text, "sk-file");
    assert_string_equal(u->headers[0], "X-One: 1");
    assert_string_equal(u->headers[1], "X-Two: a, b");
    assert_string_equal(u->ca_file, ca);
    assert_string_equal(u->proxy, "http://127.0.0.1:3128");
    assert_int_equal(u->http_version, CONFIG_HTTP_2);
    assert_int_equal(u->connect_timeout_us, 250000);
    assert_true(u->first_byte_timeout_us == CONFIG_INFINITY);
    assert_int_equal(u->idle_timeout_us, 7000000);
    assert_string_equal(u->drop_parameters[1], "suffix");
    assert_false(u->strict_done);
    assert_false(u->validate);
    assert_int_equal(c->n_policies, 4);
    assert_true(c->policies[0]->allow_own_key);
    assert_false(c->policies[0]->allow_extra_body);
    assert_int_equal(c->policies[1]->kind, CONFIG_POLICY_USER);
    assert_int_equal(c->policies[1]->id, 0);
    assert_int_equal(c->policies[2]->kind, CONFIG_POLICY_GROUP);
    assert_int_equal(c->policies[3]->id, 12345);
    config_unref(c);
}

static void drop_ins_are_merged_in_name_order(void **state)
{
    struct fixture *f = *state;
    char path[160];

    snprintf(path, sizeof path, "%s.d", f->path);
    assert_int_equal(mkdir(path, 0755), 0);
    snprintf(path, sizeof path, "%s.d/20-b.conf", f->path);
    write_file(path, "[upstream a]\nidle_timeout = 20\nmodels =\nmodels = only\n"
                     "base_url = http://i/v1\nbase_url = http://j/v1\n");
    snprintf(path, sizeof path, "%s.d/10-a.conf", f->path);
    write_file(path, "[upstream a]\nidle_timeout = 10\nconnect_timeout = 10\n");
    snprintf(path, sizeof path, "%s.d/ignored", f->path);
    write_file(path, "[nonsense]\n");

    struct config *c = load(f, "[upstream a]\nbase_url=http://h\nmodels = x y\n"
                               "[upstream b]\nbase_url=unix:/run/b.sock:/v1\n");
    assert_int_equal(c->n_upstreams, 2);
    assert_int_equal(c->upstreams[0]->idle_timeout_us, 20000000);
    assert_int_equal(c->upstreams[0]->connect_timeout_us, 10000000);
    assert_string_equal(c->upstreams[0]->models[0], "only");
    assert_null(c->upstreams[0]->models[1]);
    /* Those of another file are not added to: it would be asked, with this one's key. */
    assert_int_equal(c->upstreams[0]->n_endpoints, 2);
    assert_string_equal(c->upstreams[0]->endpoints[0].name, "i");
    assert_string_equal(c->upstreams[1]->endpoints[0].unix_path, "/run/b.sock");
    assert_string_equal(c->upstreams[1]->endpoints[0].url, "http://localhost/v1/completions");
    assert_string_equal(c->upstreams[1]->models[0], "*");
    config_unref(c);
}

static void mistakes_are_named_with_file_and_line(void **state)
{
    static const struct {
        const char *text, *where, *what;
    } cases[] = {
        {"[daemon]\nworkerz = 1\n", ":2: ", "no key \"workerz\""},
        {"\n[demon]\n", ":2: ", "unknown section [demon]"},
        {"x = 1\n", ":1: ", "before the first section"},
        {"[daemon]\ngarbage\n", ":2: ", "neither a [section] nor key = value"},
        {"[daemon]\ndrain_timeout = 5 parsecs\n", ":2: ", "not a duration"},
        {"[daemon]\ndrain_timeout = \n", ":2: ", "not a duration"},
        {"[daemon]\ndrain_timeout = 99999999999999999999s\n", ":2: ", "not a duration"},
        {"[daemon]\nlog_level = loud\n", ":2: ", "error, warning, notice, info, debug"},
        {"[upstream a]\nauth = basic\n", ":2: ", "bearer, api-key, none"},
        {"[upstream a]\nstrict_done = maybe\n", ":2: ", "neither yes nor no"},
        {"[upstream a]\nheader = nothing\n", ":2: ", "Name: value"},
        {"[upstream a]\nheader = Authorization: Bearer x\n", ":2: ", "can't be set here"},
        {"[upstream a]\nheader = X-Conversation-Id: x\n", ":2: ", "can't be set here"},
        {"[upstream a]\nheader = X: a\x01z\n", ":2: ", "control characters"},
        {"[upstream a]\nheader = X\x01: 1\n", ":2: ", "Name: value"},
        {"[upstream a]\nheader = : 1\n", ":2: ", "Name: value"},
        {"[upstream a]\nheader = X: a\x7fz\n", ":2: ", "control characters"},
        {"[daemon]\nworkers = 0\n", ":2: ", "from 1 to 64, or auto"},
        {"[daemon]\nworkers = 65\n", ":2: ", "from 1 to 64, or auto"},
        {"[daemon]\nworkers = -1\n", ":2: ", "from 1 to 64, or auto"},
        {"[daemon]\nworkers = 2K\n", ":2: ", "from 1 to 64, or auto"},
        {"[daemon]\nworkers =\n", ":2: ", "from 1 to 64, or auto"},
        {"[daemon]\nworkers = 99999999999999999999\n", ":2: ", "from 1 to 64, or auto"},
        {"[daemon]\nmemory_max = 63K\n", ":2: ", "at least 64K"},
        {"[daemon]\nmemory_max = 1X\n", ":2: ", "at least 64K"},
        {"[daemon]\nmemory_max = 1MM\n", ":2: ", "at least 64K"},
        {"[daemon]\nmemory_max = much\n", ":2: ", "at least 64K"},
        {"[daemon]\nmemory_max = 9999999999T\n", ":2: ", "at least 64K"},
        {"[daemon]\nmemory_max = 99999999999999999999\n", ":2: ", "at least 64K"},
        {"[daemon]\ndrain_timeout = 200000000h 200000000h 9000000000000s\n",
         ":2: ", "not a duration"},
        {"[upstream a]\nmax_retries = -1\n", ":2: ", "a whole number from 0 on"},
        {"[upstream a]\nmax_retries = 1000000001\n", ":2: ", "a whole number from 0 on"},
        {"[upstream a]\nmax_retries = 1K\n", ":2: ", "a whole number from 0 on"},
        {"[upstream a]\nmax_retries = infinity\n", ":2: ", "a whole number from 0 on"},
        {"[upstream a]\nmax_concurrent = 0\n", ":2: ", "a whole number from 1 on"},
        {"[policy *]\nrequests_per_minute = 0\n", ":2: ", "from 1 on, or infinity"},
        {"[upstream ]\nmodels = x\n", ":1: ", "unknown section"},
        {"[policy users:1]\nmodels = x\n", ":1: ", "write user:NAME or group:NAME"},
        {"[policy user:]\nmodels = x\n", ":1: ", "user:NAME"},
        {"[policy user:1x]\nmodels = x\n", ":1: ", "no such user"},
        {"[policy user:4294967295]\nmodels = x\n", ":1: ", "no such user"},
        {"[policy group:4294967295]\nmodels = x\n", ":1: ", "no such group"},
        {"[policy user:/]\nmodels = x\n", ":1: ", "no such user"},
        {"[daemon]\n  log_level = info\n", ":2: ", "indented"},
        {"[policy bob]\nmodels = x\n", ":1: ", "user:NAME"},
        {"[policy user:no-such-user-here]\nmodels = x\n", ":1: ", "no such user"},
        {"[policy group:no-such-group-here]\nmodels = x\n", ":1: ", "no such group"},
        {"[upstream a]\n", NULL, "base_url is missing"},
        {"[upstream a]\nmodels = x\n", NULL, "base_url is missing"},
        {"[upstream a]\nbase_url = ftp://x\n", NULL, "must begin with https://"},
        {"[upstream a]\nbase_url = http:///v1\n", NULL, "no host"},
        {"[upstream a]\nbase_url = http://u:p@h/v1\n", NULL, "can't hold"},
        {"[upstream a]\nbase_url = http://h/v1?x=1\n", NULL, "query ="},
        {"[upstream a]\nbase_url = http://h:99999/v1\n", NULL, "do not make a URL"},
        {"[upstream a]\nbase_url = http://\n", NULL, "no host"},
        {"[upstream a]\nbase_url = unix:relative:/v1\n", NULL, "unix:/path"},
        {"[upstream a]\nbase_url = unix:/s:v1\n", NULL, "unix:/path"},
        {"[upstream a]\nbase_url = http://h\ncredential = k\n", NULL, "LoadCredential"},
        {"[upstream a]\nbase_url = http://h\ncredential = k\ncredential_file = /k\n", NULL,
         "exclude each other"},
        {"[upstream a]\nbase_url = http://h\ncredential_file = /no/such/key\n", NULL,
         "No such file"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        refuse(*state, cases[i].text, cases[i].where, cases[i].what);
}

static void lines_that_would_be_cut_are_refused(void **state)
{
    char text[1024];

    snprintf(text, sizeof text, "[upstream a]\nquery = %0500d\n", 1);
    refuse(*state, text, ":2: ", "longer than");
    snprintf(text, sizeof text, "[upstream %060d]\nbase_url = http://h\n", 1);
    refuse(*state, text, ":1: ", "section's name");
}

static void sockets_and_hosts_make_urls(void **state)
{
    static const struct {
        const char *base_url, *url, *unix_path;
    } cases[] = {
        {"http://h", "http://h/completions", NULL},
        {"http://h///", "http://h/completions", NULL},
        {"https://[::1]:8/a/b/", "https://[::1]:8/a/b/completions", NULL},
        {"unix:/s", "http://localhost/completions", "/s"},
        {"unix:/s:", "http://localhost/completions", "/s"},
        {"unix:/s:/", "http://localhost/completions", "/s"},
        {"unix:/s:/v1", "http://localhost/v1/completions", "/s"},
    };
    char text[300], path[120];

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        snprintf(text, sizeof text, "[upstream a]\nbase_url = %s\n", cases[i].base_url);
        struct config *c = load(*state, text);
        assert_string_equal(c->upstreams[0]->endpoints[0].url, cases[i].url);
        if (cases[i].unix_path)
            assert_string_equal(c->upstreams[0]->endpoints[0].unix_path, cases[i].unix_path);
        else
            assert_null(c->upstreams[0]->endpoints[0].unix_path);
        config_unref(c);
    }

    /* The longest path that a socket's address holds, and one more. */
    memset(path, 'x', sizeof path);
    path[0] = '/';
    snprintf(text, sizeof text, "[upstream a]\nbase_url = unix:%.107s\n", path);
    config_unref(load(*state, text));
    snprintf(text, sizeof text, "[upstream a]\nbase_url = unix:%.108s\n", path);
    refuse(*state, text, NULL, "not longer than 107");
}

static void an_upstream_may_have_several_endpoints(void **state)
{
    struct config *c = load(*state, "[upstream a]\nbase_url = http://gone/v1\nbase_url =\n"
                                    "base_url = http://h:1/v1  https://h/v1\nmodels = x\n"
                                    "[upstream b]\nbase_url = http://b/1\n"
                                    "[upstream a]\nbase_url = unix:/s:/v1\nquery = q=1\n"
                                    "base_url = http://h:1/v2\n");
    const struct config_upstream *u = c->upstreams[0];
    static const struct {
        const char *name, *base_url, *url;
    } expected[] = {
        {"h:1", "http://h:1/v1", "http://h:1/v1/completions?q=1"},
        {"h", "https://h/v1", "https://h/v1/completions?q=1"},
        {"/s", "unix:/s:/v1", "http://localhost/v1/completions?q=1"},
        /* Behind the same host and port. */
        {"http://h:1/v2", "http://h:1/v2", "http://h:1/v2/completions?q=1"},
    };

    assert_int_equal(u->n_endpoints, 4);
    for (size_t i = 0; i < 4; i++) {
        assert_string_equal(u->endpoints[i].name, expected[i].name);
        assert_string_equal(u->endpoints[i].base_url, expected[i].base_url);
        assert_string_equal(u->endpoints[i].url, expected[i].url);
    }
    assert_string_equal(u->endpoints[2].unix_path, "/s");
    assert_int_equal(c->upstreams[1]->n_endpoints, 1);
    config_unref(c);
}

static void endpoints_that_can_not_be_are_refused(void **state)
{
    char text[8192] = "[upstream a]\n";
    static const struct {
        const char *base_urls, *what;
    } cases[] = {
        {"http://h/v1 http://g/v1 http://h/v1/", "the same server twice"},
        {"unix:/s:/v1 unix:/t:/v1 unix:/s:/v1", "the same server twice"},
        {"http://h/v1 ftp://g/v1", "must begin with https://"},
        {"http://h/v1 http://u:p@g/v1", "can't hold"},
        {"http://h/v1 http://g:99999/v1", "do not make a URL"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        snprintf(text, sizeof text, "[upstream a]\nbase_url = %s\n", cases[i].base_urls);
        refuse(*state, text, NULL, cases[i].what);
    }
    size_t n = (size_t)snprintf(text, sizeof text, "[upstream a]\n");
    for (int i = 1; i <= CONFIG_ENDPOINTS_MAX; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, "base_url = http://h:%d/v1\n", i);
    config_unref(load(*state, text));
    snprintf(text + n, sizeof text - n, "base_url = http://h/v1\n");
    refuse(*state, text, NULL, "more than 64");
}

static int64_t workers_of(struct fixture *f, const char *text)
{
    struct config *c = load(f, text);
    int64_t n = c->n_workers;

    config_unref(c);
    return n;
}

static void workers_are_a_number_or_as_many_as_cpus(void **state)
{
    cpu_set_t before, one;

    assert_int_equal(workers_of(*state, ""), 1);
    assert_int_equal(workers_of(*state, "[daemon]\nworkers = 64\n"), 64);
    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    int n = CPU_COUNT(&before), cpu = 0;
    assert_int_equal(workers_of(*state, "[daemon]\nworkers = auto\n"), n < 64 ? n : 64);
    while (!CPU_ISSET(cpu, &before))
        cpu++;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    assert_int_equal(workers_of(*state, "[daemon]\nworkers = auto\n"), 1);
    assert_int_equal(sched_setaffinity(0, sizeof before, &before), 0);
}

static void sizes_and_numbers_have_suffixes_and_infinity(void **state)
{
    struct config *c = load(*state, "[daemon]\nmemory_max = 1T\n\r\n \n\t# nothing\n ; nothing\n"
                                    "[policy *]\nmax_message = 64K\nmax_memory = infinity\n"
                                    "max_connections = 1000000000\ntokens_per_minute = infinity\n"
                                    "max_queued = 0\nmodels =\n"
                                    "[upstream a]\nbase_url = http://h\nheader = X: 1\nheader =\n"
                                    "query = x=1\nquery =\nmax_queued = 0");
    const struct config_policy *p = c->policies[0];

    assert_true(c->memory_max_bytes == INT64_C(1) << 40);
    assert_int_equal(p->max_message_bytes, 65536);
    assert_true(p->max_memory_bytes == CONFIG_INFINITY);
    assert_int_equal(p->max_connections, 1000000000);
    assert_true(p->tokens_per_minute == CONFIG_INFINITY);
    assert_int_equal(p->max_queued, 0);
    assert_null(p->models);
    assert_null(c->upstreams[0]->headers);
    assert_null(c->upstreams[0]->query);
    assert_int_equal(c->upstreams[0]->max_queued, 0);
    config_unref(c);
}

static void a_given_file_must_exist(void **state)
{
    struct fixture *f = *state;
    struct config *c;
    struct config_error error;

    assert_int_equal(config_load(f->path, NULL, &c, &error), -ENOENT);
    assert_non_null(strstr(error.text, f->path));
    assert_true(config_load(f->directory, NULL, &c, &error) < 0);

    /* Must not wait for a writer. */
    assert_int_equal(mkfifo(f->path, 0600), 0);
    assert_int_equal(config_load(f->path, NULL, &c, &error), -EINVAL);
    assert_non_null(strstr(error.text, "not a regular file"));
    assert_int_equal(config_load("/dev/null", NULL, &c, &error), 0);
    config_unref(c);
}

static void certificates_that_are_not_there_are_refused(void **state)
{
    struct fixture *f = *state;
    char ca[128], text[256];

    snprintf(ca, sizeof ca, "%s/ca.pem", f->directory);
    snprintf(text, sizeof text, "[upstream a]\nbase_url = https://h\nca_file = %s\n", ca);
    refuse(f, text, NULL, "No such file");
    write_file(ca, "-----BEGIN PRIVATE KEY-----\n");
    refuse(f, text, NULL, "no certificate");
    assert_int_equal(unlink(ca), 0);
    assert_int_equal(mkfifo(ca, 0600), 0);
    refuse(f, text, NULL, "not a regular file");
}

static void drop_ins_that_cant_be_listed_are_no_absent_ones(void **state)
{
    struct fixture *f = *state;
    char path[160];

    /* Nothing stops root, who may run this, but a link to itself. */
    snprintf(path, sizeof path, "%s.d", f->path);
    assert_int_equal(symlink(path, path), 0);
    refuse(f, "", NULL, "can't be listed: Too many levels");
}

static void a_path_too_long_for_drop_ins_is_read_alone(void **state)
{
    struct fixture *f = *state;
    struct config *c = NULL;
    struct config_error error = {""};
    char path[4096];
    size_t n = strlen(f->directory), tail = strlen("/c.conf");

    write_file(f->path, "");
    memcpy(path, f->directory, n);
    for (; n + tail + 2 < sizeof path; n += 2)
        memcpy(path + n, "/.", 2);
    strcpy(path + n, "/c.conf");
    if (config_load(path, NULL, &c, &error) < 0)
        fail_msg("%s", error.text);
    config_unref(c);
}

static void keys_that_others_can_read_are_refused(void **state)
{
    static const struct {
        const char *bytes;
        mode_t mode;
        const char *what;
    } cases[] = {
        {"sk-x", 0644, "others may read"},   {"sk-x", 0602, "others may read"},
        {"", 0600, "it is empty"},           {"\n\n", 0600, "it is empty"},
        {"two words", 0600, "not one line"}, {"sk-\x80", 0600, "not one line"},
        {"a\nb", 0600, "not one line"},
    };
    struct fixture *f = *state;
    char key[128], text[256];

    snprintf(key, sizeof key, "%s/key", f->directory);
    snprintf(text, sizeof text, "[upstream a]\nbase_url = http://h\ncredential_file = %s\n", key);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_file(key, cases[i].bytes);
        assert_int_equal(chmod(key, cases[i].mode), 0);
        refuse(f, text, NULL, cases[i].what);
    }

    char large[5000];
    memset(large, 'k', sizeof large);
    large[sizeof large - 1] = '\0';
    write_file(key, large);
    assert_int_equal(chmod(key, 0600), 0);
    refuse(f, text, NULL, "longer than 3072");

    /* Must not wait for a writer. */
    assert_int_equal(unlink(key), 0);
    assert_int_equal(mkfifo(key, 0600), 0);
    refuse(f, text, NULL, "not a regular file");
}

static void a_credential_is_looked_up_by_name(void **state)
{
    struct fixture *f = *state;
    char key[128];

    snprintf(key, sizeof key, "%s/openai.key", f->directory);
    write_file(key, "sk-credential");
    assert_int_equal(chmod(key, 0400), 0);
    setenv("CREDENTIALS_DIRECTORY", f->directory, 1);
    struct config *c = load(f, "[upstream a]\nbase_url = http://h\ncredential = openai.key\n");
    assert_string_equal(c->upstreams[0]->key->text, "sk-credential");
    config_unref(c);
    refuse(f, "[upstream a]\nbase_url = http://h\ncredential = ../openai.key\n", NULL,
           "not a path");
}

static void durations_are_systemds(void **state)
{
    static const struct {
        const char *text;
        int64_t us;
    } cases[] = {
        {"0", 0},
        {"5", 5000000},
        {"5s", 5000000},
        {"250ms", 250000},
        {"7us", 7},
        {"2min", 120000000},
        {"1h 30min", INT64_C(5400000000)},
        {"1h30min", INT64_C(5400000000)},
        {" 1d ", INT64_C(86400000000)},
        {"infinity", CONFIG_INFINITY},
        {"", -1},
        {"-1s", -1},
        {"s", -1},
        {"1.5s", -1},
        {"1x", -1},
        {"1 s", -1},
        {"9223372036854775807h", -1},
        {"99999999999999999999", -1},
    };
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int64_t us = -1;
        int r = config_parse_duration(cases[i].text, &us);
        if (r != (cases[i].us < 0 ? -EINVAL : 0) || us != cases[i].us)
            fail_msg("\"%s\": %d, %lld us", cases[i].text, r, (long long)us);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(empty_file_means_the_environment, setup, teardown),
        cmocka_unit_test_setup_teardown(every_key_is_read, setup, teardown),
        cmocka_unit_test_setup_teardown(drop_ins_are_merged_in_name_order, setup, teardown),
        cmocka_unit_test_setup_teardown(mistakes_are_named_with_file_and_line, setup, teardown),
        cmocka_unit_test_setup_teardown(lines_that_would_be_cut_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(an_upstream_may_have_several_endpoints, setup, teardown),
        cmocka_unit_test_setup_teardown(endpoints_that_can_not_be_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(sockets_and_hosts_make_urls, setup, teardown),
        cmocka_unit_test_setup_teardown(workers_are_a_number_or_as_many_as_cpus, setup, teardown),
        cmocka_unit_test_setup_teardown(sizes_and_numbers_have_suffixes_and_infinity, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_given_file_must_exist, setup, teardown),
        cmocka_unit_test_setup_teardown(certificates_that_are_not_there_are_refused, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(drop_ins_that_cant_be_listed_are_no_absent_ones, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_path_too_long_for_drop_ins_is_read_alone, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(keys_that_others_can_read_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(a_credential_is_looked_up_by_name, setup, teardown),
        cmocka_unit_test(durations_are_systemds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * What the configuration says of an upstream holds, and nothing else does: not the upstream's
 * wishes (redirects, cookies, other services), and not the environment's (proxies, passwords,
 * files).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "scene.h"

static void serve(struct fake_connection *c)
{
    while (fake_read_request(c) && fake_answer(c, 200, "application/json", "", FAKE_LAST("whole")))
        ;
}

static void call(struct scene *s, const char *model, const char *path, struct rpc_result *ret)
{
    rpc_request request = rpc_request_new(model, "CANARY prompt");

    rpc_call(&s->rpc, path, &request, ret);
}

static void expect_whole(struct scene *s, const char *model)
{
    struct rpc_result result;

    call(s, model, RPC_CREATE, &result);
    rpc_assert_ok(&result, "whole");
    rpc_result_done(&result);
}

static void assert_asked_with(struct fake *f, const char *text, bool expected)
{
    char *head = fake_last_head(f);

    if ((strcasestr(head, text) != NULL) != expected)
        fail_msg("the request's head %s \"%s\":\n%s", expected ? "lacks" : "has", text, head);
    free(head);
}

static unsigned port_of(const struct fake *f)
{
    return (unsigned)strtoul(strrchr(fake_base_url(f), ':') + 1, NULL, 10);
}

/* ---- Several upstreams ---- */

static void test_each_model_has_its_upstream_and_the_rest_the_last(void **state)
{
    struct scene *s = *state;
    struct fake *azure = fake_new(NULL, serve, NULL), *rest = fake_new(NULL, serve, NULL);
    struct fake *local = fake_new(directory_path(&s->daemon.directory, "up.sock"), serve, NULL);
    const char *azure_key =
        directory_write(&s->daemon.directory, "azure.key", "CANARY-azure-key\n");
    char settings[2048];

    snprintf(settings, sizeof settings,
             "models = gpt-*\n"
             "[upstream azure]\nmodels = azure-?  deployment-[0-9]*\nbase_url = %s\n"
             "auth = api-key\ncredential_file = %s\nquery = api-version=2024-10-21\n"
             "header = X-Team: search\nheader = X-Cost: none\n"
             "[upstream local]\nmodels = llama-*\nbase_url = %s\nauth = none\n"
             "[upstream rest]\nbase_url = %s\nauth = none\n",
             fake_base_url(azure), azure_key, fake_base_url(local), fake_base_url(rest));
    scene_start(s, serve, NULL, settings);

    expect_whole(s, "gpt-4-instruct");
    assert_asked_with(s->fake, "\r\nAuthorization: Bearer " SCENE_KEY "\r\n", true);
    assert_asked_with(s->fake, "X-Team", false);
    assert_asked_with(s->fake, "api-version", false);

    expect_whole(s, "azure-1");
    expect_whole(s, "deployment-35");
    assert_asked_with(azure, "POST /v1/completions?api-version=2024-10-21 HTTP/1.1\r\n", true);
    assert_asked_with(azure, "\r\napi-key: CANARY-azure-key\r\n", true);
    assert_asked_with(azure, "\r\nX-Team: search\r\n", true);
    assert_asked_with(azure, "\r\nX-Cost: none\r\n", true);
    assert_asked_with(azure, "Authorization", false);

    expect_whole(s, "llama-3");
    expect_whole(s, "azure-12");
    expect_whole(s, "GPT-4");
    assert_asked_with(rest, "CANARY", false);
    assert_int_equal(fake_count(s->fake, FAKE_REQUESTED), 1);
    assert_int_equal(fake_count(azure, FAKE_REQUESTED), 2);
    assert_int_equal(fake_count(local, FAKE_REQUESTED), 1);
    assert_int_equal(fake_count(rest, FAKE_REQUESTED), 2);
    scene_stop(s);
    fake_free(azure);
    fake_free(local);
    fake_free(rest);
}

static void test_http_2_needs_a_newer_libcurl(void **state)
{
    struct scene *s = *state;

    scene_start(s, serve, NULL, "http_version = 2\n");
    char *log = daemon_log(&s->daemon);
    bool falls_back = strstr(log, "http_version = 2 needs libcurl 8.4 or newer; using HTTP/1.1");
    free(log);
    if (!falls_back) {
        scene_stop(s);
        print_message("skipped: this libcurl has a good HTTP/2\n");
        skip();
    }
    expect_whole(s, "m");
    expect_whole(s, "m");
    assert_asked_with(s->fake, " HTTP/1.1\r\n", true);
    assert_asked_with(s->fake, "Upgrade", false);
    assert_int_equal(fake_count(s->fake, FAKE_ACCEPTED), 1);
    scene_stop(s);
}

/* ---- What upstreams wish ---- */

struct redirect {
    int status;
    const char *location;
};

static void redirect(struct fake_connection *c)
{
    const struct redirect *r = c->user;
    char header[256];

    snprintf(header, sizeof header, "Location: %s\r\n", r->location);
    while (fake_read_request(c) && fake_answer(c, r->status, "text/html", header, "moved"))
        ;
}

static void test_redirects_lead_nowhere(void **state)
{
    static const int statuses[] = {300, 301, 302, 303, 307, 308};
    struct scene *s = *state;
    struct fake *other = fake_new(NULL, serve, NULL);
    char there[128], with_user[128], schemeless[128];
    const char *const locations[] = {
        there, with_user, schemeless, "file:///etc/passwd", "/v1/elsewhere", "https://127.0.0.1/"};
    struct redirect how = {0};
    struct rpc_result result;
    unsigned n = 0;

    snprintf(there, sizeof there, "%s/completions", fake_base_url(other));
    snprintf(with_user, sizeof with_user, "http://user:word@127.0.0.1:%u/", port_of(other));
    snprintf(schemeless, sizeof schemeless, "//127.0.0.1:%u/", port_of(other));
    scene_start(s, redirect, &how, "max_retries = 2\nauth = api-key\n");
    for (size_t i = 0; i < sizeof statuses / sizeof *statuses; i++)
        for (size_t k = 0; k < sizeof locations / sizeof *locations; k++) {
            how.status = statuses[i];
            how.location = locations[k];
            call(s, "m", k % 2 ? RPC_CREATE : RPC_CREATE_STREAM, &result);
            rpc_assert_failed(&result, GRPC_FAILED_PRECONDITION, "UPSTREAM_REDIRECT");
            rpc_assert_said(&result, "redirects are not followed");
            assert_int_equal(result.detail->http_status, statuses[i]);
            rpc_result_done(&result);
            n++;
        }
    /* Once each, all to the one that is configured. */
    assert_int_equal(fake_count(s->fake, FAKE_REQUESTED), n);
    assert_int_equal(fake_count(other, FAKE_ACCEPTED), 0);
    assert_asked_with(s->fake, "\r\napi-key: " SCENE_KEY, true);
    scene_stop(s);
    fake_free(other);
}

static void wish_for_things(struct fake_connection *c)
{
    while (fake_read_request(c) &&
           fake_answer(c, 200, "application/json",
                       "Set-Cookie: id=CANARY-cookie; Path=/\r\n"
                       "Set-Cookie: __cf_bm=CANARY-other; Domain=127.0.0.1\r\n"
                       "Strict-Transport-Security: max-age=31536000\r\n"
                       "Alt-Svc: h2=\":1\", h3=\":1\"; ma=86400; persist=1\r\n"
                       "WWW-Authenticate: Basic realm=\"x\"\r\n",
                       FAKE_LAST("whole")))
        if (c->n_requests == 2)
            return;
}

static void test_nothing_is_remembered_of_an_upstream(void **state)
{
    struct scene *s = *state;

    scene_start(s, wish_for_things, NULL, NULL);
    /* On the same connection and on new ones. */
    for (unsigned i = 1; i <= 6; i++) {
        expect_whole(s, "m");
        assert_int_equal(fake_count(s->fake, FAKE_REQUESTED), i);
        assert_asked_with(s->fake, "Cookie", false);
        assert_asked_with(s->fake, "Alt-Used", false);
        assert_asked_with(s->fake, "Upgrade", false);
    }
    scene_stop(s);
}

/* ---- Proxies ---- */

/* What stands in for a proxy must never be asked. */
static void be_no_proxy(struct fake_connection *c)
{
    if (fake_read_request(c))
        fake_answer(c, 502, "text/plain", "", "no");
}

static void test_the_environment_changes_nothing(void **state)
{
    struct scene *s = *state;
    struct fake *proxy = fake_new(NULL, be_no_proxy, NULL);
    const char *directory = s->daemon.directory.path;
    char variables[9][192];
    const char *environment[10] = {NULL};
    static const char *const names[] = {"http_proxy",  "HTTP_PROXY", "https_proxy",
                                        "HTTPS_PROXY", "all_proxy",  "ALL_PROXY"};

    for (size_t i = 0; i < 6; i++)
        snprintf(variables[i], sizeof variables[i], "%s=http://127.0.0.1:%u", names[i],
                 port_of(proxy));
    snprintf(variables[6], sizeof variables[6], "HOME=%s", directory);
    snprintf(variables[7], sizeof variables[7], "CURL_HOME=%s", directory);
    snprintf(variables[8], sizeof variables[8], "NETRC=%s/.netrc", directory);
    for (size_t i = 0; i < 9; i++)
        environment[i] = variables[i];
    directory_write(&s->daemon.directory, ".netrc", "default login CANARY password CANARY\n");
    directory_write(&s->daemon.directory, ".curlrc", "header = \"X-Curlrc: yes\"\n");
    scene_prepare(s, serve, NULL, NULL);
    daemon_start(&s->daemon, &(struct daemon_options){.environment = environment});
    rpc_connect(&s->rpc, s->daemon.socket);
    expect_whole(s, "m");
    assert_asked_with(s->fake, "POST /v1/completions HTTP/1.1\r\n", true);
    assert_asked_with(s->fake, "X-Curlrc", false);
    assert_asked_with(s->fake, "Basic", false);
    assert_asked_with(s->fake, "\r\nAuthorization: Bearer " SCENE_KEY "\r\n", true);
    assert_int_equal(fake_count(proxy, FAKE_ACCEPTED), 0);
    scene_stop(s);
    fake_free(proxy);
}

static void test_proxy_that_is_configured(void **state)
{
    struct scene *s = *state;
    struct fake *proxy = fake_new(NULL, serve, NULL);
    char settings[256];

    /* The proxy looks the name up. */
    snprintf(settings, sizeof settings,
             "base_url = http://upstream.invalid:8000/v1\nproxy = http://127.0.0.1:%u\n",
             port_of(proxy));
    scene_start(s, serve, NULL, settings);
    expect_whole(s, "m");
    expect_whole(s, "m");
    assert_asked_with(proxy, "POST http://upstream.invalid:8000/v1/completions HTTP/1.1\r\n", true);
    assert_asked_with(proxy, "\r\nHost: upstream.invalid:8000\r\n", true);
    assert_int_equal(fake_count(proxy, FAKE_ACCEPTED), 1);
    scene_stop(s);
    fake_free(proxy);
}

static void test_proxy_of_the_environment_where_that_is_configured(void **state)
{
    struct scene *s = *state;
    struct fake *proxy = fake_new(NULL, serve, NULL);
    char variable[64];
    const char *const environment[] = {variable, NULL};

    snprintf(variable, sizeof variable, "http_proxy=http://127.0.0.1:%u", port_of(proxy));
    scene_prepare(s, serve, NULL, "base_url = http://upstream.invalid/v1\nproxy = environment\n");
    daemon_start(&s->daemon, &(struct daemon_options){.environment = environment});
    rpc_connect(&s->rpc, s->daemon.socket);
    expect_whole(s, "m");
    assert_asked_with(proxy, "POST http://upstream.invalid/v1/completions HTTP/1.1\r\n", true);
    scene_stop(s);
    fake_free(proxy);
}

/* Notes what it is asked, and lets nobody through. */
static void refuse_to_connect(struct fake_connection *c)
{
    while (fake_read_request(c) && fake_answer(c, 407, "text/plain", "", "who are you"))
        ;
}

static void test_proxy_never_sees_the_key_of_a_tls_upstream(void **state)
{
    struct scene *s = *state;
    struct fake *proxy = fake_new(NULL, refuse_to_connect, NULL);
    struct rpc_result result;
    char settings[256];

    snprintf(settings, sizeof settings,
             "base_url = https://upstream.invalid/v1\nproxy = http://127.0.0.1:%u\n"
             "header = X-Team: CANARY-team\n",
             port_of(proxy));
    scene_start(s, serve, NULL, settings);
    call(s, "m", RPC_CREATE, &result);
    rpc_assert_failed(&result, GRPC_UNAVAILABLE, NULL);
    assert_false(result.detail->maybe_executed);
    rpc_result_done(&result);
    assert_asked_with(proxy, "CONNECT upstream.invalid:443 HTTP/1.1\r\n", true);
    assert_asked_with(proxy, "CANARY", false);
    scene_stop(s);
    fake_free(proxy);
}

static void test_proxy_that_is_not_there(void **state)
{
    struct scene *s = *state;
    struct fake *gone = fake_new(NULL, serve, NULL);
    struct rpc_result result;
    char settings[256];

    snprintf(settings, sizeof settings, "proxy = http://127.0.0.1:%u\n", port_of(gone));
    fake_free(gone);
    scene_start(s, serve, NULL, settings);
    call(s, "m", RPC_CREATE, &result);
    rpc_assert_failed(&result, GRPC_UNAVAILABLE, "UPSTREAM_UNREACHABLE");
    rpc_result_done(&result);
    /* Not past it either. */
    assert_int_equal(fake_count(s->fake, FAKE_ACCEPTED), 0);
    scene_stop(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_each_model_has_its_upstream_and_the_rest_the_last),
        scene_test(test_http_2_needs_a_newer_libcurl),
        scene_test(test_redirects_lead_nowhere),
        scene_test(test_nothing_is_remembered_of_an_upstream),
        scene_test(test_the_environment_changes_nothing),
        scene_test(test_proxy_that_is_configured),
        scene_test(test_proxy_of_the_environment_where_that_is_configured),
        scene_test(test_proxy_never_sees_the_key_of_a_tls_upstream),
        scene_test(test_proxy_that_is_not_there),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

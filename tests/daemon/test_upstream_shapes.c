/*
 * Completions of odd shapes, and those of a million parts: they are passed on as the schema has it,
 * or refused, and the next call finds the daemon as it was.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "scene.h"

static void serve(struct fake_connection *c)
{
    while (fake_read_request(c)) {
        const char *body = c->user;
        if (!strncmp(body, "data:", 5) ? !fake_answer(c, 200, "text/event-stream", "", body)
                                       : !fake_answer(c, 200, "application/json", "", body))
            return;
    }
}

static void call(struct scene *s, const char *path, struct rpc_result *ret)
{
    rpc_request request = rpc_request_new("m", "CANARY prompt");

    rpc_call(&s->rpc, path, &request, ret);
}

#define COMPLETION(choices)                                                                        \
    "{\"id\":\"c\",\"object\":\"text_completion\",\"choices\":[" choices "]}"

/* ---- One choice or a few ---- */

static void test_odd_shapes(void **state)
{
    static const struct {
        const char *body;
        enum grpc_status status;
        size_t n_choices;
        const char *text; /* of the first */
    } cases[] = {
        {COMPLETION("{\"index\":0,\"text\":\"a\",\"finish_reason\":\"stop\"}"), GRPC_OK, 1, "a"},
        {COMPLETION("{\"text\":\"a\"}"), GRPC_OK, 1, "a"},
        {COMPLETION("{\"index\":0,\"text\":null}"), GRPC_OK, 1, ""},
        {COMPLETION("{\"index\":0}"), GRPC_OK, 1, ""},
        {COMPLETION(""), GRPC_OK, 0, NULL},
        /* In the order in which they came, whatever they say of it. */
        {COMPLETION("{\"index\":2,\"text\":\"c\"},{\"index\":0,\"text\":\"a\"}"), GRPC_OK, 2, "c"},
        {COMPLETION("{\"index\":1,\"text\":\"a\"},{\"index\":1,\"text\":\"b\"}"), GRPC_OK, 2, "a"},
        {COMPLETION("{\"index\":0,\"text\":\"a\",\"finish_reason\":\"tired\"}"), GRPC_OK, 1, "a"},
        /* As chats have it: no text, so none is made up; their logprobs are kept aside. */
        {COMPLETION("{\"index\":0,\"text\":\"a\",\"logprobs\":{\"content\":[{\"token\":\"a\","
                    "\"logprob\":-0.1,\"bytes\":[97],\"top_logprobs\":[]}],\"refusal\":null}}"),
         GRPC_OK, 1, "a"},
        {COMPLETION("{\"index\":0,\"text\":\"a\",\"logprobs\":{\"tokens\":[\"a\",\"b\"],"
                    "\"token_logprobs\":[null],\"top_logprobs\":null,\"text_offset\":[]}}"),
         GRPC_OK, 1, "a"},
        {COMPLETION("{\"index\":0,\"text\":\"a\"}") "\n\n", GRPC_OK, 1, "a"},
        {"{\"choices\":[{\"text\":\"a\"}],\"usage\":null,\"model\":null,\"created\":null}", GRPC_OK,
         1, "a"},
        {"{\"choices\":[{\"text\":\"a\"}],\"choices\":[{\"text\":\"b\"}]}", GRPC_OK, 2, "a"},
        {"null", GRPC_INTERNAL, 0, NULL},
        {"{\"choices\":null}", GRPC_INTERNAL, 0, NULL},
        {COMPLETION("null"), GRPC_INTERNAL, 0, NULL},
        {COMPLETION("\"a\""), GRPC_INTERNAL, 0, NULL},
        /* Members of another type are kept aside, too. */
        {COMPLETION("{\"index\":-1,\"text\":\"a\"}"), GRPC_OK, 1, "a"},
        {COMPLETION("{\"index\":99999999999,\"text\":\"a\"}"), GRPC_OK, 1, "a"},
        {COMPLETION("{\"index\":0,\"text\":{\"a\":1}}"), GRPC_OK, 1, ""},
        {COMPLETION("{\"index\":0,\"text\":\"a\"}") "{}", GRPC_INTERNAL, 0, NULL},
    };
    struct scene *s = *state;
    struct rpc_result result;

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        print_message("%.110s\n", cases[i].body);
        scene_start(s, serve, cases[i].body, NULL);
        for (int stream = 0; stream < 2; stream++) {
            call(s, stream ? RPC_CREATE_STREAM : RPC_CREATE, &result);
            if (cases[i].status != GRPC_OK) {
                rpc_assert_failed(&result, cases[i].status, NULL);
                assert_int_equal(result.n_messages, 0);
            } else {
                rpc_assert_ok(&result, cases[i].text);
                assert_int_equal(result.n_messages, 1);
                assert_int_equal(result.last->n_choices, cases[i].n_choices);
            }
            rpc_result_done(&result);
        }
        scene_assert_serving(s);
        scene_stop(s);
        s->fake = fake_free(s->fake);
    }
}

static void test_stream_without_usage_or_sense_in_its_indices(void **state)
{
    struct scene *s = *state;
    struct rpc_result result;

    scene_start(
        s, serve,
        "data: null\n\n"
        "data: " COMPLETION(
            "{\"index\":7,\"text\":\"a\"}") "\n\n"
                                            "data: " COMPLETION(
                                                "{\"index\":3,\"text\":\"b\"}") "\n\n"
                                                                                "data: " COMPLETION(
                                                                                    "{\"index\":7,"
                                                                                    "\"text\":null,"
                                                                                    "\"finish_"
                                                                                    "reason\":"
                                                                                    "\"stop\"}") "\n\n"
                                                                                                 "d"
                                                                                                 "a"
                                                                                                 "t"
                                                                                                 "a"
                                                                                                 ":"
                                                                                                 " " COMPLETION(
                                                                                                     "{\"index\":7,\"text\":\"c\"}") "\n\n"
                                                                                                                                     "data: " COMPLETION(
                                                                                                                                         "") "\n\n"
                                                                                                                                             "data: [DONE]\n\n",
        NULL);
    call(s, RPC_CREATE_STREAM, &result);
    rpc_assert_ok(&result, "abc");
    assert_int_equal(result.n_messages, 5);
    rpc_result_done(&result);
    scene_stop(s);
}

/* ---- A million of everything ---- */

static char *repeat(const char *begin, const char *part, size_t n, const char *end)
{
    struct buffer out = BUFFER_INIT(64 << 20);

    buffer_append_string(&out, begin);
    for (size_t i = 0; i < n; i++) {
        buffer_append_string(&out, part);
        if (i + 1 < n)
            buffer_append_byte(&out, ',');
    }
    buffer_append_string(&out, end);
    buffer_append_byte(&out, '\0');
    assert_int_equal(out.error, 0);
    return (char *)out.data;
}

static void test_a_million_parts(void **state)
{
    static const struct {
        const char *begin, *part, *end;
        size_t n;
    } cases[] = {
        {"{\"choices\":[", "{\"index\":0,\"text\":\"\"}", "]}", 1000000},
        {"{\"choices\":[", "{}", "]}", 1000000},
        {"{\"choices\":[{\"text\":\"a\",\"logprobs\":{\"tokens\":[", "\"\"", "]}}]}", 1000000},
        {"{\"choices\":[{\"text\":\"a\",\"logprobs\":{\"top_logprobs\":[", "{\"a\":-1}", "]}}]}",
         1000000},
        {"{\"choices\":[{\"text\":\"a\"}],", "\"x\":1", "}", 1000000},
        {"{\"choices\":[{\"text\":\"a\"}],\"x\":", "[", "}", 1000000},
    };
    enum { RSS_MAX_KIB = 1500 << 10 };
    struct scene *s = *state;
    struct rpc_result result;

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *body = repeat(cases[i].begin, cases[i].part, cases[i].n, cases[i].end);
        scene_start(s, serve, body, NULL);
        int64_t before = harness_now_ms();
        call(s, RPC_CREATE, &result);
        print_message("%.60s: %s, %lld ms, %ld KiB\n", body, grpc_status_name((int)result.status),
                      (long long)(harness_now_ms() - before), daemon_rss_kib(&s->daemon));
        /* What is passed on is whole. */
        if (result.status == GRPC_OK)
            assert_int_equal(result.n_messages, 1);
        else
            rpc_assert_failed(&result, result.status, NULL);
        rpc_result_done(&result);
        assert_true(daemon_rss_kib(&s->daemon) < RSS_MAX_KIB);
        scene_assert_serving(s);
        scene_stop(s);
        s->fake = fake_free(s->fake);
        free(body);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_odd_shapes),
        scene_test(test_stream_without_usage_or_sense_in_its_indices),
        scene_test(test_a_million_parts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

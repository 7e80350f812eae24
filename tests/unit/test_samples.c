/*
 * The recorded and reconstructed answers of real servers, through the event parser and the
 * translation, in one piece and cut at every byte: the callers must see the same each time, and
 * see what is written here.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>
#include <ftw.h>
#include <stdio.h>
#include <string.h>

#include "completion_text.h"
#include "sse.h"
#include "translate.h"

enum { FILE_MAX = 64 * 1024, TEXT_MAX = 1 << 20 };

/* What stands in front of each chunk of a server. */
#define OPENAI                                                                                     \
    " id=\"cmpl-uqkvlQyYK7bGYrRHQ0eXlWi7\" object=\"text_completion\" created=1589478378"          \
    " model=\"gpt-3.5-turbo-instruct\""
#define OPENAI_USAGE " usage( prompt=5 completion=7 total=12)\n"
#define VLLM                                                                                       \
    " id=\"cmpl-f095893d094a4e9989423c2364f00bc1\" object=\"text_completion\" created=1742960360"  \
    " model=\"Qwen/Qwen3-0.6B\""
#define VLLM_NULLS "\"prompt_token_ids\":null,\"token_ids\":null"
#define LLAMA(id)                                                                                  \
    " id=\"" id "\" object=\"text_completion\" created=1755860000 model=\"qwen3.gguf\""
#define LLAMA_FINGERPRINT " fingerprint=\"b6250-3f545bec\""
#define LLAMA_USAGE       " usage( prompt=5 completion=3 total=8 of prompt( cached=0))"
#define LLAMA_TIMINGS                                                                              \
    " extra={\"timings\":{\"cache_n\":0,\"prompt_n\":5,\"prompt_ms\":30.1,\"predicted_n\":3,"      \
    "\"predicted_ms\":45.9}}"
#define OLLAMA(model)                                                                              \
    " id=\"cmpl-417\" object=\"text_completion\" created=1755860000 model=\"" model "\""
#define OLLAMA_FINGERPRINT " fingerprint=\"fp_ollama\""
#define EDGE               " id=\"c\" object=\"text_completion\" created=1 model=\"m\""
#define EDGE_STREAM        EDGE " [0 text=\"A\"]\n" EDGE " [0 text=\"B\" finish=STOP]\n"
#define SAFE               "{\"hate\":{\"filtered\":false,\"severity\":\"safe\"}}"
#define FILTERED                                                                                   \
    " extra={\"prompt_filter_results\":[{\"prompt_index\":0,\"content_filter_results\":" SAFE "}]" \
                                                                                              "}"

struct sample {
    const char *name;
    uint64_t n_choices;
    const char *expected; /* a line for each message or error, and one for the end */
};

static const struct sample streams[] = {
    {"openai/stream.sse", 1,
     OPENAI " [0 text=\" This\"]\n" OPENAI " [0 text=\" is\"]\n" OPENAI
            " [0 text=\"\" finish=STOP]\nend done complete -1 tokens"},
    {"openai/stream_usage.sse", 1,
     OPENAI " [0 text=\" This\"]\n" OPENAI " [0 text=\" is\"]\n" OPENAI
            " [0 text=\"\" finish=LENGTH]\n" OPENAI OPENAI_USAGE "end done complete 12 tokens"},
    {"openai/stream_n2_interleaved.sse", 2,
     OPENAI " [0 text=\" a\"]\n" OPENAI " [1 text=\" x\"]\n" OPENAI
            " [1 text=\"\" finish=STOP]\n" OPENAI " [0 text=\" b\"]\n" OPENAI
            " [0 text=\"\" finish=LENGTH]\nend done complete -1 tokens"},
    {"openai/stream_obfuscation.sse", 1,
     OPENAI " [0 text=\" This\"]\n" OPENAI
            " [0 text=\"\" finish=STOP]\nend done complete -1 tokens"},
    {"openai/stream_error.sse", 1,
     OPENAI " [0 text=\" The\"]\n"
            "INTERNAL UPSTREAM_ERROR retryable type=server_error code= message=The server had an "
            "error while processing your request. Sorry about that!\nend open unfinished -1 "
            "tokens"},
    {"azure/stream.sse", 1,
     " id=\"\" object=\"\" created=0 model=\"\"" FILTERED "\n" OPENAI
     " [0 text=\" Hi\" extra={\"content_filter_results\":{}}]\n" OPENAI
     " [0 text=\"\" finish=STOP extra={\"content_filter_results\":{}}]\n" OPENAI OPENAI_USAGE
     "end done complete 12 tokens"},
    {"vllm/stream_usage.sse", 1,
     VLLM " [0 text=\",\" extra={\"stop_reason\":null," VLLM_NULLS "}]\n" VLLM
          " [0 text=\" with\" extra={\"stop_reason\":null," VLLM_NULLS "}]\n" VLLM
          " [0 text=\".\" finish=STOP extra={\"stop_reason\":\"\\n\"," VLLM_NULLS "}]\n" VLLM
          " usage( prompt=7 completion=3 total=10)\nend done complete 10 tokens"},
    {"vllm/stream_continuous_usage.sse", 1,
     VLLM " [0 text=\",\" extra={\"stop_reason\":null," VLLM_NULLS
          "}] usage( prompt=7 completion=1 total=8)\n" VLLM
          " [0 text=\".\" finish=LENGTH extra={\"stop_reason\":null," VLLM_NULLS
          "}] usage( prompt=7 completion=2 total=9)\n" VLLM
          " usage( prompt=7 completion=2 total=9)\nend done complete 9 tokens"},
    {"vllm/stream_error.sse", 1,
     VLLM " [0 text=\" a\" extra={\"stop_reason\":null," VLLM_NULLS "}]\n"
          "INTERNAL UPSTREAM_ERROR retryable type=InternalServerError code=500 message=Internal "
          "server error\nend open unfinished -1 tokens"},
    {"llamacpp/stream.sse", 1,
     LLAMA("chatcmpl-SFAYYkr0mDgy") " [0 text=\" hel\"]" LLAMA_FINGERPRINT "\n" LLAMA(
         "chatcmpl-SFAYYkr0mDgy") " [0 text=\"lo\"]" LLAMA_FINGERPRINT
                                  "\n" LLAMA(
                                      "chatcmpl-SFAYYkr0mDgy") " [0 text=\"\" "
                                                               "finish=STOP]" LLAMA_FINGERPRINT
                                                                   LLAMA_USAGE LLAMA_TIMINGS
                                                               "\nend done complete 8 tokens"},
    {"llamacpp/stream_error.sse", 1,
     LLAMA("chatcmpl-SFAYYkr0mDgy") " [0 text=\" hel\"]" LLAMA_FINGERPRINT "\n"
                                    "INTERNAL UPSTREAM_ERROR retryable type=server_error code=500 "
                                    "message=Context size has been "
                                    "exceeded.\nend open unfinished -1 tokens"},
    {"ollama/stream_usage.sse", 1,
     OLLAMA("llama3.2:3b") " [0 text=\"Blue\"]" OLLAMA_FINGERPRINT
                           " usage( prompt=0 completion=0 total=0)\n" OLLAMA(
                               "llama3.2:3b") " [0 text=\".\"]" OLLAMA_FINGERPRINT
                                              " usage( prompt=0 completion=0 total=0)\n" OLLAMA(
                                                  "llama3.2:3b") " [0 text=\"\" "
                                                                 "finish=STOP]" OLLAMA_FINGERPRINT
                                                                 " usage( prompt=0 completion=0 "
                                                                 "total=0)\n" OLLAMA("llama3.2:3b")
                                                                     OLLAMA_FINGERPRINT
     " usage( prompt=28 completion=2 total=30)\nend done complete 30 tokens"},
    {"ollama/stream_swallowed_error.sse", 1,
     OLLAMA("llama3.2:3b") " [0 text=\"Blue\"]" OLLAMA_FINGERPRINT "\n" OLLAMA(
         "") " [0 text=\"\"]" OLLAMA_FINGERPRINT "\nend open unfinished -1 tokens"},
    {"sse_edge/bom.sse", 1, EDGE_STREAM "end done complete -1 tokens"},
    {"sse_edge/comments_and_fields.sse", 1, EDGE_STREAM "end done complete -1 tokens"},
    {"sse_edge/crlf.sse", 1, EDGE_STREAM "end done complete -1 tokens"},
    {"sse_edge/no_space.sse", 1, EDGE_STREAM "end done complete -1 tokens"},
    {"sse_edge/eof_no_done_but_finish.sse", 1, EDGE_STREAM "end open complete -1 tokens"},
    {"sse_edge/eof_truncated.sse", 1, EDGE " [0 text=\"A\"]\nend open unfinished -1 tokens"},
    {"sse_edge/multiline_data.sse", 1,
     EDGE " [0 text=\"A\" finish=STOP]\nend done complete -1 tokens"},
    {"sse_edge/error_string.sse", 1,
     EDGE " [0 text=\"A\"]\n"
          "INTERNAL UPSTREAM_ERROR retryable type= code= message=Internal error\n"
          "end open unfinished -1 tokens"},
};

static const struct sample bodies[] = {
    {"openai/ok.json", 1,
     OPENAI " [0 text=\"\n\nThis is indeed a test\" finish=LENGTH]" OPENAI_USAGE
            "end complete 12 tokens"},
    {"openai/ok_bytes_tokens.json", 1,
     OPENAI " [0 text=\"\xf0\x9f\x98\x8d\" finish=STOP"
            " logprobs(<bytes:\\xf0\\x9f\\x98><bytes:\\x8d> -0.10000000000000001"
            " -0.20000000000000001 {bytes:\\xf0\\x9f\\x98:-0.10000000000000001}"
            " {bytes:\\x8d:-0.20000000000000001} @0 @0)]" OPENAI_USAGE "end complete 12 tokens"},
    {"openai/ok_echo_logprobs.json", 1,
     OPENAI " [0 text=\"A robot may\" finish=LENGTH logprobs(<A>< robot>< may> null -9.25 -4.5"
            " null { robot:-9.25, little:-3} { may:-4.5, that:-2} @0 @1 @7)]"
            " usage( prompt=2 completion=1 total=3)\nend complete 3 tokens"},
    {"openai/ok_full_usage.json", 1,
     OPENAI " [0 text=\" ok\" finish=STOP] fingerprint=\"fp_44709d6fcb\" usage( prompt=5"
            " completion=7 total=12 of completion( accepted=0 audio=0 reasoning=0 rejected=0)"
            " of prompt( audio=0 cached=0 written=0 image=0 text=5))\nend complete 12 tokens"},
    {"openai/ok_n2_prompts2.json", 4,
     OPENAI " [0 text=\" a\" finish=STOP] [1 text=\" b\" finish=LENGTH] [2 text=\" c\" finish=STOP]"
            " [3 text=\" d\" finish=CONTENT_FILTER]" OPENAI_USAGE "end complete 12 tokens"},
    {"azure/ok.json", 1,
     " id=\"cmpl-4509KAos68kxOqpE2uYGw81j6m7uo\" object=\"text_completion\" created=1637097562"
     " model=\"davinci\" [0 text=\"The price for bubblegum decreased on thursday.\" finish=STOP"
     " extra={\"content_filter_results\":" SAFE
     "}] usage( prompt=10 completion=9 total=19)" FILTERED "\nend complete 19 tokens"},
    {"llamacpp/ok.json", 1,
     LLAMA("chatcmpl-SFAYYkr0mDgy") " [0 text=\" hello\" finish=LENGTH]" LLAMA_FINGERPRINT
         LLAMA_USAGE LLAMA_TIMINGS "\nend complete 8 tokens"},
    {"llamacpp/ok_logprobs_chat_shape.json", 1,
     LLAMA(
         "chatcmpl-x") " [0 text=\" hi\" finish=LENGTH logprobs( extra={\"content\":[{\"id\":7251,"
                       "\"token\":\" "
                       "hi\",\"bytes\":[32,104,105],\"logprob\":-0.25,\"top_logprobs\":[{\"id\":"
                       "7251,"
                       "\"token\":\" "
                       "hi\",\"bytes\":[32,104,105],\"logprob\":-0.25}]}]})]" LLAMA_FINGERPRINT
                           LLAMA_USAGE "\nend complete 8 tokens"},
    {"ollama/ok.json", 1,
     OLLAMA("llama3.2:3b") " [0 text=\"Blue <b>\" finish=STOP]" OLLAMA_FINGERPRINT
                           " usage( prompt=28 completion=2 total=30)\nend complete 30 tokens"},
    {"vllm/ok.json", 1,
     VLLM " [0 text=\"joy\" finish=STOP extra={\"stop_reason\":null," VLLM_NULLS
          ",\"prompt_logprobs\":null,\"routed_experts\":null}] usage( prompt=7 completion=2"
          " total=9) extra={\"service_tier\":null,\"kv_transfer_params\":null,"
          "\"ec_transfer_params\":null,\"metrics\":null}\nend complete 9 tokens"},
    {"vllm/echo_logprobs.json", 1,
     VLLM " [0 text=\"Hi there\" finish=LENGTH logprobs(<Hi><token_id:1052> null -9999 null"
          " {token_id:1052:-9999} @0 @2) extra={\"stop_reason\":null," VLLM_NULLS
          "}] usage( prompt=1 completion=1 total=2)\nend complete 2 tokens"},
};

enum { N_STREAMS = sizeof streams / sizeof *streams, N_BODIES = sizeof bodies / sizeof *bodies };

/* What a caller sees of one answer, as text. */
struct view {
    struct buffer text;
    struct translate_progress progress;
};

static void view_error(struct view *view, const uint8_t *data, size_t len)
{
    struct translate_error e;

    translate_error(0, data, len, NULL, NULL, 0, &e);
    buffer_printf(&view->text, "%s %s%s type=%s code=%s message=%s\n",
                  e.status == GRPC_INTERNAL ? "INTERNAL" : "other", e.reason,
                  e.retryable ? " retryable" : "", e.type, e.code, e.message);
}

static enum translate_kind view_json(struct view *view, const uint8_t *data, size_t len, bool whole)
{
    struct buffer out = BUFFER_INIT(TEXT_MAX);
    enum translate_kind kind =
        translate_response(data, len, whole, false, &view->progress, &out, NULL);

    if (kind == TRANSLATE_COMPLETION) {
        assert_true(completion_text(&view->text, buffer_bytes(&out), buffer_length(&out)));
        buffer_append_byte(&view->text, '\n');
    }
    buffer_done(&out);
    return kind;
}

static bool on_event(void *user, const uint8_t *data, size_t len)
{
    struct view *view = user;

    switch (view_json(view, data, len, false)) {
    case TRANSLATE_COMPLETION:
    case TRANSLATE_NOTHING:
        return true;
    case TRANSLATE_ERROR:
        view_error(view, data, len);
        return false;
    default:
        buffer_append_string(&view->text, "unreadable\n");
        return false;
    }
}

static void view_end(struct view *view, const char *how)
{
    buffer_printf(&view->text, "end %s%s %lld tokens", how,
                  translate_progress_is_complete(&view->progress) ? "complete" : "unfinished",
                  (long long)view->progress.total_tokens);
}

static void view_stream(struct view *view, const char *data, size_t len, size_t first, size_t then)
{
    struct sse_parser p;

    sse_parser_init(&p, FILE_MAX, NULL);
    for (size_t at = 0, n = first; at < len; at += n, n = then) {
        n = n < len - at ? n : len - at;
        assert_int_equal(sse_parser_feed(&p, (const uint8_t *)data + at, n, on_event, view), 0);
        if (n == 0)
            n = then < len ? then : len;
    }
    assert_int_equal(sse_parser_finish(&p, on_event, view), 0);
    view_end(view, sse_parser_is_done(&p) ? "done " : "open ");
    sse_parser_done(&p);
}

static void check_view(struct view *view, const struct sample *sample)
{
    buffer_append_byte(&view->text, '\0');
    if (strcmp((char *)buffer_bytes(&view->text), sample->expected) != 0)
        print_error("%s\n", sample->name);
    assert_string_equal((char *)buffer_bytes(&view->text), sample->expected);
    buffer_done(&view->text);
}

static struct view new_view(const struct sample *sample)
{
    struct view view = {.text = BUFFER_INIT(TEXT_MAX)};

    translate_progress_init(&view.progress, sample->n_choices);
    return view;
}

static size_t read_sample(const char *name, char *data)
{
    char path[512];

    snprintf(path, sizeof path, SAMPLES "/%s", name);
    FILE *f = fopen(path, "re");
    assert_non_null(f);
    size_t len = fread(data, 1, FILE_MAX, f);
    assert_true(len > 0 && len < FILE_MAX);
    fclose(f);
    return len;
}

static void test_streams_in_any_pieces(void **state)
{
    static char data[FILE_MAX];

    (void)state;
    for (size_t i = 0; i < N_STREAMS; i++) {
        size_t len = read_sample(streams[i].name, data);

        for (size_t first = 1; first <= len; first++) {
            struct view view = new_view(&streams[i]);
            view_stream(&view, data, len, first, len);
            check_view(&view, &streams[i]);
        }
        for (size_t size = 1; size <= 64; size++) {
            struct view view = new_view(&streams[i]);
            view_stream(&view, data, len, size, size);
            check_view(&view, &streams[i]);
        }
    }
}

static void test_bodies(void **state)
{
    static char data[FILE_MAX];

    (void)state;
    for (size_t i = 0; i < N_BODIES; i++) {
        size_t len = read_sample(bodies[i].name, data);
        struct view view = new_view(&bodies[i]);

        assert_int_equal(view_json(&view, (uint8_t *)data, len, true), TRANSLATE_COMPLETION);
        view_end(&view, "");
        check_view(&view, &bodies[i]);
    }
}

/* A body that is cut is no answer, wherever the cut is. */
static void test_cut_bodies_are_malformed(void **state)
{
    static char data[FILE_MAX];

    (void)state;
    for (size_t i = 0; i < N_BODIES; i++) {
        size_t len = read_sample(bodies[i].name, data);

        while (data[len - 1] != '}')
            len--;
        for (size_t n = 0; n < len; n++) {
            struct view view = new_view(&bodies[i]);
            uint8_t *copy = malloc(n + 1);

            assert_non_null(copy);
            memcpy(copy, data, n);
            assert_int_equal(view_json(&view, copy, n, true), TRANSLATE_MALFORMED);
            free(copy);
            buffer_done(&view.text);
        }
    }
}

/* The body of a server that answers a stream request with one JSON text is a chunk too. */
static void test_bodies_read_as_chunks_are_the_same(void **state)
{
    static char data[FILE_MAX];

    (void)state;
    for (size_t i = 0; i < N_BODIES; i++) {
        size_t len = read_sample(bodies[i].name, data);
        struct view view = new_view(&bodies[i]);

        assert_int_equal(view_json(&view, (uint8_t *)data, len, false), TRANSLATE_COMPLETION);
        view_end(&view, "");
        check_view(&view, &bodies[i]);
    }
}

static bool is_listed(const char *path)
{
    for (size_t i = 0; i < N_STREAMS; i++)
        if (strcmp(path, streams[i].name) == 0)
            return true;
    for (size_t i = 0; i < N_BODIES; i++)
        if (strcmp(path, bodies[i].name) == 0)
            return true;
    return false;
}

/* Error bodies are test_translate_error.c's. */
static int check_listed(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    const char *name = path + sizeof SAMPLES;

    (void)st;
    (void)ftw;
    if (type != FTW_F || strncmp(name, "errors/", 7) == 0 || strncmp(name, "azure/4", 7) == 0)
        return 0;
    if (!is_listed(name))
        print_error("no test of %s\n", name);
    return !is_listed(name);
}

static void test_no_sample_is_left_out(void **state)
{
    (void)state;
    assert_int_equal(nftw(SAMPLES, check_listed, 8, FTW_PHYS), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_streams_in_any_pieces),
        cmocka_unit_test(test_bodies),
        cmocka_unit_test(test_cut_bodies_are_malformed),
        cmocka_unit_test(test_bodies_read_as_chunks_are_the_same),
        cmocka_unit_test(test_no_sample_is_left_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

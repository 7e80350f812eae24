/* Responses: JSON in, and what protobuf-c reads in the bytes that came out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "completion_text.h"
#include "translate.h"
#include "utf8.h"

enum { OUT_MAX = 1 << 24 };

struct options {
    bool whole, keep_obfuscation;
};

static const struct options chunk = {0};
static const struct options whole = {.whole = true};

/* As translate_response(), on a copy of just the size. What was in out before must stay. */
static enum translate_kind translate(const void *json, size_t len, struct options options,
                                     struct translate_progress *progress, struct buffer *out,
                                     const char **ret_why)
{
    uint8_t *copy = malloc(len ? len : 1);

    assert_non_null(copy);
    memcpy(copy, json, len);
    enum translate_kind kind = translate_response(copy, len, options.whole,
                                                  options.keep_obfuscation, progress, out, ret_why);
    memset(copy, 0xAA, len);
    free(copy);
    return kind;
}

static void expect_bytes(const void *json, size_t len, struct options options, const char *expected)
{
    struct buffer out = BUFFER_INIT(OUT_MAX), text = BUFFER_INIT(OUT_MAX);
    struct translate_progress progress;
    const char *why = "";

    translate_progress_init(&progress, 1);
    buffer_append_string(&out, "before");
    enum translate_kind kind = translate(json, len, options, &progress, &out, &why);
    if (kind != TRANSLATE_COMPLETION)
        print_error("kind %d: %s\n", kind, why);
    assert_int_equal(kind, TRANSLATE_COMPLETION);
    assert_int_equal(out.error, 0);
    assert_memory_equal(buffer_bytes(&out), "before", 6);
    assert_true(completion_text(&text, buffer_bytes(&out) + 6, buffer_length(&out) - 6));
    buffer_append_byte(&text, '\0');
    assert_string_equal((char *)buffer_bytes(&text), expected);
    buffer_done(&out);
    buffer_done(&text);
}

static void expect(const char *json, const char *expected)
{
    expect_bytes(json, strlen(json), chunk, expected);
}

/* A choice's members, and the choice that comes of them. */
static void expect_choice(const char *members, const char *expected)
{
    char json[4096], text[4096];

    snprintf(json, sizeof json, "{\"choices\":[{%s}]}", members);
    snprintf(text, sizeof text, " [%s]", expected);
    expect(json, text);
}

static void expect_logprobs(const char *members, const char *expected)
{
    char json[2048], text[2048];

    snprintf(json, sizeof json, "\"logprobs\":{%s}", members);
    snprintf(text, sizeof text, " logprobs(%s)", expected);
    expect_choice(json, text);
}

static void expect_kind_of(const void *json, size_t len, struct options options,
                           enum translate_kind expected)
{
    struct buffer out = BUFFER_INIT(OUT_MAX);
    struct translate_progress progress, before;
    const char *why = NULL;

    translate_progress_init(&progress, 1);
    before = progress;
    assert_int_equal(translate(json, len, options, &progress, &out, &why), expected);
    if (expected != TRANSLATE_COMPLETION) {
        assert_int_equal(buffer_length(&out), 0);
        assert_memory_equal(&progress, &before, sizeof before);
    }
    assert_int_equal(why != NULL, expected == TRANSLATE_MALFORMED);
    buffer_done(&out);
}

static void expect_kind(const char *json, struct options options, enum translate_kind expected)
{
    expect_kind_of(json, strlen(json), options, expected);
}

static void test_every_field(void **state)
{
    static const char json[] =
        "{\"id\":\"c\",\"object\":\"text_completion\",\"created\":1589478378,\"model\":\"m\","
        "\"choices\":[{\"text\":\" a\",\"index\":0,\"logprobs\":{\"tokens\":[\"a\"],"
        "\"token_logprobs\":[-0.5],\"top_logprobs\":[{\"a\":-0.5,\"b\":-1}],\"text_offset\":[3]},"
        "\"finish_reason\":\"stop\"},{\"text\":\" b\",\"index\":1,\"logprobs\":null,"
        "\"finish_reason\":\"length\"}],\"system_fingerprint\":\"fp\",\"usage\":{"
        "\"prompt_tokens\":1,\"completion_tokens\":2,\"total_tokens\":3,"
        "\"completion_tokens_details\":{\"accepted_prediction_tokens\":1,\"audio_tokens\":2,"
        "\"reasoning_tokens\":3,\"rejected_prediction_tokens\":4,\"text_tokens\":5},"
        "\"prompt_tokens_details\":{\"audio_tokens\":6,\"cached_tokens\":7,"
        "\"cache_write_tokens\":8,\"image_tokens\":9,\"text_tokens\":10}}}";
    static const char text[] =
        " id=\"c\" object=\"text_completion\" created=1589478378 model=\"m\""
        " [0 text=\" a\" finish=STOP logprobs(<a> -0.5 {a:-0.5,b:-1} @3)]"
        " [1 text=\" b\" finish=LENGTH] fingerprint=\"fp\" usage( prompt=1 completion=2 total=3"
        " of completion( accepted=1 audio=2 reasoning=3 rejected=4 text=5)"
        " of prompt( audio=6 cached=7 written=8 image=9 text=10))";

    (void)state;
    expect_bytes(json, sizeof json - 1, chunk, text);
    expect_bytes(json, sizeof json - 1, whole, text);
}

static void test_presence(void **state)
{
    (void)state;
    expect("{\"choices\":[]}", "");
    expect("{\"id\":\"\",\"object\":\"\",\"created\":0,\"model\":\"\",\"choices\":[]}",
           " id=\"\" object=\"\" created=0 model=\"\"");
    expect("{\"choices\":[{}]}", " []");
    expect_choice("\"text\":\"\",\"index\":0", "0 text=\"\"");
    expect("{\"usage\":{}}", " usage()");
    expect("{\"usage\":{\"total_tokens\":0,\"prompt_tokens_details\":{\"audio_tokens\":0}}}",
           " usage( total=0 of prompt( audio=0))");
}

static void test_null_is_absent(void **state)
{
    (void)state;
    expect("{\"id\":null,\"object\":null,\"created\":null,\"model\":null,\"usage\":null,"
           "\"system_fingerprint\":null,\"choices\":[{\"text\":null,\"index\":null,"
           "\"logprobs\":null,\"finish_reason\":null}]}",
           " []");
    expect("{\"choices\":[],\"usage\":{\"prompt_tokens\":null,\"prompt_tokens_details\":null,"
           "\"completion_tokens_details\":{\"text_tokens\":null}}}",
           " usage( of completion())");
    expect_logprobs(
        "\"tokens\":null,\"token_logprobs\":null,\"top_logprobs\":null,\"text_offset\":null", "");
}

static void test_members_in_any_order(void **state)
{
    (void)state;
    expect("{\"usage\":{\"total_tokens\":2},\"choices\":[{\"finish_reason\":\"stop\","
           "\"index\":3,\"text\":\"x\"}],\"id\":\"c\"}",
           " id=\"c\" [3 text=\"x\" finish=STOP] usage( total=2)");
}

static void test_escaped_names_are_the_same(void **state)
{
    (void)state;
    expect("{\"\\u0069d\":\"c\",\"choice\\u0073\":[{\"te\\u0078t\":\"x\"}]}",
           " id=\"c\" [ text=\"x\"]");
}

static void test_text_with_escapes(void **state)
{
    (void)state;
    expect_choice("\"text\":\"\\n\\t\\\"\\\\\\/\\b\\f\\r\\u00e9\"",
                  " text=\"\n\t\"\\/\b\f\r\xc3\xa9\"");
    expect_choice("\"text\":\"Blue \\u003cb\\u003e\"", " text=\"Blue <b>\"");
    expect_choice("\"text\":\"a\\u0000b\"", " text=\"a\\0b\"");
    expect_choice("\"text\":\"\\u0000\"", " text=\"\\0\"");
    expect_choice("\"text\":\"\\ud83d\\ude0d\"", " text=\"\xf0\x9f\x98\x8d\"");
    expect_choice("\"text\":\"\\ud83d\"", " text=\"\xef\xbf\xbd\"");
    expect_choice("\"text\":\"\\ude0d\\ud83dx\"", " text=\"\xef\xbf\xbd\xef\xbf\xbdx\"");
    expect_choice("\"text\":\"\\ud83d\\ud83d\\ude0d\"", " text=\"\xef\xbf\xbd\xf0\x9f\x98\x8d\"");
    expect_choice("\"text\":\"\xf0\x9f\x98\x8d \xe2\x80\xa8\"",
                  " text=\"\xf0\x9f\x98\x8d \xe2\x80\xa8\"");
}

/* Lengths of one, two and three bytes, with and without escapes. */
static void test_text_of_any_length(void **state)
{
    static const size_t lengths[] = {0, 1, 126, 127, 128, 129, 16383, 16384, 16385, 2097152};

    (void)state;
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        for (int escaped = 0; escaped < 2; escaped++) {
            struct buffer json = BUFFER_INIT(OUT_MAX), text = BUFFER_INIT(OUT_MAX);

            buffer_append_string(&json, "{\"choices\":[{\"text\":\"");
            buffer_append_string(&text, " [0 text=\"");
            for (size_t j = 0; j < lengths[i]; j++) {
                buffer_append_string(&json, escaped && j % 7 == 0 ? "\\n" : "x");
                buffer_append_byte(&text, escaped && j % 7 == 0 ? '\n' : 'x');
            }
            buffer_append_string(&json, "\",\"index\":0}]}");
            buffer_append_string(&text, "\"]");
            buffer_append_byte(&text, '\0');
            expect_bytes(buffer_bytes(&json), buffer_length(&json), whole,
                         (char *)buffer_bytes(&text));
            buffer_done(&json);
            buffer_done(&text);
        }
    }
}

static void test_bytes_that_are_not_utf8_are_repaired(void **state)
{
    (void)state;
    expect_choice("\"text\":\"a\xff"
                  "b\xe2\x82\"",
                  " text=\"a\xef\xbf\xbd"
                  "b\xef\xbf\xbd\"");
    expect_choice("\"text\":\"\xed\xa0\xbd\",\"x\":\"\xc0\"",
                  " text=\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\" extra={\"x\":\"\xef\xbf\xbd\"}");
    expect_kind("{\"choices\":[{\"text\":\"\xff\"]}", chunk, TRANSLATE_MALFORMED);
}

static void test_finish_reasons(void **state)
{
    (void)state;
    expect_choice("\"finish_reason\":\"stop\"", " finish=STOP");
    expect_choice("\"finish_reason\":\"length\"", " finish=LENGTH");
    expect_choice("\"finish_reason\":\"content_filter\"", " finish=CONTENT_FILTER");
    expect_choice("\"finish_reason\":\"\\u0073top\"", " finish=STOP");
    expect_choice("\"finish_reason\":\"eos_token\"", " finish=OTHER finish_text=\"eos_token\"");
    expect_choice("\"finish_reason\":\"Stop\"", " finish=OTHER finish_text=\"Stop\"");
    expect_choice("\"finish_reason\":\"a\\u0000\\n\"", " finish=OTHER finish_text=\"a\\0\n\"");
    expect_choice("\"finish_reason\":\"\"", "");
    expect_choice("\"finish_reason\":7", " extra={\"finish_reason\":7}");
}

static void test_numbers(void **state)
{
    (void)state;
    expect("{\"created\":1.0,\"choices\":[]}", " created=1");
    expect("{\"created\":1e3,\"choices\":[]}", " created=1000");
    expect("{\"created\":1755860000.0,\"choices\":[]}", " created=1755860000");
    expect("{\"created\":1755860000.25,\"choices\":[]}", " extra={\"created\":1755860000.25}");
    expect("{\"created\":9007199254740993,\"choices\":[]}", " created=9007199254740993");
    expect("{\"created\":-9223372036854775808,\"choices\":[]}", " created=-9223372036854775808");
    expect("{\"created\":9223372036854775808,\"choices\":[]}",
           " extra={\"created\":9223372036854775808}");
    expect("{\"created\":1e999999999999,\"choices\":[]}", " extra={\"created\":1e999999999999}");
    expect_choice("\"index\":2147483647", "2147483647");
    expect_choice("\"index\":-1", "-1");
    expect_choice("\"index\":2147483648", " extra={\"index\":2147483648}");
    expect("{\"usage\":{\"prompt_tokens\":9007199254740993,\"total_tokens\":1e2,"
           "\"completion_tokens\":1.5}}",
           " usage( prompt=9007199254740993 total=100 extra={\"completion_tokens\":1.5})");
    expect_choice("\"seed\":2039908639335532001,\"big\":123456789012345678901234567890.5e-3",
                  " extra={\"seed\":2039908639335532001,"
                  "\"big\":123456789012345678901234567890.5e-3}");
}

static void test_logprobs_keep_their_nulls(void **state)
{
    (void)state;
    expect_logprobs("\"tokens\":[\"A\",\" robot\"],\"token_logprobs\":[null,-9.25],"
                    "\"top_logprobs\":[null,{\" robot\":-9.25,\" little\":-3.0}],"
                    "\"text_offset\":[0,1]",
                    "<A>< robot> null -9.25 null { robot:-9.25, little:-3} @0 @1");
    expect_logprobs("\"token_logprobs\":[0,null,-0.0,-9999.0,-1e-320]",
                    " 0 null -0 -9999 -9.9998886718268301e-321");
    expect_logprobs("\"top_logprobs\":[{},null,{\"a\":null}]", " {} null {a:null}");
    expect_logprobs("\"tokens\":[],\"token_logprobs\":[],\"top_logprobs\":[],\"text_offset\":[]",
                    "");
}

static void test_top_logprobs_keep_order_and_duplicates(void **state)
{
    (void)state;
    expect_logprobs("\"top_logprobs\":[{\"b\":-3,\"\xef\xbf\xbd\":-1,\"a\":-2,"
                    "\"\xef\xbf\xbd\":-4,\"\\ud800\":-5,\"\\n\\u0000\":-6,\"\":-7}]",
                    " {b:-3,\xef\xbf\xbd:-1,a:-2,\xef\xbf\xbd:-4,\xef\xbf\xbd:-5,\n\\0:-6,:-7}");
}

static void test_many_tokens(void **state)
{
    struct buffer json = BUFFER_INIT(OUT_MAX), text = BUFFER_INIT(OUT_MAX);

    (void)state;
    buffer_append_string(&json, "{\"choices\":[{\"logprobs\":{\"text_offset\":[0");
    buffer_append_string(&text, " [ logprobs( null");
    for (int i = 1; i < 1000; i++)
        buffer_printf(&json, ",%d", i * 300);
    buffer_append_string(&json, "],\"token_logprobs\":[null");
    for (int i = 1; i < 1000; i++) {
        buffer_printf(&json, ",-%d.5", i);
        buffer_printf(&text, " -%d.5", i);
    }
    for (int i = 0; i < 1000; i++)
        buffer_printf(&text, " @%d", i * 300);
    buffer_append_string(&json, "]}}]}");
    buffer_append_string(&text, ")]");
    buffer_append_byte(&text, '\0');
    expect_bytes(buffer_bytes(&json), buffer_length(&json), whole, (char *)buffer_bytes(&text));
    buffer_done(&json);
    buffer_done(&text);
}

static void test_lists_of_another_type_go_to_extra(void **state)
{
    (void)state;
    expect_logprobs("\"tokens\":[\"a\",null],\"token_logprobs\":[-1,\"x\"],"
                    "\"top_logprobs\":[{\"a\":-1},{\"b\":[]}],\"text_offset\":[0,1.5]",
                    " extra={\"tokens\":[\"a\",null],\"token_logprobs\":[-1,\"x\"],"
                    "\"top_logprobs\":[{\"a\":-1},{\"b\":[]}],\"text_offset\":[0,1.5]}");
    expect_logprobs("\"tokens\":[\"ok\"],\"token_logprobs\":[1e999],\"text_offset\":[null]",
                    "<ok> extra={\"token_logprobs\":[1e999],\"text_offset\":[null]}");
    expect_logprobs("\"tokens\":\"abc\",\"top_logprobs\":[[\"a\",-1]]",
                    " extra={\"tokens\":\"abc\",\"top_logprobs\":[[\"a\",-1]]}");
}

static void test_chat_shaped_logprobs_are_kept(void **state)
{
    (void)state;
    expect_logprobs("\"content\":[{\"token\":\" hi\",\"bytes\":[32],\"logprob\":-0.25}]",
                    " extra={\"content\":[{\"token\":\" hi\",\"bytes\":[32],\"logprob\":-0.25}]}");
    expect_choice("\"logprobs\":[1]", " extra={\"logprobs\":[1]}");
    expect_choice("\"logprobs\":-0.5", " extra={\"logprobs\":-0.5}");
}

static void test_unknown_members_are_kept_word_for_word(void **state)
{
    (void)state;
    expect("{\"a\":1.50,\"choices\":[{\"stop_reason\":null,\"text\":\"x\",\"b\":{ \"c\" : [1 ] },"
           "\"logprobs\":{\"d\":\"\\u0041\"}}],\"usage\":{\"cost\":1E-2,"
           "\"prompt_tokens_details\":{\"e\":true},\"completion_tokens_details\":{\"f\":\"\"}},"
           "\"\\u007a\":{}}",
           " [ text=\"x\" logprobs( extra={\"d\":\"\\u0041\"})"
           " extra={\"stop_reason\":null,\"b\":{ \"c\" : [1 ] }}]"
           " usage( of completion( extra={\"f\":\"\"}) of prompt( extra={\"e\":true})"
           " extra={\"cost\":1E-2}) extra={\"a\":1.50,\"\\u007a\":{}}");
    expect("{ \"x\" :\n1 , \"choices\" : [ ] , \"x\" : 2 }", " extra={\"x\":1,\"x\":2}");
    expect("{\"\":0,\"choices\":[],\"i\":0,\"idd\":0}", " extra={\"\":0,\"i\":0,\"idd\":0}");
}

static void test_members_of_another_type_go_to_extra(void **state)
{
    (void)state;
    expect("{\"id\":7,\"object\":[],\"created\":\"x\",\"model\":{},\"system_fingerprint\":true,"
           "\"usage\":[],\"choices\":[]}",
           " extra={\"id\":7,\"object\":[],\"created\":\"x\",\"model\":{},"
           "\"system_fingerprint\":true,\"usage\":[]}");
    expect_choice("\"text\":7,\"index\":\"0\",\"finish_reason\":{}",
                  " extra={\"text\":7,\"index\":\"0\",\"finish_reason\":{}}");
    expect("{\"usage\":{\"prompt_tokens\":\"1\",\"prompt_tokens_details\":3}}",
           " usage( extra={\"prompt_tokens\":\"1\",\"prompt_tokens_details\":3})");
}

static void test_obfuscation_is_dropped_unless_wanted(void **state)
{
    static const char json[] = "{\"choices\":[],\"obfuscation\":\"r4N7\"}";

    (void)state;
    expect(json, "");
    expect_bytes(json, strlen(json), (struct options){.keep_obfuscation = true},
                 " extra={\"obfuscation\":\"r4N7\"}");
    expect("{\"choices\":[],\"obfuscation\":null,\"x\":1}", " extra={\"x\":1}");
}

static void test_white_space_in_front(void **state)
{
    static const char json[] = "\n\r\n\n \t{\"choices\":[]}\n\n";

    (void)state;
    expect_bytes(json, strlen(json), whole, "");
}

static void test_nothing(void **state)
{
    (void)state;
    expect_kind("null", chunk, TRANSLATE_NOTHING);
    expect_kind(" null ", chunk, TRANSLATE_NOTHING);
    expect_kind("{}", chunk, TRANSLATE_NOTHING);
    expect_kind("{ }\n", whole, TRANSLATE_NOTHING);
}

static void test_error_objects(void **state)
{
    static const char *const errors[] = {
        "{\"error\":{\"message\":\"m\",\"type\":\"server_error\"}}",
        "{\"error\":\"Internal error\"}",
        "{\"error\":{}}",
        "{\"error\":true}",
        "{\"error\":[]}",
        "{\"error\":\"\\u0065\"}",
        "{\"choices\":[{\"finish_reason\":\"error\"}],\"error\":{\"code\":1}}",
        "{\"error\":{\"code\":429},\"choices\":[{\"text\":\"x\"}]}",
        "{\"object\":\"error\",\"message\":\"m\",\"code\":400}",
    };

    (void)state;
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) {
        expect_kind(errors[i], chunk, TRANSLATE_ERROR);
        expect_kind(errors[i], whole, TRANSLATE_ERROR);
    }
}

static void test_error_that_is_none(void **state)
{
    (void)state;
    expect("{\"error\":null,\"choices\":[{\"text\":\"x\"}]}", " [ text=\"x\"]");
    expect("{\"error\":false,\"choices\":[]}", " extra={\"error\":false}");
    expect("{\"error\":\"\",\"choices\":[]}", " extra={\"error\":\"\"}");
    expect_choice("\"error\":{\"x\":1}", " extra={\"error\":{\"x\":1}}");
}

static void test_no_choices(void **state)
{
    (void)state;
    expect_kind("{\"content\":\"native\",\"stop\":true}", whole, TRANSLATE_NO_CHOICES);
    expect_kind("{\"content\":\"native\"}", chunk, TRANSLATE_NO_CHOICES);
    expect_kind("{\"error\":null}", chunk, TRANSLATE_NO_CHOICES);
    expect_kind("{\"usage\":null}", chunk, TRANSLATE_NO_CHOICES);
    expect_kind("{\"usage\":{}}", whole, TRANSLATE_NO_CHOICES);
    expect_kind("{\"choices\":null}", whole, TRANSLATE_NO_CHOICES);
    expect("{\"choices\":null,\"id\":\"c\"}", " id=\"c\"");
    expect("{\"usage\":{\"total_tokens\":1}}", " usage( total=1)");
}

static void test_malformed(void **state)
{
    static const char *const texts[] = {
        "",
        " ",
        "x",
        "[]",
        "1",
        "\"x\"",
        "true",
        "nul",
        "{",
        "{\"choices\":[",
        "{\"choices\":[]",
        "{\"choices\":[]}}",
        "{\"choices\":[]}{}",
        "{\"choices\":[],}",
        "{\"choices\":[{]}",
        "{\"choices\":{}}",
        "{\"choices\":\"x\"}",
        "{\"choices\":7}",
        "{\"choices\":[1]}",
        "{\"choices\":[{},null]}",
        "{\"choices\":[[]]}",
        "{choices:[]}",
        "{\"choices\":[{\"text\":\"a\nb\"}]}",
        "{\"choices\":[{\"logprobs\":{\"token_logprobs\":[NaN]}}]}",
        "{\"choices\":[{\"logprobs\":{\"tokens\":[\"a\"",
        "{\"choices\":[],\"x\":[1,2}",
        "<html></html>",
        "{\"choices\":[],\"created\":01}",
        "{\"choices\":[{\"text\":\"\\x\"}]}",
        "{\"id\":\"c\",\"obj",
    };

    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        expect_kind(texts[i], chunk, TRANSLATE_MALFORMED);
        expect_kind(texts[i], whole, TRANSLATE_MALFORMED);
    }
    expect_kind_of("{\"choices\":[]}\0", 15, chunk, TRANSLATE_MALFORMED);
}

/* A member that comes twice: the last one holds, as protobuf has it. */
static void test_repeated_members(void **state)
{
    (void)state;
    expect("{\"id\":\"a\",\"id\":\"b\",\"choices\":[{\"text\":\"x\",\"text\":\"y\"}]}",
           " id=\"b\" [ text=\"y\"]");
}

static void test_every_prefix_is_malformed(void **state)
{
    static const char json[] =
        "{\"id\":\"c\",\"choices\":[{\"text\":\"\\u00e9\xc3\xa9\",\"index\":0,\"logprobs\":{"
        "\"tokens\":[\"a\",\"b\"],\"top_logprobs\":[{\"a\":-1.5e3}],\"x\":[{}]},"
        "\"finish_reason\":\"stop\",\"y\":null}],\"usage\":{\"total_tokens\":12},\"z\":false}";

    (void)state;
    for (size_t len = 0; len < sizeof json - 1; len++)
        expect_kind_of(json, len, chunk, TRANSLATE_MALFORMED);
    expect_kind_of(json, sizeof json - 1, chunk, TRANSLATE_COMPLETION);
}

static void progress_with(struct translate_progress *progress, const char *json)
{
    struct buffer out = BUFFER_INIT(OUT_MAX);

    assert_int_equal(translate(json, strlen(json), chunk, progress, &out, NULL),
                     TRANSLATE_COMPLETION);
    buffer_done(&out);
}

static void test_progress_counts_each_choice_once(void **state)
{
    struct translate_progress p;

    (void)state;
    translate_progress_init(&p, 3);
    progress_with(&p, "{\"choices\":[{\"index\":1,\"finish_reason\":null},{\"index\":1,"
                      "\"finish_reason\":\"\"},{\"index\":1,\"finish_reason\":3}]}");
    assert_int_equal(p.n_finished, 0);
    progress_with(&p, "{\"choices\":[{\"finish_reason\":\"stop\",\"index\":1}]}");
    progress_with(&p, "{\"choices\":[{\"index\":1,\"finish_reason\":\"abort\"}]}");
    assert_int_equal(p.n_finished, 1);
    assert_false(translate_progress_is_complete(&p));
    progress_with(&p, "{\"choices\":[{\"index\":0,\"finish_reason\":\"length\"},{\"index\":255,"
                      "\"finish_reason\":\"length\"}]}");
    assert_int_equal(p.n_finished, 3);
    assert_true(translate_progress_is_complete(&p));

    /* Without an index, the place in the list is one. */
    translate_progress_init(&p, 2);
    progress_with(&p, "{\"choices\":[{\"finish_reason\":\"stop\"},{\"finish_reason\":\"stop\"}]}");
    assert_true(translate_progress_is_complete(&p));

    translate_progress_init(&p, 1000);
    progress_with(&p, "{\"choices\":[{\"finish_reason\":\"stop\",\"index\":999},"
                      "{\"finish_reason\":\"stop\",\"index\":-1}]}");
    assert_int_equal(p.n_finished, 2);
}

static void test_progress_keeps_the_last_usage_above_zero(void **state)
{
    struct translate_progress p;

    (void)state;
    translate_progress_init(&p, 1);
    progress_with(&p, "{\"choices\":[],\"usage\":null}");
    progress_with(&p, "{\"usage\":{\"prompt_tokens\":0,\"completion_tokens\":0,"
                      "\"total_tokens\":0}}");
    assert_int_equal(p.total_tokens, -1);
    progress_with(&p, "{\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":2,"
                      "\"total_tokens\":7,\"prompt_tokens_details\":{\"text_tokens\":99}}}");
    progress_with(&p, "{\"usage\":{\"total_tokens\":0}}");
    progress_with(&p, "{\"choices\":[]}");
    assert_int_equal(p.prompt_tokens, 5);
    assert_int_equal(p.completion_tokens, 2);
    assert_int_equal(p.total_tokens, 7);
    progress_with(&p, "{\"usage\":{\"prompt_tokens\":6,\"total_tokens\":8}}");
    assert_int_equal(p.prompt_tokens, 6);
    assert_int_equal(p.completion_tokens, -1);
    assert_int_equal(p.total_tokens, 8);
}

static void test_full_output_is_reported(void **state)
{
    static const char json[] = "{\"id\":\"0123456789\",\"x\":1,\"choices\":[{\"text\":\"abc\"}]}";

    (void)state;
    for (size_t limit = 0; limit < 30; limit++) {
        struct translate_progress progress;
        struct buffer out = BUFFER_INIT(limit);

        translate_progress_init(&progress, 1);
        translate(json, strlen(json), chunk, &progress, &out, NULL);
        assert_int_equal(out.error, -EMSGSIZE);
        assert_int_equal(buffer_length(&out), 0);
        buffer_done(&out);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_field),
        cmocka_unit_test(test_presence),
        cmocka_unit_test(test_null_is_absent),
        cmocka_unit_test(test_members_in_any_order),
        cmocka_unit_test(test_escaped_names_are_the_same),
        cmocka_unit_test(test_text_with_escapes),
        cmocka_unit_test(test_text_of_any_length),
        cmocka_unit_test(test_bytes_that_are_not_utf8_are_repaired),
        cmocka_unit_test(test_finish_reasons),
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_logprobs_keep_their_nulls),
        cmocka_unit_test(test_top_logprobs_keep_order_and_duplicates),
        cmocka_unit_test(test_many_tokens),
        cmocka_unit_test(test_lists_of_another_type_go_to_extra),
        cmocka_unit_test(test_chat_shaped_logprobs_are_kept),
        cmocka_unit_test(test_unknown_members_are_kept_word_for_word),
        cmocka_unit_test(test_members_of_another_type_go_to_extra),
        cmocka_unit_test(test_obfuscation_is_dropped_unless_wanted),
        cmocka_unit_test(test_white_space_in_front),
        cmocka_unit_test(test_nothing),
        cmocka_unit_test(test_error_objects),
        cmocka_unit_test(test_error_that_is_none),
        cmocka_unit_test(test_no_choices),
        cmocka_unit_test(test_malformed),
        cmocka_unit_test(test_repeated_members),
        cmocka_unit_test(test_every_prefix_is_malformed),
        cmocka_unit_test(test_progress_counts_each_choice_once),
        cmocka_unit_test(test_progress_keeps_the_last_usage_above_zero),
        cmocka_unit_test(test_full_output_is_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* gRPC's headers and trailers as text, and back. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "grpc_message.h"
#include "grpc_status.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static void assert_bytes(struct buffer *b, const void *expected, size_t len)
{
    assert_int_equal(b->error, 0);
    assert_int_equal(buffer_length(b), len);
    if (len)
        assert_memory_equal(buffer_bytes(b), expected, len);
    buffer_done(b);
}

static void assert_text(struct buffer *b, const char *expected)
{
    assert_bytes(b, expected, strlen(expected));
}

static void every_status_has_its_name(void **state)
{
    (void)state;
    assert_string_equal(grpc_status_name(GRPC_OK), "OK");
    assert_string_equal(grpc_status_name(GRPC_INVALID_ARGUMENT), "INVALID_ARGUMENT");
    assert_string_equal(grpc_status_name(GRPC_UNAUTHENTICATED), "UNAUTHENTICATED");
    assert_string_equal(grpc_status_name(-1), "UNKNOWN");
    assert_string_equal(grpc_status_name(17), "UNKNOWN");
}

static void content_types_of_grpc_are_told_from_others(void **state)
{
    static const char *const good[] = {
        "application/grpc",
        "application/grpc+proto",
        "application/grpc;charset=utf-8",
        "application/grpc+proto; x=y",
        "Application/GRPC",
        "application/grpc ; x=y",
    };
    static const char *const bad[] = {
        "",
        "application/grp",
        "application/grpc-web",
        "application/grpc+json",
        "application/grpc+protobuf",
        "application/grpcx",
        "application/json",
        "text/html",
    };
    (void)state;

    for (size_t i = 0; i < COUNT(good); i++)
        assert_true(grpc_content_type_is_grpc(good[i], strlen(good[i])));
    for (size_t i = 0; i < COUNT(bad); i++)
        assert_false(grpc_content_type_is_grpc(bad[i], strlen(bad[i])));
}

static void messages_are_percent_encoded_and_come_back(void **state)
{
    static const struct {
        const char *plain, *encoded;
    } table[] = {
        {"", ""},
        {"plain text, ~ !", "plain text, ~ !"},
        {"100%", "100%25"},
        {"100% \xc3\xa9", "100%25 %C3%A9"},
        {"a\nb\tc\x7f", "a%0Ab%09c%7F"},
        {"\xe2\x82\xac\xf0\x9f\x98\x80", "%E2%82%AC%F0%9F%98%80"},
        {"%41", "%2541"},
    };
    (void)state;

    for (size_t i = 0; i < COUNT(table); i++) {
        struct buffer encoded = BUFFER_INIT(1 << 16), plain = BUFFER_INIT(1 << 16);
        grpc_message_encode(&encoded, table[i].plain);
        assert_text(&encoded, table[i].encoded);
        grpc_message_decode(&plain, table[i].encoded, strlen(table[i].encoded));
        assert_text(&plain, table[i].plain);
    }
}

static void broken_escapes_stay_and_bad_utf8_is_repaired(void **state)
{
    static const struct {
        const char *encoded, *plain;
    } table[] = {
        {"%", "%"},
        {"%4", "%4"},
        {"%zz", "%zz"},
        {"50%!", "50%!"},
        {"%%41", "%A"},
        {"%c3%a9", "\xc3\xa9"},
        {"%FF", "\xef\xbf\xbd"},
        {"a%C3", "a\xef\xbf\xbd"},
        {"\xff", "\xef\xbf\xbd"},
    };
    (void)state;

    for (size_t i = 0; i < COUNT(table); i++) {
        struct buffer plain = BUFFER_INIT(1 << 16);
        grpc_message_decode(&plain, table[i].encoded, strlen(table[i].encoded));
        assert_text(&plain, table[i].plain);
    }
}

/* Where something did not fit before, nothing is added, and the first error stays. */
static void an_earlier_error_stays(void **state)
{
    struct buffer plain = BUFFER_INIT(4);
    (void)state;

    buffer_append_string(&plain, "12345");
    assert_int_equal(plain.error, -EMSGSIZE);
    grpc_message_decode(&plain, "%41", 3);
    assert_int_equal(plain.error, -EMSGSIZE);
    assert_int_equal(buffer_length(&plain), 0);
    buffer_done(&plain);
}

static void long_messages_are_cut_between_characters(void **state)
{
    char message[4 * GRPC_MESSAGE_MAX + 1];
    (void)state;

    for (size_t shift = 0; shift < 3; shift++) {
        struct buffer encoded = BUFFER_INIT(1 << 16), plain = BUFFER_INIT(1 << 16);
        memset(message, 'x', shift);
        for (size_t i = shift; i + 3 < sizeof message; i += 3)
            memcpy(message + i, "\xe2\x82\xac", 4);
        grpc_message_encode(&encoded, message);
        grpc_message_decode(&plain, buffer_bytes(&encoded), buffer_length(&encoded));
        size_t n = buffer_length(&plain);
        assert_in_range(n, GRPC_MESSAGE_MAX - 3, GRPC_MESSAGE_MAX);
        assert_int_equal((n - shift) % 3, 0);
        assert_bytes(&plain, message, n);
        buffer_done(&encoded);
    }
}

static void timeouts_are_read(void **state)
{
    static const struct {
        const char *text;
        int64_t us;
    } table[] = {
        {"0u", 0},
        {"1u", 1},
        {"200m", 200000},
        {"198802u", 198802},
        {"5S", 5000000},
        {"2M", 120000000},
        {"1H", 3600000000},
        {"1n", 1},
        {"1000n", 1},
        {"1001n", 2},
        {"0n", 0},
        {"99999999H", 99999999 * INT64_C(3600000000)},
        {"00000001S", 1000000},
    };
    static const char *const bad[] = {
        "",    "S",   "1",   "1s",  "1h",   "-1S",      "+1S",        "1.5S",
        "1 S", " 1S", "1S ", "1mS", "0x1S", "12345678", "123456789u", "1\xc2\xb5",
    };
    (void)state;

    for (size_t i = 0; i < COUNT(table); i++) {
        int64_t us = -7;
        assert_int_equal(grpc_timeout_parse(table[i].text, strlen(table[i].text), &us), 0);
        assert_int_equal(us, table[i].us);
    }
    for (size_t i = 0; i < COUNT(bad); i++) {
        int64_t us = -7;
        assert_int_equal(grpc_timeout_parse(bad[i], strlen(bad[i]), &us), -EINVAL);
        assert_int_equal(us, -7);
    }
}

static void timeouts_are_written_in_the_finest_unit_that_fits(void **state)
{
    static const struct {
        int64_t us;
        const char *text;
    } table[] = {
        {-5, "0u"},
        {0, "0u"},
        {1, "1u"},
        {99999999, "99999999u"},
        {100000000, "100000m"},
        {100000001, "100001m"},
        {99999999000, "99999999m"},
        {99999999001, "100000S"},
        {99999999000001, "1666667M"},
        {INT64_MAX, "99999999H"},
    };
    (void)state;

    for (size_t i = 0; i < COUNT(table); i++) {
        char text[GRPC_TIMEOUT_SIZE];
        int64_t us;
        grpc_timeout_format(table[i].us, text);
        assert_string_equal(text, table[i].text);
        assert_int_equal(grpc_timeout_parse(text, strlen(text), &us), 0);
        if (table[i].us < INT64_MAX)
            assert_true(us >= table[i].us);
    }
}

static void base64_is_written_without_padding_and_read_with_or_without(void **state)
{
    static const struct {
        const char *plain, *encoded, *padded;
    } table[] = {
        {"", "", ""},
        {"f", "Zg", "Zg=="},
        {"fo", "Zm8", "Zm8="},
        {"foo", "Zm9v", "Zm9v"},
        {"foob", "Zm9vYg", "Zm9vYg=="},
        {"\xfb\xff\xfe", "+//+", "+//+"},
    };
    (void)state;

    for (size_t i = 0; i < COUNT(table); i++) {
        struct buffer b = BUFFER_INIT(100);
        grpc_base64_encode(&b, table[i].plain, strlen(table[i].plain));
        assert_text(&b, table[i].encoded);
        assert_int_equal(grpc_base64_decode(&b, table[i].encoded, strlen(table[i].encoded)), 0);
        assert_text(&b, table[i].plain);
        assert_int_equal(grpc_base64_decode(&b, table[i].padded, strlen(table[i].padded)), 0);
        assert_text(&b, table[i].plain);
    }
}

static void base64_that_is_none_leaves_the_output_as_it_was(void **state)
{
    static const char *const bad[] = {"Z",        "Zg=",  "Z===", "Zm9v=", "Zm9!", "Zm 9",
                                      "Zg==Zg==", "=",    "====", "Zm9{",  "Zm9@", "Zm9[",
                                      "Zm9`",     "Zm9:", "Zm9.", "Zm9,"};
    (void)state;

    for (size_t i = 0; i < COUNT(bad); i++) {
        struct buffer b = BUFFER_INIT(100);
        buffer_append_string(&b, "before");
        assert_int_equal(grpc_base64_decode(&b, bad[i], strlen(bad[i])), -EINVAL);
        assert_text(&b, "before");
    }
}

static void a_status_holds_one_detail_that_is_found_by_its_type(void **state)
{
    static const char url[] = "type.googleapis.com/a.B";
    struct buffer b = BUFFER_INIT(1 << 16);
    const uint8_t *value;
    size_t len;
    (void)state;

    grpc_status_pack(&b, GRPC_NOT_FOUND, "no such thing", url, "\x08\x00\x01", 3);
    assert_int_equal(
        grpc_status_find_detail(buffer_bytes(&b), buffer_length(&b), url, &value, &len), 0);
    assert_int_equal(len, 3);
    assert_memory_equal(value, "\x08\x00\x01", 3);
    assert_int_equal(grpc_status_find_detail(buffer_bytes(&b), buffer_length(&b),
                                             "type.googleapis.com/a.C", &value, &len),
                     -ENOENT);
    for (size_t n = 1; n < buffer_length(&b); n++) {
        int rc = grpc_status_find_detail(buffer_bytes(&b), n, url, &value, &len);
        assert_true(rc == -EBADMSG || rc == -ENOENT);
    }
    /* As protoc --decode=google.rpc.Status reads it. */
    static const char expected[] = "\x08\x05\x12\x0dno such thing\x1a\x1e\x0a\x17"
                                   "type.googleapis.com/a.B\x12\x03\x08\x00\x01";
    assert_bytes(&b, expected, sizeof expected - 1);
}

static void a_status_holds_what_it_is_given(void **state)
{
    char message[GRPC_MESSAGE_MAX + 8];
    struct buffer b = BUFFER_INIT(1 << 16);
    const uint8_t *value;
    size_t len;
    (void)state;

    /* The defaults are left out. */
    grpc_status_pack(&b, GRPC_OK, NULL, "t", "v", 1);
    assert_bytes(&b, "\x1a\x06\x0a\x01t\x12\x01v", 8);
    grpc_status_pack(&b, GRPC_OK, "", "t", "v", 1);
    assert_bytes(&b, "\x1a\x06\x0a\x01t\x12\x01v", 8);

    /* A long text is cut between characters, and the detail is still whole. */
    memset(message, 'x', sizeof message);
    memcpy(message + GRPC_MESSAGE_MAX - 1, "\xc3\xa9", 3);
    grpc_status_pack(&b, GRPC_ABORTED, message, "t", "v", 1);
    assert_int_equal(buffer_length(&b), 2 + 3 + GRPC_MESSAGE_MAX - 1 + 8);
    assert_int_equal(
        grpc_status_find_detail(buffer_bytes(&b), buffer_length(&b), "t", &value, &len), 0);
    assert_int_equal(len, 1);
    buffer_done(&b);
}

static void details_of_other_writers_are_read(void **state)
{
    static const struct {
        const char *packed;
        size_t len;
        int expected;
    } table[] = {
        /* Unknown members of the Any: a number, a text. */
        {"\x1a\x0b\x18\x07\x22\x01z\x0a\x01t\x12\x01v", 13, 0},
        /* The value before the type. */
        {"\x1a\x06\x12\x01v\x0a\x01t", 8, 0},
        /* The details' number with another type is an unknown field. */
        {"\x18\x05\x1a\x06\x0a\x01t\x12\x01v", 10, 0},
        {"\x18\x05", 2, -ENOENT},
        /* The Any is no protobuf, while the status around it is. */
        {"\x1a\x02\x0a\x05", 4, -EBADMSG},
        {"\x1a\x04\x0a\x01t\x12", 6, -EBADMSG},
    };
    (void)state;

    for (size_t i = 0; i < COUNT(table); i++) {
        const uint8_t *value = NULL;
        size_t len = 77;
        assert_int_equal(grpc_status_find_detail(table[i].packed, table[i].len, "t", &value, &len),
                         table[i].expected);
        if (table[i].expected == 0) {
            assert_int_equal(len, 1);
            assert_int_equal(*value, 'v');
        } else {
            assert_null(value);
        }
    }
}

static void the_first_detail_of_the_type_is_taken(void **state)
{
    /* Two of a.B among others; unknown fields; an Any without value. */
    static const char packed[] = "\x1a\x07\x0a\x01x\x12\x02no"
                                 "\x20\x01"
                                 "\x1a\x09\x0a\x03"
                                 "a.B\x12\x02hi"
                                 "\x1a\x09\x0a\x03"
                                 "a.B\x12\x02ho"
                                 "\x1a\x05\x0a\x03"
                                 "a.E";
    const uint8_t *value;
    size_t len;
    (void)state;

    assert_int_equal(grpc_status_find_detail(packed, sizeof packed - 1, "a.B", &value, &len), 0);
    assert_int_equal(len, 2);
    assert_memory_equal(value, "hi", 2);
    assert_int_equal(grpc_status_find_detail(packed, sizeof packed - 1, "a.E", &value, &len), 0);
    assert_int_equal(len, 0);
}

static void message_prefixes_tell_whole_messages_from_others(void **state)
{
    static const uint8_t message[] = {0, 0, 0, 0, 2, 'h', 'i', 'x'};
    static const uint8_t large[] = {0, 1, 0, 0, 0};
    static const uint8_t compressed[] = {1, 0, 0, 0, 0};
    char text[GRPC_MESSAGE_FAILURE_SIZE];
    uint8_t prefix[GRPC_MESSAGE_PREFIX];
    size_t n = 77;
    (void)state;

    for (size_t len = 0; len < 7; len++)
        assert_int_equal(grpc_message_peek(message, len, 100, &n), 0);
    assert_int_equal(n, 77);
    assert_int_equal(grpc_message_peek(message, 8, 100, &n), 1);
    assert_int_equal(n, 2);
    assert_int_equal(grpc_message_peek(message, 5, 1, &n), -EMSGSIZE);
    assert_int_equal(grpc_message_peek(large, 5, 1 << 24, &n), 0);
    assert_int_equal(grpc_message_peek(large, 5, (1 << 24) - 1, &n), -EMSGSIZE);
    assert_int_equal(grpc_message_failure(-EMSGSIZE, large, 4194304, text),
                     GRPC_RESOURCE_EXHAUSTED);
    assert_string_equal(text, "Received message larger than max (16777216 vs. 4194304)");
    assert_int_equal(grpc_message_peek(compressed, 5, 100, &n), -EBADMSG);
    assert_int_equal(grpc_message_failure(-EBADMSG, compressed, 100, text), GRPC_INTERNAL);
    assert_non_null(strstr(text, "compress"));
    grpc_message_write_prefix(prefix, 0x01020304);
    assert_memory_equal(prefix, "\x00\x01\x02\x03\x04", 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_status_has_its_name),
        cmocka_unit_test(content_types_of_grpc_are_told_from_others),
        cmocka_unit_test(messages_are_percent_encoded_and_come_back),
        cmocka_unit_test(broken_escapes_stay_and_bad_utf8_is_repaired),
        cmocka_unit_test(an_earlier_error_stays),
        cmocka_unit_test(long_messages_are_cut_between_characters),
        cmocka_unit_test(timeouts_are_read),
        cmocka_unit_test(timeouts_are_written_in_the_finest_unit_that_fits),
        cmocka_unit_test(base64_is_written_without_padding_and_read_with_or_without),
        cmocka_unit_test(base64_that_is_none_leaves_the_output_as_it_was),
        cmocka_unit_test(a_status_holds_one_detail_that_is_found_by_its_type),
        cmocka_unit_test(a_status_holds_what_it_is_given),
        cmocka_unit_test(details_of_other_writers_are_read),
        cmocka_unit_test(the_first_detail_of_the_type_is_taken),
        cmocka_unit_test(message_prefixes_tell_whole_messages_from_others),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

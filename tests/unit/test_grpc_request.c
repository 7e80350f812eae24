/* The headers of one request: which bytes names, values and paths may hold. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdint.h>
#include <string.h>

#include "grpc_request.h"

struct header {
    const char *name, *value;
    size_t name_len, value_len;
};

static void add(struct grpc_request *r, const char *name, size_t name_len, const char *value,
                size_t value_len)
{
    grpc_request_add(r, (const uint8_t *)name, name_len, (const uint8_t *)value, value_len);
}

static void add_text(struct grpc_request *r, const char *name, const char *value)
{
    add(r, name, strlen(name), value, strlen(value));
}

/* A call with one more header: NULL, or how it is refused. */
static const struct grpc_refusal *refusal_of(const char *path, size_t path_len,
                                             const struct header *header)
{
    struct grpc_request r;

    grpc_request_init(&r, 4096, NULL);
    add_text(&r, ":method", "POST");
    add(&r, ":path", 5, path, path_len);
    add_text(&r, "content-type", "application/grpc");
    if (header)
        add(&r, header->name, header->name_len, header->value, header->value_len);
    const struct grpc_refusal *refusal = grpc_request_check(&r);
    grpc_request_done(&r);
    return refusal;
}

static void each_byte_of_a_name(void **state)
{
    (void)state;

    for (int c = 0; c < 256; c++) {
        const char name[] = {'a', (char)c, 'b'};
        bool good = c > ' ' && c < 0x7f && c != ':' && !(c >= 'A' && c <= 'Z');
        struct header header = {name, "x", sizeof name, 1};
        const struct grpc_refusal *refusal = refusal_of("/a/B", 4, &header);
        if (good)
            assert_null(refusal);
        else
            assert_string_equal(refusal->message, "malformed request headers");
    }
}

static void each_byte_of_a_value(void **state)
{
    (void)state;

    for (int c = 0; c < 256; c++) {
        const char value[] = {'a', (char)c, 'b'};
        bool good = (c >= ' ' && c != 0x7f) || c == '\t';
        struct header header = {"x", value, 1, sizeof value};
        assert_int_equal(refusal_of("/a/B", 4, &header) == NULL, good);
    }
}

static void each_byte_of_a_path(void **state)
{
    (void)state;

    for (int c = 0; c < 256; c++) {
        const char path[] = {'/', (char)c};
        assert_int_equal(refusal_of(path, sizeof path, NULL) == NULL, c > ' ' && c < 0x7f);
    }
    assert_non_null(refusal_of("", 0, NULL));
}

static void a_name_is_never_empty(void **state)
{
    struct header header = {"", "x", 0, 1};
    (void)state;

    assert_non_null(refusal_of("/a/B", 4, &header));
}

static void metadata_is_found_by_its_whole_name_and_the_last_holds(void **state)
{
    struct grpc_request r;
    (void)state;

    grpc_request_init(&r, 4096, NULL);
    add_text(&r, ":method", "POST");
    add_text(&r, ":path", "/a/B");
    add_text(&r, "content-type", "application/grpc");
    add_text(&r, "key", "one");
    add_text(&r, "key2", "");
    add_text(&r, "key", "two");
    add_text(&r, "grpc-accept-encoding", "gzip");
    assert_null(grpc_request_check(&r));
    assert_string_equal(grpc_request_path(&r), "/a/B");
    assert_string_equal(grpc_request_metadata(&r, "key"), "two");
    assert_string_equal(grpc_request_metadata(&r, "key2"), "");
    assert_null(grpc_request_metadata(&r, "ke"));
    assert_null(grpc_request_metadata(&r, ":path"));
    assert_null(grpc_request_metadata(&r, "grpc-accept-encoding"));
    grpc_request_done(&r);
}

static void headers_beyond_a_limit_are_refused_whatever_else_is_wrong(void **state)
{
    struct memory memory = MEMORY_INIT(256, NULL);
    struct grpc_request r;
    (void)state;

    grpc_request_init(&r, 100, NULL);
    add_text(&r, "UPPER", "x");
    add_text(&r, "key", "0123456789012345678901234567890123456789");
    assert_string_equal(grpc_request_check(&r)->message, "request headers are too large");
    grpc_request_done(&r);

    grpc_request_init(&r, 1000, &memory);
    add_text(&r, "UPPER", "x");
    add_text(&r, "key", "x");
    assert_non_null(strstr(grpc_request_check(&r)->message, "memory limit"));
    assert_null(grpc_request_metadata(&r, "key"));
    grpc_request_done(&r);
    assert_int_equal(memory.used, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_byte_of_a_name),
        cmocka_unit_test(each_byte_of_a_value),
        cmocka_unit_test(each_byte_of_a_path),
        cmocka_unit_test(a_name_is_never_empty),
        cmocka_unit_test(metadata_is_found_by_its_whole_name_and_the_last_holds),
        cmocka_unit_test(headers_beyond_a_limit_are_refused_whatever_else_is_wrong),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

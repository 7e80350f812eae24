/* grpc.health.v1.Health on the wire. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "grpc_health.h"

static const char *const services[] = {"a.b.Completions", "a.b.Other", NULL};

static enum grpc_status check(const char *service, bool serving, struct buffer *reply)
{
    struct buffer request = BUFFER_INIT(1000);

    *reply = BUFFER_INIT(1000);
    grpc_health_request(&request, service);
    buffer_reserve(&request, 1);
    enum grpc_status status = grpc_health_check(buffer_bytes(&request), buffer_length(&request),
                                                services, serving, reply);
    buffer_done(&request);
    return status;
}

static void assert_health(const char *service, bool serving, enum grpc_health expected)
{
    struct buffer reply;
    enum grpc_health health;

    assert_int_equal(check(service, serving, &reply), GRPC_OK);
    assert_int_equal(buffer_length(&reply), 2);
    assert_int_equal(grpc_health_read(buffer_bytes(&reply), buffer_length(&reply), &health), 0);
    assert_int_equal(health, expected);
    buffer_done(&reply);
}

static void the_whole_server_and_known_services_have_a_health(void **state)
{
    (void)state;
    assert_health("", true, GRPC_HEALTH_SERVING);
    assert_health("", false, GRPC_HEALTH_NOT_SERVING);
    assert_health("a.b.Completions", true, GRPC_HEALTH_SERVING);
    assert_health("a.b.Other", false, GRPC_HEALTH_NOT_SERVING);
}

static void unknown_services_are_not_found(void **state)
{
    static const char *const unknown[] = {"a", "a.b.Completion", "a.b.Completionss", "A.B.OTHER"};
    (void)state;

    for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++) {
        struct buffer reply;
        assert_int_equal(check(unknown[i], true, &reply), GRPC_NOT_FOUND);
        assert_int_equal(buffer_length(&reply), 0);
        buffer_done(&reply);
    }
}

static void requests_that_are_no_protobuf_are_invalid(void **state)
{
    static const char *const bad[] = {"\x0a", "\x0a\x05xyz", "\x08", "\x0f\x01"};
    struct buffer reply = BUFFER_INIT(100);
    (void)state;

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(
            grpc_health_check((const uint8_t *)bad[i], strlen(bad[i]), services, true, &reply),
            GRPC_INVALID_ARGUMENT);
    assert_int_equal(buffer_length(&reply), 0);
}

static void unknown_fields_are_passed_over_and_the_last_name_holds(void **state)
{
    /* The name's number with another type is an unknown field, too. */
    static const char request[] = "\x0a\x01x\x10\x07\x08\x07\x0a\x09"
                                  "a.b.Other";
    struct buffer reply = BUFFER_INIT(100);
    (void)state;

    assert_int_equal(
        grpc_health_check((const uint8_t *)request, sizeof request - 1, services, true, &reply),
        GRPC_OK);
    assert_int_equal(buffer_length(&reply), 2);
    assert_memory_equal(buffer_bytes(&reply), "\x08\x01", 2);
    buffer_done(&reply);
}

static void watchers_are_told_that_a_service_is_unknown(void **state)
{
    static const struct {
        const char *request;
        bool serving;
        enum grpc_health health;
    } cases[] = {
        {"", true, GRPC_HEALTH_SERVING},
        {"", false, GRPC_HEALTH_NOT_SERVING},
        {"\x0a\x09"
         "a.b.Other",
         true, GRPC_HEALTH_SERVING},
        {"\x0a\1x", true, GRPC_HEALTH_SERVICE_UNKNOWN},
        {"\x0a\1x", false, GRPC_HEALTH_SERVICE_UNKNOWN},
    };
    enum grpc_health health = GRPC_HEALTH_UNKNOWN;
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const uint8_t *request = (const uint8_t *)cases[i].request;
        assert_int_equal(grpc_health_watch(request, strlen(cases[i].request), services,
                                           cases[i].serving, &health),
                         GRPC_OK);
        assert_int_equal(health, cases[i].health);
    }
    health = GRPC_HEALTH_UNKNOWN;
    assert_int_equal(grpc_health_watch((const uint8_t *)"\x0a", 1, services, true, &health),
                     GRPC_INVALID_ARGUMENT);
    assert_int_equal(health, GRPC_HEALTH_UNKNOWN);
}

static void replies_of_other_servers_are_read(void **state)
{
    enum grpc_health health = GRPC_HEALTH_SERVING;
    (void)state;

    assert_int_equal(grpc_health_read((const uint8_t *)"", 0, &health), 0);
    assert_int_equal(health, GRPC_HEALTH_UNKNOWN);
    assert_int_equal(grpc_health_read((const uint8_t *)"\x08\x02", 2, &health), 0);
    assert_int_equal(health, GRPC_HEALTH_NOT_SERVING);
    assert_int_equal(grpc_health_read((const uint8_t *)"\x08\x03", 2, &health), 0);
    assert_int_equal(health, GRPC_HEALTH_UNKNOWN);
    assert_int_equal(grpc_health_read((const uint8_t *)"\x12\x01x\x08\x01", 5, &health), 0);
    assert_int_equal(health, GRPC_HEALTH_SERVING);
    assert_int_equal(grpc_health_read((const uint8_t *)"\x08\x01\x0a\x01\x02", 5, &health), 0);
    assert_int_equal(health, GRPC_HEALTH_SERVING);
    assert_int_equal(grpc_health_read((const uint8_t *)"\x08", 1, &health), -EBADMSG);
    assert_int_equal(health, GRPC_HEALTH_SERVING);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_whole_server_and_known_services_have_a_health),
        cmocka_unit_test(unknown_services_are_not_found),
        cmocka_unit_test(requests_that_are_no_protobuf_are_invalid),
        cmocka_unit_test(unknown_fields_are_passed_over_and_the_last_name_holds),
        cmocka_unit_test(watchers_are_told_that_a_service_is_unknown),
        cmocka_unit_test(replies_of_other_servers_are_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

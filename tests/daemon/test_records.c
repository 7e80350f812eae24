/*
 * The record that each call leaves: its fields are what happened, its id is the one that caller and
 * upstream know, no value can pass for a field, and nothing in it is a secret.
 */
#include <ctype.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "json_reader.h"
#include "raw.h"
#include "scene.h"

#define USAGE ",\"usage\":{\"prompt_tokens\":2,\"completion_tokens\":3,\"total_tokens\":5}}"
#define WHOLE                                                                                      \
    "{\"id\":\"c\",\"object\":\"text_completion\",\"created\":1,\"model\":\"m\",\"choices\":[{"    \
    "\"index\":0,\"text\":\"CANARY\",\"logprobs\":null,\"finish_reason\":\"stop\"}]" USAGE
#define ID_PREFIX "call-"

enum { ID_LENGTH = 21 };

static void serve(struct fake_connection *c)
{
    while (fake_read_request(c)) {
        bool ok;
        if (strstr(c->body, "\"wait\"")) {
            fake_mark(c->fake, FAKE_STEP);
            fake_wait_for_close(c);
            return;
        }
        if (strstr(c->body, "\"bad\""))
            ok = fake_answer(c, 500, "application/json", "retry-after-ms: 1\r\n",
                             "{\"error\":{\"message\":\"CANARY\"}}");
        else if (strstr(c->body, "\"stream\":true"))
            ok = fake_stream_begin(c) && fake_event(c, FAKE_PART("CANARY")) &&
                 fake_event(c, FAKE_LAST("")) && fake_stream_done(c);
        else
            ok = fake_answer(c, 200, "application/json", "", WHOLE);
        if (!ok)
            return;
    }
}

static void start(struct scene *s, const char *settings)
{
    scene_prepare(s, serve, NULL, settings);
    daemon_start(&s->daemon, &(struct daemon_options){
                                 .arguments = (const char *const[]){"--log-format=json", NULL},
                             });
    rpc_connect(&s->rpc, s->daemon.socket);
}

static void call(struct scene *s, const char *path, const char *model, struct rpc_result *ret)
{
    rpc_request request = rpc_request_new(model, "CANARY prompt");

    rpc_call(&s->rpc, path, &request, ret);
}

/* ---- Reading ---- */

/* The record of number n (from 0) in the log, to be freed; every line is an object, and whole. */
static char *record_at(const struct scene *s, size_t n)
{
    char *log = daemon_log(&s->daemon), *rest = NULL, *found = NULL;

    for (char *line = strtok_r(log, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        struct json_reader r;
        json_reader_init(&r, line, strlen(line));
        if (json_peek(&r) != JSON_OBJECT || !json_skip(&r, NULL) || !json_reader_end(&r))
            fail_msg("no JSON: %s", line);
        if (strstr(line, "\"COMPLETION_ID\":") && !strstr(line, "Health/Check") && n-- == 0)
            found = strdup(line);
    }
    free(log);
    if (!found)
        fail_msg("a record is missing");
    return found;
}

/* The field, as text; false: it is not there. It must not be there twice. */
static bool field_of(const char *record, const char *name, char *out, size_t size)
{
    struct json_reader r;
    struct json_string key, text;
    struct json_slice value;
    unsigned n = 0;

    json_reader_init(&r, record, strlen(record));
    assert_true(json_enter_object(&r));
    while (json_next_member(&r, &key)) {
        if (!json_string_equals(&key, name))
            continue;
        n++;
        if (json_read_string(&r, &text)) {
            assert_true(text.len < size);
            out[json_string_decode(&text, out)] = '\0';
        } else if (json_skip(&r, &value)) {
            snprintf(out, size, "%.*s", (int)value.len, value.data);
        }
    }
    assert_in_range(n, 0, 1);
    return n == 1;
}

static void expect(const char *record, const char *name, const char *expected)
{
    char value[512];

    if (!field_of(record, name, value, sizeof value)) {
        if (expected)
            fail_msg("%s is missing in %s", name, record);
    } else if (!expected) {
        fail_msg("%s is there: %s", name, record);
    } else {
        assert_string_equal(value, expected);
    }
}

static long long number_of(const char *record, const char *name)
{
    char value[512];

    if (!field_of(record, name, value, sizeof value))
        fail_msg("%s is missing in %s", name, record);
    return atoll(value);
}

static void assert_is_id(const char *id)
{
    assert_int_equal(strlen(id), ID_LENGTH);
    assert_int_equal(strncmp(id, ID_PREFIX, strlen(ID_PREFIX)), 0);
    for (const char *c = id + strlen(ID_PREFIX); *c; c++)
        assert_true(isxdigit((unsigned char)*c));
}

/* ---- Fields ---- */

static void test_fields_are_what_happened(void **state)
{
    struct scene *s = *state;
    struct rpc_result result;
    char pid[16], uid[16], endpoint[64];

    start(s, NULL);
    call(s, RPC_CREATE, "model-x", &result);
    rpc_assert_ok(&result, "CANARY");
    rpc_result_done(&result);
    char *record = record_at(s, 0);
    snprintf(pid, sizeof pid, "%d", getpid());
    snprintf(uid, sizeof uid, "%u", geteuid());
    expect(record, "PRIORITY", "6");
    expect(record, "SYSLOG_IDENTIFIER", "completiond");
    expect(record, "COMPLETION_UID", uid);
    expect(record, "COMPLETION_PID", pid);
    expect(record, "COMPLETION_METHOD", RPC_CREATE);
    expect(record, "COMPLETION_MODEL", "model-x");
    expect(record, "COMPLETION_UPSTREAM", "fake");
    assert_int_equal(sscanf(fake_base_url(s->fake), "http://%63[^/]", endpoint), 1);
    expect(record, "COMPLETION_ENDPOINT", endpoint);
    expect(record, "COMPLETION_STATUS", "OK");
    expect(record, "COMPLETION_REASON", NULL);
    expect(record, "COMPLETION_HTTP_STATUS", "200");
    expect(record, "COMPLETION_ATTEMPTS", "1");
    expect(record, "COMPLETION_CHUNKS", "1");
    expect(record, "COMPLETION_PROMPT_TOKENS", "2");
    expect(record, "COMPLETION_COMPLETION_TOKENS", "3");
    expect(record, "COMPLETION_QUEUE_US", "0");
    assert_in_range(number_of(record, "COMPLETION_FIRST_BYTE_US"), 1,
                    number_of(record, "COMPLETION_TOTAL_US"));
    free(record);

    call(s, RPC_CREATE_STREAM, "m", &result);
    rpc_assert_ok(&result, "CANARY");
    rpc_result_done(&result);
    record = record_at(s, 1);
    expect(record, "COMPLETION_METHOD", RPC_CREATE_STREAM);
    expect(record, "COMPLETION_CHUNKS", "2");
    expect(record, "COMPLETION_PROMPT_TOKENS", NULL);
    free(record);
    scene_stop(s);
}

static void test_a_call_that_nobody_waits_for_is_recorded(void **state)
{
    struct scene *s = *state;
    struct rpc caller;
    rpc_request request = rpc_request_new("wait", "CANARY");

    start(s, "max_concurrent = 1");
    rpc_connect(&caller, s->daemon.socket);
    struct grpc_client_call *first = rpc_start(&caller, RPC_CREATE, &request, -1);
    assert_true(fake_await(s->fake, FAKE_STEP, 1));
    struct grpc_client_call *second = rpc_start(&caller, RPC_CREATE, &request, -1);
    rpc_cancel(&caller, second);
    grpc_client_call_free(second);
    rpc_close(&caller);
    grpc_client_call_free(first);
    scene_stop(s);
    char *cancelled = record_at(s, 0), *gone = record_at(s, 1);
    expect(cancelled, "COMPLETION_STATUS", "CANCELLED");
    expect(cancelled, "COMPLETION_REASON", "CANCELLED");
    expect(cancelled, "COMPLETION_ATTEMPTS", "0");
    expect(gone, "COMPLETION_REASON", "CALLER_GONE");
    free(cancelled);
    free(gone);
}

/* The session refuses it by itself, and knows why. */
static void test_a_message_that_is_too_large_is_not_its_caller_going_away(void **state)
{
    struct scene *s = *state;
    size_t len = 5 << 20;
    char *message = calloc(1, len);
    struct rpc_result result;

    start(s, NULL);
    struct grpc_client_call *grpc = rpc_start_raw(&s->rpc, RPC_CREATE, message, len, -1, NULL, 0);
    rpc_finish(&s->rpc, grpc, &result);
    assert_int_equal(result.status, GRPC_RESOURCE_EXHAUSTED);
    rpc_result_done(&result);
    free(message);
    scene_stop(s);
    char *record = record_at(s, 0);
    expect(record, "COMPLETION_STATUS", "RESOURCE_EXHAUSTED");
    expect(record, "COMPLETION_REASON", "LOCAL_LIMIT");
    free(record);
}

/* ---- Ids ---- */

static void assert_upstream_got(struct scene *s, const char *id)
{
    char *head = fake_last_head(s->fake), header[64];

    snprintf(header, sizeof header, "\r\nX-Client-Request-Id: %s\r\n", id);
    assert_non_null(strstr(head, header));
    free(head);
}

static void test_caller_upstream_and_record_have_one_id(void **state)
{
    struct scene *s = *state;
    struct rpc_result result;
    char id[2][64];

    start(s, "max_retries = 1");
    for (size_t i = 0; i < 2; i++) {
        call(s, RPC_CREATE, "bad", &result);
        rpc_assert_failed(&result, GRPC_INTERNAL, "UPSTREAM_ERROR");
        assert_int_equal(result.detail->attempts, 2);
        snprintf(id[i], sizeof id[i], "%.*s", (int)result.detail->call_id.len,
                 (char *)result.detail->call_id.data);
        rpc_result_done(&result);
        assert_is_id(id[i]);
        assert_upstream_got(s, id[i]);
        char *record = record_at(s, i);
        expect(record, "COMPLETION_ID", id[i]);
        expect(record, "COMPLETION_ATTEMPTS", "2");
        expect(record, "COMPLETION_REASON", "UPSTREAM_ERROR");
        free(record);
    }
    assert_string_not_equal(id[0], id[1]);
    scene_stop(s);
}

/* What a header of the transcript says, to be freed. */
static char *header_of(struct raw *r, const char *name)
{
    const char *found = strstr(peer_text(&r->peer), name);

    assert_non_null(found);
    found += strlen(name);
    assert_null(strstr(found, name));
    return strndup(found, strcspn(found, "\n"));
}

/* In the headers of an answer, and in those that are trailers at once. */
static void test_the_id_is_in_the_answers_metadata(void **state)
{
    struct scene *s = *state;
    struct raw r;

    start(s, NULL);
    for (size_t i = 0; i < 2; i++) {
        raw_open(&r, s->daemon.socket);
        peer_hello(&r.sent);
        if (i == 0)
            raw_append_call(&r.sent, 1, RPC_CREATE);
        else
            raw_append_call(&r.sent, 1, "/no.Service/Method");
        assert_true(raw_send(&r));
        raw_await(&r, "grpc-status: ");
        char *id = header_of(&r, "\ncompletion-id: ");
        assert_is_id(id);
        char *record = record_at(s, i);
        expect(record, "COMPLETION_ID", id);
        free(record);
        if (i == 0)
            assert_upstream_got(s, id);
        free(id);
        raw_close(&r);
    }
    scene_stop(s);
}

static void test_a_configured_request_id_holds(void **state)
{
    struct scene *s = *state;
    struct rpc_result result;

    start(s, "header = x-client-request-id: ours");
    call(s, RPC_CREATE, "m", &result);
    rpc_result_done(&result);
    char *head = fake_last_head(s->fake);
    assert_non_null(strstr(head, "\r\nx-client-request-id: ours\r\n"));
    assert_null(strstr(head, ID_PREFIX));
    free(head);
    scene_stop(s);
}

/* ---- What callers may try ---- */

static void test_no_value_can_pass_for_a_field(void **state)
{
    static const char evil[] = "m\nPRIORITY=0\r\n\",\"COMPLETION_UID\":99,\"x\":\"\\\x1b[2J";
    struct scene *s = *state;
    struct rpc_result result;
    char uid[16], model[512];

    start(s, NULL);
    call(s, RPC_CREATE, evil, &result);
    rpc_assert_failed(&result, GRPC_INVALID_ARGUMENT, "INVALID_REQUEST");
    rpc_result_done(&result);
    char *record = record_at(s, 0);
    snprintf(uid, sizeof uid, "%u", geteuid());
    expect(record, "COMPLETION_UID", uid);
    expect(record, "PRIORITY", "6");
    expect(record, "x", NULL);
    assert_true(field_of(record, "COMPLETION_MODEL", model, sizeof model));
    assert_string_equal(model, "m\\x0aPRIORITY=0\\x0d\\x0a\",\"COMPLETION_UID\":99,\"x\":\"\\"
                               "\\x1b[2J");
    free(record);
    scene_stop(s);
}

static void test_long_names_are_cut(void **state)
{
    struct scene *s = *state;
    struct rpc_result result;
    char name[4096], model[512];

    start(s, NULL);
    for (size_t i = 0; i < sizeof name - 2; i += 2)
        memcpy(name + i, "\xc3\xa9", 3);
    call(s, RPC_CREATE, name, &result);
    rpc_assert_ok(&result, "CANARY");
    rpc_result_done(&result);
    char *record = record_at(s, 0);
    assert_true(field_of(record, "COMPLETION_MODEL", model, sizeof model));
    assert_in_range(strlen(model), 100, 127);
    free(record);
    scene_stop(s);
}

static void test_health_checks_are_no_news(void **state)
{
    struct scene *s = *state;

    start(s, "[daemon]\nlog_level = info");
    scene_assert_serving(s);
    scene_stop(s);
    daemon_assert_not_logged(&s->daemon, "COMPLETION_ID");
}

/* However fast they come, a second has no more than so many; the others are counted. */
static void test_records_are_rate_limited(void **state)
{
    enum { N = 5000, AT_ONCE = 50, LIMIT = 1000 };
    struct scene *s = *state;
    struct grpc_client_call *calls[AT_ONCE];
    rpc_request request = rpc_request_new("unknown", "CANARY");
    struct rpc_result result;
    char second[32] = "";
    unsigned long n_records = 0, n_left_out = 0, n_in_second = 0, n;

    start(s, "models = m\n[daemon]\nlog_level = info");
    for (int i = 0; i < N; i += AT_ONCE) {
        for (int j = 0; j < AT_ONCE; j++)
            calls[j] = rpc_start(&s->rpc, RPC_CREATE, &request, -1);
        for (int j = 0; j < AT_ONCE; j++) {
            rpc_finish(&s->rpc, calls[j], &result);
            rpc_assert_failed(&result, GRPC_NOT_FOUND, "NO_UPSTREAM");
            rpc_result_done(&result);
        }
    }
    scene_stop(s);
    char *log = daemon_log(&s->daemon), *rest = NULL;
    for (char *line = strtok_r(log, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        const char *left_out = strstr(line, "\"MESSAGE\":\"the records of ");
        if (left_out && sscanf(left_out + 26, "%lu", &n) == 1)
            n_left_out += n;
        if (!strstr(line, "\"COMPLETION_ID\":"))
            continue;
        n_records++;
        /* The clock's seconds are not the limit's: two of these may meet in one of those. */
        if (strncmp(second, line + 14, 19) != 0)
            n_in_second = 0;
        snprintf(second, sizeof second, "%.19s", line + 14);
        assert_true(++n_in_second <= 2 * LIMIT);
    }
    free(log);
    assert_int_equal(n_records + n_left_out, N);
}

/* ---- Formats ---- */

static void test_text_has_the_message_alone(void **state)
{
    struct scene *s = *state;
    struct rpc_result result;

    scene_start(s, serve, NULL, NULL);
    call(s, RPC_CREATE, "m", &result);
    rpc_result_done(&result);
    daemon_assert_logged(&s->daemon, "completiond: info: call ended: id=call-");
    daemon_assert_not_logged(&s->daemon, "COMPLETION_");
    scene_stop(s);
}

static void expect_exit(struct scene *s, const char *format, int status)
{
    daemon_spawn(&s->daemon, &(struct daemon_options){
                                 .arguments = (const char *const[]){format, NULL},
                             });
    daemon_wait_exit(&s->daemon, status);
}

static void test_formats_that_are_none(void **state)
{
    struct scene *s = *state;

    scene_prepare(s, serve, NULL, NULL);
    expect_exit(s, "--log-format=xml", 2);
    daemon_assert_logged(&s->daemon, "--log-format: auto, journal, text or json is wanted");
    if (access("/run/systemd/journal/socket", F_OK) == 0) {
        print_message("skipped: there is a journal\n");
        return;
    }
    expect_exit(s, "--log-format=journal", 1);
    daemon_assert_logged(&s->daemon, "there is no journal here");
}

/* journalctl -x finds the explanation by it. */
static void test_the_catalog_knows_the_records(void **state)
{
    struct scene *s = *state;
    struct rpc_result result;
    char id[64], entry[80];

    start(s, NULL);
    call(s, RPC_CREATE, "m", &result);
    rpc_result_done(&result);
    char *record = record_at(s, 0);
    assert_true(field_of(record, "MESSAGE_ID", id, sizeof id));
    assert_int_equal(strlen(id), 32);
    char *catalog = directory_read(SAMPLES "/../../packaging/systemd/completiond.catalog");
    snprintf(entry, sizeof entry, "\n-- %s\nSubject: ", id);
    assert_non_null(strstr(catalog, entry));
    free(catalog);
    free(record);
    scene_stop(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_fields_are_what_happened),
        scene_test(test_a_call_that_nobody_waits_for_is_recorded),
        scene_test(test_a_message_that_is_too_large_is_not_its_caller_going_away),
        scene_test(test_caller_upstream_and_record_have_one_id),
        scene_test(test_the_id_is_in_the_answers_metadata),
        scene_test(test_a_configured_request_id_holds),
        scene_test(test_no_value_can_pass_for_a_field),
        scene_test(test_long_names_are_cut),
        scene_test(test_health_checks_are_no_news),
        scene_test(test_records_are_rate_limited),
        scene_test(test_text_has_the_message_alone),
        scene_test(test_formats_that_are_none),
        scene_test(test_the_catalog_knows_the_records),
    };

    return cmocka_run_group_tests_name("records", tests, NULL, NULL);
}

#include "scene.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* In what goes on with the section [upstream fake]. */
static bool has_base_url(const char *settings)
{
    if (!settings || *settings == '[')
        return false;

    const char *key = strstr(settings, "base_url"), *section = strstr(settings, "\n[");
    return key && (!section || key < section);
}

void scene_prepare(struct scene *s, fake_handler handler, const void *user, const char *settings)
{
    char *config;

    s->fake = fake_new(NULL, handler, user);
    const char *key = directory_write(&s->daemon.directory, "key", SCENE_KEY "\n");
    /* The last mention of a key holds, but for those of base_url, which add up. One attempt: most
     * tests are about what it comes to. */
    int n = asprintf(&config,
                     "[daemon]\nlog_level = debug\n\n[upstream fake]\n%s%s\n"
                     "credential_file = %s\nmax_retries = 0\n%s\n",
                     has_base_url(settings) ? "" : "base_url = ",
                     has_base_url(settings) ? "" : fake_base_url(s->fake), key,
                     settings ? settings : "");
    assert_true(n > 0);
    daemon_configure(&s->daemon, config);
    free(config);
}

void scene_start(struct scene *s, fake_handler handler, const void *user, const char *settings)
{
    scene_prepare(s, handler, user, settings);
    daemon_start(&s->daemon, NULL);
    rpc_connect(&s->rpc, s->daemon.socket);
}

void scene_stop(struct scene *s)
{
    rpc_close(&s->rpc);
    daemon_stop(&s->daemon);
    daemon_assert_not_logged(&s->daemon, SCENE_SECRET);
}

void scene_assert_serving(struct scene *s)
{
    static const uint8_t serving[] = {8, 1};
    const uint8_t *message;
    size_t len = 0;
    struct grpc_client_call *call = rpc_start_raw(&s->rpc, RPC_HEALTH, NULL, 0, -1, NULL, 0);

    while (!grpc_client_call_is_ended(call))
        if (!rpc_turn(&s->rpc, HARNESS_TIMEOUT_MS))
            fail_msg("the health check is not answered");
    assert_int_equal(grpc_client_call_status(call), GRPC_OK);
    assert_int_equal(grpc_client_call_next(call, &message, &len), 1);
    assert_int_equal(len, sizeof serving);
    assert_memory_equal(message, serving, sizeof serving);
    grpc_client_call_free(call);
}

int scene_setup(void **state)
{
    struct scene *s = calloc(1, sizeof *s);

    assert_non_null(s);
    s->rpc.fd = -1;
    daemon_init(&s->daemon, NULL);
    *state = s;
    return 0;
}

int scene_teardown(void **state)
{
    struct scene *s = *state;

    rpc_close(&s->rpc);
    daemon_done(&s->daemon);
    fake_free(s->fake);
    free(s);
    return 0;
}

/* Who a caller is, and which section of the configuration holds for it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <grp.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "config.h"
#include "policy.h"

static char glob_a[] = "a*", *only_a[] = {glob_a, NULL};
static char everyone_name[] = "*", group_name[] = "group:7", user_name[] = "user:1000";

static struct config_policy everyone = {.kind = CONFIG_POLICY_EVERYONE, .name = everyone_name};
static struct config_policy group = {
    .kind = CONFIG_POLICY_GROUP, .name = group_name, .id = 7, .models = only_a};
static struct config_policy user = {
    .kind = CONFIG_POLICY_USER, .name = user_name, .id = 1000, .allow_own_key = true};

static void the_most_specific_section_holds(void **state)
{
    struct config_policy *policies[] = {&user, &everyone, &group};
    struct config config = {.policies = policies, .n_policies = 3};
    gid_t groups[] = {3, 7};
    struct caller caller = {.uid = 1000, .gid = 1, .groups = groups, .n_groups = 2};
    (void)state;

    assert_string_equal(policy_find(&config, &caller).name, "user:1000");
    assert_true(policy_find(&config, &caller).allow_own_key);
    caller.uid = 1001;
    assert_string_equal(policy_find(&config, &caller).name, "group:7");
    caller.n_groups = 1;
    assert_string_equal(policy_find(&config, &caller).name, "*");
    caller.gid = 7;
    assert_string_equal(policy_find(&config, &caller).name, "group:7");
}

static void without_sections_all_is_allowed_but_own_keys(void **state)
{
    struct config config = {0};
    struct caller caller = {.uid = 1};
    struct policy policy = policy_find(&config, &caller);
    (void)state;

    assert_true(policy.allow_extra_body);
    assert_false(policy.allow_own_key);
    assert_true(policy_allows_model(&policy, "anything"));
}

static void models_are_globs(void **state)
{
    struct policy policy = {.models = only_a};
    (void)state;

    assert_true(policy_allows_model(&policy, "ada/1"));
    assert_false(policy_allows_model(&policy, "babbage"));
}

static void the_kernel_says_who_called(void **state)
{
    int fds[2];
    struct caller caller;
    (void)state;

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    assert_int_equal(caller_init(&caller, fds[0]), 0);
    assert_int_equal(caller.uid, geteuid());
    assert_int_equal(caller.gid, getegid());
    assert_int_equal(caller.pid, getpid());
    assert_int_equal(caller.n_groups, getgroups(0, NULL));
    caller_done(&caller);
    close(fds[0]);
    close(fds[1]);
    assert_true(caller_init(&caller, fds[0]) < 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_most_specific_section_holds),
        cmocka_unit_test(without_sections_all_is_allowed_but_own_keys),
        cmocka_unit_test(models_are_globs),
        cmocka_unit_test(the_kernel_says_who_called),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

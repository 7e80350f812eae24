/* Who a caller is, and which section of the configuration holds for it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <grp.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
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

static void each_kind_of_section_brings_all_of_its_limits(void **state)
{
    struct config_policy sections[] = {everyone, group, user};
    struct config_policy *policies[] = {&sections[0], &sections[1], &sections[2]};
    struct config config = {.policies = policies, .n_policies = 3};
    gid_t groups[] = {7};
    const struct caller callers[] = {
        {.uid = 1, .gid = 1},
        {.uid = 1, .gid = 1, .groups = groups, .n_groups = 1},
        {.uid = 1000, .gid = 1, .groups = groups, .n_groups = 1},
    };
    (void)state;

    for (int i = 0; i < 3; i++) {
        struct config_policy *s = &sections[i];
        s->models = i == 1 ? only_a : NULL;
        s->allow_own_key = i == 2;
        s->allow_extra_body = i == 1;
        s->max_concurrent = 10 + i;
        s->max_queued = 20 + i;
        s->max_connections = 30 + i;
        s->max_message_bytes = 40 + i;
        s->max_memory_bytes = 50 + i;
        s->requests_per_minute = 60 + i;
        s->tokens_per_minute = i == 2 ? CONFIG_INFINITY : 70 + i;
    }
    for (int i = 0; i < 3; i++) {
        struct policy p = policy_find(&config, &callers[i]);
        assert_string_equal(p.name, sections[i].name);
        assert_int_equal(policy_allows_model(&p, "ada"), true);
        assert_int_equal(policy_allows_model(&p, "babbage"), i != 1);
        assert_int_equal(p.allow_own_key, i == 2);
        assert_int_equal(p.allow_extra_body, i == 1);
        assert_int_equal(p.max_concurrent, 10 + i);
        assert_int_equal(p.max_queued, 20 + i);
        assert_int_equal(p.max_connections, 30 + i);
        assert_int_equal(p.max_message_bytes, 40 + i);
        assert_int_equal(p.max_memory_bytes, 50 + i);
        assert_int_equal(p.requests_per_minute, 60 + i);
        assert_int_equal(p.tokens_per_minute, i == 2 ? INT64_MAX : 70 + i);
    }
}

/* Not what a less specific one says, where the more specific says nothing: each is whole. */
static void sections_are_not_mixed(void **state)
{
    struct config_policy plain = config_policy_default, strict = config_policy_default;
    struct config_policy *policies[] = {&strict, &plain};
    struct config config = {.policies = policies, .n_policies = 2};
    struct caller caller = {.uid = 1000};
    (void)state;

    strict.allow_extra_body = false;
    strict.models = only_a;
    plain.kind = CONFIG_POLICY_USER;
    plain.id = 1000;
    struct policy p = policy_find(&config, &caller);
    assert_true(p.allow_extra_body);
    assert_true(policy_allows_model(&p, "babbage"));
    caller.uid = 1001;
    p = policy_find(&config, &caller);
    assert_false(p.allow_extra_body);
    assert_false(policy_allows_model(&p, "babbage"));
}

static void the_first_of_several_groups_holds(void **state)
{
    struct config_policy second = {.kind = CONFIG_POLICY_GROUP, .name = user_name, .id = 8};
    struct config_policy *policies[] = {&second, &group};
    struct config config = {.policies = policies, .n_policies = 2};
    gid_t groups[] = {7, 8};
    struct caller caller = {.uid = 1, .gid = 1, .groups = groups, .n_groups = 2};
    (void)state;

    assert_int_equal(policy_find(&config, &caller).models == NULL, true);
    policies[0] = &group;
    policies[1] = &second;
    assert_ptr_equal(policy_find(&config, &caller).models, only_a);
}

/* A user's number is no group's. */
static void a_uid_is_no_gid(void **state)
{
    struct config_policy *policies[] = {&user, &group};
    struct config config = {.policies = policies, .n_policies = 2};
    struct caller caller = {.uid = 7, .gid = 1000};
    (void)state;

    assert_string_equal(policy_find(&config, &caller).name, "*");
    assert_ptr_equal(policy_find(&config, &caller).name, config_policy_default.name);
}

static void models_are_globs(void **state)
{
    static char glob_b[] = "ft:[0-9]?", glob_none[] = "";
    char *several[] = {glob_none, glob_b, glob_a, NULL}, *none[] = {NULL};
    struct policy policy = {.models = only_a};
    (void)state;

    assert_true(policy_allows_model(&policy, "ada/1"));
    assert_false(policy_allows_model(&policy, "babbage"));
    assert_false(policy_allows_model(&policy, "Ada"));
    policy.models = several;
    assert_true(policy_allows_model(&policy, "ft:7x"));
    assert_true(policy_allows_model(&policy, "ada"));
    assert_false(policy_allows_model(&policy, "ft:7"));
    policy.models = none;
    assert_false(policy_allows_model(&policy, "ada"));
}

static void the_kernel_says_which_groups_a_caller_has(void **state)
{
    static const gid_t own[] = {7, 4000000};
    gid_t before[256];
    int n_before = getgroups(256, before), fds[2];
    struct config_policy *policies[] = {&group};
    struct config config = {.policies = policies, .n_policies = 1};
    struct caller caller;
    (void)state;

    assert_true(n_before >= 0);
    if (setgroups(2, own) < 0)
        skip(); /* for root only */
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    /* As they were when it connected. */
    assert_int_equal(setgroups((size_t)n_before, before), 0);
    assert_int_equal(caller_init(&caller, fds[0]), 0);
    assert_int_equal(caller.n_groups, 2);
    assert_memory_equal(caller.groups, own, sizeof own);
    assert_string_equal(policy_find(&config, &caller).name, "group:7");
    caller_done(&caller);
    assert_null(caller.groups);
    close(fds[0]);
    close(fds[1]);
}

static void a_caller_may_be_in_no_other_group(void **state)
{
    gid_t before[256];
    int n_before = getgroups(256, before), fds[2];
    struct caller caller;
    (void)state;

    assert_true(n_before >= 0);
    if (setgroups(0, NULL) < 0)
        skip(); /* for root only */
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    assert_int_equal(setgroups((size_t)n_before, before), 0);
    assert_int_equal(caller_init(&caller, fds[0]), 0);
    assert_int_equal(caller.n_groups, 0);
    caller_done(&caller);
    close(fds[0]);
    close(fds[1]);
}

static void who_is_not_to_be_seen_is_in_no_unit(void **state)
{
    static char known[] = "known.service";
    struct caller unseen = {0}, asked = {.pid = getpid(), .unit = known}, gone = {.pid = INT_MAX};
    (void)state;

    caller_find_unit(&unseen);
    assert_null(unseen.unit);
    caller_find_unit(&asked);
    assert_ptr_equal(asked.unit, known);
    caller_find_unit(&gone);
    assert_string_equal(gone.unit, "");
    caller_done(&gone);
}

enum { CANT = 77 };

/* Where libsystemd looks for what kind of control groups there are. */
static bool has_control_groups(void)
{
    return access("/sys/fs/cgroup/cgroup.procs", F_OK) == 0 ||
           access("/sys/fs/cgroup/systemd/cgroup.procs", F_OK) == 0;
}

/* Our own unit, were the kernel to say that we are in this control group. */
static int find_unit_in(const char *control_group, const char *expected)
{
    struct caller caller = {.pid = getpid()};
    char path[] = "/tmp/completiond-policy.XXXXXX", ours[32];
    int fd = mkstemp(path);

    if (fd < 0 || dprintf(fd, "1:name=systemd:%s\n0::%s\n", control_group, control_group) < 0)
        return CANT;
    snprintf(ours, sizeof ours, "/proc/%d/cgroup", (int)getpid());
    bool could = has_control_groups() && unshare(CLONE_NEWNS) == 0 &&
                 mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
                 mount(path, ours, NULL, MS_BIND, NULL) == 0;
    unlink(path);
    close(fd);
    if (!could)
        return CANT;
    caller_find_unit(&caller);
    int r = strcmp(caller.unit, expected) != 0;
    if (r)
        print_error("%s is in unit \"%s\"\n", control_group, caller.unit);
    caller_done(&caller);
    return r;
}

static void a_users_unit_comes_before_the_systems(void **state)
{
    static const struct {
        const char *group, *unit;
    } rows[] = {
        {"/system.slice/web.service", "web.service"},
        {"/user.slice/user-7.slice/user@7.service/app.slice/bar.service", "bar.service"},
        {"/user.slice/user-7.slice/session-1.scope", "session-1.scope"},
        {"/nothing/of/systemd", ""},
    };
    (void)state;

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        pid_t pid = fork();
        int status;
        assert_true(pid >= 0);
        if (pid == 0)
            exit(find_unit_in(rows[i].group, rows[i].unit));
        assert_int_equal(waitpid(pid, &status, 0), pid);
        if (status == CANT << 8)
            skip(); /* no mounts, or no control groups, here */
        assert_int_equal(status, 0);
    }
}

static void a_socket_without_another_end_is_nobodys(void **state)
{
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    struct caller caller;
    (void)state;

    assert_int_equal(caller_init(&caller, fd), 0);
    assert_int_equal(caller.uid, (uid_t)-1);
    assert_int_equal(caller.gid, (gid_t)-1);
    assert_int_equal(caller.n_groups, 0);
    caller_done(&caller);
    close(fd);
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
        cmocka_unit_test(each_kind_of_section_brings_all_of_its_limits),
        cmocka_unit_test(sections_are_not_mixed),
        cmocka_unit_test(the_first_of_several_groups_holds),
        cmocka_unit_test(a_uid_is_no_gid),
        cmocka_unit_test(models_are_globs),
        cmocka_unit_test(the_kernel_says_which_groups_a_caller_has),
        cmocka_unit_test(a_caller_may_be_in_no_other_group),
        cmocka_unit_test(who_is_not_to_be_seen_is_in_no_unit),
        cmocka_unit_test(a_users_unit_comes_before_the_systems),
        cmocka_unit_test(a_socket_without_another_end_is_nobodys),
        cmocka_unit_test(the_kernel_says_who_called),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

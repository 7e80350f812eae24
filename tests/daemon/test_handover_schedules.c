/*
 * Upgrades, reloads and ends in any order, at any moment: there is one owner at each time, and
 * nobody is left behind.
 */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "crowd.h"
#include "scene.h"
#include "upgrade.h"

/* How long it goes on, if HANDOVER_SECONDS does not say. */
enum { SECONDS = 20, STEPS_MAX = 8, PAUSE_MAX_US = 30000 };

struct schedule {
    struct scene *scene;
    struct crowd *crowd;
    uint32_t seed;
    char told[512];
};

static uint32_t chance(struct schedule *p, uint32_t below)
{
    p->seed ^= p->seed << 13;
    p->seed ^= p->seed >> 17;
    p->seed ^= p->seed << 5;
    return p->seed % below;
}

static void tell(struct schedule *p, const char *what)
{
    size_t len = strlen(p->told);

    snprintf(p->told + len, sizeof p->told - len, " %s", what);
}

/* A schedule can't be repeated exactly, but its seed and what was done say much. */
_Noreturn static void fail_schedule(struct schedule *p, const char *why)
{
    char *log = daemon_log(&p->scene->daemon);

    fputs(log, stderr);
    free(log);
    crowd_free(p->crowd);
    fail_msg("%s; schedule:%s", why, p->told);
    abort();
}

/* ---- What happens ---- */

/* One of those that run; dead ones are children until they are waited for. */
static pid_t any_process(struct schedule *p)
{
    pid_t children[UPGRADE_CHILDREN_MAX];
    unsigned n = upgrade_children(children);

    return n ? children[chance(p, n)] : 0;
}

static void send_signal(struct schedule *p, int number)
{
    pid_t pid = chance(p, 4) ? p->scene->daemon.pid : any_process(p);

    if (pid > 0)
        kill(pid, number);
}

static void replace_program(struct schedule *p)
{
    static const char *const bad[] = {
        "#!/bin/sh\nexit 1\n",
        "no program\n",
        "#!/bin/sh\nprintf READY=1 >&$COMPLETIOND_HANDOVER\nexit 0\n",
        "#!/bin/sh\nprintf READY=1 >&$COMPLETIOND_HANDOVER\nexec sleep 0.1\n",
    };
    unsigned kind = chance(p, 8);

    if (kind < sizeof bad / sizeof *bad)
        upgrade_install_text(&p->scene->daemon, bad[kind], kind == 1 ? 0644 : 0755);
    else
        upgrade_install(&p->scene->daemon);
    tell(p, kind < sizeof bad / sizeof *bad ? "bad" : "good");
}

/* Whoever says last that somebody is the main process is believed, as systemd does. */
static void follow(struct schedule *p, int timeout_ms)
{
    struct daemon *d = &p->scene->daemon;
    struct pollfd fd = {d->notify, POLLIN, 0};
    ssize_t n;

    while (poll(&fd, 1, timeout_ms) > 0 &&
           (n = recv(d->notify, d->notification, sizeof d->notification - 1, 0)) > 0) {
        d->notification[n] = '\0';
        if (!strncmp(d->notification, "MAINPID=", 8)) {
            d->pid = (pid_t)strtol(d->notification + 8, NULL, 10);
            tell(p, "given");
        }
        timeout_ms = 0;
    }
}

static void step(struct schedule *p)
{
    switch (chance(p, 7)) {
    case 0:
    case 1:
        replace_program(p);
        break;
    case 2:
    case 3:
    case 4:
        tell(p, "HUP");
        send_signal(p, SIGHUP);
        break;
    case 5:
        crowd_run_for(p->crowd, (int)chance(p, 20));
        break;
    default:
        follow(p, 0);
    }
    struct timespec pause = {0, chance(p, 3) ? 0 : chance(p, PAUSE_MAX_US) * 1000L};
    nanosleep(&pause, NULL);
}

/* ---- What must come of it ---- */

static bool is_served(struct schedule *p)
{
    return crowd_run(p->crowd, 5);
}

/* SIGHUP to a stranger may kill it before it has a handler; the owner stays, and without an end
 * there is one. */
static void check_owner(struct schedule *p)
{
    int64_t until = harness_now_ms() + HARNESS_TIMEOUT_MS;
    const struct crowd_counts *n = crowd_counts(p->crowd);

    if (!is_served(p))
        fail_schedule(p, "nobody serves");
    if (n->n_refused > 0)
        fail_schedule(p, "a caller was refused");
    /* What goes on comes to its end. */
    for (;;) {
        pid_t children[UPGRADE_CHILDREN_MAX];
        follow(p, 10);
        while (waitpid(-1, NULL, WNOHANG) > 0)
            ;
        if (upgrade_children(children) == 1 && children[0] == p->scene->daemon.pid)
            return;
        if (upgrade_children(children) == 0)
            fail_schedule(p, "nobody is left");
        crowd_turn(p->crowd, 1);
        if (harness_now_ms() > until)
            fail_schedule(p, "there is more than one");
    }
}

/* Tells the main process; all of them, as systemd does; or none, if the main one has been told. */
static pid_t terminate(struct schedule *p, pid_t told)
{
    pid_t children[UPGRADE_CHILDREN_MAX], main = p->scene->daemon.pid;
    unsigned n = upgrade_children(children);

    if (told == main)
        return told;
    tell(p, "TERM");
    bool all = chance(p, 2);
    for (unsigned i = 0; i < n; i++)
        if (all || children[i] == main)
            kill(children[i], SIGTERM);
    return main;
}

static void end_all(struct schedule *p)
{
    int64_t until = harness_now_ms() + HARNESS_TIMEOUT_MS;
    pid_t children[UPGRADE_CHILDREN_MAX], told = 0;

    while (upgrade_children(children) > 0) {
        told = terminate(p, told);
        while (waitpid(-1, NULL, WNOHANG) > 0)
            ;
        crowd_turn(p->crowd, 1);
        follow(p, 0);
        if (harness_now_ms() > until)
            fail_schedule(p, "somebody is left");
    }
    p->scene->daemon.pid = 0;
}

static void run_schedule(struct scene *s, uint32_t seed)
{
    struct schedule p = {.scene = s, .seed = seed};
    const char *binary = upgrade_install(&s->daemon);

    snprintf(p.told, sizeof p.told, "seed %u:", seed);
    daemon_start(&s->daemon, &(struct daemon_options){.binary = binary});
    p.crowd = crowd_new(&(struct crowd_options){
        .socket = s->daemon.socket,
        .model = "m",
        .n_callers = 2,
        .n_calls = 2,
        .seed = seed,
        .streamed = 50,
    });
    for (unsigned n = 1 + chance(&p, STEPS_MAX); n > 0; n--)
        step(&p);
    if (chance(&p, 2))
        check_owner(&p);
    end_all(&p);
    if (!crowd_settle(p.crowd))
        fail_schedule(&p, "a call did not end");
    if (crowd_counts(p.crowd)->n_torn > 0)
        fail_schedule(&p, "a call ended with OK and was not whole");
    crowd_free(p.crowd);
    close(s->daemon.pidfd);
    s->daemon.pidfd = -1;
    /* What was said and not read is for nobody. */
    while (recv(s->daemon.notify, s->daemon.notification, sizeof s->daemon.notification,
                MSG_DONTWAIT) > 0)
        ;
}

static void test_any_order_leaves_one_owner_and_then_none(void **state)
{
    struct scene *s = *state;
    const char *seconds = getenv("HANDOVER_SECONDS");
    int64_t until = harness_now_ms() + 1000 * (seconds ? atoi(seconds) : SECONDS);
    unsigned n = 0;

    scene_prepare(s, crowd_serve, NULL, "[daemon]\nlog_level = info\n");
    uint32_t seed = (uint32_t)time(NULL) | 1;
    for (; harness_now_ms() < until; n++) {
        run_schedule(s, seed + 2 * n);
        daemon_assert_not_logged(&s->daemon, "Sanitizer");
        remove(s->daemon.log);
    }
    print_message("%u schedules, from seed %u\n", n, seed);
}

static int teardown(void **state)
{
    struct scene *s = *state;

    if (upgrade_kill_children() > 0)
        s->daemon.pid = 0;
    return scene_teardown(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_any_order_leaves_one_owner_and_then_none, scene_setup,
                                        teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "http.h"
#include "torture.h"

enum {
    PATIENCE_MS = 5000,
    ACCEPT_PATIENCE_MS = 150,
    RELOAD_PATIENCE_MS = 300,
    START_PATIENCE_MS = 1000
};

void result_fail(struct result *r, const char *format, ...)
{
    va_list args;

    if (*r->problem)
        return;
    va_start(args, format);
    vsnprintf(r->problem, sizeof r->problem, format, args);
    va_end(args);
}

/* ---- Configurations ---- */

/* The other one serves another model, and lets a caller bring a key of its own. */
static bool write_config(const struct torture *t, const struct target *daemon, bool other)
{
    FILE *f = fopen(daemon->config, "w");

    if (!f)
        return false;
    fprintf(f,
            "[daemon]\nlog_level = debug\ncaller_request_timeout = 5s\n\n[policy *]\nallow_own_key "
            "= %s\n",
            other ? "yes" : "no");
    fprintf(f, "\n[upstream %s]\nmodels = %s\nbase_url = http://127.0.0.1:%u/v1\n",
            other ? "b" : "a", other ? "b" : "a", t->plain_port);
    fprintf(f, "credential_file = %s/key\nmax_retries = 0\nheader = X-One: 1\n", t->directory);
    fprintf(f, "\n[upstream warm]\nmodels = warm\nbase_url = http://127.0.0.1:%u/v1\n",
            t->plain_port);
    fprintf(f, "credential_file = %s/key\nmax_retries = 0\n", t->directory);
    fprintf(f, "\n[upstream cold]\nmodels = cold\nbase_url = http://127.0.0.1:%u/v1\n",
            t->closing_port);
    fprintf(f, "auth = none\nmax_retries = 0\n");
    fprintf(f, "\n[upstream name]\nmodels = name\nbase_url = http://upstream.test:%u/v1\n",
            t->closing_port);
    fprintf(f, "auth = none\nmax_retries = 0\n");
    fprintf(f, "\n[upstream busy]\nmodels = busy\nbase_url = http://127.0.0.1:%u/v1\n",
            t->busy_port);
    fprintf(f, "auth = none\nmax_retries = 1\n");
    fprintf(f, "\n[upstream tls]\nmodels = tls\nbase_url = https://127.0.0.1:%u/v1\n", t->tls_port);
    fprintf(f, "auth = none\nmax_retries = 0\nca_file = %s/tls.pem\n", t->directory);
    return fclose(f) == 0;
}

static bool await_ready(struct target *daemon)
{
    return target_await(daemon, "READY=1", TARGET_TIMEOUT_MS, NULL, 0) == 1;
}

static bool reload(struct torture *t, bool other)
{
    if (!write_config(t, &t->daemon, other))
        return false;
    target_forget(&t->daemon);
    kill(t->daemon.pid, SIGHUP);
    return await_ready(&t->daemon);
}

/* libevent keeps a block for each number that a descriptor ever had, for as long as it lives: those
 * that will be needed should be there from the beginning. */
static void use_descriptors(struct torture *t)
{
    struct caller callers[16];
    const struct caller_call health = {.path = CALLER_HEALTH, .patience_ms = PATIENCE_MS};
    struct caller_outcome o;
    size_t n = sizeof callers / sizeof *callers;

    for (size_t i = 0; i < n; i++) {
        callers[i] = (struct caller){.socket = t->daemon.socket, .fd = -1};
        caller_call(&callers[i], &health, &o);
    }
    for (size_t i = 0; i < n; i++)
        caller_close(&callers[i]);
}

static bool start_daemon(struct torture *t)
{
    if (target_is_alive(&t->daemon))
        return true;
    caller_close(&t->caller);
    target_kill(&t->daemon);
    target_forget(&t->daemon);
    if (!write_config(t, &t->daemon, false) || !target_spawn_daemon(&t->daemon) ||
        !await_ready(&t->daemon))
        return false;
    target_note_maps(&t->daemon);
    use_descriptors(t);
    return true;
}

static bool start_program(struct torture *t)
{
    if (target_is_alive(&t->program))
        return true;
    target_kill(&t->program);
    target_forget(&t->program);
    if (!target_spawn_program(&t->program, TORTURE_LIBRARY, t->daemon.socket))
        return false;
    return true;
}

bool paths_start(struct torture *t, const struct path *path)
{
    return start_daemon(t) && (!path->of_library || start_program(t));
}

/* ---- Calls ---- */

static void disarm(void *user)
{
    struct torture *t = user;

    target_disarm(&t->daemon);
}

static bool is_fit(int status)
{
    return status == GRPC_OK || status == GRPC_RESOURCE_EXHAUSTED || status == GRPC_UNAVAILABLE ||
           status == CALLER_CLOSED;
}

static void judge(const struct caller_outcome *o, unsigned n_messages, const char *text,
                  struct result *ret)
{
    *ret = (struct result){0};
    snprintf(ret->what, sizeof ret->what, "%s", caller_status_name(o->status));
    snprintf(ret->text, sizeof ret->text, "%s", o->message);
    if (!is_fit(o->status))
        result_fail(ret, "no fit status: %s", ret->what);
    else if (o->status == GRPC_OK && (o->n_messages != n_messages || strcmp(o->text, text)))
        result_fail(ret, "OK with %u messages, \"%.40s\"", o->n_messages, o->text);
    else if (o->status != GRPC_OK && strncmp(o->text, text, strlen(o->text)))
        result_fail(ret, "wrong text: \"%.40s\"", o->text);
    else if (o->status > GRPC_OK && !*o->message)
        snprintf(ret->text, sizeof ret->text, "(no text)");
}

static void call(struct torture *t, const char *path, const char *model, unsigned n_messages,
                 struct result *ret)
{
    const struct caller_call c = {
        .path = path,
        .model = model,
        .patience_ms = PATIENCE_MS,
        .late = disarm,
        .user = t,
    };
    struct caller_outcome o;
    int64_t begin = caller_now_ms();

    target_arm(&t->daemon);
    caller_call(&t->caller, &c, &o);
    target_disarm(&t->daemon);
    judge(&o, n_messages, model ? UPSTREAM_TEXT : "", ret);
    if (caller_now_ms() - begin >= PATIENCE_MS)
        result_fail(ret, "it took %d ms", (int)(caller_now_ms() - begin));
}

static bool connect_warm(struct torture *t)
{
    const struct caller_call warm = {CALLER_CREATE, "warm", .patience_ms = PATIENCE_MS};
    struct caller_outcome o;

    caller_is_connected(&t->caller);
    caller_call(&t->caller, &warm, &o);
    return o.status == GRPC_OK;
}

static bool connect_cold(struct torture *t)
{
    return reload(t, false) && connect_warm(t);
}

/* libcurl remembers names for a minute. */
static bool connect_unknown(struct torture *t)
{
    atomic_fetch_add(&t->daemon.control->skipped_s, 100);
    return connect_cold(t);
}

static void run_warm(struct torture *t, struct result *ret)
{
    call(t, CALLER_CREATE, "warm", 1, ret);
}

static void run_stream(struct torture *t, struct result *ret)
{
    call(t, CALLER_CREATE_STREAM, "warm", UPSTREAM_N_CHUNKS, ret);
}

static void run_cold(struct torture *t, struct result *ret)
{
    call(t, CALLER_CREATE, "cold", 1, ret);
}

static void run_name(struct torture *t, struct result *ret)
{
    call(t, CALLER_CREATE, "name", 1, ret);
}

static void run_tls(struct torture *t, struct result *ret)
{
    call(t, CALLER_CREATE, "tls", 1, ret);
}

static void run_retry(struct torture *t, struct result *ret)
{
    upstream_be_busy();
    call(t, CALLER_CREATE, "busy", 1, ret);
}

/* ---- HTTP ---- */

/* The API's error object, or nothing; an answer is there whole and right, or it can be seen that it
 * is not. What evhttp could not allocate is missing from its heads: that can't be read, then. */
static void judge_http(const struct http_outcome *o, bool is_stream, struct result *ret)
{
    bool is_cut = o->status == 0 || !o->is_whole;

    *ret = (struct result){0};
    snprintf(ret->what, sizeof ret->what, is_cut ? "cut" : "%d", o->status);
    snprintf(ret->text, sizeof ret->text, "%.500s", o->text);
    if (o->hangs)
        result_fail(ret, "it hangs");
    else if (o->status >= 400 && !is_cut && strncmp(o->text, "{\"error\":{", 10) != 0)
        result_fail(ret, "no error object");
    else if (o->status == 200 && !is_cut &&
             (strstr(o->text, "\"error\"") ||
              !strstr(o->text, is_stream ? "data: [DONE]\n\n" : "\"choices\"")))
        result_fail(ret, "200 with something else");
    else if (!is_cut && o->status != 200 && o->status != 408 && o->status != 429 &&
             o->status != 502 && o->status != 503 && o->status != 504)
        result_fail(ret, "no fit status: %d", o->status);
}

static void call_http(struct torture *t, const char *body, bool is_stream, struct result *ret)
{
    struct http_outcome o;

    target_arm(&t->daemon);
    http_call(t->daemon.http, body, ACCEPT_PATIENCE_MS, disarm, t, &o);
    target_disarm(&t->daemon);
    judge_http(&o, is_stream, ret);
}

static void run_http(struct torture *t, struct result *ret)
{
    call_http(t, "{\"model\":\"warm\",\"prompt\":\"p\",\"x\":1}", false, ret);
}

static void run_http_stream(struct torture *t, struct result *ret)
{
    call_http(t, "{\"model\":\"warm\",\"prompt\":[\"p\"],\"stream\":true}", true, ret);
}

static bool prepare_http(struct torture *t)
{
    struct http_outcome o;

    if (!connect_warm(t))
        return false;
    http_call(t->daemon.http, "{\"model\":\"warm\"}", PATIENCE_MS, NULL, NULL, &o);
    return o.status == 200 && o.is_whole;
}

static bool recover(struct torture *t, struct result *ret);

static bool recover_http(struct torture *t, struct result *ret)
{
    struct http_outcome o;

    http_call(t->daemon.http, "{\"model\":\"warm\"}", PATIENCE_MS, NULL, NULL, &o);
    if (o.status != 200 || !o.is_whole)
        result_fail(ret, "the next call over HTTP: %d", o.status);
    return recover(t, ret) && o.status == 200;
}

/* The next call works. The connection may have been closed just now: then another's. */
static bool recover(struct torture *t, struct result *ret)
{
    const struct caller_call next = {CALLER_CREATE, "warm", .patience_ms = PATIENCE_MS};
    struct caller_outcome o;

    caller_is_connected(&t->caller);
    caller_call(&t->caller, &next, &o);
    if (o.status == CALLER_CLOSED)
        caller_call(&t->caller, &next, &o);
    if (o.status != GRPC_OK)
        result_fail(ret, "the next call: %s %.60s", caller_status_name(o.status), o.message);
    return o.status == GRPC_OK;
}

/* ---- Connections ---- */

static bool prepare_accept(struct torture *t)
{
    caller_close(&t->caller);
    return true;
}

/* A connection that can't be accepted now waits until it can. */
static void run_accept(struct torture *t, struct result *ret)
{
    const struct caller_call health = {
        .path = CALLER_HEALTH, .patience_ms = ACCEPT_PATIENCE_MS, .late = disarm, .user = t};
    struct caller_outcome o;

    target_arm(&t->daemon);
    caller_call(&t->caller, &health, &o);
    target_disarm(&t->daemon);
    judge(&o, 1, "", ret);
}

/* ---- Reloading ---- */

static bool is_ok(struct torture *t, const char *model, const char *key, struct result *ret)
{
    const struct caller_call c = {CALLER_CREATE, model, key, .patience_ms = PATIENCE_MS};
    struct caller_outcome o;

    caller_is_connected(&t->caller);
    caller_call(&t->caller, &c, &o);
    if (o.status == CALLER_CLOSED)
        caller_call(&t->caller, &c, &o);
    if (o.status != GRPC_OK && o.status != GRPC_NOT_FOUND && o.status != GRPC_PERMISSION_DENIED)
        result_fail(ret, "after it: %s %.60s", caller_status_name(o.status), o.message);
    return o.status == GRPC_OK;
}

/* All of the new configuration holds, or all of the old one. */
static void judge_reload(struct torture *t, bool said_failed, struct result *ret)
{
    bool a = is_ok(t, "a", NULL, ret), b = is_ok(t, "b", NULL, ret);
    bool key = is_ok(t, "warm", "sk-mine", ret);

    snprintf(ret->what, sizeof ret->what, "%s", b ? "applied" : "kept");
    if (a == b || key != b)
        result_fail(ret, "half of it: a %d, b %d, own key %d", a, b, key);
    else if (said_failed == b)
        result_fail(ret, "it is %s, but the daemon says something else", ret->what);
}

static bool prepare_reload(struct torture *t)
{
    return reload(t, false) && connect_warm(t) && write_config(t, &t->daemon, true);
}

static void run_reload(struct torture *t, struct result *ret)
{
    char text[512] = "";

    *ret = (struct result){0};
    target_forget(&t->daemon);
    target_arm(&t->daemon);
    kill(t->daemon.pid, SIGHUP);
    int r = target_await(&t->daemon, "READY=1", RELOAD_PATIENCE_MS, text, sizeof text);
    target_disarm(&t->daemon);
    if (r == 0)
        r = target_await(&t->daemon, "READY=1", TARGET_TIMEOUT_MS, text, sizeof text);
    snprintf(ret->text, sizeof ret->text, "%s", text);
    if (r <= 0) {
        snprintf(ret->what, sizeof ret->what, "no word");
        result_fail(ret, "not a word of the end of it");
        return;
    }
    judge_reload(t, strstr(text, "failed") != NULL, ret);
}

static bool recover_reload(struct torture *t, struct result *ret)
{
    if (!reload(t, false)) {
        result_fail(ret, "the next reload does not work");
        return false;
    }
    return recover(t, ret);
}

/* ---- The library ---- */

static bool prepare_library(struct torture *t)
{
    (void)t;
    return true;
}

/* One line there, one line back: "what|problem|text". */
static void run_library(struct torture *t, const char *command, struct result *ret)
{
    char line[512] = "", *save = NULL;
    size_t len = 0;
    ssize_t n;

    *ret = (struct result){0};
    if (write(t->program.out, command, strlen(command)) < 0)
        return;
    while (!memchr(line, '\n', len) && len < sizeof line - 1 &&
           (n = read(t->program.in, line + len, sizeof line - 1 - len)) > 0)
        len += (size_t)n;
    line[strcspn(line, "\n")] = '\0';
    const char *what = strtok_r(line, "|", &save), *problem = strtok_r(NULL, "|", &save);
    const char *text = strtok_r(NULL, "|", &save);
    snprintf(ret->what, sizeof ret->what, "%s", what ? what : "gone");
    snprintf(ret->text, sizeof ret->text, "%s", text ? text : "");
    if (!problem || strcmp(problem, "-"))
        result_fail(ret, "%s", problem ? problem : "the program is gone");
}

static void run_library_create(struct torture *t, struct result *ret)
{
    run_library(t, "create\n", ret);
}

static void run_library_stream(struct torture *t, struct result *ret)
{
    run_library(t, "stream\n", ret);
}

static void run_library_check(struct torture *t, struct result *ret)
{
    run_library(t, "check\n", ret);
}

static bool recover_library(struct torture *t, struct result *ret)
{
    struct result next;

    target_plan(&t->program, CONTROL_COUNT_ONLY, NULL, 0);
    run_library(t, "create\n", &next);
    if (strcmp(next.what, "OK"))
        result_fail(ret, "the next call: %s %.60s", next.what, next.text);
    return !strcmp(next.what, "OK");
}

/* ---- Starting ---- */

static bool has_said(const struct target *daemon, const char *text)
{
    char line[512];
    bool found = false;
    FILE *f = fopen(daemon->log, "r");

    while (f && !found && fgets(line, sizeof line, f))
        found = strstr(line, text) != NULL;
    if (f)
        fclose(f);
    return found;
}

/*
 * The one exception. glibc 2.36 does not get over want of memory the first time that a process
 * looks for a group: getline() fails while nsswitch.conf is read ("nss_database.c:
 * nss_database_reload_1: Assertion `ret > 0' failed"), or what was not made of it is used all the
 * same (a segmentation fault). The stack is getgrnam(), getgrnam_r(), __nss_group_lookup2(), and
 * there it is; we look for the socket's group, before anybody could call.
 */
static bool is_glibcs(const struct target *daemon, int status)
{
    return status != -1 && WIFSIGNALED(status) && has_said(daemon, "(__nss_group_lookup2+");
}

/* It serves, or ends and says why. */
void paths_run_start(struct torture *t, struct result *ret)
{
    struct target *d = &t->daemon;
    struct caller_outcome o = {0};
    const struct caller_call warm = {CALLER_CREATE, "warm", .patience_ms = PATIENCE_MS};
    int status;

    *ret = (struct result){0};
    caller_close(&t->caller);
    unlink(d->log);
    free(d->maps);
    d->maps = NULL;
    write_config(t, d, false);
    target_forget(d);
    target_arm(d);
    int r = target_spawn_daemon(d) ? target_await(d, "READY=1", START_PATIENCE_MS, NULL, 0) : -1;
    target_disarm(d);
    if (r == 0)
        r = target_await(d, "READY=1", TARGET_TIMEOUT_MS, NULL, 0);
    if (r > 0) {
        target_note_maps(d);
        caller_call(&t->caller, &warm, &o);
        kill(d->pid, SIGTERM);
    }
    caller_close(&t->caller);
    if (r == 0)
        target_kill(d);
    status = r == 0 ? -1 : target_wait(d);
    bool exited = status != -1 && WIFEXITED(status);
    snprintf(ret->what, sizeof ret->what, "%s", r > 0 ? "serves" : r < 0 ? "ends" : "HANGS");
    bool is_mute = d->control->function == CONTROL_write;
    if (is_glibcs(d, status))
        snprintf(ret->what, sizeof ret->what, "glibc's end");
    else if (!exited)
        result_fail(ret, "ended by signal %d", status == -1 ? 9 : WTERMSIG(status));
    else if (r > 0 && (o.status != GRPC_OK || WEXITSTATUS(status) != 0))
        result_fail(ret, "ready, but %s, exit status %d", caller_status_name(o.status),
                    WEXITSTATUS(status));
    else if (r < 0 && WEXITSTATUS(status) == 0)
        result_fail(ret, "it ended as if all were well");
    else if (r < 0 && !is_mute && !has_said(d, ""))
        result_fail(ret, "it ended without a word");
}

const struct path paths[] = {
    {"warm", false, connect_warm, run_warm, recover},
    {"stream", false, connect_warm, run_stream, recover},
    {"cold", false, connect_cold, run_cold, recover},
    {"name", false, connect_unknown, run_name, recover},
    {"tls", false, connect_cold, run_tls, recover},
    {"retry", false, connect_cold, run_retry, recover},
    {"reload", false, prepare_reload, run_reload, recover_reload},
    {"accept", false, prepare_accept, run_accept, recover},
    {"http", false, prepare_http, run_http, recover_http},
    {"http-stream", false, prepare_http, run_http_stream, recover_http},
    {"library-create", true, prepare_library, run_library_create, recover_library},
    {"library-stream", true, prepare_library, run_library_stream, recover_library},
    {"library-check", true, prepare_library, run_library_check, recover_library},
    {"start", false, NULL, NULL, NULL},
};
const size_t n_paths = sizeof paths / sizeof *paths;

/*
 * The daemon's key and its callers' prompts, looked for where they must not be: in what it writes,
 * in what callers get, in what the kernel shows of it to others and to root, in its memory and in a
 * core dump. What needs root says so and is skipped.
 */
#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "memory.h"
#include "scene.h"

#define PROMPT  "CANARY once upon a time"
#define NEXT    "sk-CANARY-second-fedcba9876"
#define OWN_KEY "sk-CANARY-of-the-caller-42"

enum { NOBODY = 65534 };

/* What to answer next. */
struct script {
    int status;
    const char *type, *body;
};

static void serve(struct fake_connection *c)
{
    const struct script *script = c->user;

    while (fake_read_request(c)) {
        if (script->body) {
            const char *key = strstr(c->head, "Bearer ");
            char id[128];
            snprintf(id, sizeof id, "x-request-id: %.26s\r\n", key ? key + 7 : "");
            if (!fake_answer(c, script->status, script->type, id, script->body))
                return;
        } else if (strstr(c->body, "\"stream\":true")) {
            if (!fake_stream_begin(c) || !fake_event(c, FAKE_PART("CANARY ")) ||
                !fake_event(c, FAKE_LAST("text")) || !fake_stream_done(c))
                return;
        } else if (!fake_answer(c, 200, "application/json", "", FAKE_LAST("CANARY text"))) {
            return;
        }
    }
}

/* ---- Calls ---- */

static bool has(const void *data, size_t len, const char *text)
{
    return memmem(data, len, text, strlen(text)) != NULL;
}

/* Neither its beginning nor 12 bytes of it. */
static void assert_without_key(const void *data, size_t len, const char *key)
{
    char part[13] = "";

    snprintf(part, 9, "%s", key);
    assert_false(has(data, len, part));
    for (size_t i = 0; i + 12 <= strlen(key); i++) {
        memcpy(part, key + i, 12);
        if (has(data, len, part))
            fail_msg("\"%s\" is a part of the key", part);
    }
}

/* No part of the key that was sent: an upstream can't repeat another. */
static void check_received(const struct rpc_result *result, const char *key)
{
    uint8_t packed[8192];
    size_t len = 0;

    if (result->detail) {
        assert_in_range(completion__v1__error_detail__get_packed_size(result->detail), 1,
                        sizeof packed);
        len = completion__v1__error_detail__pack(result->detail, packed);
    }
    assert_without_key(packed, len, key);
    assert_without_key(result->message, strlen(result->message), key);
    assert_without_key(buffer_bytes(&result->text), buffer_length(&result->text), key);
}

static void call(struct scene *s, bool stream, const char *own_key, bool ok)
{
    rpc_request request = rpc_request_new("m", PROMPT);
    uint8_t message[128];
    size_t len = completion__v1__create_completion_request__pack(&request, message);
    struct grpc_client_metadata metadata = {"completion-api-key", own_key, true};
    struct rpc_result result;

    rpc_finish(&s->rpc,
               rpc_start_raw(&s->rpc, stream ? RPC_CREATE_STREAM : RPC_CREATE, message, len, -1,
                             own_key ? &metadata : NULL, own_key != NULL),
               &result);
    if (ok)
        rpc_assert_ok(&result, "CANARY text");
    else if (result.status == GRPC_OK)
        fail_msg("the call should have failed");
    check_received(&result, own_key ? own_key : SCENE_KEY);
    assert_null(strstr(result.message, PROMPT));
    if (result.detail && result.detail->has_message)
        assert_false(has(result.detail->message.data, result.detail->message.len, PROMPT));
    if (!own_key)
        check_received(&result, NEXT);
    rpc_result_done(&result);
}

static void call_all_ways(struct scene *s, bool ok)
{
    call(s, false, NULL, ok);
    call(s, true, NULL, ok);
    call(s, false, OWN_KEY, ok);
    call(s, true, OWN_KEY, ok);
}

static void reload(struct scene *s)
{
    daemon_signal(&s->daemon, SIGHUP);
    daemon_await(&s->daemon, "RELOADING=1");
    daemon_await(&s->daemon, "STATUS=Serving");
}

static void start(struct scene *s, const struct script *script)
{
    scene_start(s, serve, script, "[policy *]\nallow_own_key = yes\n");
}

/* scene_stop() looks at the log; this at what the service manager is told. */
static void stop(struct scene *s)
{
    char text[2048];
    ssize_t n;

    scene_stop(s);
    while ((n = recv(s->daemon.notify, text, sizeof text, MSG_DONTWAIT)) >= 0)
        assert_false(has(text, (size_t)n, SCENE_SECRET));
}

/* ---- What is written and sent ---- */

/* The text with another put in behind the first marker that it has, or at its end. */
static char *put_in(const char *text, const char *insert)
{
    static const char *const markers[] = {"\"message\":\"", "\"message\": \"", "\"detail\":\"",
                                          "<title>", "\"error\":\""};
    size_t at = strlen(text);
    char *out;

    for (size_t i = 0; i < sizeof markers / sizeof *markers; i++) {
        const char *found = strstr(text, markers[i]);
        if (found) {
            at = (size_t)(found - text) + strlen(markers[i]);
            break;
        }
    }
    assert_true(asprintf(&out, "%.*s%s%s", (int)at, text, insert, text + at) > 0);
    return out;
}

static void fail_with_each_sample(struct scene *s, struct script *script, const char *directory)
{
    static const char *const inserts[] = {
        "Bad key " SCENE_KEY ", or " OWN_KEY ": " PROMPT " ",
        "sk-CANARY-0123****cdef sk-CANARY-of-the* CANARY once upon ",
        "\\u0073k\\u002dCANARY\\u002d0123456789abcdef \\\\u0073k-CANARY-of-the-caller-42 ",
        "sk%2DCANARY%2D0123456789abcdef sk&#45;CANARY-of-the-caller-42 ",
    };
    DIR *files = opendir(directory);
    struct dirent *file;
    unsigned n = 0;

    assert_non_null(files);
    while ((file = readdir(files))) {
        char path[512];
        if (*file->d_name == '.' || strstr(file->d_name, "ok") || strstr(file->d_name, "stream"))
            continue;
        snprintf(path, sizeof path, "%s/%s", directory, file->d_name);
        char *text = directory_read(path);
        const char *body = strstr(file->d_name, ".http") ? strstr(text, "{") : text;
        assert_non_null(body);
        for (size_t i = 0; i < sizeof inserts / sizeof *inserts; i++, n++) {
            char *spliced = put_in(body, inserts[i]);
            /* A status, an error in a body of status 200, and one in a stream. */
            const struct script ways[] = {
                {400, strstr(path, ".html") ? "text/html" : "application/json", spliced},
                {200, "application/json", spliced},
                {401, "text/plain", spliced},
            };
            for (size_t way = 0; way < sizeof ways / sizeof *ways; way++) {
                *script = ways[way];
                call_all_ways(s, false);
            }
            char *event;
            assert_true(asprintf(&event, "data: %s\n\ndata: [DONE]\n\n", spliced) > 0);
            *script = (struct script){200, "text/event-stream", event};
            call(s, true, NULL, false);
            free(event);
            free(spliced);
        }
        free(text);
    }
    closedir(files);
    assert_in_range(n, 16, 1000);
}

static void test_nothing_is_written_or_sent(void **state)
{
    struct scene *s = *state;
    struct script script = {0};

    start(s, &script);
    call_all_ways(s, true);
    fail_with_each_sample(s, &script, SAMPLES "/errors");
    fail_with_each_sample(s, &script, SAMPLES "/azure");
    script = (struct script){0};

    directory_write(&s->daemon.directory, "key", NEXT);
    reload(s);
    call_all_ways(s, true);
    char *head = fake_last_head(s->fake);
    assert_non_null(strstr(head, "Bearer " OWN_KEY "\r\n"));
    free(head);
    /* A reload that fails, and names what is wrong. */
    directory_write(&s->daemon.directory, "key", "sk-CANARY two words");
    daemon_signal(&s->daemon, SIGHUP);
    daemon_await(&s->daemon, "STATUS=Serving; the last reload failed");
    daemon_assert_logged(&s->daemon, "leave only the key");
    call_all_ways(s, true);
    stop(s);
}

/* ---- What the kernel shows ---- */

static char *read_proc(const struct daemon *d, const char *name, size_t *ret_len)
{
    enum { SIZE = 1 << 20 };
    char path[64], *text = calloc(1, SIZE);
    size_t len = 0;
    ssize_t n;

    snprintf(path, sizeof path, "/proc/%d/%s", (int)d->pid, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        fail_msg("%s: %s", path, strerror(errno));
    while ((n = read(fd, text + len, SIZE - len)) > 0)
        len += (size_t)n;
    close(fd);
    *ret_len = len;
    return text;
}

/* In a child of another user: the number of things that it can read and should not, or that hold
 * the secret; says which. Nothing here may allocate: the test has threads. */
static int look_as_nobody(pid_t pid)
{
    static const char *const closed[] = {"environ", "mem",    "maps",      "smaps", "pagemap",
                                         "fd",      "fdinfo", "map_files", "auxv",  "syscall",
                                         "stack",   "cwd/.",  "root/.",    "exe"};
    static const char *const open_to_all[] = {"cmdline", "status", "stat", "statm", "comm"};
    static char text[65536];
    char path[64];
    int n_bad = 0;

    for (size_t i = 0; i < sizeof closed / sizeof *closed; i++) {
        snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, closed[i]);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t n = fd < 0 ? -1 : read(fd, text, 1);
        if (fd >= 0 && (n > 0 || errno == EISDIR)) {
            dprintf(STDERR_FILENO, "nobody can read %s\n", path);
            n_bad++;
        }
    }
    for (size_t i = 0; i < sizeof open_to_all / sizeof *open_to_all; i++) {
        snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, open_to_all[i]);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t n = read(fd, text, sizeof text);
        if (n > 0 && has(text, (size_t)n, SCENE_SECRET)) {
            dprintf(STDERR_FILENO, "%s holds a secret\n", path);
            n_bad++;
        }
    }
    struct iovec here = {text, 1}, there = {(void *)0x10000, 1};
    if (ptrace(PTRACE_SEIZE, pid, NULL, NULL) == 0 || errno != EPERM) {
        dprintf(STDERR_FILENO, "nobody can trace it\n");
        n_bad++;
    }
    if (process_vm_readv(pid, &here, 1, &there, 1, 0) >= 0 || errno != EPERM) {
        dprintf(STDERR_FILENO, "nobody can read its memory\n");
        n_bad++;
    }
    return n_bad;
}

static void expect_closed_to_others(const struct daemon *d)
{
    int status;
    pid_t child = fork();

    if (child == 0) {
        if (geteuid() == 0 &&
            (setresgid(NOBODY, NOBODY, NOBODY) < 0 || setresuid(NOBODY, NOBODY, NOBODY) < 0))
            _exit(125);
        /* Without root it is the same user, who may not either: the daemon is not dumpable. */
        _exit(look_as_nobody(d->pid));
    }
    assert_true(child > 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void test_environment_is_taken_and_closed(void **state)
{
    static const char *const shown[] = {"environ", "cmdline", "status", "maps", "comm"};
    struct scene *s = *state;
    struct script script = {0};
    char url[192];
    struct daemon_options options = {
        .environment = (const char *const[]){url, "OPENAI_API_KEY=" SCENE_KEY, NULL},
    };

    scene_prepare(s, serve, &script, NULL);
    daemon_configure(&s->daemon, "[daemon]\nlog_level = debug\n[policy *]\nallow_own_key = yes\n");
    snprintf(url, sizeof url, "OPENAI_BASE_URL=%s", fake_base_url(s->fake));
    daemon_start(&s->daemon, &options);
    rpc_connect(&s->rpc, s->daemon.socket);
    call_all_ways(s, true);
    expect_closed_to_others(&s->daemon);

    /* Nobody has it, and the daemon still does: reloads need it. */
    reload(s);
    reload(s);
    call(s, false, NULL, true);
    char *head = fake_last_head(s->fake);
    assert_non_null(strstr(head, "Authorization: Bearer " SCENE_KEY "\r\n"));
    free(head);
    for (size_t i = 0; geteuid() == 0 && i < sizeof shown / sizeof *shown; i++) {
        size_t len;
        char *text = read_proc(&s->daemon, shown[i], &len);
        assert_true(len > 0);
        assert_false(has(text, len, SCENE_SECRET));
        free(text);
    }
    if (geteuid() != 0)
        print_message("skipped: its environment as root sees it, needs root\n");
    stop(s);
}

/* ---- Memory ---- */

static bool is_root(const char *for_what)
{
    if (geteuid() != 0)
        print_message("skipped: %s, needs root\n", for_what);
    return geteuid() == 0;
}

static void expect_only_in_secret_memory(const struct daemon *d, const char *key)
{
    struct memory_finds finds = memory_search(d->pid, key);

    assert_int_equal(finds.elsewhere, 0);
    assert_in_range(finds.in_secret_memory, 1, 16);
}

static void expect_nowhere_in_memory(const struct daemon *d, const char *key)
{
    struct memory_finds finds = memory_search(d->pid, key);

    assert_int_equal(finds.elsewhere, 0);
    assert_int_equal(finds.in_secret_memory, 0);
}

static void test_key_lies_in_secret_memory_only(void **state)
{
    struct scene *s = *state;
    struct script script = {0};

    if (!is_root("the daemon's memory"))
        return;
    start(s, &script);
    call_all_ways(s, true);
    expect_only_in_secret_memory(&s->daemon, SCENE_KEY);
    expect_nowhere_in_memory(&s->daemon, OWN_KEY);

    script = (struct script){401, "application/json",
                             "{\"error\":{\"message\":\"no: " SCENE_KEY " " OWN_KEY "\"}}"};
    call_all_ways(s, false);
    script = (struct script){0};
    directory_write(&s->daemon.directory, "key", NEXT);
    reload(s);
    call_all_ways(s, true);
    expect_only_in_secret_memory(&s->daemon, NEXT);
    stop(s);
}

/* ---- Core dumps ---- */

/* Memory is in the segments; the notes have registers, which no filter leaves out, and in which a
 * copied text may be for a moment. */
static void expect_core_without_secrets(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    Elf64_Ehdr header;
    Elf64_Phdr segment;

    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &header, sizeof header, 0), sizeof header);
    assert_memory_equal(header.e_ident, ELFMAG, SELFMAG);
    for (unsigned i = 0; i < header.e_phnum; i++) {
        off_t at = (off_t)(header.e_phoff + i * sizeof segment);
        assert_int_equal(pread(fd, &segment, sizeof segment, at), sizeof segment);
        if (segment.p_type == PT_LOAD)
            assert_int_equal(memory_search_file(fd, segment.p_offset,
                                                segment.p_offset + segment.p_filesz, SCENE_SECRET,
                                                "a segment of the core\n"),
                             0);
    }
    close(fd);
}

/*
 * What can be shown: the kernel writes no core although its limit was raised from outside, since
 * the process is not dumpable; and the filter says that one which root makes by force (gcore, a
 * debugger that switches dumps on) has no memory in it. What root reads at /proc/PID/mem is not
 * defended against, but for the search above.
 */
static void test_core_holds_nothing(void **state)
{
    struct scene *s = *state;
    struct script script = {0};
    struct rlimit unlimited = {RLIM_INFINITY, RLIM_INFINITY};
    char command[256], output[128];
    size_t len;

    if (!is_root("a forced core dump"))
        return;
    start(s, &script);
    call_all_ways(s, true);
    char *filter = read_proc(&s->daemon, "coredump_filter", &len);
    assert_int_equal(strtoul(filter, NULL, 16), 0);
    free(filter);

    if (access("/usr/bin/gcore", X_OK) == 0) {
        snprintf(output, sizeof output, "%s/core.%d", s->daemon.directory.path, (int)s->daemon.pid);
        snprintf(command, sizeof command, "gcore -o %s/core %d >/dev/null 2>&1 </dev/null",
                 s->daemon.directory.path, (int)s->daemon.pid);
        assert_int_equal(system(command), 0);
        expect_core_without_secrets(output);
        call(s, false, NULL, true);
    } else {
        print_message("skipped: gcore, which is not installed\n");
    }

    rpc_close(&s->rpc);
    if (prlimit(s->daemon.pid, RLIMIT_CORE, &unlimited, NULL) < 0)
        print_message("skipped: raising its limit (%s)\n", strerror(errno));
    daemon_signal(&s->daemon, SIGABRT);
    int status = daemon_wait(&s->daemon);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGABRT);
    assert_false(WCOREDUMP(status));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_nothing_is_written_or_sent),
        scene_test(test_environment_is_taken_and_closed),
        scene_test(test_key_lies_in_secret_memory_only),
        scene_test(test_core_holds_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

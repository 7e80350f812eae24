#include "target.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "caller.h"

/* ---- Files ---- */

static void name_file(const struct target *t, const char *suffix, char out[static 108])
{
    snprintf(out, 108, "%s/%s.%s", t->directory, t->name, suffix);
}

static struct control *map_control(const struct target *t)
{
    char path[108];

    name_file(t, "control", path);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, sizeof(struct control)) < 0)
        return NULL;
    void *p = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    return p == MAP_FAILED ? NULL : p;
}

bool target_init(struct target *t, const char *directory, const char *name, bool tortured)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    *t = (struct target){.directory = directory, .name = name, .pidfd = -1, .in = -1, .out = -1};
    name_file(t, "sock", t->socket);
    name_file(t, "http", t->http);
    name_file(t, "conf", t->config);
    name_file(t, "log", t->log);
    name_file(t, "notify", t->notify_path);
    if (tortured && !(t->control = map_control(t)))
        return false;
    t->notify = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", t->notify_path);
    return t->notify >= 0 && bind(t->notify, (struct sockaddr *)&address, sizeof address) == 0;
}

void target_done(struct target *t)
{
    target_kill(t);
    if (t->control)
        munmap(t->control, sizeof *t->control);
    close(t->notify);
    free(t->maps);
    *t = (struct target){0};
}

/* ---- Processes ---- */

static bool spawn(struct target *t, const char *const *arguments, const int *pipes)
{
    char notify[160], control[160];
    const char *environment[] = {notify, NULL, NULL, NULL};
    pid_t parent = getpid();

    snprintf(notify, sizeof notify, "NOTIFY_SOCKET=%s", t->notify_path);
    snprintf(control, sizeof control, CONTROL_VARIABLE "=%s/%s.control", t->directory, t->name);
    if (t->control) {
        environment[1] = control;
        environment[2] = "LD_PRELOAD=" TORTURE_FAIL;
    }
    t->pid = fork();
    if (t->pid == 0) {
        int log = open(t->log, O_WRONLY | O_CREAT | O_APPEND, 0600);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent || log < 0 || dup2(log, 2) < 0 ||
            dup2(pipes ? pipes[0] : log, 0) < 0 || dup2(pipes ? pipes[1] : log, 1) < 0)
            _exit(126);
        execve(arguments[0], (char **)arguments, (char **)environment);
        _exit(127);
    }
    if (t->pid < 0)
        t->pid = 0;
    t->pidfd = t->pid > 0 ? pidfd_open(t->pid, 0) : -1;
    return t->pidfd >= 0;
}

bool target_spawn_daemon(struct target *t)
{
    const char *const arguments[] = {TORTURE_DAEMON, "--config",        t->config, "--listen",
                                     t->socket,      "--openai-listen", t->http,   NULL};

    return spawn(t, arguments, NULL);
}

bool target_spawn_program(struct target *t, const char *path, const char *argument)
{
    int in[2], out[2];

    if (pipe2(in, O_CLOEXEC) < 0)
        return false;
    if (pipe2(out, O_CLOEXEC) < 0) {
        close(in[0]);
        close(in[1]);
        return false;
    }
    bool started = spawn(t, (const char *const[]){path, argument, NULL}, (int[]){in[0], out[1]});
    close(in[0]);
    close(out[1]);
    t->out = in[1];
    t->in = out[0];
    return started;
}

bool target_is_alive(const struct target *t)
{
    struct pollfd fd = {t->pidfd, POLLIN, 0};

    return t->pid > 0 && poll(&fd, 1, 0) == 0;
}

int target_wait(struct target *t)
{
    struct pollfd fd = {t->pidfd, POLLIN, 0};
    int status = -1;

    if (t->pid == 0)
        return -1;
    bool killed = poll(&fd, 1, TARGET_TIMEOUT_MS) == 0;
    if (killed)
        kill(t->pid, SIGKILL);
    waitpid(t->pid, &status, 0);
    close(t->pidfd);
    if (t->in >= 0)
        close(t->in);
    if (t->out >= 0)
        close(t->out);
    t->pidfd = t->in = t->out = -1;
    t->pid = 0;
    return killed ? -1 : status;
}

void target_kill(struct target *t)
{
    if (t->pid > 0) {
        kill(t->pid, SIGKILL);
        target_wait(t);
    }
    unlink(t->socket);
}

/* ---- What it says ---- */

static bool has_line(const char *text, const char *line)
{
    size_t len = strlen(line);

    for (const char *p = text; p; p = strchr(p, '\n'), p = p ? p + 1 : NULL)
        if (!strncmp(p, line, len) && (p[len] == '\n' || p[len] == '\0'))
            return true;
    return false;
}

int target_await(struct target *t, const char *line, int timeout_ms, char *ret_text, size_t size)
{
    int64_t until = caller_now_ms() + timeout_ms;
    char text[1024];

    for (;;) {
        struct pollfd fds[] = {{t->notify, POLLIN, 0}, {t->pidfd, POLLIN, 0}};
        int64_t left = until - caller_now_ms();
        if (poll(fds, 2, left > 0 ? (int)left : 0) <= 0)
            return 0;
        if (!(fds[0].revents & POLLIN))
            return -1;
        ssize_t n = recv(t->notify, text, sizeof text - 1, 0);
        text[n > 0 ? n : 0] = '\0';
        if (!has_line(text, line))
            continue;
        if (ret_text)
            snprintf(ret_text, size, "%s", text);
        return 1;
    }
}

void target_forget(struct target *t)
{
    char text[1024];

    while (recv(t->notify, text, sizeof text, MSG_DONTWAIT) >= 0)
        ;
}

static char *read_file(const char *path)
{
    size_t len = 0, size = 1 << 18;
    char *text = malloc(size);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n;

    while (text && fd >= 0 && (n = read(fd, text + len, size - 1 - len)) > 0)
        len += (size_t)n;
    if (fd >= 0)
        close(fd);
    if (text)
        text[len] = '\0';
    return text;
}

void target_note_maps(struct target *t)
{
    char path[64];

    snprintf(path, sizeof path, "/proc/%d/maps", (int)t->pid);
    free(t->maps);
    t->maps = read_file(path);
}

/* ---- Failing ---- */

void target_plan(struct target *t, int function, const struct plan *plan, long nth)
{
    struct control *c = t->control;

    c->function = function;
    c->error = plan ? plan->error : 0;
    c->nth = nth;
    c->repeats = plan ? plan->repeats : 0;
    c->n_stack = c->n_crash = 0;
    atomic_store(&c->n_failed, 0);
    for (int f = 0; f < CONTROL_N_FUNCTIONS; f++)
        atomic_store(&c->seen[f], 0);
}

void target_arm(struct target *t)
{
    atomic_store(&t->control->armed, 1);
}

void target_disarm(struct target *t)
{
    atomic_store(&t->control->armed, 0);
}

/* ---- What is alive ---- */

static long count_descriptors(pid_t pid)
{
    char path[64];
    long n = 0;

    snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
    DIR *directory = opendir(path);
    if (!directory)
        return -1;
    while (readdir(directory))
        n++;
    closedir(directory);
    return n - 2;
}

struct measure target_measure(const struct target *t)
{
    return (struct measure){
        .n_blocks = atomic_load(&t->control->n_blocks),
        .n_mappings = atomic_load(&t->control->n_mappings),
        .n_descriptors = count_descriptors(t->pid),
    };
}

/* ---- Where it was ---- */

/* The file that the address is in, and where in it. */
static bool find_place(const char *maps, uintptr_t address, char file[static 256],
                       uintptr_t *ret_offset)
{
    for (const char *line = maps; line && *line; line = strchr(line, '\n'), line += line != NULL) {
        unsigned long from, to, offset;
        if (sscanf(line, "%lx-%lx %*s %lx %*s %*s %255s", &from, &to, &offset, file) == 4 &&
            address >= from && address < to && *file == '/') {
            *ret_offset = address - from + offset;
            return true;
        }
    }
    return false;
}

static void show_stack(const struct target *t, void *const *stack, int n, FILE *to)
{
    char file[256], command[512], line[512];

    /* The first two are fail.c's. */
    for (int i = 2; i < n; i++) {
        uintptr_t offset;
        if (!find_place(t->maps, (uintptr_t)stack[i] - 1, file, &offset))
            continue;
        snprintf(command, sizeof command, "addr2line -sfpe %s 0x%lx 2>/dev/null", file,
                 (unsigned long)offset);
        FILE *out = popen(command, "r");
        if (!out || !fgets(line, sizeof line, out))
            snprintf(line, sizeof line, "?\n");
        if (out)
            pclose(out);
        const char *base = strrchr(file, '/') + 1;
        fprintf(to, "      %s+0x%lx %s", base, (unsigned long)offset, line);
    }
}

void target_show_stack(const struct target *t, FILE *to)
{
    const struct control *c = t->control;

    if (!t->maps) {
        char *log = read_file(t->log);
        fprintf(to, "%s", log ? log : "");
        free(log);
        return;
    }
    show_stack(t, c->stack, c->n_stack, to);
    if (c->n_crash > 0)
        fputs("      and crashed at\n", to);
    show_stack(t, c->crash, c->n_crash, to);
}

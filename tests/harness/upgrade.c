#include "upgrade.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"

/* ---- The program ---- */

static const char *put_in_place(const struct daemon *d, const char *from)
{
    const char *path = directory_path(&d->directory, "completiond");

    assert_int_equal(rename(from, path), 0);
    return path;
}

const char *upgrade_install(const struct daemon *d)
{
    const char *path = directory_path(&d->directory, "completiond.new");
    int from = open(COMPLETIOND_BINARY, O_RDONLY | O_CLOEXEC);
    int to = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0755);
    struct stat st;

    assert_true(from >= 0 && to >= 0);
    assert_int_equal(fstat(from, &st), 0);
    for (off_t left = st.st_size; left > 0;) {
        ssize_t n = copy_file_range(from, NULL, to, NULL, (size_t)left, 0);
        assert_true(n > 0);
        left -= n;
    }
    assert_int_equal(fchmod(to, 0755), 0);
    close(from);
    close(to);
    return put_in_place(d, path);
}

void upgrade_install_text(const struct daemon *d, const char *text, mode_t mode)
{
    const char *path = directory_write(&d->directory, "completiond.new", text);

    assert_int_equal(chmod(path, mode), 0);
    put_in_place(d, path);
}

/* ---- What is said ---- */

static void receive(struct daemon *d)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(struct ucred))];
    } control;
    struct iovec text = {d->notification, sizeof d->notification - 1};
    struct msghdr message = {.msg_iov = &text,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof control};
    ssize_t n = recvmsg(d->notify, &message, 0);
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    struct ucred who;

    assert_true(n > 0 && header && header->cmsg_type == SCM_CREDENTIALS);
    d->notification[n] = '\0';
    memcpy(&who, CMSG_DATA(header), sizeof who);
    if (who.pid != d->pid)
        fail_msg("process %d says \"%s\", and %d is the main one", (int)who.pid, d->notification,
                 (int)d->pid);
}

static bool says(const struct daemon *d, const char *line)
{
    const char *found = strstr(d->notification, line);

    return found && (found == d->notification || found[-1] == '\n');
}

void upgrade_hear(struct daemon *d, const char *line)
{
    struct pollfd fd = {d->notify, POLLIN, 0};

    do {
        if (poll(&fd, 1, HARNESS_TIMEOUT_MS) <= 0) {
            char *log = daemon_log(d);
            fputs(log, stderr);
            free(log);
            fail_msg("the daemon did not say %s in time", line);
        }
        receive(d);
    } while (!says(d, line));
}

pid_t upgrade_follow(struct daemon *d)
{
    pid_t before = d->pid;

    upgrade_hear(d, "MAINPID=");
    assert_true(says(d, "READY=1"));
    d->pid = (pid_t)strtol(strstr(d->notification, "MAINPID=") + 8, NULL, 10);
    assert_true(d->pid > 0 && d->pid != before);
    close(d->pidfd);
    d->pidfd = pidfd_open(d->pid, 0);
    assert_true(d->pidfd >= 0);
    return before;
}

pid_t upgrade(struct daemon *d)
{
    daemon_signal(d, SIGHUP);
    return upgrade_follow(d);
}

/* ---- Processes ---- */

int upgrade_wait(pid_t pid)
{
    struct pollfd fd = {pidfd_open(pid, 0), POLLIN, 0};
    int status;

    assert_true(fd.fd >= 0);
    if (poll(&fd, 1, HARNESS_TIMEOUT_MS) <= 0)
        fail_msg("process %d did not end in time", (int)pid);
    close(fd.fd);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

void upgrade_wait_exit(pid_t pid, int expected)
{
    int status = upgrade_wait(pid);

    if (!WIFEXITED(status) || WEXITSTATUS(status) != expected)
        fail_msg("process %d ended with %#x", (int)pid, (unsigned)status);
}

static unsigned children_of_thread(const char *thread, pid_t *children, unsigned n)
{
    char path[288];

    snprintf(path, sizeof path, "/proc/self/task/%.16s/children", thread);
    char *text = directory_read(path), *end;
    for (char *p = text; n < UPGRADE_CHILDREN_MAX; p = end) {
        pid_t pid = (pid_t)strtol(p, &end, 10);
        if (end == p)
            break;
        children[n++] = pid;
    }
    free(text);
    return n;
}

unsigned upgrade_children(pid_t children[static UPGRADE_CHILDREN_MAX])
{
    DIR *threads = opendir("/proc/self/task");
    unsigned n = 0;

    assert_non_null(threads);
    for (struct dirent *entry; (entry = readdir(threads));)
        if (entry->d_name[0] != '.')
            n = children_of_thread(entry->d_name, children, n);
    closedir(threads);
    return n;
}

unsigned upgrade_kill_children(void)
{
    pid_t children[UPGRADE_CHILDREN_MAX];
    unsigned n = upgrade_children(children);

    for (unsigned i = 0; i < n; i++) {
        kill(children[i], SIGKILL);
        waitpid(children[i], NULL, 0);
    }
    return n;
}

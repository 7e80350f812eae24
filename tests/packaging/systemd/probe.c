/*
 * Tries, from inside of the service's sandbox, what the daemon never does, and a few things that it
 * does. One line for each; fails if one of them is not as it should be.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int n_wrong;

/* What came of it: negative and errno, or not. */
static void expect(bool works, const char *what, long r)
{
    bool worked = r >= 0;
    const char *how = worked ? "works" : strerror(errno);

    printf("%s: %s: %s\n", worked == works ? "right" : "WRONG", what, how);
    n_wrong += worked != works;
}

static void refused(const char *what, long r)
{
    expect(false, what, r);
}

static void allowed(const char *what, long r)
{
    expect(true, what, r);
}

/* 0, or negative with errno. */
static int try_exec(const char *path)
{
    int status, error = 0, fds[2];

    if (pipe2(fds, O_CLOEXEC) < 0)
        return -1;
    pid_t pid = fork();
    if (pid == 0) {
        int null = open("/dev/null", O_WRONLY);
        dup2(null, STDOUT_FILENO);
        execl(path, path, "--version", NULL);
        error = errno;
        _exit(write(fds[1], &error, sizeof error) < 0);
    }
    close(fds[1]);
    if (read(fds[0], &error, sizeof error) < 0)
        error = errno;
    close(fds[0]);
    waitpid(pid, &status, 0);
    errno = error;
    return error ? -1 : 0;
}

static void probe_files(void)
{
    static const char *const paths[] = {
        "/etc/completiond/probe", "/run/completiond/probe", "/run/probe",
        "/usr/sbin/probe",        "/var/lib/probe",         "/dev/shm/../probe"};

    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
        refused(paths[i], open(paths[i], O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    refused("/run/completiond/rpc.sock removed", unlink("/run/completiond/rpc.sock"));
    refused("/etc/shadow", open("/etc/shadow", O_RDONLY | O_CLOEXEC));
    refused("/home/alice", open("/home/alice", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    refused("/root", open("/root/.", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    refused("/proc/1", open("/proc/1/status", O_RDONLY | O_CLOEXEC));
    refused("/proc/sys", open("/proc/sys/kernel/hostname", O_RDONLY | O_CLOEXEC));
    refused("/dev/kmsg", open("/dev/kmsg", O_RDONLY | O_CLOEXEC));
    refused("/dev/rtc0", open("/dev/rtc0", O_WRONLY | O_CLOEXEC));
    refused("control groups", mkdir("/sys/fs/cgroup/probe", 0700));

    int fd = open("/tmp/probe", O_RDWR | O_CREAT | O_CLOEXEC, 0700);
    allowed("a file of its own in /tmp", fd);
    refused("set-uid", fchmod(fd, 04755));
    close(fd);
}

static void probe_programs(void)
{
    refused("exec /bin/sh", try_exec("/bin/sh"));
    refused("exec /usr/bin/env", try_exec("/usr/bin/env"));
    refused("exec of what it has written", try_exec("/tmp/probe"));
    unlink("/tmp/probe");
    allowed("exec of itself, to hand over", try_exec("/usr/sbin/completiond"));

    void *both =
        mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    refused("memory to write and execute", both == MAP_FAILED ? -1 : 0);
    void *data = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    refused("data made executable", mprotect(data, 4096, PROT_READ | PROT_EXEC));
    allowed("memory locked", mlock(data, 4096));
}

static void probe_sockets(void)
{
    refused("AF_NETLINK", socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, 0));
    refused("AF_PACKET", socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0));
    refused("AF_ALG", socket(AF_ALG, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    refused("AF_VSOCK", socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0));
    refused("AF_INET, raw", socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, 1));
    allowed("AF_UNIX", socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    allowed("AF_INET", socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    allowed("AF_INET6", socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
}

static void probe_calls(void)
{
    struct timespec then = {1, 0};
    struct sched_param real_time = {1};
    struct rlimit limit;

    refused("mount", mount("none", "/tmp", "tmpfs", 0, NULL));
    refused("unshare, user", unshare(CLONE_NEWUSER));
    refused("unshare, mounts", unshare(CLONE_NEWNS));
    refused("ptrace", ptrace(PTRACE_TRACEME, 0, 0, 0));
    refused("bpf", syscall(SYS_bpf, 0, NULL, 0));
    refused("io_uring_setup", syscall(SYS_io_uring_setup, 1, NULL));
    refused("perf_event_open", syscall(SYS_perf_event_open, NULL, 0, -1, -1, 0));
    refused("keyctl", syscall(SYS_keyctl, 0, -3, 1, 0, 0));
    refused("process_vm_readv", syscall(SYS_process_vm_readv, 1, NULL, 0, NULL, 0, 0));
    refused("setuid", setuid(0));
    refused("chown", chown("/tmp", 0, 0));
    refused("clock_settime", clock_settime(CLOCK_REALTIME, &then));
    refused("sethostname", sethostname("probe", 5));
    refused("personality", personality(ADDR_NO_RANDOMIZE));
    refused("SCHED_FIFO", sched_setscheduler(0, SCHED_FIFO, &real_time));
    refused("signal to process 1", kill(1, 0));
    refused("chroot", chroot("/tmp"));
    refused("core dumps", getrlimit(RLIMIT_CORE, &limit) == 0 && limit.rlim_max > 0 ? 0 : -1);
    refused("being root", geteuid() == 0 ? 0 : -1);
}

/* "CapBnd:\t0000000000000000" */
static void probe_status(void)
{
    static const struct {
        const char *name, *value;
    } expected[] = {{"CapInh", "0000000000000000"},
                    {"CapPrm", "0000000000000000"},
                    {"CapEff", "0000000000000000"},
                    {"CapBnd", "0000000000000000"},
                    {"CapAmb", "0000000000000000"},
                    {"NoNewPrivs", "1"},
                    {"Seccomp", "2"}};
    char line[256], wanted[64];
    FILE *f = fopen("/proc/self/status", "re");

    while (f && fgets(line, sizeof line, f))
        for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
            size_t len = strlen(expected[i].name);
            if (strncmp(line, expected[i].name, len) != 0 || line[len] != ':')
                continue;
            snprintf(wanted, sizeof wanted, "%s:\t%s\n", expected[i].name, expected[i].value);
            errno = EINVAL;
            allowed(wanted, strcmp(line, wanted) == 0 ? 0 : -1);
        }
    if (f)
        fclose(f);
}

int main(void)
{
    probe_files();
    probe_programs();
    probe_sockets();
    probe_calls();
    probe_status();
    return n_wrong > 0;
}

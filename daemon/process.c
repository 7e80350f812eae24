#include "process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

bool process_open_standard_descriptors(void)
{
    int fd;

    do
        fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd < 0)
        return false;
    close(fd);
    return true;
}

/* Nothing of our memory in a core dump, even if somebody switches dumps on again from outside. */
static void exclude_memory_from_cores(void)
{
    int fd = open("/proc/self/coredump_filter", O_WRONLY | O_CLOEXEC);

    if (fd >= 0) {
        if (write(fd, "0", 1) < 0) {
            /* There are no dumps anyway. */
        }
        close(fd);
    }
}

bool process_harden(void)
{
    struct rlimit none = {0, 0}, files;

    exclude_memory_from_cores();
    bool is_shut = prctl(PR_SET_DUMPABLE, 0) == 0;
    setrlimit(RLIMIT_CORE, &none);
    signal(SIGPIPE, SIG_IGN);
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    return is_shut;
}

void process_settle_signals(void)
{
    static const int strays[] = {SIGUSR1, SIGUSR2, SIGALRM};
    sigset_t only_reload;

    for (size_t i = 0; i < sizeof strays / sizeof *strays; i++)
        signal(strays[i], SIG_IGN);
    sigemptyset(&only_reload);
    sigaddset(&only_reload, SIGHUP);
    sigprocmask(SIG_SETMASK, &only_reload, NULL);
}

void process_unblock_signals(void)
{
    sigset_t none;

    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

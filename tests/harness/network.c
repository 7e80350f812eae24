#include "network.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "directory.h"
#include "harness.h"

static bool write_text(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    bool written = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

    if (fd >= 0)
        close(fd);
    return written;
}

/* Who is not root becomes it, in a user namespace. */
static bool unshare_all(void)
{
    char map[64];
    int flags = CLONE_NEWNET | CLONE_NEWNS;
    uid_t uid = geteuid();
    gid_t gid = getegid();

    if (uid == 0)
        return unshare(flags) == 0;
    if (unshare(flags | CLONE_NEWUSER) < 0)
        return false;
    snprintf(map, sizeof map, "0 %u 1", uid);
    if (!write_text("/proc/self/setgroups", "deny") || !write_text("/proc/self/uid_map", map))
        return false;
    snprintf(map, sizeof map, "0 %u 1", gid);
    return write_text("/proc/self/gid_map", map);
}

bool network_enter(void)
{
    /* Without ARP, what goes into one end is for nobody at the other. */
    static const char set_up[] =
        "exec 2>&1; ip link set lo up && "
        "ip addr add " NETWORK_LINK_LOCAL "/32 dev lo && "
        "ip link add hole0 type veth peer name hole1 && "
        "ip link set hole0 arp off && ip addr add 10.9.9.1/24 dev hole0 && "
        "ip link set hole1 up && ip link set hole0 up";

    if (!unshare_all() || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) {
        printf("skipped: no namespaces for a network of its own: %s\n", strerror(errno));
        return false;
    }
    if (system(set_up) != 0) {
        printf("skipped: no network of its own: ip can't make it\n");
        return false;
    }
    return true;
}

void network_file(const char *path, const char *text)
{
    struct directory directory;

    directory_init(&directory);
    /* In a file system of its own, that goes with the last of its files: one whose name has been
     * removed could not be covered by the next. */
    if (mount("none", directory.path, "tmpfs", 0, NULL) < 0 ||
        mount(directory_write(&directory, "file", text), path, NULL, MS_BIND, NULL) < 0 ||
        umount2(directory.path, MNT_DETACH) < 0)
        fail_msg("%s: %s", path, strerror(errno));
    directory_done(&directory);
}

/* Finding the daemon: where it listens, whether it may be trusted, and what to say if it is not
 * there. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "internal.h"

/* Of the user who called listen(). */
static int check_server(const completion_client *client, int fd, uid_t *ret_uid)
{
    struct ucred peer;
    socklen_t len = sizeof peer;

    if (client->n_server_uids == 0)
        return 0;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
        return -errno;
    for (unsigned i = 0; i < client->n_server_uids; i++)
        if (client->server_uids[i] == peer.uid)
            return 0;
    *ret_uid = peer.uid;
    return -EKEYREJECTED;
}

int connect_server(const completion_client *client, uid_t *ret_uid)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int r;

    if (fd < 0)
        return -errno;
    strcpy(address.sun_path, client->socket);
    do
        r = connect(fd, (struct sockaddr *)&address, sizeof address) < 0 ? -errno : 0;
    while (r == -EINTR);
    if (r == 0)
        r = check_server(client, fd, ret_uid);
    if (r == 0)
        return fd;
    close(fd);
    return r;
}

int connect_error(const completion_client *client, int r, uid_t uid, completion_error *error)
{
    switch (-r) {
    case EKEYREJECTED:
        return error_set(error, -EPERM, COMPLETION_PERMISSION_DENIED,
                         "who listens at %s is user %lu, who is not trusted to be completiond",
                         client->socket, (unsigned long)uid);
    case ETIMEDOUT:
        return error_set(error, r, COMPLETION_DEADLINE_EXCEEDED,
                         "the deadline passed while connecting to completiond at %s",
                         client->socket);
    case EACCES:
    case EPERM:
        return error_set(error, r, COMPLETION_PERMISSION_DENIED,
                         "cannot connect to completiond at %s: %s; add yourself to the group "
                         "completiond (as root: `usermod -aG completiond USER`), and log in again",
                         client->socket, strerror(-r));
    case ENOENT:
    case ENOTDIR:
    case ECONNREFUSED:
        return error_set(error, r, COMPLETION_UNAVAILABLE,
                         "completiond is not running: cannot connect to %s: %s; start it with "
                         "`systemctl start completiond.socket` or run `completiond`",
                         client->socket, strerror(-r));
    case EMFILE:
    case ENFILE:
    case ENOMEM:
    case ENOBUFS:
        return error_set(error, r, COMPLETION_RESOURCE_EXHAUSTED,
                         "cannot connect to completiond: %s", strerror(-r));
    default:
        return error_set(error, r, COMPLETION_UNAVAILABLE,
                         "cannot connect to completiond at %s: %s", client->socket, strerror(-r));
    }
}

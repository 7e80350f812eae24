#include "openai_setup.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "crew.h"
#include "log.h"
#include "openai.h"
#include "openai_tcp.h"
#include "server.h"
#include "worker.h"

enum { SOCKETS_MAX = 64 };

int openai_setup_listen(struct log *log, const char *address)
{
    int fd = openai_tcp_listen(address);

    if (fd < 0)
        log_error(log, "can't listen on %s: %s", address,
                  fd == -EINVAL   ? "write HOST:PORT, the host as localhost, 127.0.0.1 or [::1]"
                  : fd == -EACCES ? "it is no address of the loopback interface"
                                  : strerror(-fd));
    return fd;
}

static int check(struct log *log, const int *fds, size_t n)
{
    char name[OPENAI_TCP_NAME_SIZE];

    for (size_t i = 0; i < n; i++) {
        openai_tcp_name(fds[i], name);
        if (!openai_tcp_is_local(fds[i])) {
            log_error(log, "%s is no address of the loopback interface", name);
            return -EACCES;
        }
        log_info(log, "HTTP on %s", name);
    }
    return 0;
}

/* For those who run it by hand: callers over TCP find the token in a file. */
static int make_token(struct log *log, const char *path, struct secret **ret)
{
    const char *why = "";

    if (!path) {
        log_error(log, "callers over TCP must show a token, and there is no place to make one "
                       "(XDG_RUNTIME_DIR): add a section [token NAME]");
        return -ENOENT;
    }
    int r = openai_tcp_make_token(path, ret, &why);
    if (r < 0)
        log_error(log, "the token in %s can't be used: %s", path, why);
    else
        log_info(log, "the token for HTTP over TCP is in %s", path);
    return r;
}

/* The descriptors for a worker: the first's are those that were passed. */
static int take(const int *fds, size_t n, size_t number, int *ret)
{
    for (size_t i = 0; i < n; i++) {
        ret[i] = number == 0 ? fds[i] : fcntl(fds[i], F_DUPFD_CLOEXEC, 3);
        if (ret[i] < 0)
            return -errno;
    }
    return 0;
}

static int serve(struct worker *w, const int *fds, size_t n, const struct secret *token)
{
    int own[SOCKETS_MAX];
    struct secret *copy = NULL;
    int r = n <= SOCKETS_MAX ? take(fds, n, w->number, own) : -E2BIG;

    if (r == 0 && token)
        r = secret_new(token->text, token->len, &copy);
    if (r == 0)
        r = openai_new(w, own, n, copy, &w->server->openai);
    if (r < 0)
        secret_free(copy);
    return r;
}

int openai_setup(struct crew *crew, const int *fds, size_t n, const char *token_path)
{
    struct secret *token = NULL;
    int r = check(crew->log, fds, n);

    if (r == 0 && openai_tcp_needs_token(crew_worker(crew, 0)->config, fds, n))
        r = make_token(crew->log, token_path, &token);
    if (r < 0)
        return r;
    for (size_t i = 0; r == 0 && i < crew->n_workers; i++)
        r = serve(crew_worker(crew, i), fds, n, token);
    if (r < 0)
        log_error(crew->log, "can't accept HTTP connections: %s", strerror(-r));
    secret_free(token);
    return r;
}

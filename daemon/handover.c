#include "handover.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <systemd/sd-daemon.h>

#include "log.h"
#include "secret.h"
#include "systemd.h"
#include "worker.h"

/* A message is a packet of text. */
#define READY     "READY=1"
#define GO        "GO=1"
#define SERVING   "SERVING=1"
#define TERMINATE "TERMINATE=1"
#define REFUSED   "ERROR="

/* The first: lines of this, of which unknown ones are for other versions. */
#define KEY   "KEY="
#define OWNED "OWNED=" /* for each socket: 1, its path is to be removed at the end; or 0 */

enum { SOCKETS_MAX = 512, FIRST_MAX = SECRET_MAX + SOCKETS_MAX + 64 };

struct handover_socket {
    int fd;
    char *name;
    char path[sizeof((struct sockaddr_un *)NULL)->sun_path + 1]; /* "": not ours to remove */
};

static bool is_under_way(const struct handover *h)
{
    return h->state == HANDOVER_STARTING || h->state == HANDOVER_GOING ||
           h->state == HANDOVER_SETTLING;
}

bool handover_is_given(const struct handover *h)
{
    return h->state == HANDOVER_GIVEN;
}

void handover_set_handler(struct handover *h, struct event_base *base,
                          const struct handover_handler *handler, void *user)
{
    h->base = base;
    h->handler = handler;
    h->user = user;
}

/* The other one may be gone, or not take it: its end is seen where answers are read. */
static void say(const struct handover *h, const char *text, size_t len)
{
    (void)send(h->peer, text, len, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* The number of bytes of a message, with a NUL behind them; 0: there is none now; negative errno:
 * there will be none. */
static ssize_t hear(const struct handover *h, char *text, size_t size)
{
    ssize_t n = recv(h->peer, text, size - 1, MSG_DONTWAIT);

    /* Said once if the other one closed without having heard all; its last words come behind. */
    if (n < 0 && errno == ECONNRESET)
        n = recv(h->peer, text, size - 1, MSG_DONTWAIT);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    text[n] = '\0';
    return n == 0 ? -ECONNRESET : n;
}

static void hang_up(struct handover *h)
{
    if (event_initialized(&h->readable))
        event_del(&h->readable);
    if (event_initialized(&h->timer))
        evtimer_del(&h->timer);
    if (h->peer >= 0)
        close(h->peer);
    h->peer = -1;
    if (h->successor.pidfd >= 0)
        close(h->successor.pidfd);
    h->successor.pidfd = -1;
}

static int listen_to_peer(struct handover *h, event_callback_fn on_readable,
                          event_callback_fn on_timer, int64_t timer_us)
{
    event_assign(&h->readable, h->base, h->peer, EV_READ | EV_PERSIST, on_readable, h);
    evtimer_assign(&h->timer, h->base, on_timer, h);
    return event_add(&h->readable, NULL) < 0 ? -ENOMEM : worker_arm(&h->timer, timer_us);
}

/* ---- Sockets ---- */

static int keep(struct handover *h, int fd, const char *name, bool owned)
{
    struct sockaddr_un address = {0};
    socklen_t len = sizeof address;
    struct handover_socket *sockets =
        reallocarray(h->sockets, h->n_sockets + 1, sizeof *h->sockets);

    if (!sockets)
        return -ENOMEM;
    h->sockets = sockets;
    struct handover_socket *s = &sockets[h->n_sockets];
    *s = (struct handover_socket){.fd = fd, .name = strdup(name)};
    if (!s->name)
        return -ENOMEM;
    if (owned && getsockname(fd, (struct sockaddr *)&address, &len) == 0 &&
        address.sun_family == AF_UNIX)
        memcpy(s->path, address.sun_path, sizeof address.sun_path);
    h->n_sockets++;
    return 0;
}

int handover_keep(struct handover *h, int fd, const char *name)
{
    return keep(h, fd, name, true);
}

/* What systemd passes, or the old one: then `owned` says of each whether it was made by hand. What
 * is wrong with them is for systemd_listen_fds() to say. */
static int keep_passed(struct handover *h, const char *owned)
{
    char **names = NULL;
    int n = sd_listen_fds_with_names(0, &names), r = 0;

    for (int i = 0; i < n; i++) {
        if (r == 0)
            r = keep(h, SD_LISTEN_FDS_START + i, names[i], *owned == '1');
        if (*owned)
            owned++;
        free(names[i]);
    }
    free(names);
    return r;
}

void handover_remove_sockets(const struct handover *h)
{
    for (size_t i = 0; h->owner && i < h->n_sockets; i++)
        if (h->sockets[i].path[0])
            unlink(h->sockets[i].path);
}

bool handover_has_paths(const struct handover *h)
{
    for (size_t i = 0; i < h->n_sockets; i++)
        if (h->sockets[i].path[0])
            return true;
    return false;
}

/* ---- Our own program ---- */

/* Where we were started from. If that has been replaced in the meantime, the kernel adds a word. */
static char *find_program(void)
{
    static const char deleted[] = " (deleted)";
    char path[4096];
    struct stat st;
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);

    if (n <= 0 || path[0] != '/')
        return NULL;
    path[n] = '\0';
    size_t len = (size_t)n, suffix = sizeof deleted - 1;
    if (len > suffix && !strcmp(path + len - suffix, deleted) && stat(path, &st) < 0)
        path[len - suffix] = '\0';
    return strdup(path);
}

/* A program that is missing for a moment, or for good, is none to go over to. The first process of
 * a container takes all others with it, and so never goes. */
static bool has_changed(const struct handover *h)
{
    const struct stat *was = &h->identity;
    struct stat is;

    if (!h->path || getpid() == 1 || stat(h->path, &is) < 0)
        return false;
    return is.st_dev != was->st_dev || is.st_ino != was->st_ino || is.st_size != was->st_size ||
           is.st_mtim.tv_sec != was->st_mtim.tv_sec || is.st_mtim.tv_nsec != was->st_mtim.tv_nsec;
}

/* ---- The new one ---- */

static int take_key(const char *text, size_t len, struct environment *e)
{
    e->key = secret_free(e->key);
    return secret_new(text, len, &e->key);
}

static int take_lines(struct handover *h, const char *text, struct environment *e)
{
    const char *owned = "";
    int r = 0;

    for (const char *line = text; *line && r == 0;) {
        size_t len = strcspn(line, "\n");
        if (!strncmp(line, KEY, sizeof KEY - 1))
            r = take_key(line + sizeof KEY - 1, len - (sizeof KEY - 1), e);
        else if (!strncmp(line, OWNED, sizeof OWNED - 1))
            owned = line + sizeof OWNED - 1;
        line += len + (line[len] == '\n');
    }
    return r < 0 ? r : keep_passed(h, owned);
}

/* Is it what a handover makes, and not a number that came from somewhere? */
static int open_peer(struct handover *h, const char *number)
{
    char *end;
    long fd = strtol(number, &end, 10);
    int type = 0;
    socklen_t len = sizeof type;

    if (end == number || *end || fd <= STDERR_FILENO || fd > INT32_MAX ||
        getsockopt((int)fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0 || type != SOCK_SEQPACKET)
        return -EINVAL;
    fcntl((int)fd, F_SETFD, FD_CLOEXEC);
    h->peer = (int)fd;
    return 0;
}

static int come(struct handover *h, const char *number, struct environment *e)
{
    char pid[16], *first;
    int r = open_peer(h, number);

    if (r < 0)
        return r;
    h->state = HANDOVER_COMING;
    h->owner = false;
    snprintf(pid, sizeof pid, "%d", (int)getpid());
    if (setenv("LISTEN_PID", pid, 1) < 0 || !(first = secret_memory_new(FIRST_MAX)))
        return -ENOMEM;
    ssize_t n = hear(h, first, FIRST_MAX);
    r = n <= 0 ? -EPROTO : take_lines(h, first, e);
    secret_memory_free(first, FIRST_MAX);
    return r;
}

int handover_init(struct handover *h, struct log *log, struct systemd_manager *manager, char **argv,
                  struct environment *environment)
{
    const char *number = getenv(SUCCESSOR_VARIABLE);
    int r;

    *h = (struct handover){.log = log, .argv = argv, .owner = true, .peer = -1};
    h->manager = manager;
    h->environment = environment;
    h->successor.pidfd = -1;
    h->path = find_program();
    /* Not what is at the path by now. */
    if (!h->path || stat("/proc/self/exe", &h->identity) < 0)
        log_debug(log, "where this program is can't be seen: no handovers");
    r = number ? come(h, number, environment) : keep_passed(h, "");
    unsetenv(SUCCESSOR_VARIABLE);
    if (r < 0)
        log_error(log, "can't take over (" SUCCESSOR_VARIABLE "): %s", strerror(-r));
    return r;
}

void handover_done(struct handover *h)
{
    hang_up(h);
    for (size_t i = 0; i < h->n_sockets; i++)
        free(h->sockets[i].name);
    free(h->sockets);
    free(h->path);
    h->sockets = NULL;
    h->path = NULL;
    h->n_sockets = 0;
}

void handover_refuse(struct handover *h, const char *why)
{
    char text[sizeof h->why];

    if (h->state == HANDOVER_COMING) {
        snprintf(text, sizeof text, REFUSED "%s", why);
        say(h, text, strlen(text));
    }
}

int handover_await(struct handover *h)
{
    struct pollfd fd = {h->peer, POLLIN, 0};
    char text[16];
    ssize_t n = 0;

    if (h->state != HANDOVER_COMING)
        return 0;
    say(h, READY, sizeof READY - 1);
    /* The old one waits no longer than that either. */
    if (poll(&fd, 1, HANDOVER_TIMEOUT_US / 1000) > 0)
        n = hear(h, text, sizeof text);
    if (n <= 0 || strcmp(text, GO) != 0) {
        log_warning(h->log, "the daemon that was to hand over does not");
        return -ECANCELED;
    }
    h->owner = true;
    h->state = HANDOVER_SETTLING;
    return 0;
}

static void settle(struct handover *h)
{
    bool again = h->again;

    hang_up(h);
    h->state = HANDOVER_NONE;
    h->again = false;
    if (again)
        h->handler->reload(h->user);
}

/* Its end is as good: then there is nobody any more who would tell systemd of somebody. */
static void on_old_says(evutil_socket_t fd, short what, void *user)
{
    struct handover *h = user;
    char text[16];
    ssize_t n = hear(h, text, sizeof text);

    (void)fd, (void)what;
    if (n > 0 && !strcmp(text, TERMINATE))
        h->handler->terminate(h->user);
    if (n < 0)
        settle(h);
}

static void on_turn(evutil_socket_t fd, short what, void *user)
{
    (void)fd, (void)what;
    say(user, SERVING, sizeof SERVING - 1);
}

bool handover_serve(struct handover *h)
{
    if (h->state != HANDOVER_SETTLING)
        return false;
    if (listen_to_peer(h, on_old_says, on_turn, 0) < 0)
        hang_up(h);
    return true;
}

/* ---- The old one ---- */

static void fail(struct handover *h, const char *why)
{
    bool again = h->again;
    char text[sizeof h->why];

    snprintf(text, sizeof text, "%s", why);
    if (h->successor.pidfd >= 0)
        (void)pidfd_send_signal(h->successor.pidfd, SIGKILL, NULL, 0);
    hang_up(h);
    h->state = HANDOVER_NONE;
    h->again = false;
    h->handler->failed(h->user, text);
    if (again)
        h->handler->reload(h->user);
}

static void give(struct handover *h)
{
    /* It may speak for itself as soon as we hang up, and is believed after this only. It has a
     * third of the watchdog's time to its first word, and so has the next. */
    systemd_notify(h->manager, "MAINPID=%d\nREADY=1\nWATCHDOG=1\nSTATUS=Serving",
                   (int)h->successor.pid);
    systemd_manager_flush(h->manager);
    log_info(h->log, "handed over to process %d; the calls that are here end by themselves",
             (int)h->successor.pid);
    if (h->again)
        (void)pidfd_send_signal(h->successor.pidfd, SIGHUP, NULL, 0);
    hang_up(h);
    h->owner = false;
    h->state = HANDOVER_GIVEN;
    h->handler->given(h->user);
}

static void note_refusal(struct handover *h, const char *text)
{
    int error = atoi(text + sizeof SUCCESSOR_ERRNO - 1);

    if (!strncmp(text, REFUSED, sizeof REFUSED - 1))
        snprintf(h->why, sizeof h->why, "%s", text + sizeof REFUSED - 1);
    else
        snprintf(h->why, sizeof h->why, "%s can't be executed: %s", h->path, strerror(error));
    /* It goes into a line of STATUS=. */
    for (char *p = h->why; *p; p++)
        if (*p == '\n' || *p == '\r')
            *p = ' ';
}

static void on_new_says(evutil_socket_t fd, short what, void *user)
{
    struct handover *h = user;
    char text[sizeof h->why];
    ssize_t n = hear(h, text, sizeof text);

    (void)fd, (void)what;
    if (n < 0) {
        fail(h, h->why[0] ? h->why : "the new process ended before it could serve");
    } else if (n > 0 && h->state == HANDOVER_STARTING && !strcmp(text, READY)) {
        h->state = HANDOVER_GOING;
        say(h, GO, sizeof GO - 1);
    } else if (n > 0 && h->state == HANDOVER_GOING && !strcmp(text, SERVING)) {
        give(h);
    } else if (n > 0 && (!strncmp(text, REFUSED, sizeof REFUSED - 1) ||
                         !strncmp(text, SUCCESSOR_ERRNO, sizeof SUCCESSOR_ERRNO - 1))) {
        note_refusal(h, text);
    }
}

static void on_timeout(evutil_socket_t fd, short what, void *user)
{
    (void)fd, (void)what;
    fail(user, "the new process did not get ready within 10 seconds");
}

static size_t write_first(const struct handover *h, char *text, size_t size)
{
    const struct environment *e = h->environment;
    size_t n = (size_t)snprintf(text, size, OWNED);

    for (size_t i = 0; i < h->n_sockets; i++)
        text[n++] = h->sockets[i].path[0] ? '1' : '0';
    text[n++] = '\n';
    if (e->key)
        n += (size_t)snprintf(text + n, size - n, KEY "%s\n", e->key->text);
    return n;
}

static int say_first(const struct handover *h)
{
    char *text = secret_memory_new(FIRST_MAX);
    int r = 0;

    if (!text)
        return -ENOMEM;
    size_t n = write_first(h, text, FIRST_MAX);
    if (send(h->peer, text, n, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
        r = -errno;
    secret_memory_free(text, FIRST_MAX);
    return r;
}

static int start_successor(struct handover *h, int peer)
{
    struct successor_plan plan = {
        .path = h->path, .argv = h->argv, .n_fds = h->n_sockets, .peer = peer};
    int *fds = calloc(h->n_sockets + 1, sizeof *fds), r = -ENOMEM;
    const char **names = calloc(h->n_sockets + 1, sizeof *names);

    for (size_t i = 0; fds && names && i < h->n_sockets; i++) {
        fds[i] = h->sockets[i].fd;
        names[i] = h->sockets[i].name;
    }
    plan.fds = fds;
    plan.names = names;
    if (fds && names)
        r = successor_start(&plan, &h->successor);
    free(fds);
    free(names);
    return r;
}

static int begin(struct handover *h)
{
    int pair[2], r;

    if (h->n_sockets > SOCKETS_MAX)
        return -E2BIG;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return -errno;
    h->peer = pair[0];
    h->why[0] = '\0';
    r = say_first(h);
    if (r == 0)
        r = listen_to_peer(h, on_new_says, on_timeout, HANDOVER_TIMEOUT_US);
    if (r == 0)
        r = start_successor(h, pair[1]);
    close(pair[1]);
    return r;
}

bool handover_request(struct handover *h)
{
    if (is_under_way(h)) {
        h->again = true;
        return true;
    }
    if (h->state != HANDOVER_NONE || !has_changed(h))
        return false;
    log_info(h->log, "%s has changed: handing over to it", h->path);
    h->state = HANDOVER_STARTING;
    int r = begin(h);
    if (r < 0) {
        snprintf(h->why, sizeof h->why, "it can't be started: %s", strerror(-r));
        fail(h, h->why);
    }
    return true;
}

/* One that has said GO may serve calls by now, which end as ours do. Not by a signal: systemd sends
 * that to both of us, and a second one cuts. */
void handover_abandon(struct handover *h)
{
    if (h->state == HANDOVER_STARTING) {
        (void)pidfd_send_signal(h->successor.pidfd, SIGKILL, NULL, 0);
    } else if (h->state == HANDOVER_GOING) {
        say(h, TERMINATE, sizeof TERMINATE - 1);
        h->owner = false;
    } else {
        return;
    }
    hang_up(h);
    h->state = HANDOVER_NONE;
}

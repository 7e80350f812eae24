/*
 * completiond: options, start, signals, the end.
 */
#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config.h"
#include "curl_memory.h"
#include "environment.h"
#include "log.h"
#include "server.h"
#include "systemd.h"
#include "worker.h"

#define GROUP "completiond"

static const char usage[] =
    "Usage: completiond [OPTION]...\n"
    "Serves text completions to this host over a Unix socket, from a server of the OpenAI\n"
    "Completions API.\n"
    "\n"
    "      --config FILE    read FILE and FILE.d/*.conf; default " CONFIG_PATH ",\n"
    "                       if it is there\n"
    "      --check-config   read the configuration, say what is wrong with it, and exit\n"
    "      --listen PATH    listen on this Unix socket; may be repeated. Not used when systemd\n"
    "                       passes sockets. Default /run/completiond/rpc.sock for root,\n"
    "                       $XDG_RUNTIME_DIR/completiond/rpc.sock for others\n"
    "  -h, --help           show this and exit\n"
    "  -V, --version        show the version and exit\n"
    "\n"
    "Without an [upstream] section in its configuration it asks OPENAI_BASE_URL (default\n"
    "https://api.openai.com/v1) with the key in OPENAI_API_KEY.\n"
    "\n"
    "Signals: SIGTERM and SIGINT let the calls in flight end, then exit; a second one exits at\n"
    "once. SIGHUP reads the configuration and the keys again.\n"
    "\n"
    "Examples:\n"
    "  OPENAI_API_KEY=... completiond\n"
    "  OPENAI_BASE_URL=http://127.0.0.1:8080/v1 completiond --listen /tmp/rpc.sock\n"
    "  completiond --config ./completiond.conf --check-config\n";

enum { LISTEN_MAX = 16 };

struct options {
    const char *config_path;
    const char *listen[LISTEN_MAX];
    size_t n_listen;
    char default_listen[128];
    bool check_config;
};

/* One daemon: what the signal handlers' events point to. */
struct daemon {
    struct worker worker;
    struct log log;
    struct options options;
    struct environment environment;
    struct event signals[3];
    struct event watchdog;
    struct systemd_manager manager;
};

/* -1: go on; else the exit status. */
static int options_parse(int argc, char **argv, struct options *o)
{
    static const struct option longs[] = {
        {"config", required_argument, NULL, 'c'}, {"check-config", no_argument, NULL, 'n'},
        {"listen", required_argument, NULL, 'l'}, {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, 'V'},      {0},
    };
    int option;

    while ((option = getopt_long(argc, argv, "hV", longs, NULL)) != -1) {
        switch (option) {
        case 'c':
            o->config_path = optarg;
            break;
        case 'n':
            o->check_config = true;
            break;
        case 'l':
            if (o->n_listen == LISTEN_MAX) {
                fprintf(stderr, "completiond: at most %d --listen\n", LISTEN_MAX);
                return 2;
            }
            o->listen[o->n_listen++] = optarg;
            break;
        case 'h':
            fputs(usage, stdout);
            return 0;
        case 'V':
            printf("completiond %s (%s)\n", COMPLETIOND_VERSION, curl_version());
            return 0;
        default:
            fputs("Try 'completiond --help'.\n", stderr);
            return 2;
        }
    }
    if (optind < argc) {
        fprintf(stderr, "completiond: unexpected argument '%s'\nTry 'completiond --help'.\n",
                argv[optind]);
        return 2;
    }
    return -1;
}

/* A descriptor of 0 to 2 that was closed would become a caller's connection, and whatever a library
 * writes to stderr would go there. */
static bool open_standard_descriptors(void)
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

/* No core dumps, no reading of our memory by others of our user. */
static void harden(void)
{
    struct rlimit none = {0, 0}, files;

    exclude_memory_from_cores();
    prctl(PR_SET_DUMPABLE, 0);
    setrlimit(RLIMIT_CORE, &none);
    signal(SIGPIPE, SIG_IGN);
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
}

/* ---- Sockets ---- */

/* The default socket, whose directory may have to be made. */
static int default_path(char *path, size_t size)
{
    const char *runtime = secure_getenv("XDG_RUNTIME_DIR");
    char directory[108];

    if (geteuid() == 0)
        snprintf(directory, sizeof directory, "/run/completiond");
    else if (runtime && *runtime == '/')
        snprintf(directory, sizeof directory, "%.80s/completiond", runtime);
    else
        return -ENOENT;
    if (mkdir(directory, geteuid() == 0 ? 0755 : 0700) < 0 && errno != EEXIST)
        return -errno;
    snprintf(path, size, "%s/rpc.sock", directory);
    return 0;
}

static int listen_on(struct daemon *d, const char *path, int *ret_fd)
{
    int fd = server_listen(path);

    if (fd < 0) {
        log_error(&d->log, "can't listen on %s: %s", path,
                  fd == -EADDRINUSE ? "a daemon listens there already" : strerror(-fd));
        return fd;
    }
    /* Members of the group may connect, as with the packaged socket unit. */
    if (geteuid() == 0) {
        const struct group *group = getgrnam(GROUP);
        if (group && chown(path, (uid_t)-1, group->gr_gid) < 0)
            log_warning(&d->log, "%s: can't be given to group " GROUP ": %s", path,
                        strerror(errno));
    }
    *ret_fd = fd;
    return 0;
}

static int listen_by_hand(struct daemon *d, int *fds, size_t *ret_n)
{
    struct options *o = &d->options;
    int r = 0;

    if (o->n_listen == 0) {
        r = default_path(o->default_listen, sizeof o->default_listen);
        if (r < 0) {
            log_error(&d->log, "no place for the socket (%s): say --listen PATH",
                      r == -ENOENT ? "XDG_RUNTIME_DIR is not set" : strerror(-r));
            return r;
        }
        o->listen[o->n_listen++] = o->default_listen;
    }
    for (*ret_n = 0; r == 0 && *ret_n < o->n_listen;) {
        r = listen_on(d, o->listen[*ret_n], &fds[*ret_n]);
        if (r == 0)
            log_info(&d->log, "listening on %s", o->listen[(*ret_n)++]);
    }
    return r;
}

static int open_server(struct daemon *d)
{
    int by_hand[LISTEN_MAX], *passed = NULL;
    size_t n = 0;
    char what[128] = "LISTEN_FDS can't be read";
    int r = systemd_listen_fds(&passed, what);

    if (r < 0) {
        log_error(&d->log, "%s", what);
        return r;
    }
    if (r > 0) {
        r = server_new(&d->worker, passed, (size_t)r, &d->worker.server);
        free(passed);
        return r;
    }
    free(passed);
    r = listen_by_hand(d, by_hand, &n);
    return r < 0 ? r : server_new(&d->worker, by_hand, n, &d->worker.server);
}

/* Sockets of our own are removed; systemd's are systemd's. */
static void remove_sockets(const struct daemon *d)
{
    for (size_t i = 0; i < d->options.n_listen; i++)
        unlink(d->options.listen[i]);
}

/* ---- Life ---- */

static int configure(struct daemon *d)
{
    struct config *config;
    struct config_error error;
    int r = config_load(d->options.config_path, &d->environment, &config, &error);

    if (r < 0) {
        log_error(&d->log, "%s", error.text);
        return r;
    }
    r = worker_configure(&d->worker, config);
    if (r == 0)
        d->log.level = config->log_level;
    else
        log_error(&d->log, "out of memory");
    config_unref(config);
    return r;
}

static void on_drained(struct worker *w)
{
    w->stop = true;
}

static void on_terminate(evutil_socket_t fd, short what, void *user)
{
    struct daemon *d = user;

    (void)fd, (void)what;
    if (d->worker.draining) {
        d->worker.stop = true;
        return;
    }
    d->worker.draining = true;
    log_info(&d->log, "stopping: %zu connections", d->worker.server->n_connections);
    systemd_notify(&d->manager, "STOPPING=1\nSTATUS=Waiting for calls in flight");
    server_drain(d->worker.server, d->worker.config->drain_timeout_us, on_drained);
}

static void on_reload(evutil_socket_t fd, short what, void *user)
{
    struct daemon *d = user;

    (void)fd, (void)what;
    if (d->worker.draining)
        return;
    systemd_notify_reloading(&d->manager);
    if (configure(d) == 0) {
        log_info(&d->log, "configuration read again");
        systemd_notify(&d->manager, "READY=1\nSTATUS=Serving");
    } else {
        log_error(&d->log, "the configuration stays as it was");
        systemd_notify(&d->manager, "READY=1\nSTATUS=Serving; the last reload failed");
    }
}

static void on_watchdog(evutil_socket_t fd, short what, void *user)
{
    struct daemon *d = user;

    (void)fd, (void)what;
    systemd_notify_alive(&d->manager);
    worker_arm(&d->watchdog, systemd_watchdog_us());
}

static int watch(struct daemon *d)
{
    static const struct {
        int number;
        void (*handle)(evutil_socket_t fd, short what, void *user);
    } signals[] = {{SIGTERM, on_terminate}, {SIGINT, on_terminate}, {SIGHUP, on_reload}};

    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
        evsignal_assign(&d->signals[i], d->worker.base, signals[i].number, signals[i].handle, d);
        if (evsignal_add(&d->signals[i], NULL) < 0)
            return -ENOMEM;
    }
    evtimer_assign(&d->watchdog, d->worker.base, on_watchdog, d);
    return systemd_watchdog_us() > 0 ? worker_arm(&d->watchdog, systemd_watchdog_us()) : 0;
}

static void unwatch(struct daemon *d)
{
    for (size_t i = 0; i < sizeof d->signals / sizeof *d->signals; i++)
        if (event_initialized(&d->signals[i]))
            evsignal_del(&d->signals[i]);
    if (event_initialized(&d->watchdog))
        evtimer_del(&d->watchdog);
}

static int serve(struct daemon *d)
{
    int r = worker_init(&d->worker, &d->log);

    if (r == 0)
        r = systemd_manager_init(&d->manager, d->worker.base);
    if (r == 0)
        r = configure(d);
    if (r == 0)
        r = open_server(d);
    if (r == 0)
        r = watch(d);
    if (r == 0) {
        systemd_notify(&d->manager, "READY=1\nSTATUS=Serving");
        r = worker_run(&d->worker);
        remove_sockets(d);
        log_info(&d->log, "stopped");
    } else if (r == -ENOMEM) {
        log_error(&d->log, "can't start: out of memory");
    }
    unwatch(d);
    server_free(d->worker.server);
    systemd_manager_done(&d->manager);
    worker_done(&d->worker);
    return r;
}

static int check_config(const struct options *o, const struct environment *environment)
{
    struct config *config;
    struct config_error error;
    char text[LOG_TEXT_MAX];

    if (config_load(o->config_path, environment, &config, &error) < 0) {
        fprintf(stderr, "%s\n", log_escape(error.text, text, sizeof text));
        return 1;
    }
    config_unref(config);
    return 0;
}

int main(int argc, char **argv)
{
    static struct daemon d;
    int r;

    if (!open_standard_descriptors()) {
        fprintf(stderr, "completiond: /dev/null: %s\n", strerror(errno));
        return 1;
    }
    r = options_parse(argc, argv, &d.options);
    if (r >= 0)
        return r;
    harden();
    environment_take(&d.environment);
    if (d.options.check_config) {
        r = check_config(&d.options, &d.environment);
        environment_done(&d.environment);
        return r;
    }
    log_init(&d.log);
    if (curl_memory_init() < 0) {
        log_error(&d.log, "libcurl can't be initialised");
        return 1;
    }
    r = serve(&d);
    curl_global_cleanup();
    environment_done(&d.environment);
    log_done(&d.log);
    return r < 0 ? 1 : 0;
}

/*
 * completiond: start, signals, the end.
 */
#include <curl/curl.h>
#include <errno.h>
#include <grp.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config.h"
#include "crew.h"
#include "curl_memory.h"
#include "environment.h"
#include "event_memory.h"
#include "handover.h"
#include "log.h"
#include "openai_setup.h"
#include "openai_tcp.h"
#include "options.h"
#include "process.h"
#include "scrape.h"
#include "server.h"
#include "systemd.h"
#include "upstream.h"

#define GROUP "completiond"

/* One daemon: what the signal handlers' events point to. */
struct daemon {
    struct crew crew;
    struct scrape *scrape; /* the metrics socket, NULL: there is none */
    struct log log;
    struct options options;
    struct environment environment;
    struct handover handover;
    bool terminating;
    bool reload_again;   /* somebody asked while workers still went over */
    const char *trouble; /* of the last reload, for the status; "": none */
    struct event signals[3];
    struct event watchdog;
    struct systemd_manager manager;
};

/* ---- Sockets ---- */

/* A file beside the default socket, whose directory may have to be made. */
static int default_path(char *path, size_t size, const char *name)
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
    snprintf(path, size, "%s/%s", directory, name);
    return 0;
}

/* name: as systemd would pass it. */
static int listen_on(struct daemon *d, const char *path, const char *name, int *ret_fd)
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
    int r = handover_keep(&d->handover, fd, name);
    if (r < 0)
        log_error(&d->log, "can't listen on %s: %s", path, strerror(-r));
    return r;
}

static int listen_by_hand(struct daemon *d, int *fds, size_t *ret_n)
{
    const char *const *paths = d->options.listen;
    size_t n = d->options.n_listen;
    char standard[128], *const one = standard;
    int r = 0;

    if (n == 0) {
        r = default_path(standard, sizeof standard, "rpc.sock");
        if (r < 0) {
            log_error(&d->log, "no place for the socket (%s): say --listen PATH",
                      r == -ENOENT ? "XDG_RUNTIME_DIR is not set" : strerror(-r));
            return r;
        }
        paths = (const char *const *)&one;
        n = 1;
    }
    for (*ret_n = 0; r == 0 && *ret_n < n;) {
        r = listen_on(d, paths[*ret_n], "rpc", &fds[*ret_n]);
        if (r == 0)
            log_info(&d->log, "listening on %s", paths[(*ret_n)++]);
    }
    return r;
}

/* fd: systemd's, or -1. */
static int open_metrics(struct daemon *d, int fd)
{
    const char *path = d->options.metrics_listen;
    int r = 0;

    if (fd < 0 && path) {
        r = listen_on(d, path, "metrics", &fd);
        if (r == 0)
            log_info(&d->log, "metrics on %s", path);
    }
    if (r == 0 && fd >= 0) {
        r = scrape_new(crew_worker(&d->crew, 0), fd, &d->scrape);
        if (r < 0)
            log_error(&d->log, "can't show metrics: %s", strerror(-r));
    }
    return r;
}

static int accept_on(struct daemon *d, const int *fds, size_t n)
{
    int r = crew_serve(&d->crew, fds, n);

    if (r < 0)
        log_error(&d->log, "can't accept connections: %s", strerror(-r));
    return r;
}

static int listen_on_tcp(struct daemon *d, const char *address, int *ret_fd)
{
    int fd = openai_setup_listen(&d->log, address);

    *ret_fd = fd;
    return fd < 0 ? fd : handover_keep(&d->handover, fd, "openai");
}

/* The front for HTTP, if there is to be one: on systemd's sockets, or on those of the options. */
static int open_openai(struct daemon *d, const int *fds, size_t n)
{
    const struct options *o = &d->options;
    char token_path[160];
    int by_hand[OPTIONS_LISTEN_MAX];

    if (n == 0) {
        for (fds = by_hand; n < o->n_openai_listen; n++) {
            const char *where = o->openai_listen[n];
            int r = openai_tcp_is_address(where) ? listen_on_tcp(d, where, &by_hand[n])
                                                 : listen_on(d, where, "openai", &by_hand[n]);
            if (r < 0)
                return r;
        }
    }
    if (n == 0)
        return 0;
    bool has_place = default_path(token_path, sizeof token_path, "openai.token") == 0;
    return openai_setup(&d->crew, fds, n, has_place ? token_path : NULL);
}

static void on_idle(void *user);

static int open_server_on(struct daemon *d, const struct systemd_sockets *passed)
{
    int by_hand[OPTIONS_LISTEN_MAX];
    size_t n = passed->n_rpc;
    int r = open_metrics(d, passed->metrics);

    if (r == 0 && n == 0)
        r = listen_by_hand(d, by_hand, &n);
    if (r == 0)
        r = accept_on(d, passed->n_rpc > 0 ? passed->rpc : by_hand, n);
    if (r == 0)
        r = open_openai(d, passed->openai, passed->n_openai);
    /* Nobody listens on what was made by hand when we are gone. */
    if (r == 0 && passed->n_rpc > 0 && !handover_has_paths(&d->handover) &&
        (passed->n_openai > 0 || d->options.n_openai_listen == 0))
        server_exit_when_idle(crew_worker(&d->crew, 0)->server, on_idle, d);
    return r;
}

static int open_server(struct daemon *d)
{
    struct systemd_sockets passed;
    char what[128] = "out of memory";
    int r = systemd_listen_fds(&passed, what);

    if (r < 0) {
        log_error(&d->log, "%s", what);
        return r;
    }
    r = open_server_on(d, &passed);
    systemd_sockets_done(&passed);
    return r;
}

/* ---- Life ---- */

static int load(struct daemon *d, struct config **ret)
{
    struct config_error error;
    int r = config_load(d->options.config_path, &d->environment, ret, &error);

    if (r < 0) {
        log_error(&d->log, "%s", error.text);
        handover_refuse(&d->handover, error.text);
    }
    return r;
}

static void on_adopted(void *user);

/* 0, or 1: on_adopted() will be called; or negative errno. */
static int configure(struct daemon *d, struct config *config)
{
    int r = crew_configure(&d->crew, config, on_adopted, d);

    if (r < 0)
        log_error(&d->log, "out of memory");
    return r;
}

static int configure_again(struct daemon *d)
{
    struct config *config;
    int r = load(d, &config);

    if (r == 0) {
        r = configure(d, config);
        if ((size_t)config->n_workers != d->crew.n_workers)
            log_warning(&d->log, "workers = %d holds when the daemon is started again",
                        (int)config->n_workers);
        config_unref(config);
    }
    metrics_life_note_reload(&d->crew.life, r < 0);
    return r;
}

static bool is_draining(const struct daemon *d)
{
    return crew_worker(&d->crew, 0)->draining;
}

static void on_terminate(evutil_socket_t fd, short what, void *user)
{
    struct daemon *d = user;

    (void)fd, (void)what;
    if (d->terminating) {
        crew_stop(&d->crew);
        return;
    }
    int64_t timeout_us = crew_worker(&d->crew, 0)->config->drain_timeout_us;
    d->terminating = true;
    log_info(&d->log, "stopping: %zu connections", crew_n_connections(&d->crew));
    handover_abandon(&d->handover);
    if (!handover_is_given(&d->handover))
        systemd_notify_stopping(&d->manager, timeout_us);
    crew_drain(&d->crew, timeout_us);
}

static void on_idle(void *user)
{
    struct daemon *d = user;

    log_info(&d->log, "nobody has been connected for idle_exit");
    on_terminate(-1, 0, d);
}

static void on_reload(evutil_socket_t fd, short what, void *user)
{
    struct daemon *d = user;

    (void)fd, (void)what;
    if (is_draining(d))
        return;
    systemd_notify_reloading(&d->manager);
    if (crew_is_adopting(&d->crew)) {
        d->reload_again = true;
        return;
    }
    if (handover_request(&d->handover))
        return;
    int r = configure_again(d);
    if (r == 0)
        on_adopted(d);
    if (r >= 0)
        return;
    log_warning(&d->log, "the configuration stays as it was");
    d->trouble = "; the last reload failed";
    systemd_notify(&d->manager, "READY=1\nSTATUS=Serving; the last reload failed");
}

/* Nobody goes by the old configuration any more, but for calls that have begun. */
static void on_adopted(void *user)
{
    struct daemon *d = user;
    bool again = d->reload_again;

    d->reload_again = false;
    if (is_draining(d))
        return;
    log_info(&d->log, "configuration read again");
    d->trouble = "";
    systemd_notify(&d->manager, "READY=1\nSTATUS=Serving");
    if (again)
        on_reload(-1, EV_SIGNAL, d);
}

static void on_given(void *user)
{
    struct daemon *d = user;

    evtimer_del(&d->watchdog);
    d->scrape = scrape_free(d->scrape);
    crew_drain(&d->crew, CONFIG_INFINITY);
}

static void on_not_given(void *user, const char *why)
{
    struct daemon *d = user;

    log_error(&d->log, "not handed over, and all is as it was: %s", why);
    d->trouble = "; the last upgrade failed";
    systemd_notify(&d->manager, "READY=1\nSTATUS=Serving; the last upgrade failed: %s", why);
}

static void on_late_reload(void *user)
{
    on_reload(-1, EV_SIGNAL, user);
}

static void on_late_terminate(void *user)
{
    struct daemon *d = user;

    if (!d->terminating)
        on_terminate(-1, EV_SIGNAL, d);
}

/* For `systemctl status`; as fresh as the watchdog's last word. */
static void describe(const struct daemon *d, char *text, size_t size)
{
    const struct worker *w = crew_worker(&d->crew, 0);
    size_t n_running = 0, n_waiting = 0;

    for (size_t i = 0; i < w->n_upstreams; i++) {
        size_t running, waiting;
        queue_look(upstream_queue(w->upstreams[i]), &running, &waiting);
        n_running += running;
        n_waiting += waiting;
    }
    snprintf(text, size, "Serving%s: %zu connections, %zu calls running, %zu waiting", d->trouble,
             crew_n_connections(&d->crew), n_running, n_waiting);
}

static void on_watchdog(evutil_socket_t fd, short what, void *user)
{
    struct daemon *d = user;
    char status[128];

    (void)fd, (void)what;
    if (!is_draining(d))
        describe(d, status, sizeof status);
    if (crew_is_alive(&d->crew))
        systemd_notify_alive(&d->manager, is_draining(d) ? NULL : status);
    worker_arm(&d->watchdog, systemd_watchdog_us());
}

static int watch(struct daemon *d)
{
    static const struct handover_handler handler = {on_given, on_not_given, on_late_reload,
                                                    on_late_terminate};
    static const struct {
        int number;
        void (*handle)(evutil_socket_t fd, short what, void *user);
    } signals[] = {{SIGTERM, on_terminate}, {SIGINT, on_terminate}, {SIGHUP, on_reload}};

    struct event_base *base = crew_worker(&d->crew, 0)->base;

    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
        evsignal_assign(&d->signals[i], base, signals[i].number, signals[i].handle, d);
        if (evsignal_add(&d->signals[i], NULL) < 0)
            return -ENOMEM;
    }
    handover_set_handler(&d->handover, base, &handler, d);
    process_unblock_signals();
    evtimer_assign(&d->watchdog, base, on_watchdog, d);
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

static int run(struct daemon *d)
{
    int r = watch(d);

    if (r == 0) {
        if (!handover_serve(&d->handover))
            systemd_notify(&d->manager, "READY=1\nSTATUS=Serving");
        r = crew_run(&d->crew);
    }
    handover_remove_sockets(&d->handover);
    if (r < 0)
        log_error(&d->log, "the event loop failed: %s", strerror(-r));
    else
        log_info(&d->log, "stopped");
    return r;
}

static int serve(struct daemon *d, struct config *config)
{
    int r = crew_init(&d->crew, &d->log, (size_t)config->n_workers);

    if (r == 0)
        r = systemd_manager_init(&d->manager, crew_worker(&d->crew, 0)->base);
    if (r < 0)
        log_error(&d->log, "there is no event loop: %s", strerror(-r));
    /* Nobody inherits what libcurl made for itself by now. An old kernel can't do that. */
    (void)close_range(STDERR_FILENO + 1, ~0U, CLOSE_RANGE_CLOEXEC);
    if (r == 0)
        r = configure(d, config);
    if (r == 0)
        r = open_server(d);
    if (r == 0)
        r = crew_start(&d->crew);
    if (r == 0)
        r = handover_await(&d->handover);
    if (r == 0)
        r = run(d);
    unwatch(d);
    scrape_free(d->scrape);
    handover_done(&d->handover);
    systemd_manager_done(&d->manager);
    crew_done(&d->crew);
    return r;
}

static int load_and_serve(struct daemon *d)
{
    struct config *config;
    int r = load(d, &config);

    if (r == 0) {
        r = serve(d, config);
        config_unref(config);
    }
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
    static struct daemon d = {.trouble = ""};
    int r;

    if (!process_open_standard_descriptors()) {
        fprintf(stderr, "completiond: /dev/null: %s\n", strerror(errno));
        return 1;
    }
    r = options_parse(argc, argv, &d.options);
    if (r >= 0)
        return r;
    bool is_shut = process_harden();
    process_settle_signals();
    environment_take(&d.environment);
    if (d.options.check_config) {
        r = check_config(&d.options, &d.environment);
        environment_done(&d.environment);
        return r;
    }
    if (log_init(&d.log, d.options.log_format) < 0) {
        log_error(&d.log, "--log-format=journal: there is no journal here");
        return 1;
    }
    if (!is_shut)
        log_warning(&d.log, "the kernel refuses PR_SET_DUMPABLE: other processes of this user may "
                            "read keys from memory");
    if (handover_init(&d.handover, &d.log, &d.manager, argv, &d.environment) < 0)
        return 1;
    event_memory_init();
    if (curl_memory_init() < 0) {
        log_error(&d.log, "libcurl can't be initialised");
        return 1;
    }
    r = load_and_serve(&d);
    curl_global_cleanup();
    environment_done(&d.environment);
    log_done(&d.log);
    return r < 0 ? 1 : 0;
}

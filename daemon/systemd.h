/* What systemd passes in and is told. Everything works, doing nothing, where it did not start us.
 */
#ifndef SYSTEMD_H
#define SYSTEMD_H

#include <event2/event_struct.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Listening stream sockets, by what the end of their name says they are for: "openai", "metrics",
 * or else gRPC. */
struct systemd_sockets {
    int *rpc, *openai; /* lists, to be freed by systemd_sockets_done() */
    size_t n_rpc, n_openai;
    int metrics; /* -1: there is none */
};

/* Those passed in, if any. 0 or negative errno, -EINVAL for a descriptor that is no listening
 * stream socket, or not of Unix where it is for gRPC (ret_what names it). Closes nothing. */
int systemd_listen_fds(struct systemd_sockets *ret, char ret_what[static 128]);
void systemd_sockets_done(struct systemd_sockets *s);

/* Started by systemd, and so not by hand. */
bool systemd_is_service(void);

/*
 * The line to the service manager. It has its socket from the beginning and never waits for whoever
 * reads; what could not be said is said later, in the same order: a manager that never hears of the
 * end of a start or a reload takes it for failed.
 */
enum { SYSTEMD_WAITING_MAX = 4, SYSTEMD_TEXT_MAX = 512 };

struct systemd_manager {
    int fd; /* -1: none */
    struct event again;
    unsigned n_tries, n_waiting;
    char waiting[SYSTEMD_WAITING_MAX][SYSTEMD_TEXT_MAX];
};

/* 0 or -ENOMEM. */
int systemd_manager_init(struct systemd_manager *m, struct event_base *base);
/* Waits until all is said, for a second at most. */
void systemd_manager_flush(struct systemd_manager *m);
/* Flushes it first. Nothing if it was not initialised. */
void systemd_manager_done(struct systemd_manager *m);

/* Lines of sd_notify(3): "READY=1\nSTATUS=...". */
void systemd_notify(struct systemd_manager *m, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* RELOADING=1 with the time that Type=notify-reload wants. */
void systemd_notify_reloading(struct systemd_manager *m);

/* STOPPING=1, and that it may take so long and a little more, whatever TimeoutStopSec= says. */
void systemd_notify_stopping(struct systemd_manager *m, int64_t timeout_us);

/* WATCHDOG=1, and what it does for `systemctl status` (NULL: as it was said); now or never. */
void systemd_notify_alive(struct systemd_manager *m, const char *status);

/* How often WATCHDOG=1 is to be said, or 0. */
int64_t systemd_watchdog_us(void);

#endif

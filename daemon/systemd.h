/* What systemd passes in and is told. Everything works, doing nothing, where it did not start us.
 */
#ifndef SYSTEMD_H
#define SYSTEMD_H

#include <stdbool.h>
#include <stdint.h>

/* The listening stream sockets passed in, to be freed by the caller; one whose name ends in
 * "metrics" is not among them, but ret_metrics (-1: there is none), and may be of another family.
 * Their number, 0 if there are none, or negative errno: -EINVAL for a descriptor that is no
 * listening Unix stream socket (ret_what names it). Closes nothing. */
int systemd_listen_fds(int **ret_fds, int *ret_metrics, char ret_what[static 128]);

/* Started by systemd, and so not by hand. */
bool systemd_is_service(void);

/* Lines of sd_notify(3): "READY=1\nSTATUS=...". They must arrive: if whoever reads them is busy, it
 * waits, for a second at most. */
void systemd_notify(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* RELOADING=1 with the time that Type=notify-reload wants. */
void systemd_notify_reloading(void);

/* STOPPING=1, and that it may take so long and a little more, whatever TimeoutStopSec= says. */
void systemd_notify_stopping(int64_t timeout_us);

/* WATCHDOG=1. Never waits: if it does not arrive, the next one does. */
void systemd_notify_watchdog(void);

/* How often WATCHDOG=1 is to be said, or 0. */
int64_t systemd_watchdog_us(void);

#endif

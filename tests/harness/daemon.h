/*
 * A completiond of a test's own: its directory, configuration, socket, log and process. Readiness
 * is what it says on NOTIFY_SOCKET. Owned by the test's thread; failures fail the test.
 *
 * A daemon that found a sanitizer's report on its way fails the test when it is stopped.
 */
#ifndef DAEMON_H
#define DAEMON_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "directory.h"

struct daemon {
    struct directory directory;
    char socket[96], config[96], log[96];
    pid_t pid; /* 0: not running */
    int pidfd, notify;
    char notification[1024]; /* the last one */
};

/* How to start it. Lists are NULL-terminated, and may be NULL. */
struct daemon_options {
    const char *binary;             /* another one than what was built */
    const char *const *wrapper;     /* a command that runs it: a path and arguments */
    const char *const *arguments;   /* behind --config FILE */
    const char *const *environment; /* NAME=value, added to a clean one */
    int listen_fd;                  /* passed as systemd does, if above 0 */
    int stderr_fd;  /* above 0: stdout and stderr; -1: neither they nor stdin are open;
                     * 0: the log */
    bool no_config; /* leave --config out */
    bool no_listen; /* leave --listen out */
    bool no_notify; /* leave NOTIFY_SOCKET out: nothing can be awaited */
};

/* Makes the directory; nothing is started. config may be NULL, to be written later.
 *
 * COMPLETIOND_TEST_WORKERS in the environment of the tests adds that many `workers` to what a test
 * writes, unless that says how many there are: the same tests then are about that daemon. */
void daemon_init(struct daemon *d, const char *config);
void daemon_configure(struct daemon *d, const char *config);
/* How many workers daemons have that say nothing of them. */
unsigned daemon_n_workers(void);
/* For a test that counts descriptors: each worker has some, and keeps connections to upstreams of
 * its own. */
#define DAEMON_ONE_WORKER "[daemon]\nworkers = 1\n"

/* Starts it; options may be NULL. Does not wait. */
void daemon_spawn(struct daemon *d, const struct daemon_options *options);

/* daemon_spawn(), and waits until it is ready. */
void daemon_start(struct daemon *d, const struct daemon_options *options);

/* One more ASAN_OPTIONS for daemons that are started from now on, "quarantine_size_mb=1". Nothing
 * if they have no sanitizer. */
void daemon_add_asan_option(const char *option);

/* Waits for a notification that has this line, "READY=1". */
void daemon_await(struct daemon *d, const char *line);

void daemon_signal(const struct daemon *d, int number);

/* Waits for its end; returns what waitpid() says of it. */
int daemon_wait(struct daemon *d);

/* Asserts that it was ended by exit() with this status, and left no report of a sanitizer. */
void daemon_wait_exit(struct daemon *d, int status);

/* SIGTERM, and daemon_wait_exit() with 0. */
void daemon_stop(struct daemon *d);

/* What it wrote to stderr and stdout, to be freed. */
char *daemon_log(const struct daemon *d);
void daemon_assert_logged(const struct daemon *d, const char *text);
void daemon_assert_not_logged(const struct daemon *d, const char *text);

/* How many descriptors it has open; -1 if that can't be seen. */
int daemon_n_descriptors(const struct daemon *d);
/* Time of the CPU that it has used. */
int64_t daemon_cpu_us(const struct daemon *d);
/* Resident memory in KiB; -1 if that can't be seen. */
long daemon_rss_kib(const struct daemon *d);

/* Frees everything. One that still runs is killed and its log shown: the test has failed. */
void daemon_done(struct daemon *d);

#endif

/*
 * A process under torture: completiond, or the program that calls libcompletion; and a daemon that
 * is left in peace beside the latter.
 */
#ifndef TARGET_H
#define TARGET_H

#include <stdbool.h>
#include <stdio.h>
#include <sys/types.h>

#include "control.h"
#include "plan.h"

struct target {
    const char *directory; /* where its files are, all beginning with its name */
    const char *name;
    char socket[108], http[108], config[108], log[108], notify_path[108];
    struct control *control; /* NULL: it is left in peace */
    pid_t pid;               /* 0: not running */
    int pidfd, notify;
    int in, out; /* what it writes and reads, if it is no daemon; else -1 */
    char *maps;  /* where its libraries were when it was ready */
};

/* What is alive in it. */
struct measure {
    long n_blocks, n_mappings, n_descriptors;
};

enum { TARGET_TIMEOUT_MS = 30000 };

bool target_init(struct target *t, const char *directory, const char *name, bool tortured);
void target_done(struct target *t);

/* A daemon; false if it can't be started. */
bool target_spawn_daemon(struct target *t);
/* A program that is told what to do through pipes. */
bool target_spawn_program(struct target *t, const char *path, const char *argument);

/* Waits for the line in a notification: 1; 0: not in time; -1: it has ended. ret_text, if not NULL,
 * is what came last. */
int target_await(struct target *t, const char *line, int timeout_ms, char *ret_text, size_t size);
/* Forgets what has been said so far. */
void target_forget(struct target *t);
/* To be called when it is ready. */
void target_note_maps(struct target *t);

bool target_is_alive(const struct target *t);
/* Waits for its end, kills it if that takes too long. Its wait status, or -1 if it was killed. */
int target_wait(struct target *t);
void target_kill(struct target *t);

/* function CONTROL_COUNT_ONLY: only counts. */
void target_plan(struct target *t, int function, const struct plan *plan, long nth);
void target_arm(struct target *t);
void target_disarm(struct target *t);

struct measure target_measure(const struct target *t);

/* Where the first failure was. */
void target_show_stack(const struct target *t, FILE *to);

#endif

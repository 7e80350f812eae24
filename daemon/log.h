/*
 * The daemon's log: to the journal with fields where stderr is the journal, else to stderr as
 * lines. Never blocks for long, never fails. Prompts, completions and keys are not for it, at any
 * level; texts from outside are escaped before they are written.
 */
#ifndef LOG_H
#define LOG_H

#include <stdbool.h>
#include <syslog.h>

struct log {
    int level; /* LOG_*: less important is dropped */
    bool to_journal;
};

/* Finds out where stderr goes. */
void log_init(struct log *log);

void log_write(struct log *log, int level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#define log_error(log, ...)   log_write(log, LOG_ERR, __VA_ARGS__)
#define log_warning(log, ...) log_write(log, LOG_WARNING, __VA_ARGS__)
#define log_info(log, ...)    log_write(log, LOG_INFO, __VA_ARGS__)
#define log_debug(log, ...)   log_write(log, LOG_DEBUG, __VA_ARGS__)

#endif

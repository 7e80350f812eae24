/*
 * The daemon's log: to the journal with fields where stderr is the journal, else to stderr as
 * lines, of text or of JSON. Never waits and never fails: what nobody takes is dropped and counted,
 * and the number is said once somebody takes it again. Prompts, completions and keys are not for
 * it, at any level. Texts from outside are escaped and cut before they are written. Threads may
 * share it.
 */
#ifndef LOG_H
#define LOG_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <syslog.h>

enum {
    LOG_TEXT_MAX = 1024, /* of one message, with the NUL */
    LOG_VALUE_MAX = 256, /* of a field's text, with the NUL */
    LOG_FIELDS_MAX = 32, /* of one record */
};

enum log_format { LOG_FORMAT_AUTO, LOG_FORMAT_JOURNAL, LOG_FORMAT_TEXT, LOG_FORMAT_JSON };

enum log_way {
    LOG_WAY_WRITE,   /* a file, or a descriptor of our own that never waits */
    LOG_WAY_POLL,    /* asked before it is written to */
    LOG_WAY_SOCKET,  /* a stream socket */
    LOG_WAY_JOURNAL, /* a datagram socket */
};

struct log {
    _Atomic int level; /* LOG_*: less important is dropped */
    int fd;            /* -1: closed by log_done() */
    enum log_way way;
    bool json;                    /* lines are objects */
    const char *journal;          /* path of its socket */
    pthread_mutex_t lock;         /* one message at a time, of what holds from here on */
    unsigned long n_dropped;      /* and not told of yet */
    _Atomic unsigned long n_lost; /* ever */
};

/* Finds out where stderr goes, as far as the format leaves that open. Descriptors 0 to 2 must be
 * open. 0, or -ENOENT: there is no journal, and the log goes to stderr as text. */
int log_init(struct log *log, enum log_format format);
/* Logs to the descriptor, which is not owned, as log_init() would if it were stderr. */
void log_init_fd(struct log *log, int fd);
/* Logs to the journal whose socket this is; the path is not copied. False: no descriptor. */
bool log_init_journal(struct log *log, const char *path);
void log_done(struct log *log);

void log_write(struct log *log, int level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* A message with fields. Names are our own, in capitals; the journal's PRIORITY, SYSLOG_IDENTIFIER
 * and MESSAGE are there already. Values are escaped and cut: none can be mistaken for another
 * field. Lines of text have the message alone. At most LOG_FIELDS_MAX. */
struct log_field {
    const char *name;
    const char *text; /* NULL: the number is the value */
    int64_t number;
};
void log_record(struct log *log, int level, const char *message, const struct log_field *fields,
                size_t n);

#define log_error(log, ...)   log_write(log, LOG_ERR, __VA_ARGS__)
#define log_warning(log, ...) log_write(log, LOG_WARNING, __VA_ARGS__)
#define log_info(log, ...)    log_write(log, LOG_INFO, __VA_ARGS__)
#define log_debug(log, ...)   log_write(log, LOG_DEBUG, __VA_ARGS__)

/* Text as one line for people: control characters (also C1) and what is not UTF-8 become \xNN; cut
 * to size, and "..." shows that. Returns out. */
const char *log_escape(const char *text, char *out, size_t size);

#endif

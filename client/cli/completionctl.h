/* What the files of completionctl share. */
#ifndef COMPLETIONCTL_H
#define COMPLETIONCTL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "../../proto/buffer.h"
#include "completion.h"

/* Exit statuses; --help documents them. */
enum {
    EXIT_OK = 0,
    EXIT_LOCAL = 1,       /* no memory, output can't be written */
    EXIT_USAGE = 2,       /* wrong options */
    EXIT_UNREACHABLE = 3, /* no daemon, or not allowed to connect */
    EXIT_REFUSED = 4,     /* the request was refused and should be changed */
    EXIT_UPSTREAM = 5,    /* the upstream or the daemon failed; may work later */
    EXIT_DEADLINE = 6,
    EXIT_TRUNCATED = 7, /* the answer is not whole */
    EXIT_INTERRUPTED = 130,
};

struct command {
    const char *name, *info;
    int (*run)(int argc, char **argv);
};

/* main.c */

/* Says what is wrong with the options, and EXIT_USAGE. */
int usage_error(const char *command, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The same for what completion_client_new() returned. */
int socket_error(const char *command, int r);
/* Says where to read on, and EXIT_USAGE. */
int try_help(const char *command);
/* Says what happened, and the exit status for it. */
int report(int r, const completion_error *error);
/* Ctrl-C has been pressed. */
bool was_interrupted(void);
/* From here on Ctrl-C does not end the process, but the call. */
void catch_interrupts(void);

/* options.c */

enum output { OUTPUT_JSON, OUTPUT_TEXT };

struct create_options {
    completion_request *request;
    const char *socket; /* NULL: where it is found */
    int64_t timeout_ms; /* negative: none */
    enum output output;
    bool stream;
    bool several; /* more than one choice will come */
    bool help;
    bool has_model, has_key, has_stream_options;
};

/* EXIT_OK, or another exit status, and then it has been said why. */
int options_parse(int argc, char **argv, struct create_options *o);
/* "30s", "2min", "500ms", "30": milliseconds. 0 or -EINVAL. */
int parse_duration(const char *text, int64_t *ret_ms);

/* prompt.c */

/* One prompt in any of its forms, of several or not. How many prompts it was, or negative errno and
 * why. */
int prompt_set(completion_request *request, const char *value, bool several, const char **ret_why);
/* All of a file, or of standard input ("-"). 0 or negative errno. */
int file_read(const char *path, struct buffer *out);

/* output.c: what goes to stdout, and the sign of life on stderr before it. */

struct printer {
    enum output output;
    bool stream;
    bool several; /* choices: each is labelled */
    bool escape;  /* a terminal reads it */
    bool alive;   /* a sign of life stands on the terminal */
    bool began;
    int32_t choice; /* the one that was written last; -1: none */
    bool at_line_start;
};

void printer_init(struct printer *p, const struct create_options *o);
/* For completion_client_set_wait(): 1 if the call is to end. */
int printer_wait(void *printer, int64_t elapsed_ms);
/* All three: EXIT_OK or another exit status, and then it has been said why. */
int output_flush(void);
int printer_print(struct printer *p, const completion_result *result);
int printer_end(struct printer *p);

/* table.c: rows of cells, printed with columns of one width. */

enum { TABLE_CELL = 64 };

struct table {
    size_t n_columns, n_left; /* the first ones are left-aligned */
    size_t n, capacity;       /* cells, row by row */
    char (*cells)[TABLE_CELL];
};

/* Adds a cell; one that can't be added for want of memory leaves the table as it is. */
void table_add(struct table *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
void table_print(const struct table *t, FILE *out);
/* Frees the cells. */
void table_done(struct table *t);

/* summary.c: the daemon's status for people. */

struct summary_upstream {
    char name[TABLE_CELL], base_url[128], state[32];
    int64_t running, queued, ok, failed;                          /* calls */
    int64_t first_byte_p50, first_byte_p95, total_p50, total_p95; /* us; -1: unknown */
    double reuse_ratio;                                           /* -1: unknown */
    size_t n_endpoints;
};

struct summary_endpoint {
    size_t upstream; /* whose it is: its place among them */
    char name[TABLE_CELL], state[32];
    int64_t running, attempts, faults;
};

struct summary_user {
    int64_t uid, running, queued, connections, memory_used, memory_limit;
    int64_t requests_left, tokens_left; /* INT64_MAX: no limit */
};

struct summary {
    char version[32], last_reload[32];
    bool draining;
    int64_t pid, uptime_us, config_time_us, last_reload_time_us, connections;
    int64_t memory_used, memory_limit; /* bytes; INT64_MAX: no limit */
    struct summary_upstream *upstreams;
    struct summary_endpoint *endpoints;
    struct summary_user *users;
    size_t n_upstreams, n_endpoints, n_users;
    /* The daemon is too old to tell more than `draining`. */
    bool is_health_only;
};

/* Asks the daemon. 0, with the JSON text too if ret_json is not NULL (to be freed; NULL: the daemon
 * has none), or negative and the error is filled. */
int summary_get(completion_client *client, int64_t timeout_ms, struct summary *ret, char **ret_json,
                completion_error *error);
/* before: an earlier one, for calls per second, or NULL. */
void summary_print(const struct summary *s, const struct summary *before, const char *socket,
                   FILE *out);
void summary_done(struct summary *s);

int run_create(int argc, char **argv);
int run_status(int argc, char **argv);
int run_top(int argc, char **argv);

#endif

/* What the files of completionctl share. */
#ifndef COMPLETIONCTL_H
#define COMPLETIONCTL_H

#include <getopt.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "../../proto/buffer.h"
#include "completion.h"

/* Exit statuses; --help documents them. */
enum {
    EXIT_OK = 0,
    EXIT_LOCAL = 1,       /* no memory, reading or writing has failed */
    EXIT_USAGE = 2,       /* wrong options */
    EXIT_UNREACHABLE = 3, /* no daemon, or not allowed to connect */
    EXIT_REFUSED = 4,     /* the request was refused and should be changed */
    EXIT_UPSTREAM = 5,    /* the upstream or the daemon failed; may work later */
    EXIT_DEADLINE = 6,
    EXIT_TRUNCATED = 7, /* the answer is not whole */
    EXIT_SOME = 8,      /* of a batch some have failed */
    EXIT_INTERRUPTED = 130,
};

struct command {
    const char *name, *info;
    int (*run)(int argc, char **argv);
};

struct json_reader;
struct json_string;

/* main.c */

/* Says what is wrong with the options, and EXIT_USAGE. */
int usage_error(const char *command, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The same for what completion_client_new() returned. */
int socket_error(const char *command, int r);
/* Says where to read on, and EXIT_USAGE. */
int try_help(const char *command);
/* Ctrl-C has been pressed. */
bool was_interrupted(void);
/* From here on Ctrl-C does not end the process, but the call. */
void catch_interrupts(void);

/* report.c */

/* One line on stderr, behind the program's name. */
void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));
void complain_list(const char *format, va_list args) __attribute__((format(printf, 1, 0)));
/* Says so, and EXIT_LOCAL. */
int out_of_memory(void);
/* Of what a call returned. */
int exit_status(int r, const completion_error *error);
/* Says what happened, and the exit status for it. */
int report(int r, const completion_error *error);

/* suggest.c: what somebody may have meant by a word that is not known. */

struct suggestion {
    const char *word, *best; /* NULL: nothing is like it */
    unsigned distance;
};

void suggestion_consider(struct suggestion *s, const char *name);
void suggestion_print(const struct suggestion *s, const char *prefix);
/* For what getopt_long() did not take: try_help(), and before it what may have been meant. */
int bad_option(const char *command, const char *argument, const struct option *longs);

/* terminal.c */

enum style { STYLE_NONE, STYLE_ERROR, STYLE_TITLE };

/* A line may be written over and over. */
bool terminal_can_move(int fd);
bool terminal_has_colours(int fd);
/* "" without colours. */
const char *terminal_style(bool colours, enum style style);
/* Whether a terminal may obey what stands here: C0 but for newline and tab, DEL, or U+0080 to
 * U+009F, which is C2 80 to C2 9F. Returns how many bytes that is. */
size_t terminal_control_length(const char *data, size_t length);
/* Texts from afar, without what a terminal obeys, on one line. */
void terminal_print_plain(FILE *out, const char *text);

/* parameters.c */

enum { N_PARAMETERS = 17 };

/* As an option: "max-tokens". */
const char *parameter_name(size_t parameter);
/* By its option, or by the name of a member of the API's JSON; N_PARAMETERS: there is none. */
size_t parameter_find(const char *name);
size_t parameter_find_member(const struct json_string *name);
/* From a text of the command line, or the next value of a JSON text. 0 or negative errno, and why.
 * The value may be NULL for echo. */
int parameter_set(completion_request *request, size_t parameter, const char *value,
                  const char **ret_why);
int parameter_read(completion_request *request, size_t parameter, struct json_reader *reader,
                   const char **ret_why);

/* All three: 0 or -EINVAL. */
int parse_number(const char *text, int32_t min, int32_t max, int32_t *ret);
/* "30s", "2min", "500ms", "30": milliseconds. */
int parse_duration(const char *text, int64_t *ret_ms);
/* NULL is true. */
int parse_bool(const char *text, bool *ret);

/* options.c */

enum output { OUTPUT_DEFAULT, OUTPUT_JSON, OUTPUT_TEXT };

/* A parameter as it was given. */
struct given {
    size_t parameter;
    const char *value;
};

struct create_options {
    completion_request *request;
    const char *socket; /* NULL: where it is found */
    int64_t timeout_ms; /* negative: none */
    enum output output;
    bool stream, has_stream;
    bool several; /* more than one choice will come */
    bool chooses; /* best_of is more than 1 */
    bool usage;
    bool help;
    char *key;
    const char **prompts, **stops;
    size_t n_prompts, n_stops;
    /* What the request was made of, but for the prompts: the defaults of a batch. */
    struct given *defaults;
    size_t n_defaults;
    /* A batch; NULL: it is one call. */
    const char *jsonl, *output_file;
    bool resume;
    int32_t jobs, retries;
};

/* EXIT_OK, or another exit status, and then it has been said why. To be done in any case. */
int options_parse(int argc, char **argv, struct create_options *o);
void options_done(struct create_options *o);

/* prompt.c */

/* One prompt in any of its forms, of several or not. How many prompts it was, or negative errno and
 * why. */
int prompt_set(completion_request *request, const char *value, bool several, const char **ret_why);
/* One or several stop sequences. 0 or negative errno. */
int stops_set(completion_request *request, const char *const *stops, size_t n);
/* The next value of a JSON text. 0 or negative errno and why. */
int prompt_read(completion_request *request, struct json_reader *reader, const char **ret_why);
int stop_read(completion_request *request, struct json_reader *reader, const char **ret_why);
/* All of a file, or of standard input ("-"). 0 or negative errno. */
int file_read(const char *path, struct buffer *out);

/* output.c: what goes to stdout. */

struct printer {
    enum output output;
    bool stream;
    bool several;   /* choices: each is labelled */
    bool escape;    /* a terminal reads it */
    int32_t choice; /* the one that was written last; -1: none */
    bool at_line_start;
};

void printer_init(struct printer *p, const struct create_options *o);
/* All four: EXIT_OK or another exit status, and then it has been said why, unless that is
 * EXIT_INTERRUPTED from a printer. */
int output_flush(void);
int printer_print(struct printer *p, const completion_result *result);
int printer_end(struct printer *p);

/* progress.c: the sign of life on stderr, and what a call took. */

struct progress {
    bool can_show; /* stderr is a terminal that can */
    bool shares;   /* with the answer: nothing is shown once that has begun */
    bool shown;
    int64_t start_ms, first_ms, drawn_ms; /* first_ms 0: nothing has come */
    int64_t n_pieces;                     /* with text: about a token each */
    int64_t prompt_tokens, tokens;        /* by the server's count; -1: it has not said */
};

/* CLOCK_MONOTONIC. */
int64_t now_ms(void);
void progress_init(struct progress *p, const struct create_options *o);
/* For completion_client_set_wait(): 1 if the call is to end. */
int progress_wait(void *progress, int64_t elapsed_ms);
/* What came, before and after it is written. */
void progress_note(struct progress *p, const completion_result *result);
void progress_draw(struct progress *p);
/* Nothing of it stays on the terminal. */
void progress_hide(struct progress *p);
/* For --usage. */
void progress_print_usage(const struct progress *p);
/* Says that Ctrl-C ended the call and what it took; EXIT_INTERRUPTED. */
int progress_interrupted(const struct progress *p, const completion_error *error);

/* table.c: rows of cells, printed with columns of one width. */

enum { TABLE_CELL = 64 };

struct table {
    bool colours;             /* titles, and what is bad */
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
                   bool colours, FILE *out);
void summary_done(struct summary *s);

int run_create(int argc, char **argv);
int run_models(int argc, char **argv);
int run_status(int argc, char **argv);
int run_top(int argc, char **argv);

#endif

/*
 * completionctl as somebody would run it: arguments, environment, standard input, and either pipes
 * or a terminal around it. Owned by the test's thread; failures and long waits fail the test, and
 * so does a sanitizer's report.
 */
#ifndef CLI_H
#define CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "buffer.h"

/* How to run it; what is 0 is as usual. */
struct cli_options {
    const char *const *environment;        /* NAME=value, NULL-terminated, added to a clean one */
    const char *in;                        /* standard input; NULL: /dev/null */
    size_t in_length;                      /* 0: in is a text */
    int in_fd;                             /* above 0: this instead, which stays the test's */
    const char *out_path;                  /* standard output goes there, and is not captured */
    bool out_is_terminal, err_is_terminal; /* both: the same, captured as standard output */
    bool out_is_closed;                    /* nobody reads it */
    uid_t uid;                             /* who runs it; 0: the test's own */
    size_t file_size_max;                  /* of files that it writes; 0: no limit */
};

struct cli {
    pid_t pid; /* 0: it has ended */
    int pidfd;
    int out, err;               /* -1: nothing more comes */
    struct buffer text, errors; /* what it wrote, with a NUL behind each that does not count */
};

/* Starts it with the socket in its environment; socket NULL: none. arguments: NULL-terminated. */
void cli_start(struct cli *c, const char *socket, const struct cli_options *options,
               const char *const *arguments);

const char *cli_text(const struct cli *c);
const char *cli_errors(const struct cli *c);

/* Reads until standard output, or error, has this text. */
void cli_await_text(struct cli *c, const char *text);
void cli_await_errors(struct cli *c, const char *text);

void cli_signal(struct cli *c, int number);
/* No one reads its standard output any more. */
void cli_close_out(struct cli *c);

/* Waits for the end without reading what it wrote. */
void cli_await_end(struct cli *c);

/* Waits for the end. Returns its exit status, or 128 and the number of the signal that ended it. */
int cli_wait(struct cli *c);

/* cli_wait(), which must return this. */
void cli_wait_exit(struct cli *c, int status);

/* Frees everything. */
void cli_done(struct cli *c);

/* cli_start() and cli_wait_exit(). To be done. */
void cli_run(struct cli *c, int status, const char *socket, const struct cli_options *options,
             const char *const *arguments);

#define CLI_ARGUMENTS(...) ((const char *const[]){__VA_ARGS__, NULL})

/* Assert that a text has, or lacks, a part; show it all if not. */
#define cli_assert_has(text, part)   cli_assert_part(text, part, true, __FILE__, __LINE__)
#define cli_assert_lacks(text, part) cli_assert_part(text, part, false, __FILE__, __LINE__)
void cli_assert_part(const char *text, const char *part, bool expected, const char *file, int line);

#endif

/*
 * A batch: requests in, a line each, and results out in their order, several calls at once. Its
 * parts: lines.c reads the input, entry.c makes a request of a line, answer.c a line of what came
 * of it, results.c has the output and what has to survive an interruption, batch.c makes the calls,
 * bar.c shows how far it is.
 */
#ifndef BATCH_H
#define BATCH_H

#include "completionctl.h"

/* ---- lines.c: an input of any length, line by line ---- */

/* A request may have 4 MiB, and JSON may need 6 bytes for one. */
enum { LINE_MAX_BYTES = 32 << 20 };

struct lines {
    int fd;
    size_t limit_bytes; /* of a line */
    bool is_own;        /* fd is to be closed */
    bool at_end;        /* nothing more can be read */
    bool is_too_long;   /* the line that is being read: its rest is dropped */
    bool is_first;
    size_t n_scanned; /* of what is kept, without the end of a line */
    size_t n_taken;   /* of it, by the line that was returned last, with its end */
    int64_t offset;   /* of that line */
    struct buffer kept;
};

/* path "-": standard input. 0 or negative errno. */
int lines_open(struct lines *l, const char *path);
/* One that stays the caller's. */
void lines_init(struct lines *l, int fd, size_t limit_bytes);
/* Takes a zeroed one, too. */
void lines_close(struct lines *l);
/* One read(), of what poll() has found readable. 0 or negative errno; -EAGAIN is no error. */
int lines_fill(struct lines *l);
/* The next line that is not blank, without its end, valid until the next call: 1; -EMSGSIZE: there
 * was one, but too long; -EAGAIN: lines_fill() first; 0: there are no more; or -ENOMEM. */
int lines_next(struct lines *l, const char **ret, size_t *ret_length);
/* How many lines a file has, blank ones included; -1: it is none. */
int64_t lines_count(const struct lines *l);

/* ---- entry.c: what a line asks for ---- */

struct entry {
    completion_request *request; /* NULL: it can't be asked */
    char why[160];
    char param[64]; /* which member of it; "" if it is none */
};

/* 0, also for what can't be asked; or -ENOMEM. */
int entry_read(const char *line, size_t length, const struct create_options *o, struct entry *ret);
/* The JSON text of the member, as it stands in a request's or result's line; NULL data: none. */
completion_text entry_custom_id(const char *line, size_t length);

/* ---- answer.c: a line of what came of a request, without its end ---- */

enum { ANSWER_MAX_BYTES = 512 << 20 };

/* All append; what goes wrong is the buffer's error. custom_id: JSON text, NULL data: none. */
void answer_write(struct buffer *out, uint64_t index, completion_text custom_id,
                  const completion_result *result);
void answer_write_error(struct buffer *out, uint64_t index, completion_text custom_id,
                        const completion_error *error);
/* Of a line that can't be asked, as the daemon would have said it. */
void answer_write_refusal(struct buffer *out, uint64_t index, completion_text custom_id,
                          const char *param, const char *why);
/* For a terminal that is to obey nothing of it. */
void answer_escape(struct buffer *line);

/* ---- results.c ---- */

/* How many results may be waiting for an earlier one. */
enum { WINDOW = 4096, WINDOW_BYTES = 64 << 20 };

struct held {
    char *data;
    size_t length;
};

/*
 * Results are numbered from 0 and written in that order, each as soon as all before it are. Where
 * the output is a file, those that wait for an earlier one are kept in a file beside it,
 * FILE.partial, so that whatever ends the process, no result that has come is asked for again.
 */
struct results {
    int fd, partial_fd;        /* -1: there is none */
    char *path, *partial_path; /* NULL: standard output */
    int64_t size;              /* of the file, in whole lines */
    uint64_t n_written;        /* the next one to be written */
    uint64_t n_failed;         /* of those with an error that were there already */
    uint64_t ids_hash;         /* of the custom_ids of what was there already */
    struct held held[WINDOW];
    size_t n_held, held_bytes, partial_bytes;
    bool is_dirty;
    bool is_stuck; /* half a line has been written, and nobody takes the rest */
};

/* path NULL: standard output. EXIT_OK or another exit status, and then it has been said why. To be
 * closed in any case. */
int results_open(struct results *r, const char *path, bool resume);
void results_close(struct results *r);

/* The hash of the custom_ids so far and one more. */
uint64_t results_hash(uint64_t hash, completion_text custom_id);
/* It has come already, in this run or before. */
bool results_has(const struct results *r, uint64_t index);
/* There is place for it. */
bool results_can_take(const struct results *r, uint64_t index);

/* All three: EXIT_OK or another exit status, and then it has been said why, unless that is
 * EXIT_INTERRUPTED. line: without its end. */
int results_put(struct results *r, uint64_t index, const char *line, size_t length);
/* From now on a loss of power costs nothing of what was put before. */
int results_sync(struct results *r);
/* Results that still wait are kept for another run, or written with gaps between. */
int results_finish(struct results *r);

/* ---- bar.c ---- */

struct bar {
    bool can_show, shown;
    int64_t start_ms, drawn_ms;
    int64_t n_total;           /* -1: unknown */
    uint64_t n_before;         /* were there already */
    uint64_t n_done, n_failed; /* in this run */
    uint64_t n_running;
    int64_t prompt_tokens, tokens;
    int64_t paused_until_ms;
};

void bar_init(struct bar *b);
void bar_draw(struct bar *b);
void bar_hide(struct bar *b);
/* What it came to, in a line. */
void bar_print_summary(const struct bar *b);

/* ---- batch.c ---- */

int batch_run(completion_client *client, const struct create_options *o, completion_error *error);

#endif

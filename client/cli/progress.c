/* The sign of life on stderr while a call goes on, and what it took. */
#include <errno.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "completionctl.h"

enum { QUIET_MS = 300, DRAW_MS = 100, RATE_MIN_MS = 100 };

int64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void progress_init(struct progress *p, const struct create_options *o)
{
    *p = (struct progress){
        .can_show = terminal_can_move(STDERR_FILENO),
        .shares = isatty(STDOUT_FILENO) || !o->stream,
        .start_ms = now_ms(),
        .prompt_tokens = -1,
        .tokens = -1,
    };
}

static double seconds(int64_t ms)
{
    return (double)ms / 1000;
}

/* A second; of shorter times it says nothing. */
static void print_rate(const char *before, int64_t n, int64_t ms)
{
    if (ms >= RATE_MIN_MS)
        fprintf(stderr, "%s%.1f a second", before, (double)n * 1000 / (double)ms);
}

void progress_draw(struct progress *p)
{
    static const char marks[] = "|/-\\";
    int64_t now = now_ms(), elapsed_ms = now - p->start_ms;

    if (!p->can_show || elapsed_ms < QUIET_MS || now - p->drawn_ms < DRAW_MS)
        return;
    if (p->first_ms > 0 && p->shares)
        return;
    p->drawn_ms = now;
    p->shown = true;
    fprintf(stderr, "\r%c ", marks[elapsed_ms / 100 % 4]);
    if (p->first_ms > 0) {
        fprintf(stderr, "%lld s, about %lld token%s", (long long)(elapsed_ms / 1000),
                (long long)p->n_pieces, p->n_pieces == 1 ? "" : "s");
        print_rate(", ", p->n_pieces, now - p->first_ms);
        fputc(' ', stderr);
    } else {
        fprintf(stderr, "waiting, %lld s ", (long long)(elapsed_ms / 1000));
    }
    fflush(stderr);
}

int progress_wait(void *user, int64_t elapsed_ms)
{
    (void)elapsed_ms;
    progress_draw(user);
    return was_interrupted();
}

void progress_hide(struct progress *p)
{
    if (p->shown)
        fputs("\r\033[K", stderr);
    p->shown = false;
}

void progress_note(struct progress *p, const completion_result *result)
{
    if (p->first_ms == 0)
        p->first_ms = now_ms();
    for (size_t i = 0; i < completion_result_n_choices(result); i++)
        p->n_pieces += completion_choice_text(result, i).length > 0;
    completion_result_usage(result, COMPLETION_USAGE_PROMPT_TOKENS, &p->prompt_tokens);
    completion_result_usage(result, COMPLETION_USAGE_COMPLETION_TOKENS, &p->tokens);
    if (p->shares)
        progress_hide(p);
}

void progress_print_usage(const struct progress *p)
{
    int64_t now = now_ms(), elapsed_ms = now - p->start_ms;

    if (p->tokens >= 0)
        fprintf(stderr, "%lld prompt tokens, %lld completion tokens; ", (long long)p->prompt_tokens,
                (long long)p->tokens);
    else
        fputs("the server does not say how many tokens; ", stderr);
    fprintf(stderr, "%.2f s", seconds(elapsed_ms));
    if (p->n_pieces > 1) {
        fprintf(stderr, ", the first after %.2f s", seconds(p->first_ms - p->start_ms));
        print_rate(", then ", p->tokens >= 0 ? p->tokens : p->n_pieces, now - p->first_ms);
    } else {
        print_rate(", ", p->tokens, elapsed_ms);
    }
    fputc('\n', stderr);
}

int progress_interrupted(const struct progress *p, const completion_error *error)
{
    const char *billed = completion_error_maybe_executed(error) || p->first_ms > 0
                             ? "; what the upstream has generated may be billed"
                             : "";
    double s = seconds(now_ms() - p->start_ms);

    if (p->tokens >= 0)
        complain("interrupted after %.1f s: %lld prompt tokens and %lld completion tokens were "
                 "used%s",
                 s, (long long)p->prompt_tokens, (long long)p->tokens, billed);
    else if (p->n_pieces > 0)
        complain("interrupted after %.1f s: about %lld token%s had come%s", s,
                 (long long)p->n_pieces, p->n_pieces == 1 ? "" : "s", billed);
    else
        complain("interrupted after %.1f s: nothing had come%s", s, billed);
    return EXIT_INTERRUPTED;
}

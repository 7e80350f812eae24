#include <inttypes.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "batch.h"

enum { DRAW_MS = 100, RATE_MIN_MS = 1000, COLUMNS = 80, BAR_COLUMNS = 16 };

void bar_init(struct bar *b)
{
    *b = (struct bar){
        .can_show = terminal_can_move(STDERR_FILENO),
        .start_ms = now_ms(),
        .n_total = -1,
    };
}

static double per_second(uint64_t n, int64_t ms)
{
    return ms > 0 ? (double)n * 1000 / (double)ms : 0;
}

static void print_time(FILE *out, int64_t ms)
{
    long long s = ms / 1000;

    if (s < 60)
        fprintf(out, "%lld s", s);
    else if (s < 3600)
        fprintf(out, "%lldmin %02llds", s / 60, s % 60);
    else
        fprintf(out, "%lldh %02lldmin", s / 3600, s / 60 % 60);
}

static void print_share(FILE *out, uint64_t n, uint64_t n_total)
{
    unsigned filled = n_total > 0 ? (unsigned)(n * BAR_COLUMNS / n_total) : BAR_COLUMNS;

    fputc('[', out);
    for (unsigned i = 0; i < BAR_COLUMNS; i++)
        fputc(i < filled ? '=' : i == filled ? '>' : ' ', out);
    fprintf(out, "] %" PRIu64 "/%" PRIu64, n, n_total);
}

static void print_line(const struct bar *b, int64_t now, FILE *out)
{
    int64_t elapsed_ms = now - b->start_ms;
    uint64_t n = b->n_before + b->n_done;
    uint64_t n_total = b->n_total < 0 ? n : (uint64_t)b->n_total;

    if (b->n_total >= 0)
        print_share(out, n, n_total < n ? n : n_total);
    else
        fprintf(out, "%" PRIu64 " done", n);
    if (elapsed_ms >= RATE_MIN_MS && b->n_done > 0 && n_total > n && b->paused_until_ms <= now) {
        fputs(", ", out);
        print_time(out, elapsed_ms * (int64_t)(n_total - n) / (int64_t)b->n_done);
        fputs(" left", out);
    }
    if (b->n_failed > 0)
        fprintf(out, ", %" PRIu64 " failed", b->n_failed);
    if (b->paused_until_ms > now) {
        fputs(", waiting for a limit: ", out);
        print_time(out, b->paused_until_ms - now + 999);
        return;
    }
    fprintf(out, ", %" PRIu64 " running", b->n_running);
    if (elapsed_ms < RATE_MIN_MS || b->n_done == 0)
        return;
    fprintf(out, ", %.1f/s", per_second(b->n_done, elapsed_ms));
    if (b->tokens > 0)
        fprintf(out, ", %.0f tokens/s", per_second((uint64_t)b->tokens, elapsed_ms));
}

void bar_draw(struct bar *b)
{
    int64_t now = now_ms();
    struct winsize size;
    char line[256];

    if (!b->can_show || now - b->drawn_ms < DRAW_MS)
        return;
    b->drawn_ms = now;
    FILE *out = fmemopen(line, sizeof line, "w");
    if (!out)
        return;
    print_line(b, now, out);
    fclose(out);
    line[sizeof line - 1] = '\0';
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) < 0 || size.ws_col < 2)
        size.ws_col = COLUMNS;
    /* One that wraps could not be written over. */
    fprintf(stderr, "\r%.*s\033[K", size.ws_col - 1, line);
    fflush(stderr);
    b->shown = true;
}

void bar_hide(struct bar *b)
{
    if (b->shown)
        fputs("\r\033[K", stderr);
    b->shown = false;
}

void bar_print_summary(const struct bar *b)
{
    int64_t elapsed_ms = now_ms() - b->start_ms;

    fprintf(stderr, "%" PRIu64 " answered, %" PRIu64 " failed", b->n_done - b->n_failed,
            b->n_failed);
    if (b->n_before > 0)
        fprintf(stderr, ", %" PRIu64 " had been done before", b->n_before);
    if (b->tokens > 0)
        fprintf(stderr, "; %" PRId64 " prompt tokens, %" PRId64 " completion tokens",
                b->prompt_tokens, b->tokens);
    fprintf(stderr, "; %.1f s\n", (double)elapsed_ms / 1000);
}

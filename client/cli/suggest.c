/* What somebody may have meant. */
#include <stdio.h>
#include <string.h>

#include "completionctl.h"

enum { WORD_MAX_BYTES = 32 };

static unsigned least(unsigned a, unsigned b)
{
    return a < b ? a : b;
}

/* How many characters would have to be put in, left out or changed; many for long words. */
static unsigned distance(const char *a, const char *b)
{
    unsigned row[WORD_MAX_BYTES + 1];
    size_t n = strlen(a), m = strlen(b);

    if (n > WORD_MAX_BYTES || m > WORD_MAX_BYTES)
        return WORD_MAX_BYTES;
    for (size_t k = 0; k <= m; k++)
        row[k] = (unsigned)k;
    for (size_t i = 1; i <= n; i++) {
        unsigned diagonal = row[0];
        row[0] = (unsigned)i;
        for (size_t k = 1; k <= m; k++) {
            unsigned changed = diagonal + (a[i - 1] != b[k - 1]);
            diagonal = row[k];
            row[k] = least(changed, least(row[k], row[k - 1]) + 1);
        }
    }
    return row[m];
}

void suggestion_consider(struct suggestion *s, const char *name)
{
    unsigned d = distance(s->word, name);

    /* Not one of which nothing is left. */
    if (d > 2 || d + 1 > strlen(s->word) || (s->best && d >= s->distance))
        return;
    s->best = name;
    s->distance = d;
}

void suggestion_print(const struct suggestion *s, const char *prefix)
{
    if (s->best)
        fprintf(stderr, "Did you mean '%s%s'?\n", prefix, s->best);
}

int bad_option(const char *command, const char *argument, const struct option *longs)
{
    char word[WORD_MAX_BYTES + 1];
    struct suggestion s = {.word = word};

    /* getopt_long() has said what is wrong; 0 is a name that it does not know. */
    if (optopt == 0 && !strncmp(argument, "--", 2)) {
        /* Without its value. */
        snprintf(word, sizeof word, "%.*s", (int)strcspn(argument + 2, "="), argument + 2);
        for (; longs->name; longs++) {
            /* Or more than one. */
            if (!strncmp(longs->name, word, strlen(word)))
                return try_help(command);
            suggestion_consider(&s, longs->name);
        }
    }
    suggestion_print(&s, "--");
    return try_help(command);
}

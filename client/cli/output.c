/* What is written: JSON lines, or the text itself. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "completionctl.h"

enum { QUIET_MS = 300 };

void printer_init(struct printer *p, const struct create_options *o)
{
    *p = (struct printer){
        .output = o->output,
        .stream = o->stream,
        .escape = o->output == OUTPUT_TEXT && isatty(STDOUT_FILENO),
        .choice = -1,
        .at_line_start = true,
    };
}

int printer_wait(void *user, int64_t elapsed_ms)
{
    struct printer *p = user;

    if (!p->began && elapsed_ms >= QUIET_MS && isatty(STDERR_FILENO)) {
        static const char marks[] = "|/-\\";
        fprintf(stderr, "\r%c waiting, %lld s ", marks[elapsed_ms / 100 % 4],
                (long long)(elapsed_ms / 1000));
        fflush(stderr);
        p->alive = true;
    }
    return was_interrupted();
}

static void begin(struct printer *p)
{
    p->began = true;
    if (p->alive)
        fputs("\r\033[K", stderr);
    p->alive = false;
}

static int write_failed(void)
{
    fprintf(stderr, "completionctl: the output can't be written: %s\n", strerror(errno));
    return EXIT_LOCAL;
}

/* On a terminal, control characters in the model's text are shown as '?': it might say anything. */
static void put_text(struct printer *p, const char *data, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)data[i];
        /* U+0080 to U+009F are C2 80 to C2 9F; terminals obey some. */
        bool c1 = c == 0xc2 && i + 1 < length && (unsigned char)data[i + 1] < 0xa0;
        bool control = (c < ' ' && c != '\n' && c != '\t') || c == 0x7f || c1;
        putchar(p->escape && control ? '?' : c);
        i += p->escape && c1;
    }
    if (length > 0)
        p->at_line_start = data[length - 1] == '\n';
}

/* One choice is written as it is; of several, each begins with its number on a new line. */
static void put_choice(struct printer *p, const completion_result *result, size_t i, bool several)
{
    completion_text text = completion_choice_text(result, i);
    int32_t index = (int32_t)i;

    completion_choice_index(result, i, &index);
    if (index != p->choice && (several || index > 0 || p->choice > 0)) {
        if (!p->at_line_start)
            putchar('\n');
        printf("[%d] ", index);
        p->at_line_start = false;
    }
    p->choice = index;
    put_text(p, text.data, text.length);
}

static int put_json(const completion_result *result)
{
    char *json;
    size_t length;

    if (completion_result_to_json(result, &json, &length) < 0) {
        fputs("completionctl: out of memory\n", stderr);
        return EXIT_LOCAL;
    }
    fwrite(json, 1, length, stdout);
    putchar('\n');
    free(json);
    return EXIT_OK;
}

int printer_print(struct printer *p, const completion_result *result)
{
    size_t n = completion_result_n_choices(result);
    int status = EXIT_OK;

    begin(p);
    if (p->output == OUTPUT_JSON)
        status = put_json(result);
    else
        for (size_t i = 0; i < n; i++)
            put_choice(p, result, i, !p->stream && n > 1);
    if (status == EXIT_OK && (fflush(stdout) == EOF || ferror(stdout)))
        status = write_failed();
    return status;
}

int printer_end(struct printer *p)
{
    begin(p);
    if (p->output == OUTPUT_TEXT && !p->at_line_start)
        putchar('\n');
    return fflush(stdout) == EOF || ferror(stdout) ? write_failed() : EXIT_OK;
}

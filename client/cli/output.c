/* What is written: JSON lines, or the text itself. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "completionctl.h"

void printer_init(struct printer *p, const struct create_options *o)
{
    *p = (struct printer){
        .output = o->output,
        .stream = o->stream,
        .several = o->several,
        .escape = isatty(STDOUT_FILENO),
        .choice = -1,
        .at_line_start = true,
    };
}

/* Without a word where that was Ctrl-C: it ends a write to who does not read, too. */
static int flush(void)
{
    if (!ferror(stdout) && fflush(stdout) != EOF)
        return EXIT_OK;
    if (errno == EINTR && was_interrupted())
        return EXIT_INTERRUPTED;
    complain("the output can't be written: %s", strerror(errno));
    return EXIT_LOCAL;
}

int output_flush(void)
{
    int status = flush();

    if (status == EXIT_INTERRUPTED)
        complain("interrupted");
    return status;
}

/* On a terminal, control characters in the model's text are shown as '?': it might say anything. */
static void put_text(struct printer *p, const char *data, size_t length)
{
    for (size_t i = 0, n; i < length; i += n ? n : 1) {
        n = p->escape ? terminal_control_length(data + i, length - i) : 0;
        putchar(n ? '?' : data[i]);
    }
    if (length > 0)
        p->at_line_start = data[length - 1] == '\n';
}

/* JSON escapes C0 anyway; the others are only found in strings, where an escape means the same. */
static void put_json_text(const struct printer *p, const char *data, size_t length)
{
    if (!p->escape) {
        fwrite(data, 1, length, stdout);
        return;
    }
    for (size_t i = 0, n; i < length; i += n ? n : 1) {
        n = terminal_control_length(data + i, length - i);
        if (n)
            printf("\\u%04x", (unsigned char)data[i + n - 1]);
        else
            putchar(data[i]);
    }
}

/* One choice is written as it is; of several, each begins with its number on a new line. */
static void put_choice(struct printer *p, const completion_result *result, size_t i)
{
    bool several = p->several || completion_result_n_choices(result) > 1;
    completion_text text = completion_choice_text(result, i);
    int32_t index = (int32_t)i;

    /* The end of a choice in a stream is no text of it. */
    if (p->stream && text.length == 0)
        return;
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

static int put_json(const struct printer *p, const completion_result *result)
{
    char *json;
    size_t length;

    if (completion_result_to_json(result, &json, &length) < 0)
        return out_of_memory();
    put_json_text(p, json, length);
    putchar('\n');
    free(json);
    return EXIT_OK;
}

int printer_print(struct printer *p, const completion_result *result)
{
    size_t n = completion_result_n_choices(result);
    int status = EXIT_OK;

    if (p->output == OUTPUT_JSON)
        status = put_json(p, result);
    else
        for (size_t i = 0; i < n; i++)
            put_choice(p, result, i);
    return status ? status : flush();
}

int printer_end(struct printer *p)
{
    if (p->output == OUTPUT_TEXT && !p->at_line_start)
        putchar('\n');
    return flush();
}

/* What a terminal is told beyond text: colours where they are wanted, and lines that move. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "completionctl.h"

static bool is_dumb(void)
{
    const char *term = getenv("TERM");

    return term && !strcmp(term, "dumb");
}

bool terminal_can_move(int fd)
{
    return isatty(fd) && !is_dumb();
}

/* https://no-color.org */
bool terminal_has_colours(int fd)
{
    const char *no_color = getenv("NO_COLOR"), *term = getenv("TERM");

    return isatty(fd) && term && *term && !is_dumb() && !(no_color && *no_color);
}

const char *terminal_style(bool colours, enum style style)
{
    static const char *const codes[] = {
        [STYLE_NONE] = "\033[0m",
        [STYLE_ERROR] = "\033[1;31m",
        [STYLE_TITLE] = "\033[1m",
    };

    return colours ? codes[style] : "";
}

size_t terminal_control_length(const char *data, size_t length)
{
    unsigned char c = (unsigned char)*data;

    if (c == 0xc2 && length > 1 && (unsigned char)data[1] < 0xa0)
        return 2;
    return (c < ' ' && c != '\n' && c != '\t') || c == 0x7f;
}

void terminal_print_plain(FILE *out, const char *text)
{
    size_t length = strlen(text);

    for (size_t i = 0, n; i < length; i += n ? n : 1) {
        n = terminal_control_length(text + i, length - i);
        fputc(n || text[i] == '\n' || text[i] == '\t' ? ' ' : text[i], out);
    }
}

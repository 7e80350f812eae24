/* Tables of text. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "completionctl.h"

void table_add(struct table *t, const char *format, ...)
{
    va_list args;

    if (t->n == t->capacity) {
        size_t capacity = t->capacity ? 2 * t->capacity : 64;
        char(*cells)[TABLE_CELL] = realloc(t->cells, capacity * sizeof *cells);
        if (!cells)
            return;
        t->cells = cells;
        t->capacity = capacity;
    }
    va_start(args, format);
    vsnprintf(t->cells[t->n++], TABLE_CELL, format, args);
    va_end(args);
}

static int width_of(const struct table *t, size_t column)
{
    size_t width = 0;

    for (size_t i = column; i < t->n; i += t->n_columns)
        width = strlen(t->cells[i]) > width ? strlen(t->cells[i]) : width;
    return (int)width;
}

/* What somebody should look at. */
static bool is_bad(const char *cell)
{
    return !strcmp(cell, "unreachable");
}

void table_print(const struct table *t, FILE *out)
{
    for (size_t i = 0; i < t->n; i++) {
        size_t column = i % t->n_columns;
        bool is_last = column == t->n_columns - 1 || i == t->n - 1;
        enum style style = i < t->n_columns      ? STYLE_TITLE
                           : is_bad(t->cells[i]) ? STYLE_ERROR
                                                 : STYLE_NONE;
        int width = column < t->n_left ? is_last ? 0 : -width_of(t, column) : width_of(t, column);
        if (style != STYLE_NONE)
            fputs(terminal_style(t->colours, style), out);
        fprintf(out, "%*s", width, t->cells[i]);
        if (style != STYLE_NONE)
            fputs(terminal_style(t->colours, STYLE_NONE), out);
        fputs(is_last ? "\n" : "  ", out);
    }
}

void table_done(struct table *t)
{
    free(t->cells);
    *t = (struct table){0};
}

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

void table_print(const struct table *t, FILE *out)
{
    for (size_t i = 0; i < t->n; i++) {
        size_t column = i % t->n_columns;
        bool is_last = column == t->n_columns - 1 || i == t->n - 1;
        if (column < t->n_left)
            fprintf(out, "%-*s", is_last ? 0 : width_of(t, column), t->cells[i]);
        else
            fprintf(out, "%*s", width_of(t, column), t->cells[i]);
        fputs(is_last ? "\n" : "  ", out);
    }
}

void table_done(struct table *t)
{
    free(t->cells);
    *t = (struct table){0};
}

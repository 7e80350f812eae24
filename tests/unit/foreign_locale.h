/*
 * Locales with another decimal point than ours, made for the test by localedef, for a machine has
 * seldom any.
 */
#ifndef FOREIGN_LOCALE_H
#define FOREIGN_LOCALE_H

#include <ftw.h>
#include <locale.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct foreign_locale {
    char directory[32];
};

static inline int foreign_locale_remove(const char *path, const struct stat *st, int type,
                                        struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

/* Numbers have a comma with "de_DE", a point of two bytes (U+066B) with "ps_AF". False: there is no
 * localedef, or not its sources (package locales). */
static inline bool foreign_locale_enter(struct foreign_locale *l, const char *name)
{
    char command[160], locale[16];

    strcpy(l->directory, "/tmp/test_locale.XXXXXX");
    if (!mkdtemp(l->directory))
        return false;
    snprintf(locale, sizeof locale, "%.8s.UTF-8", name);
    snprintf(command, sizeof command, "localedef --quiet -i %.8s -f UTF-8 %s/%s >%s/log 2>&1", name,
             l->directory, locale, l->directory);
    setenv("LOCPATH", l->directory, 1);
    return system(command) == 0 && setlocale(LC_NUMERIC, locale) &&
           localeconv()->decimal_point[0] != '.';
}

static inline void foreign_locale_leave(const struct foreign_locale *l)
{
    setlocale(LC_NUMERIC, "C");
    unsetenv("LOCPATH");
    nftw(l->directory, foreign_locale_remove, 8, FTW_DEPTH | FTW_PHYS);
}

#endif

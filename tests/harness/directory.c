#include "directory.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "harness.h"

/* Not $TMPDIR, which may be too long for a socket's address. */
void directory_init(struct directory *d)
{
    strcpy(d->path, "/tmp/completiond-test-XXXXXX");
    if (!mkdtemp(d->path)) {
        *d->path = '\0';
        fail_msg("no temporary directory: %s", strerror(errno));
    }
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *where)
{
    (void)st, (void)kind, (void)where;
    remove(path);
    return 0;
}

void directory_done(struct directory *d)
{
    if (*d->path)
        nftw(d->path, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    *d->path = '\0';
}

const char *directory_path(const struct directory *d, const char *name)
{
    static _Thread_local char paths[8][128];
    static _Thread_local unsigned next;
    char *path = paths[next++ % 8];

    snprintf(path, sizeof paths[0], "%s/%s", d->path, name);
    return path;
}

const char *directory_write(const struct directory *d, const char *name, const char *text)
{
    const char *path = directory_path(d, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    size_t len = strlen(text);

    if (fd < 0 || write(fd, text, len) != (ssize_t)len)
        fail_msg("%s: %s", path, strerror(errno));
    close(fd);
    return path;
}

char *directory_read(const char *path)
{
    FILE *file = fopen(path, "re");
    char *text = NULL;
    size_t size = 0;

    if (!file || getdelim(&text, &size, '\0', file) < 0) {
        free(text);
        text = strdup("");
    }
    if (file)
        fclose(file);
    assert_non_null(text);
    return text;
}

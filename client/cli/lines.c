#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "batch.h"

enum { READ_BYTES = 1 << 16 };

void lines_init(struct lines *l, int fd, size_t limit_bytes)
{
    *l = (struct lines){
        .fd = fd,
        .limit_bytes = limit_bytes,
        .is_first = true,
        .kept = BUFFER_INIT(limit_bytes + 2 * READ_BYTES),
    };
}

int lines_open(struct lines *l, const char *path)
{
    bool is_stdin = !strcmp(path, "-");
    int fd = is_stdin ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;

    lines_init(l, fd, LINE_MAX_BYTES);
    if (fd < 0)
        return -errno;
    l->is_own = !is_stdin;
    return fstat(fd, &st) < 0 ? -errno : S_ISDIR(st.st_mode) ? -EISDIR : 0;
}

void lines_close(struct lines *l)
{
    if (l->is_own)
        close(l->fd);
    buffer_done(&l->kept);
}

int lines_fill(struct lines *l)
{
    uint8_t *p = buffer_reserve(&l->kept, READ_BYTES);

    if (!p)
        return -ENOMEM;
    ssize_t n = read(l->fd, p, READ_BYTES);
    if (n < 0)
        return errno == EINTR ? -EAGAIN : -errno;
    buffer_commit(&l->kept, (size_t)n);
    l->at_end = n == 0;
    return 0;
}

static bool is_blank(const char *line, size_t length)
{
    size_t n = 0;

    while (n < length && strchr(" \t\r", line[n]) && line[n])
        n++;
    return n == length;
}

/* What an editor may have put in front. */
static void skip_mark(const char **line, size_t *length)
{
    if (*length >= 3 && !memcmp(*line, "\xef\xbb\xbf", 3)) {
        *line += 3;
        *length -= 3;
    }
}

/* The bytes up to an end of line, or all at the end of the input; false: it has not come yet. */
static bool find_end(struct lines *l, size_t *ret_length, size_t *ret_taken)
{
    size_t n = buffer_length(&l->kept);
    const char *bytes = (const char *)buffer_bytes(&l->kept);
    const char *end =
        n > l->n_scanned ? memchr(bytes + l->n_scanned, '\n', n - l->n_scanned) : NULL;

    l->n_scanned = n;
    if (!end && !(l->at_end && n > 0))
        return false;
    *ret_length = end ? (size_t)(end - bytes) : n;
    *ret_taken = *ret_length + (end != NULL);
    return true;
}

/* What was returned before, or dropped. */
static void consume(struct lines *l)
{
    if (l->n_taken > 0)
        l->n_scanned = 0;
    buffer_consume(&l->kept, l->n_taken);
    l->offset += (int64_t)l->n_taken;
    l->n_taken = 0;
}

int lines_next(struct lines *l, const char **ret, size_t *ret_length)
{
    size_t length;

    for (;;) {
        consume(l);
        bool is_whole = find_end(l, &length, &l->n_taken);
        if (!is_whole)
            length = buffer_length(&l->kept);
        l->is_too_long = l->is_too_long || length > l->limit_bytes;
        if (!is_whole && !l->at_end) {
            l->n_taken = l->is_too_long ? length : 0;
            return -EAGAIN;
        }
        if (l->is_too_long) {
            l->is_too_long = false;
            return -EMSGSIZE;
        }
        if (!is_whole)
            return 0;
        const char *line = length > 0 ? (const char *)buffer_bytes(&l->kept) : "";
        if (l->is_first)
            skip_mark(&line, &length);
        l->is_first = false;
        if (is_blank(line, length))
            continue;
        *ret = line;
        *ret_length = length;
        return 1;
    }
}

int64_t lines_count(const struct lines *l)
{
    char bytes[READ_BYTES];
    off_t at = lseek(l->fd, 0, SEEK_CUR);
    struct stat st;
    int64_t count = 0;
    ssize_t n;
    char last = '\n';

    if (at < 0 || fstat(l->fd, &st) < 0 || !S_ISREG(st.st_mode))
        return -1;
    for (; (n = pread(l->fd, bytes, sizeof bytes, at)) > 0; at += n) {
        for (const char *p = bytes; (p = memchr(p, '\n', (size_t)(bytes + n - p))); p++)
            count++;
        last = bytes[n - 1];
    }
    return n < 0 ? -1 : count + (last != '\n');
}

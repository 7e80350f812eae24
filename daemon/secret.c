#include "secret.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static size_t mapping_size(size_t len)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);

    return (sizeof(struct secret) + len + page) / page * page;
}

int secret_new(const char *text, size_t len, struct secret **ret)
{
    while (len > 0 && strchr(" \t\r\n", text[len - 1]))
        len--;
    if (len == 0 || len > SECRET_MAX)
        return -EINVAL;
    for (size_t i = 0; i < len; i++)
        if (text[i] <= ' ' || text[i] > '~')
            return -EINVAL;

    size_t size = mapping_size(len);
    struct secret *s = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (s == MAP_FAILED)
        return -ENOMEM;

    /* Without the right to lock memory a key may be swapped: better than no service. */
    (void)mlock(s, size);
    (void)madvise(s, size, MADV_DONTDUMP);
    (void)madvise(s, size, MADV_DONTFORK);
    s->len = len;
    memcpy(s->text, text, len);
    *ret = s;
    return 0;
}

int secret_read(const char *path, struct secret **ret)
{
    char text[SECRET_MAX + 2];
    struct stat st;
    int r = 0;

    /* O_NONBLOCK: a FIFO must not hold up the start. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0)
        return -errno;
    if (fstat(fd, &st) < 0)
        r = -errno;
    else if (!S_ISREG(st.st_mode))
        r = -EINVAL;
    else if (st.st_mode & S_IRWXO)
        r = -EPERM;

    size_t len = 0;
    while (r == 0 && len < sizeof text) {
        ssize_t n = read(fd, text + len, sizeof text - len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            r = -errno;
        if (n <= 0)
            break;
        len += (size_t)n;
    }
    close(fd);
    if (r == 0)
        r = secret_new(text, len, ret);
    explicit_bzero(text, sizeof text);
    return r;
}

struct secret *secret_free(struct secret *s)
{
    if (s) {
        size_t size = mapping_size(s->len);
        explicit_bzero(s, sizeof *s + s->len);
        munmap(s, size);
    }
    return NULL;
}

#include "secret.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static size_t whole_pages(size_t size)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);

    return (size + page - 1) / page * page;
}

void *secret_memory_new(size_t size)
{
    size = whole_pages(size);
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (memory == MAP_FAILED)
        return NULL;
    /* Without the right to lock memory a key may be swapped: better than no service. Not mlock(),
     * of which sanitizers make nothing. */
    (void)mlock2(memory, size, 0);
    (void)madvise(memory, size, MADV_DONTDUMP);
    (void)madvise(memory, size, MADV_DONTFORK);
    return memory;
}

void secret_memory_free(void *memory, size_t size)
{
    if (memory) {
        explicit_bzero(memory, size);
        munmap(memory, whole_pages(size));
    }
}

static size_t trimmed(const char *text, size_t len)
{
    while (len > 0 && (text[len - 1] == '\n' || text[len - 1] == '\r' || text[len - 1] == ' ' ||
                       text[len - 1] == '\t'))
        len--;
    return len;
}

const char *secret_fault(const char *text, size_t len)
{
    len = trimmed(text, len);
    if (len == 0)
        return "it is empty; put the key there";
    if (len > SECRET_MAX)
        return "it is longer than 3072 bytes; a key is one line";
    for (size_t i = 0; i < len; i++)
        if (text[i] <= ' ' || text[i] > '~')
            return "it is not one line of printable ASCII characters without spaces; leave only "
                   "the key";
    return NULL;
}

/* So that every key can be read in place, and one page is enough. */
enum { SECRET_BYTES = sizeof(struct secret) + SECRET_MAX + 64 };

/* A secret whose text is there already, len bytes of SECRET_BYTES - sizeof(struct secret). */
static int secret_complete(struct secret *s, size_t len, struct secret **ret, const char **ret_why)
{
    const char *why = secret_fault(s->text, len);

    if (why) {
        *ret_why = why;
        secret_free(s);
        return -EINVAL;
    }
    s->len = trimmed(s->text, len);
    memset(s->text + s->len, 0, len - s->len);
    *ret = s;
    return 0;
}

int secret_new(const char *text, size_t len, struct secret **ret)
{
    const char *why;

    len = trimmed(text, len);
    if (secret_fault(text, len))
        return -EINVAL;
    struct secret *s = secret_memory_new(SECRET_BYTES);
    if (!s)
        return -ENOMEM;
    memcpy(s->text, text, len);
    return secret_complete(s, len, ret, &why);
}

/* A link's owner would choose which of our files is sent away as a key; and whoever may write a
 * file has chosen the account that all callers' prompts go to. systemd's credentials pass: plain
 * files of root, or ours, of mode 0400, or 0440 where an access list lets us read. */
static const char *file_fault(const struct stat *st)
{
    if (!S_ISREG(st->st_mode))
        return "it is not a regular file";
    if (st->st_uid != 0 && st->st_uid != geteuid())
        return "its owner is neither root nor the daemon's user; chown it";
    if (st->st_mode & S_IRWXO)
        return "others may read or write it; chmod o= it";
    if (st->st_mode & S_IWGRP)
        return "its group may write it; chmod g-w it";
    return NULL;
}

/* The number of bytes, at most size; or negative errno. */
static ssize_t read_all(int fd, char *data, size_t size)
{
    size_t len = 0;

    while (len < size) {
        ssize_t n = read(fd, data + len, size - len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        len += (size_t)n;
    }
    return (ssize_t)len;
}

static int read_file(int fd, struct secret **ret, const char **ret_why)
{
    const size_t size = SECRET_BYTES - sizeof(struct secret) - 1;
    struct stat st;

    if (fstat(fd, &st) < 0)
        return -errno;
    if ((*ret_why = file_fault(&st)))
        return -EPERM;
    struct secret *s = secret_memory_new(SECRET_BYTES);
    if (!s)
        return -ENOMEM;
    ssize_t len = read_all(fd, s->text, size);
    if (len < 0 || (size_t)len == size) {
        /* What lies behind has not been looked at. */
        *ret_why = len < 0 ? NULL : "it is longer than 3072 bytes; a key is one line";
        secret_free(s);
        return len < 0 ? (int)len : -EINVAL;
    }
    return secret_complete(s, (size_t)len, ret, ret_why);
}

int secret_read(const char *path, struct secret **ret, const char **ret_why)
{
    const char *why = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK | O_NOFOLLOW);
    int r = fd < 0 ? -errno : read_file(fd, ret, &why);

    if (fd >= 0)
        close(fd);
    if (r == -ELOOP && !why)
        why = "it is a symbolic link; name the file itself";
    if (r < 0)
        *ret_why = why ? why : strerror(-r);
    return r;
}

struct secret *secret_free(struct secret *s)
{
    secret_memory_free(s, SECRET_BYTES);
    return NULL;
}

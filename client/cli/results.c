#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "../../proto/json_reader.h"
#include "batch.h"

/* The file of what waits is written anew when it is mostly of what does so no more. */
enum { COMPACT_BYTES = 16 << 20 };
enum { RESULT_MAX_BYTES = 1 << 30 };

/* Every result begins with this. */
static const char beginning[] = "{\"index\":";

static int file_error(const char *path, int r)
{
    complain("%s: %s", path, strerror(-r));
    return EXIT_LOCAL;
}

/* ---- Writing ---- */

/* 0 or negative errno; what of it was written then is not known. */
static int write_line(int fd, const char *line, size_t length)
{
    char end = '\n';
    struct iovec parts[] = {{(char *)line, length}, {&end, 1}};

    for (size_t i = 0; i < 2;) {
        ssize_t n = writev(fd, parts + i, (int)(2 - i));
        if (n < 0 && errno == EINTR && !was_interrupted())
            continue;
        if (n < 0)
            return -errno;
        for (; i < 2 && (size_t)n >= parts[i].iov_len; i++)
            n -= (ssize_t)parts[i].iov_len;
        if (i < 2) {
            parts[i].iov_base = (char *)parts[i].iov_base + n;
            parts[i].iov_len -= (size_t)n;
        }
    }
    return 0;
}

static int write_result(struct results *r, const char *line, size_t length)
{
    int e = write_line(r->fd, line, length);

    if (e == -EINTR) {
        r->is_stuck = true;
        return EXIT_INTERRUPTED;
    }
    if (e < 0) {
        /* Half a line is of no use. */
        if (r->path && ftruncate(r->fd, r->size) < 0)
            file_error(r->path, -errno);
        complain("the output can't be written: %s", strerror(-e));
        return EXIT_LOCAL;
    }
    r->size += (int64_t)length + 1;
    r->is_dirty = true;
    return EXIT_OK;
}

static struct held *place_of(struct results *r, uint64_t index)
{
    return &r->held[index % WINDOW];
}

static void drop(struct results *r, struct held *h)
{
    r->held_bytes -= h->length;
    r->n_held--;
    free(h->data);
    *h = (struct held){0};
}

/* Those whose turn it is. */
static int write_held(struct results *r)
{
    int status = EXIT_OK;

    for (struct held *h; status == EXIT_OK && (h = place_of(r, r->n_written))->data;) {
        status = write_result(r, h->data, h->length);
        if (status == EXIT_OK) {
            r->n_written++;
            drop(r, h);
        }
    }
    return status;
}

static int hold(struct results *r, uint64_t index, const char *line, size_t length)
{
    struct held *h = place_of(r, index);

    h->data = malloc(length + 1);
    if (!h->data)
        return -ENOMEM;
    memcpy(h->data, line, length);
    h->length = length;
    r->held_bytes += length;
    r->n_held++;
    return 0;
}

bool results_has(const struct results *r, uint64_t index)
{
    return index < r->n_written || (index - r->n_written < WINDOW && r->held[index % WINDOW].data);
}

bool results_can_take(const struct results *r, uint64_t index)
{
    return index <= r->n_written || (index - r->n_written < WINDOW && r->held_bytes < WINDOW_BYTES);
}

int results_put(struct results *r, uint64_t index, const char *line, size_t length)
{
    if (index == r->n_written) {
        int status = write_result(r, line, length);
        if (status != EXIT_OK)
            return status;
        r->n_written++;
        return write_held(r);
    }
    if (hold(r, index, line, length) < 0)
        return out_of_memory();
    if (!r->path)
        return EXIT_OK;
    int e = write_line(r->partial_fd, line, length);
    r->partial_bytes += length + 1;
    r->is_dirty = true;
    return e < 0 ? file_error(r->partial_path, e) : EXIT_OK;
}

/* ---- The file of what waits ---- */

/* Only with what still does, and in one step. */
static int compact(struct results *r)
{
    char *path = NULL;
    int fd = asprintf(&path, "%s.new", r->partial_path) < 0
                 ? -1
                 : open(path, O_RDWR | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0666);
    int e = fd < 0 ? -errno : 0;
    size_t n_bytes = 0;

    for (uint64_t i = r->n_written; e == 0 && i < r->n_written + WINDOW; i++) {
        const struct held *h = place_of(r, i);
        if (!h->data)
            continue;
        e = write_line(fd, h->data, h->length);
        n_bytes += h->length + 1;
    }
    if (e == 0 && (fdatasync(fd) < 0 || rename(path, r->partial_path) < 0))
        e = -errno;
    if (e == 0) {
        close(r->partial_fd);
        r->partial_fd = fd;
        r->partial_bytes = n_bytes;
    } else if (fd >= 0) {
        close(fd);
        unlink(path);
    }
    free(path);
    return e;
}

/* First what is in its place, then what took its place elsewhere may go. */
int results_sync(struct results *r)
{
    int e = 0;

    if (!r->path || !r->is_dirty)
        return EXIT_OK;
    if (fdatasync(r->fd) < 0)
        return file_error(r->path, -errno);
    if (r->n_held == 0) {
        e = ftruncate(r->partial_fd, 0) < 0 ? -errno : 0;
        r->partial_bytes = 0;
    } else if (r->partial_bytes > 2 * r->held_bytes + COMPACT_BYTES) {
        e = compact(r);
    } else if (fdatasync(r->partial_fd) < 0) {
        e = -errno;
    }
    r->is_dirty = false;
    return e < 0 ? file_error(r->partial_path, e) : EXIT_OK;
}

int results_finish(struct results *r)
{
    int status = results_sync(r);

    if (r->path && r->n_held == 0)
        unlink(r->partial_path);
    for (size_t i = 0; !r->path && !r->is_stuck && status == EXIT_OK && i < WINDOW; i++) {
        struct held *h = place_of(r, r->n_written + i);
        if (!h->data)
            continue;
        status = write_result(r, h->data, h->length);
        drop(r, h);
    }
    return status;
}

/* ---- What an earlier run has left ---- */

uint64_t results_hash(uint64_t hash, completion_text custom_id)
{
    for (size_t i = 0; i < custom_id.length; i++)
        hash = (hash ^ (unsigned char)custom_id.data[i]) * 0x100000001b3;
    return (hash ^ 0xff) * 0x100000001b3;
}

static bool read_result(const char *line, size_t length, uint64_t *ret_index, bool *ret_failed)
{
    struct json_reader reader;
    struct json_string key;
    int64_t index = -1;
    bool failed = false;

    if (length < sizeof beginning || memcmp(line, beginning, sizeof beginning - 1) != 0)
        return false;
    json_reader_init(&reader, line, length);
    if (json_enter_object(&reader))
        while (json_next_member(&reader, &key)) {
            if (json_string_equals(&key, "index"))
                json_read_int64(&reader, &index);
            else if (json_string_equals(&key, "error"))
                failed = !json_read_null(&reader);
        }
    if (!json_reader_end(&reader) || index < 0)
        return false;
    *ret_index = (uint64_t)index;
    *ret_failed = failed;
    return true;
}

/* The end of a file that was being written when the power failed, or the process was killed: half
 * a line, or zeros. */
static bool is_torn(const struct lines *l, const char *line, size_t length)
{
    size_t n = length < sizeof beginning - 1 ? length : sizeof beginning - 1;

    if (memchr(line, '\0', length))
        return *line == '\0' || !memcmp(line, beginning, strnlen(line, n));
    return l->n_taken == length && !memcmp(line, beginning, n);
}

/* 1 and the next line; 0: there are no more; or negative. Files do not make anyone wait. */
static int next_line(struct lines *l, const char **ret, size_t *ret_length)
{
    int e;

    while ((e = lines_next(l, ret, ret_length)) == -EAGAIN)
        if ((e = lines_fill(l)) < 0 && e != -EAGAIN)
            break;
    return e;
}

static int load_written(struct results *r)
{
    struct lines lines;
    const char *line;
    size_t length;
    uint64_t index;
    bool failed, has_end = true;
    int e;

    lines_init(&lines, r->fd, RESULT_MAX_BYTES);
    while ((e = next_line(&lines, &line, &length)) > 0) {
        if (!read_result(line, length, &index, &failed) || index != r->n_written) {
            e = is_torn(&lines, line, length) ? 0 : -EBADMSG;
            break;
        }
        has_end = lines.n_taken > length;
        r->n_written++;
        r->n_failed += failed;
        r->ids_hash = results_hash(r->ids_hash, entry_custom_id(line, length));
        r->size = lines.offset + (int64_t)lines.n_taken;
    }
    lines_close(&lines);
    if (e == -EBADMSG || e == -EMSGSIZE) {
        complain("%s: line %" PRIu64 " is not the result of request %" PRIu64
                 " of a batch; it is left as it is",
                 r->path, r->n_written + 1, r->n_written);
        return EXIT_LOCAL;
    }
    if (e == 0 && ftruncate(r->fd, r->size) < 0)
        e = -errno;
    if (e == 0 && !has_end)
        e = write_line(r->fd, NULL, 0);
    r->size += !has_end;
    return e < 0 ? file_error(r->path, e) : EXIT_OK;
}

/* What waited there for its turn and has it now, because it could not be written, or the process
 * was killed before it was, or the power failed: it counts as what was there already. */
static int write_loaded(struct results *r)
{
    const struct held *h;

    for (uint64_t i = 0; i < WINDOW && (h = place_of(r, r->n_written + i))->data; i++)
        r->ids_hash = results_hash(r->ids_hash, entry_custom_id(h->data, h->length));
    return write_held(r);
}

/* What can't be read there is the end of what can. */
static int load_partial(struct results *r)
{
    struct lines lines;
    const char *line;
    size_t length;
    uint64_t index;
    bool failed;
    int e;

    lines_init(&lines, r->partial_fd, RESULT_MAX_BYTES);
    while ((e = next_line(&lines, &line, &length)) > 0 && lines.n_taken > length &&
           read_result(line, length, &index, &failed)) {
        r->partial_bytes = (size_t)lines.offset + lines.n_taken;
        if (index < r->n_written || results_has(r, index) || index - r->n_written >= WINDOW)
            continue;
        e = hold(r, index, line, length);
        if (e < 0)
            break;
        r->n_failed += failed;
    }
    lines_close(&lines);
    if (e >= 0 && ftruncate(r->partial_fd, (off_t)r->partial_bytes) < 0)
        e = -errno;
    if (e < 0 && e != -EMSGSIZE)
        return e == -ENOMEM ? out_of_memory() : file_error(r->partial_path, e);
    return write_loaded(r);
}

/* ---- Opening ---- */

/* Opened, or made, and nobody else's. */
static int open_file(struct results *r, bool *ret_is_new)
{
    int flags = O_RDWR | O_APPEND | O_CLOEXEC;
    struct stat st;

    r->fd = open(r->path, flags | O_CREAT | O_EXCL, 0666);
    *ret_is_new = r->fd >= 0;
    if (r->fd < 0 && errno == EEXIST)
        r->fd = open(r->path, flags);
    if (r->fd < 0 || fstat(r->fd, &st) < 0)
        return file_error(r->path, -errno);
    if (!S_ISREG(st.st_mode))
        return usage_error("create", "--output-file: %s is no file", r->path);
    r->size = st.st_size;
    if (flock(r->fd, LOCK_EX | LOCK_NB) < 0) {
        complain("%s: another batch is writing to it", r->path);
        return EXIT_LOCAL;
    }
    return EXIT_OK;
}

/* What lies beside a file that was not there is of one that has been removed. */
static int open_partial(struct results *r, bool is_new)
{
    int flags = O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | (is_new ? O_TRUNC : 0);
    struct stat st;

    r->partial_fd = open(r->partial_path, flags, 0666);
    if (r->partial_fd < 0 || fstat(r->partial_fd, &st) < 0)
        return file_error(r->partial_path, -errno);
    r->partial_bytes = (size_t)st.st_size;
    return EXIT_OK;
}

int results_open(struct results *r, const char *path, bool resume)
{
    bool is_new;

    *r = (struct results){.fd = STDOUT_FILENO, .partial_fd = -1};
    if (!path)
        return EXIT_OK;
    r->fd = -1;
    r->path = strdup(path);
    if (!r->path || asprintf(&r->partial_path, "%s.partial", path) < 0)
        return out_of_memory();
    int status = open_file(r, &is_new);
    if (status == EXIT_OK)
        status = open_partial(r, is_new);
    if (status == EXIT_OK && !resume && r->size + (int64_t)r->partial_bytes > 0)
        return usage_error("create", "--output-file: %s has results already; --resume goes on",
                           path);
    r->size = 0;
    r->partial_bytes = 0;
    if (status == EXIT_OK)
        status = load_written(r);
    return status ? status : load_partial(r);
}

void results_close(struct results *r)
{
    for (size_t i = 0; i < WINDOW; i++)
        free(r->held[i].data);
    if (r->partial_fd >= 0)
        close(r->partial_fd);
    if (r->path && r->fd >= 0)
        close(r->fd);
    free(r->path);
    free(r->partial_path);
}

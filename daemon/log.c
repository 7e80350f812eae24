#include "log.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "utf8.h"

#define JOURNAL_PATH "/run/systemd/journal/socket"

enum {
    FORMATTED_MAX = 4096,
    RECORD_MAX = 2 * LOG_TEXT_MAX + LOG_FIELDS_MAX * (2 * LOG_VALUE_MAX + 64) + 256,
};

/* ---- Where it goes ---- */

/* systemd names device and inode of the stream that it made stderr of. */
static bool is_journal(const struct stat *st)
{
    const char *stream = getenv("JOURNAL_STREAM");
    unsigned long long device, inode;

    return stream && sscanf(stream, "%llu:%llu", &device, &inode) == 2 && st->st_dev == device &&
           st->st_ino == inode;
}

static void log_set(struct log *log, int fd, enum log_way way)
{
    *log = (struct log){.level = LOG_INFO, .fd = fd, .way = way, .lock = PTHREAD_MUTEX_INITIALIZER};
}

/*
 * A pipe that nobody reads and a terminal that is stopped would hold up everything. O_NONBLOCK on
 * the descriptor itself would be everyone's who shares it, a shell's terminal among them; the same
 * pipe or terminal opened once more has flags of its own. Where that is not allowed (somebody
 * else's pipe) poll() is asked, which holds as long as no other writer fills it in between. A file
 * never waits, and opened again it would have an offset of its own.
 */
void log_init_fd(struct log *log, int fd)
{
    char path[32];
    struct stat st;

    log_set(log, fd, LOG_WAY_WRITE);
    if (fstat(fd, &st) < 0 || S_ISREG(st.st_mode))
        return;
    log->way = S_ISSOCK(st.st_mode) ? LOG_WAY_SOCKET : LOG_WAY_POLL;
    if (!S_ISFIFO(st.st_mode) && !S_ISCHR(st.st_mode))
        return;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int own = open(path, O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (own >= 0) {
        log->fd = own;
        log->way = LOG_WAY_WRITE;
    }
}

bool log_init_journal(struct log *log, const char *path)
{
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0)
        return false;
    log_set(log, fd, LOG_WAY_JOURNAL);
    log->journal = path;
    return true;
}

int log_init(struct log *log, enum log_format format)
{
    struct stat st;
    int r = 0;

    if (format == LOG_FORMAT_JOURNAL) {
        if (access(JOURNAL_PATH, F_OK) == 0 && log_init_journal(log, JOURNAL_PATH))
            return 0;
        r = -ENOENT;
    }
    if (format == LOG_FORMAT_AUTO && fstat(STDERR_FILENO, &st) == 0 && is_journal(&st) &&
        log_init_journal(log, JOURNAL_PATH))
        return 0;
    log_init_fd(log, STDERR_FILENO);
    log->json = format == LOG_FORMAT_JSON;
    return r;
}

void log_done(struct log *log)
{
    if (log->fd > STDERR_FILENO)
        close(log->fd);
    log->fd = -1;
}

/* ---- Text ---- */

const char *log_escape(const char *text, char *out, size_t size)
{
    static const char cut[] = "...";
    size_t left = strlen(text), n = 0, n_cut = 0; /* as far as "..." has space behind it */

    while (left > 0) {
        const uint8_t *p = (const uint8_t *)text;
        size_t len = *p < 0x80 ? 1 : *p < 0xE0 ? 2 : *p < 0xF0 ? 3 : 4;
        bool plain = len <= left && utf8_is_valid(p, len) && *p >= ' ' && *p != 0x7F &&
                     !(p[0] == 0xC2 && p[1] < 0xA0);
        if (!plain)
            len = 1;
        size_t need = plain ? len : 4;
        if (n + need + 1 > size) {
            memcpy(out + n_cut, cut, sizeof cut);
            return out;
        }
        if (plain)
            memcpy(out + n, p, len);
        else
            snprintf(out + n, 5, "\\x%02x", *p);
        n += need;
        n_cut = n + sizeof cut <= size ? n : n_cut;
        text += len;
        left -= len;
    }
    out[n] = '\0';
    return out;
}

static const char *level_name(int level)
{
    static const char *const names[] = {"emerg",   "alert",  "crit", "error",
                                        "warning", "notice", "info", "debug"};
    return names[level & 7];
}

/* ---- Records ---- */

/* A record as it is sent; what does not fit is left out. */
struct line {
    size_t n;
    char text[RECORD_MAX];
};

static void line_add(struct line *l, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void line_add(struct line *l, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    int n = vsnprintf(l->text + l->n, sizeof l->text - l->n, format, args);
    va_end(args);
    if (n > 0 && (size_t)n < sizeof l->text - l->n)
        l->n += (size_t)n;
}

/* Escaped text has no control characters: two characters are left that mean something in JSON. */
static void line_add_json(struct line *l, const char *name, const char *escaped)
{
    char quoted[2 * LOG_TEXT_MAX];
    size_t n = 0;

    for (; *escaped && n < sizeof quoted - 2; escaped++) {
        if (*escaped == '"' || *escaped == '\\')
            quoted[n++] = '\\';
        quoted[n++] = *escaped;
    }
    quoted[n] = '\0';
    line_add(l, ",\"%s\":\"%s\"", name, quoted);
}

static void line_add_field(struct line *l, const struct log_field *f, bool json)
{
    char value[LOG_VALUE_MAX];

    if (f->text)
        log_escape(f->text, value, sizeof value);
    if (json && f->text)
        line_add_json(l, f->name, value);
    else if (json)
        line_add(l, ",\"%s\":%lld", f->name, (long long)f->number);
    else if (f->text)
        line_add(l, "%s=%s\n", f->name, value);
    else
        line_add(l, "%s=%lld\n", f->name, (long long)f->number);
}

/* The fields are lines: no value has a line's end, so none can add a field. */
static void line_for_journal(struct line *l, int level, const char *text,
                             const struct log_field *fields, size_t n)
{
    line_add(l, "PRIORITY=%d\nSYSLOG_IDENTIFIER=completiond\nMESSAGE=%s\n", level & 7, text);
    for (size_t i = 0; i < n; i++)
        line_add_field(l, &fields[i], false);
}

static void line_as_json(struct line *l, int level, const char *text,
                         const struct log_field *fields, size_t n)
{
    struct timespec now;
    struct tm tm;
    char day[32];

    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    strftime(day, sizeof day, "%Y-%m-%dT%H:%M:%S", &tm);
    line_add(l, "{\"TIMESTAMP\":\"%s.%06ldZ\",\"PRIORITY\":%d", day, now.tv_nsec / 1000, level & 7);
    line_add_json(l, "SYSLOG_IDENTIFIER", "completiond");
    line_add_json(l, "MESSAGE", text);
    for (size_t i = 0; i < n; i++)
        line_add_field(l, &fields[i], true);
    line_add(l, "}\n");
}

/* ---- Sending ---- */

/* libsystemd's own sender waits when journald's queue is full. */
static bool send_to_journal(const struct log *log, const struct line *l)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    snprintf(address.sun_path, sizeof address.sun_path, "%s", log->journal);
    return sendto(log->fd, l->text, l->n, MSG_DONTWAIT | MSG_NOSIGNAL, (struct sockaddr *)&address,
                  sizeof address) >= 0;
}

/* One write, so that lines of several processes on one pipe stay whole. */
static bool send_line(const struct log *log, const struct line *l)
{
    struct pollfd pfd = {.fd = log->fd, .events = POLLOUT};

    if (log->way == LOG_WAY_SOCKET)
        return send(log->fd, l->text, l->n, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0;
    if (log->way == LOG_WAY_POLL && (poll(&pfd, 1, 0) < 1 || !(pfd.revents & POLLOUT)))
        return false;
    return write(log->fd, l->text, l->n) >= 0;
}

static bool send_record(const struct log *log, int level, const char *text,
                        const struct log_field *fields, size_t n)
{
    struct line l;

    l.n = 0;
    if (log->way == LOG_WAY_JOURNAL) {
        line_for_journal(&l, level, text, fields, n);
        return send_to_journal(log, &l);
    }
    if (log->json)
        line_as_json(&l, level, text, fields, n);
    else
        line_add(&l, "completiond: %s: %s\n", level_name(level), text);
    return send_line(log, &l);
}

static bool tell_of_dropped(struct log *log)
{
    char text[64];

    snprintf(text, sizeof text, "%lu messages before this one were lost", log->n_dropped);
    if (!send_record(log, LOG_WARNING, text, NULL, 0))
        return false;
    log->n_dropped = 0;
    return true;
}

void log_record(struct log *log, int level, const char *message, const struct log_field *fields,
                size_t n)
{
    char escaped[LOG_TEXT_MAX];
    int saved_errno = errno;

    if (level > log->level || log->fd < 0)
        return;
    log_escape(message, escaped, sizeof escaped);
    /* Not only for the numbers: whether there is room is asked before it is used. */
    pthread_mutex_lock(&log->lock);
    if ((log->n_dropped > 0 && !tell_of_dropped(log)) ||
        !send_record(log, level, escaped, fields, n)) {
        log->n_dropped++;
        log->n_lost++;
    }
    pthread_mutex_unlock(&log->lock);
    errno = saved_errno;
}

void log_write(struct log *log, int level, const char *format, ...)
{
    char text[FORMATTED_MAX];
    va_list args;

    if (level > log->level || log->fd < 0)
        return;
    int saved_errno = errno;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    errno = saved_errno;
    log_record(log, level, text, NULL, 0);
}

#include "log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <systemd/sd-journal.h>

enum { LINE_MAX_BYTES = 1024 };

/* systemd names device and inode of the stream that it made stderr of. */
static bool stderr_is_journal(void)
{
    const char *stream = getenv("JOURNAL_STREAM");
    unsigned long long device, inode;
    struct stat st;

    return stream && sscanf(stream, "%llu:%llu", &device, &inode) == 2 &&
           fstat(STDERR_FILENO, &st) == 0 && st.st_dev == device && st.st_ino == inode;
}

void log_init(struct log *log)
{
    log->level = LOG_INFO;
    log->to_journal = stderr_is_journal();
}

/* Control characters would forge lines and fields. */
static void escape(char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < ' ' || *text == 0x7f)
            *text = '?';
}

static const char *level_name(int level)
{
    static const char *const names[] = {"emerg",   "alert",  "crit", "error",
                                        "warning", "notice", "info", "debug"};
    return names[level & 7];
}

void log_write(struct log *log, int level, const char *format, ...)
{
    char text[LINE_MAX_BYTES];
    va_list args;

    if (level > log->level)
        return;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    escape(text);
    if (log->to_journal) {
        sd_journal_send("MESSAGE=%s", text, "PRIORITY=%d", level, "SYSLOG_IDENTIFIER=completiond",
                        NULL);
        return;
    }

    /* One write, so that lines of several processes on one pipe stay whole. */
    char line[LINE_MAX_BYTES + 64];
    int n = snprintf(line, sizeof line, "completiond: %s: %s\n", level_name(level), text);
    if (write(STDERR_FILENO, line, (size_t)n) < 0) {
        /* Nowhere to say it. */
    }
}

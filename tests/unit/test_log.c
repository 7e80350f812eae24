/* The log: what is written of texts from outside, and that nobody who does not take it is waited
 * for. A test that waits fails by its time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "log.h"
#include "utf8.h"

static void expect_escaped(const char *text, const char *expected)
{
    char out[LOG_TEXT_MAX];

    assert_string_equal(log_escape(text, out, sizeof out), expected);
}

static void control_characters_are_escaped(void **state)
{
    (void)state;
    expect_escaped("plain \xc3\xa9 \xf0\x9f\x98\x8d", "plain \xc3\xa9 \xf0\x9f\x98\x8d");
    expect_escaped("a\nMESSAGE_ID=1\r\n", "a\\x0aMESSAGE_ID=1\\x0d\\x0a");
    expect_escaped("\x1b[2J\x7f\t", "\\x1b[2J\\x7f\\x09");
    expect_escaped("\xc2\x9b"
                   "2J",
                   "\\xc2\\x9b"
                   "2J"); /* CSI as a C1 character */
    expect_escaped("\xc2\xa0", "\xc2\xa0");
    expect_escaped("a\x80"
                   "b\xff\xe2\x82",
                   "a\\x80"
                   "b\\xff\\xe2\\x82");
    expect_escaped("\xc3\xa9\x80", "\xc3\xa9\\x80");
    expect_escaped("\xed\xa0\x80", "\\xed\\xa0\\x80"); /* a surrogate */
    expect_escaped("", "");
}

static void long_texts_are_cut_between_characters(void **state)
{
    char text[64], out[16];

    (void)state;
    for (size_t n = 0; n < 20; n++) {
        memset(text, 'x', n);
        strcpy(text + n, "\xf0\x9f\x98\x8d\n\n");
        log_escape(text, out, sizeof out);
        assert_true(strlen(out) < sizeof out);
        assert_true(utf8_is_valid(out, strlen(out)));
        if (n + 4 + 8 >= sizeof out)
            assert_string_equal(out + strlen(out) - 3, "...");
    }
    assert_string_equal(log_escape("123456789012345", out, sizeof out), "123456789012345");
    assert_string_equal(log_escape("1234567890123456", out, sizeof out), "123456789012...");
}

/* ---- Lines ---- */

static void each_message_is_one_line(void **state)
{
    char line[2048];
    struct log log;
    int fds[2];

    (void)state;
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    log_init_fd(&log, fds[1]);
    assert_int_not_equal(log.fd, fds[1]);
    assert_int_equal(fcntl(fds[1], F_GETFL) & O_NONBLOCK, 0);
    log_warning(&log, "model=%s", "a\ncompletiond: error: forged");
    log_debug(&log, "too much");
    ssize_t n = read(fds[0], line, sizeof line - 1);
    assert_true(n > 0);
    line[n] = '\0';
    assert_string_equal(line, "completiond: warning: model=a\\x0acompletiond: error: forged\n");

    char *text = malloc(1 << 20);
    memset(text, 'y', (1 << 20) - 1);
    text[(1 << 20) - 1] = '\0';
    log_info(&log, "%s", text);
    free(text);
    n = read(fds[0], line, sizeof line - 1);
    assert_in_range(n, 1000, 1100);
    assert_memory_equal(line + n - 4, "...\n", 4);
    log_done(&log);
    log_info(&log, "to nobody");
    close(fds[0]);
    close(fds[1]);
}

/* As much as was written, up to what is there. */
static char *drain(int fd)
{
    struct pollfd pfd = {.fd = fd, .events = POLLIN};
    size_t len = 0, size = 4 << 20;
    char *text = malloc(size);

    assert_non_null(text);
    while (poll(&pfd, 1, 0) > 0 && len < size - 1) {
        ssize_t n = read(fd, text + len, size - 1 - len);
        if (n <= 0)
            break;
        len += (size_t)n;
    }
    text[len] = '\0';
    return text;
}

/* How many lines there are of those that were written, and how many are said to be lost. */
static void count_lines(char *text, unsigned long *n_lines, unsigned long *n_told)
{
    unsigned long n;
    char *rest = NULL;

    for (char *p = strtok_r(text, "\n", &rest); p; p = strtok_r(NULL, "\n", &rest)) {
        if (sscanf(p, "completiond: warning: %lu messages before this one were lost", &n) == 1)
            *n_told += n;
        else if (!strncmp(p, "completiond: info: line ", 24))
            ++*n_lines;
        else
            fail_msg("%s", p);
    }
    free(text);
}

/* Fills it, empties it, and looks for the count of what was lost. */
static void expect_count_of_lost(struct log *log, int reader)
{
    enum { N = 100000 };
    unsigned long n_lines = 0, n_told = 0;

    for (unsigned i = 0; i < N; i++)
        log_info(log, "line %06u with some more text to fill it sooner than that", i);
    assert_in_range(log->n_dropped, 1, N);
    count_lines(drain(reader), &n_lines, &n_told);
    log_info(log, "line again");
    count_lines(drain(reader), &n_lines, &n_told);
    assert_int_equal(log->n_dropped, 0);
    assert_in_range(n_lines, 100, N);
    assert_int_equal(n_lines + n_told, N + 1);
}

static void pipe_that_nobody_reads_is_not_waited_for(void **state)
{
    struct log log;
    int fds[2];

    (void)state;
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    log_init_fd(&log, fds[1]);
    expect_count_of_lost(&log, fds[0]);
    log_done(&log);

    /* The pipe of somebody else, which can't be opened again. */
    log_init_fd(&log, fds[1]);
    log_done(&log);
    log.fd = fds[1];
    log.way = LOG_WAY_POLL;
    expect_count_of_lost(&log, fds[0]);

    close(fds[0]);
    close(fds[1]);
}

static void socket_that_nobody_reads_is_not_waited_for(void **state)
{
    struct log log;
    int fds[2];

    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    log_init_fd(&log, fds[1]);
    assert_int_equal(log.way, LOG_WAY_SOCKET);
    expect_count_of_lost(&log, fds[0]);
    /* Nobody at all: no SIGPIPE either. */
    close(fds[0]);
    log_info(&log, "gone");
    assert_int_equal(log.n_dropped, 1);
    close(fds[1]);
}

static void full_disk_loses_lines_and_no_more(void **state)
{
    struct log log;
    int fd = open("/dev/full", O_WRONLY | O_CLOEXEC);

    (void)state;
    assert_true(fd >= 0);
    log_init_fd(&log, fd);
    log_info(&log, "one");
    log_info(&log, "two");
    assert_int_equal(log.n_dropped, 2);
    log_done(&log);
    close(fd);
}

/* ---- The journal ---- */

static int open_journal(char path[static 64])
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

/* The fields of one datagram, in journald's own format. */
static void expect_fields(int fd, const char *expected)
{
    char data[4096];
    ssize_t n = recv(fd, data, sizeof data - 1, 0);

    assert_true(n > 0);
    data[n] = '\0';
    assert_string_equal(data, expected);
}

static void journal_fields_can_not_be_forged(void **state)
{
    char directory[] = "/tmp/test_log.XXXXXX", path[64];
    struct log log;

    (void)state;
    assert_non_null(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/socket", directory);
    int fd = open_journal(path);
    assert_true(log_init_journal(&log, path));
    log_error(&log, "%s", "x\nPRIORITY=0\nMESSAGE_ID=8d45620c1a4348dbb17410da57c60c66\nCOREDUMP");
    expect_fields(fd, "PRIORITY=3\nSYSLOG_IDENTIFIER=completiond\nMESSAGE=x\\x0aPRIORITY=0\\x0a"
                      "MESSAGE_ID=8d45620c1a4348dbb17410da57c60c66\\x0aCOREDUMP\n");
    log_done(&log);
    close(fd);
    unlink(path);
    rmdir(directory);
}

static void journal_that_is_full_or_gone_is_not_waited_for(void **state)
{
    char directory[] = "/tmp/test_log.XXXXXX", path[64], data[4096];
    unsigned long n_lost;
    struct log log;

    (void)state;
    assert_non_null(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/socket", directory);
    assert_true(log_init_journal(&log, path));
    log_info(&log, "before it is there");
    assert_int_equal(log.n_dropped, 1);

    int fd = open_journal(path);
    for (unsigned i = 0; i < 10000; i++)
        log_info(&log, "message %u", i);
    n_lost = log.n_dropped;
    assert_in_range(n_lost, 1, 9999);
    expect_fields(fd, "PRIORITY=4\nSYSLOG_IDENTIFIER=completiond\n"
                      "MESSAGE=1 messages before this one were lost\n");
    while (recv(fd, data, sizeof data, 0) > 0)
        ;
    log_info(&log, "again");
    snprintf(data, sizeof data,
             "PRIORITY=4\nSYSLOG_IDENTIFIER=completiond\n"
             "MESSAGE=%lu messages before this one were lost\n",
             n_lost);
    expect_fields(fd, data);
    expect_fields(fd, "PRIORITY=6\nSYSLOG_IDENTIFIER=completiond\nMESSAGE=again\n");

    /* A restart: another socket at the same place. */
    close(fd);
    unlink(path);
    log_info(&log, "lost");
    fd = open_journal(path);
    log_info(&log, "back");
    expect_fields(fd, "PRIORITY=4\nSYSLOG_IDENTIFIER=completiond\n"
                      "MESSAGE=1 messages before this one were lost\n");
    expect_fields(fd, "PRIORITY=6\nSYSLOG_IDENTIFIER=completiond\nMESSAGE=back\n");
    log_done(&log);
    close(fd);
    unlink(path);
    rmdir(directory);
}

/* ---- Fields ---- */

static const struct log_field fields[] = {
    {.name = "TEXT", .text = "a\nMESSAGE=forged \"\\"},
    {.name = "NUMBER", .number = -7},
    {.name = "EMPTY", .text = ""},
};

static void fields_are_lines_for_the_journal(void **state)
{
    char dir[] = "/tmp/completiond-log-XXXXXX", text[4096];
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct log log;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(address.sun_path, sizeof address.sun_path, "%s/journal", dir);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_true(log_init_journal(&log, address.sun_path));
    log_record(&log, LOG_INFO, "said\nso", fields, 3);
    log_record(&log, LOG_DEBUG, "too much", fields, 3);
    ssize_t n = recv(fd, text, sizeof text - 1, MSG_DONTWAIT);
    assert_true(n > 0);
    text[n] = '\0';
    assert_string_equal(text, "PRIORITY=6\nSYSLOG_IDENTIFIER=completiond\nMESSAGE=said\\x0aso\n"
                              "TEXT=a\\x0aMESSAGE=forged \"\\\nNUMBER=-7\nEMPTY=\n");
    assert_int_equal(recv(fd, text, sizeof text, MSG_DONTWAIT), -1);
    log_done(&log);
    close(fd);
    unlink(address.sun_path);
    rmdir(dir);
}

static void fields_are_members_in_json(void **state)
{
    char text[65536];
    struct log log;
    int fds[2];

    (void)state;
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    log_init_fd(&log, fds[1]);
    log.json = true;
    log_record(&log, LOG_WARNING, "said \"so\"", fields, 3);
    ssize_t n = read(fds[0], text, sizeof text - 1);
    assert_true(n > 40);
    text[n] = '\0';
    assert_int_equal(strncmp(text, "{\"TIMESTAMP\":\"20", 16), 0);
    assert_string_equal(
        strstr(text, "Z\""),
        "Z\",\"PRIORITY\":4,\"SYSLOG_IDENTIFIER\":\"completiond\","
        "\"MESSAGE\":\"said \\\"so\\\"\","
        "\"TEXT\":\"a\\\\x0aMESSAGE=forged \\\"\\\\\",\"NUMBER\":-7,\"EMPTY\":\"\"}\n");
    log_done(&log);
    close(fds[0]);
    close(fds[1]);
}

/* The longest that there can be still ends as an object. */
static void largest_record_is_whole(void **state)
{
    struct log_field many[LOG_FIELDS_MAX];
    char value[2 * LOG_TEXT_MAX], text[65536];
    struct log log;
    int fds[2];

    (void)state;
    memset(value, '"', sizeof value - 1);
    value[sizeof value - 1] = '\0';
    for (size_t i = 0; i < LOG_FIELDS_MAX; i++)
        many[i] = (struct log_field){.name = "A_NAME_OF_SOME_LENGTH_AS_THEY_ARE", .text = value};
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    log_init_fd(&log, fds[1]);
    log.json = true;
    log_record(&log, LOG_INFO, value, many, LOG_FIELDS_MAX);
    ssize_t n = read(fds[0], text, sizeof text);
    assert_true(n > LOG_FIELDS_MAX * LOG_VALUE_MAX);
    assert_memory_equal(text + n - 3, "\"}\n", 3);
    log_done(&log);
    close(fds[0]);
    close(fds[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(control_characters_are_escaped),
        cmocka_unit_test(long_texts_are_cut_between_characters),
        cmocka_unit_test(each_message_is_one_line),
        cmocka_unit_test(pipe_that_nobody_reads_is_not_waited_for),
        cmocka_unit_test(socket_that_nobody_reads_is_not_waited_for),
        cmocka_unit_test(full_disk_loses_lines_and_no_more),
        cmocka_unit_test(journal_fields_can_not_be_forged),
        cmocka_unit_test(journal_that_is_full_or_gone_is_not_waited_for),
        cmocka_unit_test(fields_are_lines_for_the_journal),
        cmocka_unit_test(fields_are_members_in_json),
        cmocka_unit_test(largest_record_is_whole),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* completionctl top: the status again and again. */
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "completionctl.h"

static const char usage[] =
    "Usage: completionctl top [OPTION]...\n"
    "What 'completionctl status' says, again every second, with calls per second. On a terminal "
    "it\n"
    "stays in place until q or Ctrl-C; elsewhere one report follows the other.\n"
    "\n"
    "      --interval TIME   between two reports; default 1s\n"
    "      --count N         end after so many\n"
    "      --socket PATH     the daemon's socket; default $COMPLETIOND_SOCKET, else\n"
    "                        $XDG_RUNTIME_DIR/completiond/rpc.sock if it is there, else\n"
    "                        /run/completiond/rpc.sock\n"
    "  -h, --help            show this\n"
    "\n"
    "Examples:\n"
    "  completionctl top\n"
    "  completionctl top --interval 10s --count 6 > status.log\n";

enum { TIMEOUT_MS = 5000, WAIT_MS = 100, ROWS = 24 };

/* Another screen without a cursor and without lines that wrap; and back. */
#define SCREEN_ENTER "\033[?1049h\033[?25l\033[?7l"
#define SCREEN_LEAVE "\033[?7h\033[?25h\033[?1049l"

struct top {
    completion_client *client;
    completion_error *error;
    int64_t interval_ms;
    long count; /* of reports that are still to come; negative: no end */
    bool on_terminal, has_keys;
    struct termios saved;
    struct summary before; /* the last report */
    bool has_before;
};

/* ---- The terminal ---- */

static void screen_enter(struct top *t)
{
    t->on_terminal = isatty(STDOUT_FILENO);
    t->has_keys = t->on_terminal && tcgetattr(STDIN_FILENO, &t->saved) == 0;
    if (t->has_keys) {
        struct termios raw = t->saved;
        raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
        /* Stopped, it would leave the terminal like this. */
        raw.c_cc[VSUSP] = _POSIX_VDISABLE;
        raw.c_cc[VMIN] = 0;
        raw.c_cc[VTIME] = 0;
        tcsetattr(STDIN_FILENO, TCSADRAIN, &raw);
    }
    if (t->on_terminal)
        fputs(SCREEN_ENTER, stdout);
}

static void screen_leave(struct top *t)
{
    if (t->on_terminal)
        fputs(SCREEN_LEAVE, stdout);
    fflush(stdout);
    if (t->has_keys)
        tcsetattr(STDIN_FILENO, TCSADRAIN, &t->saved);
}

/* Over what stands there, as many lines as there is place for. */
static void screen_show(const char *text)
{
    struct winsize size = {.ws_row = ROWS};

    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) < 0 || size.ws_row < 2)
        size.ws_row = ROWS;
    fputs("\033[H", stdout);
    for (unsigned row = 1; *text && row < size.ws_row; row++) {
        int len = (int)strcspn(text, "\n");
        printf("%.*s\033[K\n", len, text);
        text += len + (text[len] == '\n');
    }
    fputs("\033[J", stdout);
}

/* ---- Waiting ---- */

static int on_wait(void *user, int64_t elapsed_ms)
{
    (void)user, (void)elapsed_ms;
    return was_interrupted();
}

/* False: it is to end. */
static bool wait_for_next(struct top *t, int64_t until_ms)
{
    struct pollfd keys = {.fd = STDIN_FILENO, .events = POLLIN};
    int64_t left_ms;
    char key;

    while (!was_interrupted() && (left_ms = until_ms - now_ms()) > 0) {
        if (left_ms > WAIT_MS)
            left_ms = WAIT_MS;
        if (poll(&keys, t->has_keys, (int)left_ms) < 1)
            continue;
        ssize_t n = read(STDIN_FILENO, &key, 1);
        if (n == 1 && (key == 'q' || key == 'Q'))
            return false;
        /* The terminal is gone. */
        if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN))
            return false;
    }
    return !was_interrupted();
}

/* ---- Reports ---- */

static int show(struct top *t, const struct summary *s)
{
    const char *socket = completion_client_socket(t->client);
    const struct summary *before = t->has_before ? &t->before : NULL;
    char *text = NULL;
    size_t length;

    if (!t->on_terminal) {
        summary_print(s, before, socket, false, stdout);
        fputc('\n', stdout);
        return output_flush();
    }
    FILE *out = open_memstream(&text, &length);
    if (out) {
        summary_print(s, before, socket, terminal_has_colours(STDOUT_FILENO), out);
        fclose(out);
        screen_show(text);
    }
    free(text);
    return output_flush();
}

/* One report. EXIT_OK or another exit status; what an error says is said when the screen is left.
 */
static int turn(struct top *t, int *ret_r)
{
    struct summary s;
    int status, r = summary_get(t->client, TIMEOUT_MS, &s, NULL, t->error);

    *ret_r = r;
    if (r < 0)
        return EXIT_UPSTREAM;
    status = show(t, &s);
    summary_done(&t->before);
    t->before = s;
    t->has_before = true;
    return status ? status : s.draining ? EXIT_UPSTREAM : EXIT_OK;
}

static int run(struct top *t)
{
    int64_t next_ms = now_ms();
    int status, r = 0;

    completion_client_set_wait(t->client, on_wait, NULL, WAIT_MS);
    catch_interrupts();
    screen_enter(t);
    do {
        next_ms += t->interval_ms;
        status = turn(t, &r);
        if (t->count > 0)
            t->count--;
        if (next_ms < now_ms())
            next_ms = now_ms();
    } while (status == EXIT_OK && t->count != 0 && wait_for_next(t, next_ms));
    screen_leave(t);
    /* That is how it ends. */
    if (was_interrupted() && (r == -ECANCELED || status == EXIT_INTERRUPTED))
        return EXIT_OK;
    return r < 0 ? report(r, t->error) : status;
}

static int options_read(int argc, char **argv, struct top *t, const char **socket, bool *help)
{
    static const struct option longs[] = {
        {"interval", required_argument, NULL, 'i'},
        {"count", required_argument, NULL, 'n'},
        {"socket", required_argument, NULL, 's'},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    int option;
    char *end;

    while ((option = getopt_long(argc, argv, "h", longs, NULL)) != -1) {
        switch (option) {
        case 'i':
            if (parse_duration(optarg, &t->interval_ms) < 0 || t->interval_ms < 10 ||
                t->interval_ms > 86400000)
                return usage_error("top", "--interval: write 1s, 500ms or 2min, at least 10ms");
            break;
        case 'n':
            errno = 0;
            t->count = strtol(optarg, &end, 10);
            if (errno || end == optarg || *end || t->count < 1)
                return usage_error("top", "--count: a number above 0 is wanted");
            break;
        case 's':
            *socket = optarg;
            break;
        case 'h':
            fputs(usage, stdout);
            *help = true;
            return EXIT_OK;
        default:
            return bad_option("top", argv[optind - 1], longs);
        }
    }
    return optind < argc ? usage_error("top", "unexpected argument '%s'", argv[optind]) : EXIT_OK;
}

int run_top(int argc, char **argv)
{
    struct top t = {.interval_ms = 1000, .count = -1};
    const char *socket = NULL;
    bool help = false;
    int status = options_read(argc, argv, &t, &socket, &help);

    if (status != EXIT_OK || help)
        return status;
    int r = completion_client_new(socket, &t.client);
    if (r < 0)
        return socket_error("top", r);
    t.error = completion_error_new();
    status = t.error ? run(&t) : EXIT_LOCAL;
    summary_done(&t.before);
    completion_client_free(t.client);
    completion_error_free(t.error);
    return status;
}

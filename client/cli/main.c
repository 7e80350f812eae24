/* completionctl: the table of commands, errors and signals. */
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "completionctl.h"

static int run_help(int argc, char **argv);

static const struct command commands[] = {
    {"create", "complete a prompt", run_create},
    {"status", "say whether the daemon is there and serving, and what it does", run_status},
    {"top", "the same, again every second", run_top},
    {"help", "show this, or the help of a command", run_help},
};
enum { N_COMMANDS = sizeof commands / sizeof *commands };

/* The only state that a signal handler can have. */
static volatile sig_atomic_t interrupted;

static void on_interrupt(int number)
{
    (void)number;
    interrupted = 1;
}

bool was_interrupted(void)
{
    return interrupted;
}

void catch_interrupts(void)
{
    /* The second one ends the process, whatever it is doing. */
    const struct sigaction action = {.sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND};

    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

int try_help(const char *command)
{
    fprintf(stderr, "Try 'completionctl %s%s--help'.\n", command, *command ? " " : "");
    return EXIT_USAGE;
}

int usage_error(const char *command, const char *format, ...)
{
    va_list args;

    fprintf(stderr, "completionctl: ");
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    return try_help(command);
}

int socket_error(const char *command, int r)
{
    return usage_error(command, "--socket: %s", r == -EINVAL ? "a path is wanted" : strerror(-r));
}

static int exit_status(int r, const completion_error *e)
{
    const char *reason = completion_error_reason(e);

    if (was_interrupted() && r == -ECANCELED)
        return EXIT_INTERRUPTED;
    if (!strcmp(reason, "STREAM_TRUNCATED") || !strcmp(reason, "STREAM_STALLED"))
        return EXIT_TRUNCATED;
    if (!*reason && r != -EIO && r != -ETIMEDOUT &&
        (completion_error_status(e) == COMPLETION_UNAVAILABLE ||
         completion_error_status(e) == COMPLETION_PERMISSION_DENIED))
        return EXIT_UNREACHABLE;
    switch (completion_error_status(e)) {
    case COMPLETION_DEADLINE_EXCEEDED:
        return EXIT_DEADLINE;
    case COMPLETION_INVALID_ARGUMENT:
    case COMPLETION_NOT_FOUND:
    case COMPLETION_PERMISSION_DENIED:
    case COMPLETION_FAILED_PRECONDITION:
    case COMPLETION_OUT_OF_RANGE:
    case COMPLETION_UNIMPLEMENTED:
    case COMPLETION_UNAUTHENTICATED:
        return EXIT_REFUSED;
    default:
        return EXIT_UPSTREAM;
    }
}

/* Texts from afar may hold what a terminal obeys. */
static void print_plain(const char *text)
{
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text, next = (unsigned char)text[1];
        bool c1 = c == 0xc2 && next >= 0x80 && next < 0xa0;
        fputc(c < ' ' || c == 0x7f || c1 ? ' ' : c, stderr);
        text += c1;
    }
}

static void print_detail(const char *name, const char *value)
{
    if (*value) {
        fprintf(stderr, "  %-11s ", name);
        print_plain(value);
        fputc('\n', stderr);
    }
}

int report(int r, const completion_error *e)
{
    char number[32];
    int status = exit_status(r, e);

    if (status == EXIT_INTERRUPTED) {
        fputs("completionctl: interrupted\n", stderr);
        return status;
    }
    fprintf(stderr, "completionctl: %s: ", completion_error_status_name(e));
    print_plain(completion_error_message(e));
    fputc('\n', stderr);
    print_detail("reason", completion_error_reason(e));
    if (completion_error_http_status(e)) {
        snprintf(number, sizeof number, "%d", completion_error_http_status(e));
        print_detail("http status", number);
    }
    print_detail("type", completion_error_type(e));
    print_detail("param", completion_error_param(e));
    print_detail("code", completion_error_code(e));
    print_detail("upstream", completion_error_upstream(e));
    print_detail("endpoint", completion_error_endpoint(e));
    print_detail("request id", completion_error_request_id(e));
    print_detail("call id", completion_error_call_id(e));
    if (completion_error_attempts(e) > 1) {
        snprintf(number, sizeof number, "%d", completion_error_attempts(e));
        print_detail("attempts", number);
    }
    if (completion_error_retry_after_ms(e) >= 0) {
        snprintf(number, sizeof number, "%.15g s",
                 (double)completion_error_retry_after_ms(e) / 1000);
        print_detail("retry after", number);
    }
    if (completion_error_maybe_executed(e))
        print_detail("note", "the upstream may have done, and bill, the work");
    if (completion_error_retryable(e))
        print_detail("note", "the same request may succeed later");
    return status;
}

static const struct command *find_command(const char *name)
{
    for (size_t i = 0; i < N_COMMANDS; i++)
        if (!strcmp(commands[i].name, name))
            return &commands[i];
    return NULL;
}

static void print_usage(FILE *out)
{
    fputs("Usage: completionctl COMMAND [OPTION]...\n"
          "Asks completiond for text completions.\n\nCommands:\n",
          out);
    for (size_t i = 0; i < N_COMMANDS; i++)
        fprintf(out, "  %-8s %s\n", commands[i].name, commands[i].info);
    fputs("\nOptions:\n"
          "  -h, --help     show this, or behind a command its help\n"
          "  -V, --version  show the version\n"
          "\nExamples:\n"
          "  completionctl create --model gpt-3.5-turbo-instruct --prompt 'Once upon a time'\n"
          "  completionctl status\n"
          "\nExit status:\n"
          "  0    done\n"
          "  1    no memory, or the output can't be written\n"
          "  2    wrong options\n"
          "  3    the daemon can't be reached: it is not running, or its socket is not for you\n"
          "  4    refused: the request, its model or key, or the configuration has to be changed\n"
          "  5    the upstream or the daemon failed; it may work later\n"
          "  6    the time allowed was over\n"
          "  7    the answer was cut; what was written is not whole\n"
          "  130  interrupted, by Ctrl-C or SIGTERM\n",
          out);
}

static int run_help(int argc, char **argv)
{
    static char help[] = "--help";
    const struct command *command = argc > 1 ? find_command(argv[1]) : NULL;

    if (argc > 1 && !command)
        return usage_error("", "there is no command '%s'", argv[1]);
    if (command && command->run != run_help) {
        char *arguments[] = {argv[1], help, NULL};
        return command->run(2, arguments);
    }
    print_usage(stdout);
    return EXIT_OK;
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "";

    if (!*name) {
        print_usage(stderr);
        return EXIT_USAGE;
    }
    if (!strcmp(name, "--help") || !strcmp(name, "-h")) {
        run_help(1, argv);
        return output_flush();
    }
    if (!strcmp(name, "--version") || !strcmp(name, "-V")) {
        puts("completionctl " COMPLETIOND_VERSION);
        return output_flush();
    }
    const struct command *command = find_command(name);
    if (!command)
        return usage_error("", "there is no command '%s'", name);
    /* getopt_long() speaks in the name of this. */
    static char program[] = "completionctl";
    argv[1] = program;
    int status = command->run(argc - 1, argv + 1);
    return status ? status : output_flush();
}

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
    {"models", "list the models that can be asked for", run_models},
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

    va_start(args, format);
    complain_list(format, args);
    va_end(args);
    return try_help(command);
}

int socket_error(const char *command, int r)
{
    return usage_error(command, "--socket: %s", r == -EINVAL ? "a path is wanted" : strerror(-r));
}

static const struct command *find_command(const char *name)
{
    for (size_t i = 0; i < N_COMMANDS; i++)
        if (!strcmp(commands[i].name, name))
            return &commands[i];
    return NULL;
}

static int no_command(const char *name)
{
    struct suggestion s = {.word = name};

    complain("there is no command '%s'", name);
    for (size_t i = 0; i < N_COMMANDS; i++)
        suggestion_consider(&s, commands[i].name);
    suggestion_print(&s, "");
    return try_help("");
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
          "  completionctl models\n"
          "  completionctl create --model gpt-3.5-turbo-instruct --prompt 'Once upon a time'\n"
          "  completionctl create --model m --jsonl requests.jsonl --output-file answers.jsonl\n"
          "  completionctl status\n"
          "\nExit status:\n"
          "  0    done\n"
          "  1    no memory, or reading or writing has failed\n"
          "  2    wrong options, or a file that they name can't be read\n"
          "  3    the daemon can't be reached: it is not running, or its socket is not for you\n"
          "  4    refused: the request, its model or key, or the configuration has to be changed\n"
          "  5    the upstream or the daemon failed; it may work later\n"
          "  6    the time allowed was over\n"
          "  7    the answer was cut; what was written is not whole\n"
          "  8    a batch is done, and some of its requests have failed\n"
          "  130  interrupted, by Ctrl-C or SIGTERM\n"
          "\nEnvironment:\n"
          "  COMPLETIOND_SOCKET, COMPLETIOND_API_KEY   as --socket and --api-key\n"
          "  NO_COLOR                                  if not empty: no colours\n",
          out);
}

static int run_help(int argc, char **argv)
{
    static char help[] = "--help";
    const struct command *command = argc > 1 ? find_command(argv[1]) : NULL;

    if (argc > 1 && !command)
        return no_command(argv[1]);
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
        return no_command(name);
    /* getopt_long() speaks in the name of this. */
    static char program[] = "completionctl";
    argv[1] = program;
    int status = command->run(argc - 1, argv + 1);
    return status ? status : output_flush();
}

/* completionctl status */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "completionctl.h"

static const char usage[] =
    "Usage: completionctl status [OPTION]...\n"
    "Says whether the daemon is there and serving: exit status 0 if it is, 3 if it can't be\n"
    "reached, 5 if it says that it is shutting down. And what it does: its upstreams, with calls,\n"
    "times (a half and 95 of 100 took no longer) and how often connections are used again; its\n"
    "users, all for root and the daemon's own user, else only you.\n"
    "\n"
    "      --json            as JSON, with the names of status.proto\n"
    "      --socket PATH     the daemon's socket; default $COMPLETIOND_SOCKET, else\n"
    "                        $XDG_RUNTIME_DIR/completiond/rpc.sock if it is there, else\n"
    "                        /run/completiond/rpc.sock\n"
    "      --timeout TIME    how long to wait (5s, 500ms); default 5s\n"
    "  -h, --help            show this\n"
    "\n"
    "Examples:\n"
    "  completionctl status --socket /tmp/rpc.sock\n"
    "  completionctl status --json\n";

static void print_json(const struct summary *s, const char *json)
{
    if (json)
        puts(json);
    else
        printf("{\"draining\":%s}\n", s->draining ? "true" : "false");
}

static int show(const char *socket, int64_t timeout_ms, bool as_json)
{
    completion_client *client;
    completion_error *error = completion_error_new();
    struct summary s;
    char *json = NULL;
    int r = completion_client_new(socket, &client), status;

    if (r < 0) {
        completion_error_free(error);
        return socket_error("status", r);
    }
    r = summary_get(client, timeout_ms, &s, &json, error);
    if (r < 0) {
        status = report(r, error);
    } else {
        if (as_json)
            print_json(&s, json);
        else
            summary_print(&s, NULL, completion_client_socket(client),
                          terminal_has_colours(STDOUT_FILENO), stdout);
        status = s.draining ? EXIT_UPSTREAM : EXIT_OK;
        summary_done(&s);
    }
    free(json);
    completion_client_free(client);
    completion_error_free(error);
    return status;
}

int run_status(int argc, char **argv)
{
    static const struct option longs[] = {
        {"json", no_argument, NULL, 'j'},
        {"socket", required_argument, NULL, 's'},
        {"timeout", required_argument, NULL, 't'},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    const char *socket = NULL;
    int64_t timeout_ms = 5000;
    bool as_json = false;
    int option;

    while ((option = getopt_long(argc, argv, "h", longs, NULL)) != -1) {
        switch (option) {
        case 'j':
            as_json = true;
            break;
        case 's':
            socket = optarg;
            break;
        case 't':
            if (parse_duration(optarg, &timeout_ms) < 0)
                return usage_error("status", "--timeout: write 5s, 500ms or 2min");
            break;
        case 'h':
            fputs(usage, stdout);
            return EXIT_OK;
        default:
            return bad_option("status", argv[optind - 1], longs);
        }
    }
    if (optind < argc)
        return usage_error("status", "unexpected argument '%s'", argv[optind]);
    return show(socket, timeout_ms, as_json);
}

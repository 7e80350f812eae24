/* completionctl status */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "completionctl.h"

static const char usage[] =
    "Usage: completionctl status [OPTION]...\n"
    "Says whether the daemon is there and serving: exit status 0 if it is, 3 if it can't be\n"
    "reached, 5 if it says that it is shutting down.\n"
    "\n"
    "      --socket PATH     the daemon's socket; default $COMPLETIOND_SOCKET, else\n"
    "                        $XDG_RUNTIME_DIR/completiond/rpc.sock if it is there, else\n"
    "                        /run/completiond/rpc.sock\n"
    "      --timeout TIME    how long to wait (5s, 500ms); default 5s\n"
    "  -h, --help            show this\n"
    "\n"
    "Example:\n"
    "  completionctl status --socket /tmp/rpc.sock\n";

static int check(const char *socket, int64_t timeout_ms)
{
    completion_client *client;
    completion_error *error = completion_error_new();
    int r = completion_client_new(socket, &client);

    if (r < 0) {
        completion_error_free(error);
        return socket_error("status", r);
    }
    r = completion_client_check(client, timeout_ms, error);
    if (r > 0)
        printf("completiond is serving on %s\n", completion_client_socket(client));
    else if (r == 0)
        printf("completiond on %s is shutting down\n", completion_client_socket(client));
    int status = r > 0 ? EXIT_OK : r == 0 ? EXIT_UPSTREAM : report(r, error);
    completion_client_free(client);
    completion_error_free(error);
    return status;
}

int run_status(int argc, char **argv)
{
    static const struct option longs[] = {
        {"socket", required_argument, NULL, 's'},
        {"timeout", required_argument, NULL, 't'},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    const char *socket = NULL;
    int64_t timeout_ms = 5000;
    int option;

    while ((option = getopt_long(argc, argv, "h", longs, NULL)) != -1) {
        switch (option) {
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
            return try_help("status");
        }
    }
    if (optind < argc)
        return usage_error("status", "unexpected argument '%s'", argv[optind]);
    return check(socket, timeout_ms);
}

#include "options.h"

#include <curl/curl.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "config.h"

static const char usage[] =
    "Usage: completiond [OPTION]...\n"
    "Serves text completions to this host over a Unix socket, from a server of the OpenAI\n"
    "Completions API.\n"
    "\n"
    "      --config FILE    read FILE and FILE.d/*.conf; default " CONFIG_PATH ",\n"
    "                       if it is there\n"
    "      --check-config   read the configuration, say what is wrong with it, and exit\n"
    "      --listen PATH    listen on this Unix socket; may be repeated. Not used when systemd\n"
    "                       passes sockets. Default /run/completiond/rpc.sock for root,\n"
    "                       $XDG_RUNTIME_DIR/completiond/rpc.sock for others\n"
    "      --metrics-listen PATH\n"
    "                       show metrics on this Unix socket (HTTP, GET /metrics), unless systemd\n"
    "                       passes one whose name ends in \"metrics\"\n"
    "      --openai-listen PATH|HOST:PORT\n"
    "                       speak the API's own HTTP (POST /v1/completions) on this Unix socket,\n"
    "                       or on this port of localhost, where a token is asked for; may be\n"
    "                       repeated. Not used when systemd passes sockets whose name ends in\n"
    "                       \"openai\"\n"
    "      --log-format FORMAT\n"
    "                       auto: to the journal if stderr is the journal, else lines on stderr;\n"
    "                       journal; text: lines on stderr; json: an object a line. Default auto\n"
    "  -h, --help           show this and exit\n"
    "  -V, --version        show the version and exit\n"
    "\n"
    "Without an [upstream] section in its configuration it asks OPENAI_BASE_URL (default\n"
    "https://api.openai.com/v1) with the key in OPENAI_API_KEY.\n"
    "\n"
    "Signals: SIGTERM and SIGINT let the calls in flight end, then exit; a second one exits at\n"
    "once. SIGHUP reads the configuration and the keys again; if the program on disk is another\n"
    "one by now, it hands over to that without a cut. SIGUSR1, SIGUSR2 and SIGALRM are ignored.\n"
    "\n"
    "Examples:\n"
    "  OPENAI_API_KEY=... completiond\n"
    "  OPENAI_BASE_URL=http://127.0.0.1:8080/v1 completiond --listen /tmp/rpc.sock\n"
    "  completiond --config ./completiond.conf --check-config\n";

static bool log_format_parse(const char *text, enum log_format *ret)
{
    static const char *const names[] = {
        [LOG_FORMAT_AUTO] = "auto",
        [LOG_FORMAT_JOURNAL] = "journal",
        [LOG_FORMAT_TEXT] = "text",
        [LOG_FORMAT_JSON] = "json",
    };

    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(names[i], text)) {
            *ret = (enum log_format)i;
            return true;
        }
    return false;
}

int options_parse(int argc, char **argv, struct options *o)
{
    static const struct option longs[] = {
        {"config", required_argument, NULL, 'c'},
        {"check-config", no_argument, NULL, 'n'},
        {"listen", required_argument, NULL, 'l'},
        {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, 'V'},
        {"metrics-listen", required_argument, NULL, 'm'},
        {"openai-listen", required_argument, NULL, 'o'},
        {"log-format", required_argument, NULL, 'f'},
        {0},
    };
    int option;

    while ((option = getopt_long(argc, argv, "hV", longs, NULL)) != -1) {
        switch (option) {
        case 'c':
            o->config_path = optarg;
            break;
        case 'n':
            o->check_config = true;
            break;
        case 'l':
            if (o->n_listen == OPTIONS_LISTEN_MAX) {
                fprintf(stderr, "completiond: at most %d --listen\n", OPTIONS_LISTEN_MAX);
                return 2;
            }
            o->listen[o->n_listen++] = optarg;
            break;
        case 'o':
            if (o->n_openai_listen == OPTIONS_LISTEN_MAX) {
                fprintf(stderr, "completiond: at most %d --openai-listen\n", OPTIONS_LISTEN_MAX);
                return 2;
            }
            o->openai_listen[o->n_openai_listen++] = optarg;
            break;
        case 'm':
            o->metrics_listen = optarg;
            break;
        case 'f':
            if (!log_format_parse(optarg, &o->log_format)) {
                fputs("completiond: --log-format: auto, journal, text or json is wanted\n", stderr);
                return 2;
            }
            break;
        case 'h':
            fputs(usage, stdout);
            return 0;
        case 'V':
            printf("completiond %s (%s)\n", COMPLETIOND_VERSION, curl_version());
            return 0;
        default:
            fputs("Try 'completiond --help'.\n", stderr);
            return 2;
        }
    }
    if (optind < argc) {
        fprintf(stderr, "completiond: unexpected argument '%s'\nTry 'completiond --help'.\n",
                argv[optind]);
        return 2;
    }
    return -1;
}

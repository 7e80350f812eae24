/*
 * completion-sandbox: an offline server of the Completions API whose model is made of counts. Owns
 * the options, the files that they name, and the end on a signal.
 */
#include <errno.h>
#include <event2/event.h>
#include <event2/listener.h>
#include <getopt.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "default_text.h"
#include "model.h"
#include "server.h"
#include "socket.h"

enum { FILE_MAX_BYTES = 64 << 20, BACKLOG = 1024 };

static const char usage[] =
    "Usage: completion-sandbox [OPTION]...\n"
    "Serves POST /v1/completions from a small n-gram model, offline.\n"
    "\n"
    "  --listen ADDRESS:PORT     where to listen; port 0 is any (default 127.0.0.1:0)\n"
    "  --listen unix:PATH        the same on a Unix socket\n"
    "  --ready-fd N              write the base URL and a newline to N when listening\n"
    "  --model NAME              the model's name (default gpt-3.5-turbo-instruct)\n"
    "  --text FILE               train on this text instead of the one inside\n"
    "  --api-key KEY             ask for this key\n"
    "  --api-key-file FILE       the same, from the first line of a file\n"
    "  --tokens-per-second N     pace of every choice (default: as fast as it goes)\n"
    "  --tokenize TEXT           print the ids and tokens of a text, and exit\n"
    "  --help                    print this, and exit\n"
    "\n"
    "Prints \"listening on BASE_URL\" when it does. SIGTERM and SIGINT end it.\n";

struct options {
    const char *listen, *model_name, *text_path, *tokenize, *api_key, *api_key_path;
    double tokens_per_second;
    int ready_fd; /* -1: none */
    bool help;
};

/* ---- Options ---- */

static int read_count(const char *name, const char *text, double *ret)
{
    char *end;
    double number = strtod(text, &end);

    if (end == text || *end || !(number >= 0 && number <= 1e9)) {
        fprintf(stderr, "completion-sandbox: --%s: not a number from 0 to 1e9\n", name);
        return -EINVAL;
    }
    *ret = number;
    return 0;
}

static int read_option(struct options *o, int option, const char *value)
{
    double number;
    int r;

    switch (option) {
    case 'l':
        o->listen = value;
        return 0;
    case 'r':
        if ((r = read_count("ready-fd", value, &number)) == 0)
            o->ready_fd = (int)number;
        return r;
    case 'm':
        o->model_name = value;
        return 0;
    case 't':
        o->text_path = value;
        return 0;
    case 'k':
        o->api_key = value;
        return 0;
    case 'f':
        o->api_key_path = value;
        return 0;
    case 'p':
        return read_count("tokens-per-second", value, &o->tokens_per_second);
    case 'z':
        o->tokenize = value;
        return 0;
    case 'h':
        o->help = true;
        return 0;
    default:
        return -EINVAL;
    }
}

static int read_options(int argc, char **argv, struct options *o)
{
    static const struct option names[] = {
        {"listen", required_argument, NULL, 'l'},
        {"ready-fd", required_argument, NULL, 'r'},
        {"model", required_argument, NULL, 'm'},
        {"text", required_argument, NULL, 't'},
        {"api-key", required_argument, NULL, 'k'},
        {"api-key-file", required_argument, NULL, 'f'},
        {"tokens-per-second", required_argument, NULL, 'p'},
        {"tokenize", required_argument, NULL, 'z'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    int option, r = 0;

    while (r == 0 && (option = getopt_long(argc, argv, "", names, NULL)) >= 0)
        r = read_option(o, option, optarg);
    if (r == 0 && optind < argc) {
        fprintf(stderr, "completion-sandbox: unexpected argument\n");
        r = -EINVAL;
    }
    return r;
}

/* ---- Files ---- */

/* The whole file with a NUL behind it, to be freed; NULL: it has been said what is wrong. */
static char *read_file(const char *path, size_t *ret_len)
{
    errno = 0;
    FILE *file = fopen(path, "re");
    size_t capacity = 1 << 16, len = 0;
    char *text = file ? malloc(capacity + 1) : NULL;

    while (text && !feof(file) && !ferror(file) && len < FILE_MAX_BYTES) {
        len += fread(text + len, 1, capacity - len, file);
        if (len < capacity)
            continue;
        char *more = realloc(text, 2 * capacity + 1);
        if (!more)
            break;
        text = more;
        capacity *= 2;
    }
    if (!text || ferror(file) || !feof(file)) {
        fprintf(stderr, "completion-sandbox: can't read %s: %s\n", path,
                errno ? strerror(errno) : "it is too long");
        free(text);
        text = NULL;
    } else {
        text[len] = '\0';
        *ret_len = len;
    }
    if (file)
        fclose(file);
    return text;
}

static struct model *train(const struct options *o)
{
    const char *text = default_text;
    size_t len = strlen(default_text);
    char *file = NULL;
    struct model *model = NULL;

    if (o->text_path) {
        if (!(file = read_file(o->text_path, &len)))
            return NULL;
        text = file;
    }
    int r = model_new(text, len, &model);
    if (r < 0)
        fprintf(stderr, "completion-sandbox: can't train on this text: %s\n",
                r == -EINVAL ? "it has no words" : strerror(-r));
    free(file);
    return model;
}

/* The first line of the key's file, to be freed. */
static char *read_key(const char *path)
{
    size_t len;
    char *key = read_file(path, &len);

    if (!key)
        return NULL;
    key[strcspn(key, "\r\n")] = '\0';
    if (*key)
        return key;
    fprintf(stderr, "completion-sandbox: %s: there is no key on the first line\n", path);
    free(key);
    return NULL;
}

/* ---- --tokenize ---- */

static int print_tokens(const struct model *m, const char *text)
{
    struct tokens tokens = {0};
    int r = vocabulary_encode(model_vocabulary(m), text, strlen(text), &tokens);

    for (size_t i = 0; r == 0 && i < tokens.n; i++) {
        size_t len;
        const char *bytes = vocabulary_bytes(model_vocabulary(m), tokens.ids[i], &len);
        printf("%u\t\"", tokens.ids[i]);
        for (size_t k = 0; k < len; k++)
            printf(bytes[k] < ' ' || bytes[k] > '~' ? "\\x%02x" : "%c", (unsigned char)bytes[k]);
        printf("\"\n");
    }
    tokens_done(&tokens);
    return r == 0 && fflush(stdout) == 0 ? 0 : -EIO;
}

/* ---- Serving ---- */

static int announce(const struct options *o, const char *url)
{
    if (printf("listening on %s\n", url) < 0 || fflush(stdout) != 0)
        return -errno;
    if (o->ready_fd < 0)
        return 0;
    int r = dprintf(o->ready_fd, "%s\n", url) < 0 ? -errno : 0;
    close(o->ready_fd);
    return r;
}

static int listen_at(struct event_base *base, struct server *server, int fd)
{
    struct evconnlistener *listener = evconnlistener_new(
        base, NULL, NULL, LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC, BACKLOG, fd);

    if (!listener) {
        close(fd);
        return -errno;
    }
    int r = server_listen(server, listener);
    if (r < 0)
        evconnlistener_free(listener);
    return r;
}

static int run(const struct options *o, struct event_base *base, struct server *server)
{
    char url[SOCKET_URL_MAX];
    int fd = -1;
    int r = socket_bind(o->listen, &fd, url);

    if (r == 0 && (r = listen_at(base, server, fd)) == 0 && (r = announce(o, url)) == 0 &&
        event_base_dispatch(base) < 0)
        r = -EIO;
    if (r < 0)
        fprintf(stderr, "completion-sandbox: can't serve at %s: %s\n", o->listen, strerror(-r));
    if (fd >= 0 && !strncmp(o->listen, "unix:", 5))
        unlink(o->listen + 5);
    return r;
}

static void on_signal(evutil_socket_t number, short what, void *base)
{
    (void)number, (void)what;
    event_base_loopbreak(base);
}

static int serve(const struct options *o, const struct model *model)
{
    struct server_options server_options = {.model = model,
                                            .model_name = o->model_name,
                                            .api_key = o->api_key,
                                            .tokens_per_second = o->tokens_per_second};
    struct event_base *base = event_base_new();
    struct event *term = base ? evsignal_new(base, SIGTERM, on_signal, base) : NULL;
    struct event *interrupt = base ? evsignal_new(base, SIGINT, on_signal, base) : NULL;
    struct server *server = NULL;
    int r = -ENOMEM;

    signal(SIGPIPE, SIG_IGN);
    if (term && interrupt && event_add(term, NULL) == 0 && event_add(interrupt, NULL) == 0 &&
        server_new(base, &server_options, &server) == 0)
        r = run(o, base, server);
    server_free(server);
    if (term)
        event_free(term);
    if (interrupt)
        event_free(interrupt);
    if (base)
        event_base_free(base);
    libevent_global_shutdown();
    return r;
}

int main(int argc, char **argv)
{
    struct options o = {
        .listen = "127.0.0.1:0", .model_name = "gpt-3.5-turbo-instruct", .ready_fd = -1};
    char *key = NULL;

    if (read_options(argc, argv, &o) < 0) {
        fputs(usage, stderr);
        return 2;
    }
    if (o.help)
        return fputs(usage, stdout) < 0;
    if (o.api_key_path && !(o.api_key = key = read_key(o.api_key_path)))
        return 1;
    struct model *model = train(&o);
    int r = !model ? -EINVAL : o.tokenize ? print_tokens(model, o.tokenize) : serve(&o, model);
    model_free(model);
    free(key);
    return r < 0;
}

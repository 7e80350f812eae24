/* completionctl models */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../proto/json_reader.h"
#include "../../proto/json_writer.h"
#include "completionctl.h"

static const char usage[] =
    "Usage: completionctl models [OPTION]...\n"
    "Lists the models that the daemon's configuration lets you ask for, and the upstream that\n"
    "serves each: the first line that fits a model's name. A name with *, ? or [] stands for all\n"
    "that fit it; which of them there are is the upstream's to say.\n"
    "\n"
    "      --output table|text|json   text: the names alone, each once. Default: table\n"
    "      --socket PATH              the daemon's socket; default $COMPLETIOND_SOCKET, else\n"
    "                                 $XDG_RUNTIME_DIR/completiond/rpc.sock if it is there, else\n"
    "                                 /run/completiond/rpc.sock\n"
    "      --timeout TIME             how long to wait (5s, 500ms); default 5s\n"
    "  -h, --help                     show this\n"
    "\n"
    "Examples:\n"
    "  completionctl models\n"
    "  completionctl models --output text | grep instruct\n";

enum format { FORMAT_TABLE, FORMAT_TEXT, FORMAT_JSON };

enum { TEXT_MAX_BYTES = 1 << 20, JSON_MAX_BYTES = 64 << 20 };

struct model {
    char *name, *upstream;
    const char *state;
};

struct models {
    struct model *list;
    size_t n;
};

/* ---- Reading ---- */

/* To be freed; NULL: no memory, or it is too long. */
static char *copy_string(const struct json_string *s)
{
    struct buffer text = BUFFER_INIT(TEXT_MAX_BYTES);

    json_string_append(s, &text);
    buffer_append_byte(&text, '\0');
    char *copy = text.error ? NULL : strdup((char *)buffer_bytes(&text));
    buffer_done(&text);
    return copy;
}

static int read_model(struct json_reader *r, struct model *m)
{
    struct json_string key, value;

    if (!json_enter_object(r))
        return -EBADMSG;
    while (json_next_member(r, &key)) {
        char **to = json_string_equals(&key, "model")      ? &m->name
                    : json_string_equals(&key, "upstream") ? &m->upstream
                                                           : NULL;
        if (!to || *to || !json_read_string(r, &value))
            continue;
        *to = copy_string(&value);
        if (!*to)
            return -ENOMEM;
    }
    return m->name && m->upstream ? 0 : -EBADMSG;
}

static int read_list(struct json_reader *r, struct models *m)
{
    int e = 0;

    if (!json_enter_array(r))
        return 0;
    while (e == 0 && json_next_element(r)) {
        struct model *list = realloc(m->list, (m->n + 1) * sizeof *list);
        if (!list)
            return -ENOMEM;
        m->list = list;
        m->list[m->n] = (struct model){0};
        e = read_model(r, &m->list[m->n++]);
    }
    return e;
}

static int read_models(const char *json, const struct summary *s, struct models *m)
{
    struct json_reader r;
    struct json_string key;
    int e = 0;

    json_reader_init(&r, json, strlen(json));
    if (json_enter_object(&r))
        while (e == 0 && json_next_member(&r, &key))
            if (json_string_equals(&key, "models"))
                e = read_list(&r, m);
    for (size_t i = 0; e == 0 && i < m->n; i++)
        for (size_t k = 0; k < s->n_upstreams; k++)
            if (!strcmp(m->list[i].upstream, s->upstreams[k].name))
                m->list[i].state = s->upstreams[k].state;
    return e;
}

static void models_done(struct models *m)
{
    for (size_t i = 0; i < m->n; i++) {
        free(m->list[i].name);
        free(m->list[i].upstream);
    }
    free(m->list);
}

/* ---- Printing ---- */

static bool was_before(const struct models *m, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!strcmp(m->list[i].name, m->list[n].name))
            return true;
    return false;
}

static void print_names(const struct models *m)
{
    for (size_t i = 0; i < m->n; i++)
        if (!was_before(m, i)) {
            terminal_print_plain(stdout, m->list[i].name);
            putchar('\n');
        }
}

static void pad(const char *text, size_t width)
{
    for (size_t n = strlen(text); n < width; n++)
        putchar(' ');
}

static void print_table(const struct models *m)
{
    bool colours = terminal_has_colours(STDOUT_FILENO);
    size_t width = strlen("MODEL"), upstream_width = strlen("UPSTREAM");

    for (size_t i = 0; i < m->n; i++) {
        size_t n = strlen(m->list[i].name), k = strlen(m->list[i].upstream);
        width = n > width ? n : width;
        upstream_width = k > upstream_width ? k : upstream_width;
    }
    printf("%s%-*s  %-*s  STATE%s\n", terminal_style(colours, STYLE_TITLE), (int)width, "MODEL",
           (int)upstream_width, "UPSTREAM", terminal_style(colours, STYLE_NONE));
    for (size_t i = 0; i < m->n; i++) {
        const struct model *one = &m->list[i];
        bool is_bad = one->state && !strcmp(one->state, "UPSTREAM_STATE_UNREACHABLE");
        terminal_print_plain(stdout, one->name);
        pad(one->name, width + 2);
        terminal_print_plain(stdout, one->upstream);
        pad(one->upstream, upstream_width + 2);
        printf("%s%s%s\n", is_bad ? terminal_style(colours, STYLE_ERROR) : "",
               is_bad ? "unreachable" : "ok", is_bad ? terminal_style(colours, STYLE_NONE) : "");
    }
}

static int print_json(const struct models *m)
{
    struct buffer out = BUFFER_INIT(JSON_MAX_BYTES);
    struct json_writer w = json_writer(&out);

    json_begin_object(&w);
    json_key(&w, "models");
    json_begin_array(&w);
    for (size_t i = 0; i < m->n; i++) {
        const struct model *one = &m->list[i];
        json_begin_object(&w);
        json_key(&w, "model");
        json_string(&w, one->name, strlen(one->name));
        json_key(&w, "upstream");
        json_string(&w, one->upstream, strlen(one->upstream));
        if (one->state) {
            json_key(&w, "state");
            json_string(&w, one->state, strlen(one->state));
        }
        json_end_object(&w);
    }
    json_end_array(&w);
    json_end_object(&w);
    buffer_append_byte(&out, '\n');
    int status = EXIT_OK;
    if (out.error)
        status = out_of_memory();
    else
        fwrite(buffer_bytes(&out), 1, buffer_length(&out), stdout);
    buffer_done(&out);
    return status;
}

static int print(const struct models *m, enum format format)
{
    if (format == FORMAT_JSON)
        return print_json(m);
    if (format == FORMAT_TEXT)
        print_names(m);
    else if (m->n > 0)
        print_table(m);
    else
        complain("there is no model that you may ask for");
    return EXIT_OK;
}

static int show(const char *socket, int64_t timeout_ms, enum format format)
{
    completion_client *client;
    completion_error *error = completion_error_new();
    struct models models = {0};
    struct summary s;
    char *json = NULL;
    int r = completion_client_new(socket, &client), status;

    if (r < 0) {
        completion_error_free(error);
        return socket_error("models", r);
    }
    r = summary_get(client, timeout_ms, &s, &json, error);
    if (r < 0) {
        status = report(r, error);
    } else {
        r = json ? read_models(json, &s, &models) : 0;
        if (r < 0)
            complain("the daemon's answer can't be read: %s", strerror(-r));
        status = r < 0 ? EXIT_UPSTREAM : print(&models, format);
        summary_done(&s);
    }
    models_done(&models);
    free(json);
    completion_client_free(client);
    completion_error_free(error);
    return status;
}

int run_models(int argc, char **argv)
{
    static const struct option longs[] = {
        {"output", required_argument, NULL, 'o'},
        {"socket", required_argument, NULL, 's'},
        {"timeout", required_argument, NULL, 't'},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    const char *socket = NULL;
    int64_t timeout_ms = 5000;
    enum format format = FORMAT_TABLE;
    int option;

    while ((option = getopt_long(argc, argv, "h", longs, NULL)) != -1) {
        switch (option) {
        case 'o':
            if (strcmp(optarg, "table") != 0 && strcmp(optarg, "text") != 0 &&
                strcmp(optarg, "json") != 0)
                return usage_error("models", "--output: table, text or json is wanted");
            format = *optarg == 'j' ? FORMAT_JSON : optarg[1] == 'e' ? FORMAT_TEXT : FORMAT_TABLE;
            break;
        case 's':
            socket = optarg;
            break;
        case 't':
            if (parse_duration(optarg, &timeout_ms) < 0)
                return usage_error("models", "--timeout: write 5s, 500ms or 2min");
            break;
        case 'h':
            fputs(usage, stdout);
            return EXIT_OK;
        default:
            return bad_option("models", argv[optind - 1], longs);
        }
    }
    if (optind < argc)
        return usage_error("models", "unexpected argument '%s'", argv[optind]);
    return show(socket, timeout_ms, format);
}

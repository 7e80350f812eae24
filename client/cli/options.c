/* The options of `completionctl create`: the API's names, and a request made of them. */
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "../../proto/buffer.h"
#include "../../proto/json_reader.h"
#include "completionctl.h"

static const char usage[] =
    "Usage: completionctl create --model MODEL --prompt TEXT [OPTION]...\n"
    "Completes a prompt and writes the answer.\n"
    "\n"
    "The API's parameters; what is not given is not sent, and the model's default holds:\n"
    "      --model MODEL              required\n"
    "      --prompt TEXT              or @FILE, or - for standard input, to the last byte; or a\n"
    "                                 JSON array: [\"text\"], [token id], [[token id]]. May be\n"
    "                                 repeated, for several prompts. A text that begins with @, "
    "or\n"
    "                                 looks like an array, is written as one: '[\"@home\"]'\n"
    "      --suffix TEXT              what comes after the completion\n"
    "      --max-tokens N             most tokens to generate (default of the API: 16)\n"
    "      --temperature X            0 to 2\n"
    "      --top-p X                  0 to 1\n"
    "      --n N                      completions for each prompt, 1 to 128\n"
    "      --best-of N                generate N and return the best: at least --n, at most 20;\n"
    "                                 with --stream not more than --n\n"
    "      --stop TEXT                ends the completion; may be repeated, up to four times\n"
    "      --seed N                   the same seed and request give the same answer, mostly\n"
    "      --echo[=BOOL]              return the prompt too\n"
    "      --logprobs N               log probabilities of the N likeliest tokens, 0 to 5\n"
    "      --logit-bias JSON          {\"50256\": -100}: token ids, -100 to 100\n"
    "      --frequency-penalty X      -2 to 2\n"
    "      --presence-penalty X       -2 to 2\n"
    "      --user NAME                the end user, for the upstream's abuse monitoring\n"
    "      --stream                   write the answer as it is generated\n"
    "      --stream-options JSON      {\"include_usage\": true, \"include_obfuscation\": false},\n"
    "                                 with --stream\n"
    "      --extra-body JSON          an object with parameters beyond the API's\n"
    "\n"
    "The command's own:\n"
    "      --output json|text         the API's JSON (one object, or one a line with --stream), "
    "or\n"
    "                                 the text alone, with a newline behind it; of several "
    "choices\n"
    "                                 each on lines of its own, behind [INDEX]. Default json\n"
    "      --api-key KEY              your own key for the upstream, where policy allows it; "
    "@FILE\n"
    "                                 keeps it out of the process list, and so does the variable\n"
    "                                 COMPLETIOND_API_KEY\n"
    "      --timeout TIME             for the whole call: 30s, 2min, 500ms; default none\n"
    "      --socket PATH              the daemon's socket; default $COMPLETIOND_SOCKET, else\n"
    "                                 $XDG_RUNTIME_DIR/completiond/rpc.sock if it is there, else\n"
    "                                 /run/completiond/rpc.sock\n"
    "  -h, --help                     show this\n"
    "\n"
    "Examples:\n"
    "  completionctl create --model gpt-3.5-turbo-instruct --prompt 'This is a test.'\n"
    "  completionctl create --model m --prompt @story.txt --max-tokens 200 --stream --output text\n"
    "  completionctl create --model m --prompt '[\"One\",\"Two\"]' --n 2 --logprobs 3\n"
    "  completionctl create --model m --prompt - --stop 'Q:' --output text < question.txt\n"
    "\n"
    "The exit statuses are in 'completionctl --help'.\n";

/* A parameter: its option, and how its value gets into the request. */
struct parameter {
    const char *name;
    int (*set_text)(completion_request *r, const char *text, size_t length);
    int (*set_int)(completion_request *r, int32_t value);
    int (*set_double)(completion_request *r, double value);
    int (*set_other)(completion_request *r, const char *value, const char **ret_why);
};

static int set_seed(completion_request *r, const char *value, const char **ret_why);
static int set_echo(completion_request *r, const char *value, const char **ret_why);
static int set_logit_bias(completion_request *r, const char *value, const char **ret_why);
static int set_stream_options(completion_request *r, const char *value, const char **ret_why);
static int set_api_key(completion_request *r, const char *value, const char **ret_why);

static const struct parameter parameters[] = {
    {.name = "model", .set_text = completion_request_set_model},
    {.name = "suffix", .set_text = completion_request_set_suffix},
    {.name = "user", .set_text = completion_request_set_user},
    {.name = "extra-body", .set_text = completion_request_set_extra_body},
    {.name = "max-tokens", .set_int = completion_request_set_max_tokens},
    {.name = "n", .set_int = completion_request_set_n},
    {.name = "best-of", .set_int = completion_request_set_best_of},
    {.name = "logprobs", .set_int = completion_request_set_logprobs},
    {.name = "temperature", .set_double = completion_request_set_temperature},
    {.name = "top-p", .set_double = completion_request_set_top_p},
    {.name = "frequency-penalty", .set_double = completion_request_set_frequency_penalty},
    {.name = "presence-penalty", .set_double = completion_request_set_presence_penalty},
    {.name = "seed", .set_other = set_seed},
    {.name = "echo", .set_other = set_echo},
    {.name = "logit-bias", .set_other = set_logit_bias},
    {.name = "stream-options", .set_other = set_stream_options},
    {.name = "api-key", .set_other = set_api_key},
};
enum { N_PARAMETERS = sizeof parameters / sizeof *parameters };

/* ---- Values ---- */

static int parse_integer(const char *text, int64_t *ret)
{
    char *end;

    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (errno || end == text || *end)
        return -EINVAL;
    *ret = value;
    return 0;
}

int parse_duration(const char *text, int64_t *ret_ms)
{
    static const struct {
        const char *name;
        double ms;
    } units[] = {{"", 1e3}, {"s", 1e3}, {"ms", 1}, {"min", 6e4}, {"m", 6e4}, {"h", 36e5}};
    char *end;
    double value = strtod(text, &end);

    if (end == text || !(value >= 0))
        return -EINVAL;
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        if (strcmp(end, units[i].name) != 0 || value * units[i].ms > 9e15)
            continue;
        *ret_ms = (int64_t)(value * units[i].ms);
        return 0;
    }
    return -EINVAL;
}

static int parse_bool(const char *text, bool *ret)
{
    *ret = !text || !strcasecmp(text, "true") || !strcmp(text, "1") || !strcasecmp(text, "yes");
    return *ret || !strcasecmp(text, "false") || !strcmp(text, "0") || !strcasecmp(text, "no")
               ? 0
               : -EINVAL;
}

static int set_seed(completion_request *r, const char *value, const char **ret_why)
{
    int64_t seed;

    *ret_why = "a whole number of 64 bits is wanted";
    return parse_integer(value, &seed) < 0 ? -EINVAL : completion_request_set_seed(r, seed);
}

static int set_echo(completion_request *r, const char *value, const char **ret_why)
{
    bool echo;

    *ret_why = "true or false is wanted";
    return parse_bool(value, &echo) < 0 ? -EINVAL : completion_request_set_echo(r, echo);
}

static int set_logit_bias(completion_request *r, const char *value, const char **ret_why)
{
    struct json_reader reader;
    struct json_string key;
    char digits[16];
    int64_t token;
    double bias;
    int e = 0;

    *ret_why = "a JSON object of token ids and numbers is wanted: {\"50256\": -100}";
    json_reader_init(&reader, value, strlen(value));
    if (!json_enter_object(&reader))
        return -EINVAL;
    while (e == 0 && json_next_member(&reader, &key)) {
        if (key.has_escapes || key.len >= sizeof digits || !json_read_double(&reader, &bias))
            return -EINVAL;
        memcpy(digits, key.data, key.len);
        digits[key.len] = '\0';
        if (parse_integer(digits, &token) < 0 || token < INT32_MIN || token > INT32_MAX)
            return -EINVAL;
        e = completion_request_add_logit_bias(r, (int32_t)token, bias);
    }
    return e == 0 && !json_reader_end(&reader) ? -EINVAL : e;
}

static int set_stream_options(completion_request *r, const char *value, const char **ret_why)
{
    struct json_reader reader;
    struct json_string key;
    bool on;
    int e = 0;

    *ret_why = "a JSON object is wanted, with include_usage and include_obfuscation true or false";
    json_reader_init(&reader, value, strlen(value));
    if (!json_enter_object(&reader))
        return -EINVAL;
    while (e == 0 && json_next_member(&reader, &key)) {
        bool usage_option = json_string_equals(&key, "include_usage");
        if ((!usage_option && !json_string_equals(&key, "include_obfuscation")) ||
            !json_read_bool(&reader, &on))
            return -EINVAL;
        e = usage_option ? completion_request_set_include_usage(r, on)
                         : completion_request_set_include_obfuscation(r, on);
    }
    return e == 0 && !json_reader_end(&reader) ? -EINVAL : e;
}

static int set_api_key(completion_request *r, const char *value, const char **ret_why)
{
    struct buffer file = BUFFER_INIT(8192);
    int e;

    *ret_why = "printable characters without spaces are wanted, or @FILE with them";
    if (*value != '@')
        return completion_request_set_api_key(r, value, COMPLETION_ZERO_TERMINATED);
    e = file_read(value + 1, &file);
    if (e == 0) {
        size_t n = buffer_length(&file);
        while (n > 0 && strchr("\r\n \t", buffer_bytes(&file)[n - 1]))
            n--;
        e = completion_request_set_api_key(r, (char *)buffer_bytes(&file), n);
    } else {
        *ret_why = strerror(-e);
    }
    buffer_wipe(&file);
    return e;
}

/* ---- Options ---- */

enum {
    OPTION_PROMPT = 1000,
    OPTION_STOP,
    OPTION_STREAM,
    OPTION_OUTPUT,
    OPTION_TIMEOUT,
    OPTION_SOCKET,
    OPTION_HELP,
};

/* Of a value only the name of a file is shown: it may be a key, or a prompt. */
static int bad_value(const char *option, const char *value, int e, const char *why)
{
    bool is_file = *value == '@';

    if (e == -ENOMEM) {
        fputs("completionctl: out of memory\n", stderr);
        return EXIT_LOCAL;
    }
    return usage_error("create", "--%s: %s%s%s", option, is_file ? value + 1 : "",
                       is_file ? ": " : "", why);
}

static int set_parameter(completion_request *r, const struct parameter *p, const char *value)
{
    const char *why = "the value can't be used";
    int64_t integer;
    char *end;
    int e;

    if (p->set_text) {
        e = p->set_text(r, value, COMPLETION_ZERO_TERMINATED);
    } else if (p->set_int) {
        why = "a whole number is wanted";
        e = parse_integer(value, &integer) < 0 || integer < INT32_MIN || integer > INT32_MAX
                ? -EINVAL
                : p->set_int(r, (int32_t)integer);
    } else if (p->set_double) {
        double number = strtod(value, &end);
        why = "a number is wanted";
        e = end == value || *end || !isfinite(number) ? -EINVAL : p->set_double(r, number);
    } else {
        e = p->set_other(r, value, &why);
    }
    return e < 0 ? bad_value(p->name, value ? value : "", e, why) : EXIT_OK;
}

static int set_option(struct create_options *o, int option, const char *value)
{
    switch (option) {
    case OPTION_STREAM:
        o->stream = true;
        return EXIT_OK;
    case OPTION_OUTPUT:
        if (strcmp(value, "json") != 0 && strcmp(value, "text") != 0)
            return usage_error("create", "--output: json or text is wanted");
        o->output = *value == 'j' ? OUTPUT_JSON : OUTPUT_TEXT;
        return EXIT_OK;
    case OPTION_TIMEOUT:
        return parse_duration(value, &o->timeout_ms) < 0
                   ? usage_error("create", "--timeout: write 30s, 2min or 500ms")
                   : EXIT_OK;
    case OPTION_SOCKET:
        o->socket = value;
        return EXIT_OK;
    case OPTION_HELP:
    case 'h':
        o->help = true;
        fputs(usage, stdout);
        return EXIT_OK;
    default: /* getopt_long() has said why */
        return try_help("create");
    }
}

/* What the command has to know of a parameter that only goes through it. */
static void note_parameter(struct create_options *o, const char *name, const char *value)
{
    o->has_model = o->has_model || !strcmp(name, "model");
    o->has_key = o->has_key || !strcmp(name, "api-key");
    o->has_stream_options = o->has_stream_options || !strcmp(name, "stream-options");
    if (!strcmp(name, "n"))
        o->several = strtol(value, NULL, 10) > 1;
}

/* The options as getopt_long() wants them: the parameters by their position, then the others. */
static void make_longs(struct option *longs)
{
    static const struct option others[] = {
        {"prompt", required_argument, NULL, OPTION_PROMPT},
        {"stop", required_argument, NULL, OPTION_STOP},
        {"stream", no_argument, NULL, OPTION_STREAM},
        {"output", required_argument, NULL, OPTION_OUTPUT},
        {"timeout", required_argument, NULL, OPTION_TIMEOUT},
        {"socket", required_argument, NULL, OPTION_SOCKET},
        {"help", no_argument, NULL, OPTION_HELP},
        {0},
    };

    for (size_t i = 0; i < N_PARAMETERS; i++)
        longs[i] = (struct option){
            .name = parameters[i].name,
            .has_arg = strcmp(parameters[i].name, "echo") ? required_argument : optional_argument,
            .val = (int)i + 1,
        };
    memcpy(longs + N_PARAMETERS, others, sizeof others);
}

/* Prompts and stops that were given, in order. */
struct texts {
    const char **values;
    size_t n;
};

static int take_lists(struct create_options *o, const struct texts *prompts,
                      const struct texts *stops)
{
    for (size_t i = 0; i < prompts->n; i++) {
        const char *why = "the value can't be used";
        int e = prompt_set(o->request, prompts->values[i], prompts->n > 1, &why);
        if (e < 0)
            return bad_value("prompt", prompts->values[i], e, why);
        o->several = o->several || prompts->n > 1 || e > 1;
    }
    for (size_t i = 0; i < stops->n; i++) {
        int e = stops->n > 1 ? completion_request_add_stop(o->request, stops->values[i],
                                                           COMPLETION_ZERO_TERMINATED)
                             : completion_request_set_stop(o->request, stops->values[i],
                                                           COMPLETION_ZERO_TERMINATED);
        if (e < 0)
            return bad_value("stop", "", e, "the value can't be used");
    }
    return EXIT_OK;
}

static int read_options(int argc, char **argv, struct create_options *o, struct texts *prompts,
                        struct texts *stops)
{
    struct option longs[N_PARAMETERS + 8];
    int option, status = EXIT_OK;

    make_longs(longs);
    while (status == EXIT_OK && !o->help &&
           (option = getopt_long(argc, argv, "h", longs, NULL)) != -1) {
        if (option == OPTION_PROMPT) {
            prompts->values[prompts->n++] = optarg;
        } else if (option == OPTION_STOP) {
            stops->values[stops->n++] = optarg;
        } else if (option >= 1 && option <= N_PARAMETERS) {
            status = set_parameter(o->request, &parameters[option - 1], optarg);
            note_parameter(o, parameters[option - 1].name, optarg);
        } else {
            status = set_option(o, option, optarg);
        }
    }
    return status;
}

static int finish_options(int argc, char **argv, struct create_options *o,
                          const struct texts *prompts, const struct texts *stops)
{
    const char *key = getenv("COMPLETIOND_API_KEY");
    int status = EXIT_OK;

    if (optind < argc)
        return usage_error("create", "unexpected argument '%s'", argv[optind]);
    if (!o->has_model)
        return usage_error("create", "--model is missing");
    if (o->has_stream_options && !o->stream)
        return usage_error("create", "--stream-options needs --stream");
    if (key && *key && !o->has_key)
        status = set_parameter(o->request, &parameters[N_PARAMETERS - 1], key);
    return status ? status : take_lists(o, prompts, stops);
}

int options_parse(int argc, char **argv, struct create_options *o)
{
    /* There can't be more of each than there are arguments. */
    struct texts prompts = {calloc((size_t)argc, sizeof *prompts.values), 0};
    struct texts stops = {calloc((size_t)argc, sizeof *stops.values), 0};
    int status = EXIT_LOCAL;

    if (prompts.values && stops.values && completion_request_new(&o->request) == 0)
        status = read_options(argc, argv, o, &prompts, &stops);
    else
        fputs("completionctl: out of memory\n", stderr);
    if (status == EXIT_OK && !o->help)
        status = finish_options(argc, argv, o, &prompts, &stops);
    free(prompts.values);
    free(stops.values);
    return status;
}

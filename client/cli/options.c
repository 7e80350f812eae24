/* The options of `completionctl create`, and a request made of them. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../proto/buffer.h"
#include "completionctl.h"

static const char usage[] =
    "Usage: completionctl create --model MODEL --prompt TEXT [OPTION]...\n"
    "       completionctl create --jsonl FILE [OPTION]...\n"
    "Completes a prompt and writes the answer; or many prompts, of a file.\n"
    "\n"
    "The API's parameters; what is not given is not sent, and the model's default holds:\n"
    "      --model MODEL              required; 'completionctl models' lists them\n"
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
    "      --stream[=BOOL]            write the answer as it is generated. Default: of one choice\n"
    "                                 as text on a terminal\n"
    "      --stream-options JSON      {\"include_usage\": true, \"include_obfuscation\": false},\n"
    "                                 with --stream\n"
    "      --extra-body JSON          an object with parameters beyond the API's\n"
    "\n"
    "The command's own:\n"
    "      --output text|json         the text alone, with a newline behind it, of several "
    "choices\n"
    "                                 each on lines of its own, behind [INDEX]; or the API's "
    "JSON,\n"
    "                                 one object, or one a line with --stream. Default: text on a\n"
    "                                 terminal, else json\n"
    "      --usage                    say at the end what it took: tokens and time\n"
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
    "A batch:\n"
    "      --jsonl FILE               requests, each a JSON object on a line, with the API's "
    "names;\n"
    "                                 or {\"custom_id\": ..., \"body\": REQUEST}; - for standard\n"
    "                                 input. The parameters above are for lines that lack them.\n"
    "                                 Answers are written in order, a line each: {\"index\": N,\n"
    "                                 \"custom_id\": ..., \"response\": {\"body\": ANSWER}, "
    "\"error\": ...}\n"
    "      --jobs N                   calls at once, 1 to 1000; default 8\n"
    "      --retries N                for what may succeed later, 0 to 100; default 5\n"
    "      --output-file FILE         where the answers go; default standard output\n"
    "      --resume                   go on with FILE: what it has is not asked again\n"
    "\n"
    "Examples:\n"
    "  completionctl create --model gpt-3.5-turbo-instruct --prompt 'This is a test.'\n"
    "  completionctl create --model m --prompt @story.txt --max-tokens 200 --stream --output text\n"
    "  completionctl create --model m --prompt '[\"One\",\"Two\"]' --n 2 --logprobs 3\n"
    "  completionctl create --model m --prompt - --stop 'Q:' --output text < question.txt\n"
    "  completionctl create --model m --jsonl requests.jsonl --output-file answers.jsonl --resume\n"
    "\n"
    "The exit statuses are in 'completionctl --help'.\n";

enum {
    OPTION_PROMPT = 1000,
    OPTION_STOP,
    OPTION_STREAM,
    OPTION_OUTPUT,
    OPTION_USAGE,
    OPTION_TIMEOUT,
    OPTION_SOCKET,
    OPTION_JSONL,
    OPTION_JOBS,
    OPTION_RETRIES,
    OPTION_OUTPUT_FILE,
    OPTION_RESUME,
    OPTION_HELP,
};

enum { JOBS = 8, JOBS_MAX = 1000, RETRIES = 5, RETRIES_MAX = 100, KEY_MAX_BYTES = 8192 };

/* Of a value only the name of a file is shown: it may be a key, or a prompt. */
static int bad_value(const char *option, const char *value, int e, const char *why)
{
    bool is_file = *value == '@';

    if (e == -ENOMEM)
        return out_of_memory();
    return usage_error("create", "--%s: %s%s%s", option, is_file ? value + 1 : "",
                       is_file ? ": " : "", why);
}

/* The key itself, to be wiped and freed, whether it stands in a file or not. */
static int read_key(const char *value, char **ret)
{
    struct buffer key = BUFFER_INIT(KEY_MAX_BYTES);
    int r = 0;

    if (*value == '@')
        r = file_read(value + 1, &key);
    else
        buffer_append_string(&key, value);
    size_t n = buffer_length(&key);
    while (*value == '@' && n > 0 && strchr("\r\n \t", buffer_bytes(&key)[n - 1]))
        n--;
    buffer_truncate(&key, n);
    buffer_append_byte(&key, '\0');
    r = r < 0 ? r : key.error;
    if (r == 0 && !(*ret = strdup((char *)buffer_bytes(&key))))
        r = -ENOMEM;
    buffer_wipe(&key);
    return r;
}

static void free_key(struct create_options *o)
{
    if (o->key)
        explicit_bzero(o->key, strlen(o->key));
    free(o->key);
    o->key = NULL;
}

static int set_parameter(struct create_options *o, size_t i, const char *value)
{
    const char *why, *name = parameter_name(i), *set = value;
    int r = 0;

    if (!strcmp(name, "api-key")) {
        free_key(o);
        r = read_key(value, &o->key);
        set = o->key;
        if (r < 0)
            return bad_value(name, value, r, r == -EMSGSIZE ? "too long" : strerror(-r));
    }
    r = parameter_set(o->request, i, set, &why);
    if (r < 0)
        return bad_value(name, value ? value : "", r, why);
    o->defaults[o->n_defaults++] = (struct given){i, set};
    if (!strcmp(name, "n"))
        o->several = strtol(value, NULL, 10) > 1;
    else if (!strcmp(name, "best-of"))
        o->chooses = strtol(value, NULL, 10) > 1;
    return EXIT_OK;
}

static int set_option(struct create_options *o, int option, const char *value)
{
    switch (option) {
    case OPTION_STREAM:
        o->has_stream = true;
        return parse_bool(value, &o->stream) < 0
                   ? usage_error("create", "--stream: true or false is wanted")
                   : EXIT_OK;
    case OPTION_OUTPUT:
        if (strcmp(value, "json") != 0 && strcmp(value, "text") != 0)
            return usage_error("create", "--output: json or text is wanted");
        o->output = *value == 'j' ? OUTPUT_JSON : OUTPUT_TEXT;
        return EXIT_OK;
    case OPTION_USAGE:
        o->usage = true;
        return EXIT_OK;
    case OPTION_TIMEOUT:
        return parse_duration(value, &o->timeout_ms) < 0
                   ? usage_error("create", "--timeout: write 30s, 2min or 500ms")
                   : EXIT_OK;
    case OPTION_SOCKET:
        o->socket = value;
        return EXIT_OK;
    case OPTION_JSONL:
        o->jsonl = value;
        return EXIT_OK;
    case OPTION_JOBS:
        return parse_number(value, 1, JOBS_MAX, &o->jobs) < 0
                   ? usage_error("create", "--jobs: a number from 1 to %d is wanted", JOBS_MAX)
                   : EXIT_OK;
    case OPTION_RETRIES:
        return parse_number(value, 0, RETRIES_MAX, &o->retries) < 0
                   ? usage_error("create", "--retries: a number from 0 to %d is wanted",
                                 RETRIES_MAX)
                   : EXIT_OK;
    case OPTION_OUTPUT_FILE:
        o->output_file = value;
        return EXIT_OK;
    case OPTION_RESUME:
        o->resume = true;
        return EXIT_OK;
    default: /* OPTION_HELP, 'h' */
        o->help = true;
        fputs(usage, stdout);
        return EXIT_OK;
    }
}

static const struct option others[] = {
    {"prompt", required_argument, NULL, OPTION_PROMPT},
    {"stop", required_argument, NULL, OPTION_STOP},
    {"stream", optional_argument, NULL, OPTION_STREAM},
    {"output", required_argument, NULL, OPTION_OUTPUT},
    {"usage", no_argument, NULL, OPTION_USAGE},
    {"timeout", required_argument, NULL, OPTION_TIMEOUT},
    {"socket", required_argument, NULL, OPTION_SOCKET},
    {"jsonl", required_argument, NULL, OPTION_JSONL},
    {"jobs", required_argument, NULL, OPTION_JOBS},
    {"retries", required_argument, NULL, OPTION_RETRIES},
    {"output-file", required_argument, NULL, OPTION_OUTPUT_FILE},
    {"resume", no_argument, NULL, OPTION_RESUME},
    {"help", no_argument, NULL, OPTION_HELP},
    {0},
};
enum { N_OTHERS = sizeof others / sizeof *others };

/* The options as getopt_long() wants them: the parameters by their position, then the others. */
static void make_longs(struct option *longs)
{
    for (size_t i = 0; i < N_PARAMETERS; i++)
        longs[i] = (struct option){
            .name = parameter_name(i),
            .has_arg = strcmp(parameter_name(i), "echo") ? required_argument : optional_argument,
            .val = (int)i + 1,
        };
    memcpy(longs + N_PARAMETERS, others, sizeof others);
}

static int take_lists(struct create_options *o)
{
    for (size_t i = 0; i < o->n_prompts; i++) {
        const char *why = "the value can't be used";
        int e = prompt_set(o->request, o->prompts[i], o->n_prompts > 1, &why);
        if (e < 0)
            return bad_value("prompt", o->prompts[i], e, why);
        o->several = o->several || o->n_prompts > 1 || e > 1;
    }
    int e = stops_set(o->request, o->stops, o->n_stops);
    return e < 0 ? bad_value("stop", "", e, "the value can't be used") : EXIT_OK;
}

static int read_options(int argc, char **argv, struct create_options *o)
{
    struct option longs[N_PARAMETERS + N_OTHERS];
    int option, status = EXIT_OK;

    make_longs(longs);
    while (status == EXIT_OK && !o->help &&
           (option = getopt_long(argc, argv, "h", longs, NULL)) != -1) {
        if (option == OPTION_PROMPT)
            o->prompts[o->n_prompts++] = optarg;
        else if (option == OPTION_STOP)
            o->stops[o->n_stops++] = optarg;
        else if (option >= 1 && option <= N_PARAMETERS)
            status = set_parameter(o, (size_t)option - 1, optarg);
        else if (option == '?')
            status = bad_option("create", argv[optind - 1], longs);
        else
            status = set_option(o, option, optarg);
    }
    return status;
}

static bool is_given(const struct create_options *o, const char *parameter)
{
    for (size_t i = 0; i < o->n_defaults; i++)
        if (!strcmp(parameter_name(o->defaults[i].parameter), parameter))
            return true;
    return false;
}

/* Of one choice the text is shown as it is generated; several would run through each other. */
static void choose_output(struct create_options *o)
{
    bool on_terminal = isatty(STDOUT_FILENO);

    if (o->output == OUTPUT_DEFAULT)
        o->output = on_terminal && !o->jsonl ? OUTPUT_TEXT : OUTPUT_JSON;
    if (!o->has_stream)
        o->stream =
            on_terminal && !o->jsonl && o->output == OUTPUT_TEXT && !o->several && !o->chooses;
}

/* What does not go together. */
static const char *find_conflict(const struct create_options *o)
{
    if (o->jsonl) {
        return o->n_prompts > 0                ? "--prompt: each line of --jsonl has its own"
               : o->stream                     ? "--stream: a batch has whole answers"
               : o->output == OUTPUT_TEXT      ? "--output text: a batch has JSON lines"
               : o->usage                      ? "--usage: a batch says that anyway"
               : o->resume && !o->output_file  ? "--resume needs --output-file"
               : is_given(o, "stream-options") ? "--stream-options needs --stream"
                                               : NULL;
    }
    return o->jobs > 0 || o->retries >= 0 || o->output_file || o->resume
               ? "--jobs, --retries, --output-file and --resume need --jsonl"
           : !is_given(o, "model") ? "--model is missing; 'completionctl models' lists them"
           : is_given(o, "stream-options") && !o->stream ? "--stream-options needs --stream"
                                                         : NULL;
}

static int finish_options(int argc, char **argv, struct create_options *o)
{
    const char *key = getenv("COMPLETIOND_API_KEY"), *conflict;
    int status = EXIT_OK;

    if (optind < argc)
        return usage_error("create", "unexpected argument '%s'%s", argv[optind],
                           o->n_prompts > 0 ? "" : "; a prompt stands behind --prompt");
    if (key && *key && !is_given(o, "api-key"))
        status = set_parameter(o, parameter_find("api-key"), key);
    if (status == EXIT_OK)
        status = take_lists(o);
    if (status != EXIT_OK)
        return status;
    choose_output(o);
    if ((conflict = find_conflict(o)))
        return usage_error("create", "%s", conflict);
    if (o->usage && o->stream && !is_given(o, "stream-options") &&
        completion_request_set_include_usage(o->request, true) < 0)
        return out_of_memory();
    o->jobs = o->jobs > 0 ? o->jobs : JOBS;
    o->retries = o->retries >= 0 ? o->retries : RETRIES;
    return EXIT_OK;
}

int options_parse(int argc, char **argv, struct create_options *o)
{
    /* There can't be more of each than there are arguments, and one is in the environment. */
    size_t n = (size_t)argc + 1;

    *o = (struct create_options){.timeout_ms = -1, .retries = -1};
    o->prompts = calloc(n, sizeof *o->prompts);
    o->stops = calloc(n, sizeof *o->stops);
    o->defaults = calloc(n, sizeof *o->defaults);
    if (!o->prompts || !o->stops || !o->defaults || completion_request_new(&o->request) < 0)
        return out_of_memory();
    int status = read_options(argc, argv, o);
    return status || o->help ? status : finish_options(argc, argv, o);
}

void options_done(struct create_options *o)
{
    completion_request_free(o->request);
    free_key(o);
    free(o->prompts);
    free(o->stops);
    free(o->defaults);
}

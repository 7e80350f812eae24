/* The API's parameters: how values get into a request, from options and from JSON. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "../../proto/json_reader.h"
#include "completionctl.h"

enum { TEXT_MAX_BYTES = 4 << 20 };

/* One of set_text, set_int, set_double and read says of which type it is. What JSON would not be
 * typed as on a command line has set_value. */
struct parameter {
    const char *name; /* as an option; JSON has _ for - */
    int (*set_text)(completion_request *r, const char *text, size_t length);
    int (*set_int)(completion_request *r, int32_t value);
    int (*set_double)(completion_request *r, double value);
    int (*read)(completion_request *r, struct json_reader *reader);
    int (*set_value)(completion_request *r, const char *value);
    const char *wanted; /* by read */
    bool is_option;     /* and no member of the API's JSON */
};

/* ---- Values on the command line ---- */

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

int parse_number(const char *text, int32_t min, int32_t max, int32_t *ret)
{
    int64_t value;

    if (parse_integer(text, &value) < 0 || value < min || value > max)
        return -EINVAL;
    *ret = (int32_t)value;
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

int parse_bool(const char *text, bool *ret)
{
    *ret = !text || !strcasecmp(text, "true") || !strcmp(text, "1") || !strcasecmp(text, "yes");
    return *ret || !strcasecmp(text, "false") || !strcmp(text, "0") || !strcasecmp(text, "no")
               ? 0
               : -EINVAL;
}

static int set_seed(completion_request *r, const char *value)
{
    int64_t seed;

    return parse_integer(value, &seed) < 0 ? -EINVAL : completion_request_set_seed(r, seed);
}

static int set_echo(completion_request *r, const char *value)
{
    bool echo;

    return parse_bool(value, &echo) < 0 ? -EINVAL : completion_request_set_echo(r, echo);
}

/* ---- JSON: 0, -EINVAL or -ENOMEM ---- */

static int read_seed(completion_request *r, struct json_reader *reader)
{
    int64_t seed;

    return json_read_int64(reader, &seed) ? completion_request_set_seed(r, seed) : -EINVAL;
}

static int read_echo(completion_request *r, struct json_reader *reader)
{
    bool echo;

    return json_read_bool(reader, &echo) ? completion_request_set_echo(r, echo) : -EINVAL;
}

static int read_logit_bias(completion_request *r, struct json_reader *reader)
{
    struct json_string key;
    char digits[16];
    int32_t token;
    double bias;
    int e = 0;

    if (!json_enter_object(reader))
        return -EINVAL;
    while (e == 0 && json_next_member(reader, &key)) {
        if (key.has_escapes || key.len >= sizeof digits || !json_read_double(reader, &bias))
            return -EINVAL;
        memcpy(digits, key.data, key.len);
        digits[key.len] = '\0';
        if (parse_number(digits, INT32_MIN, INT32_MAX, &token) < 0)
            return -EINVAL;
        e = completion_request_add_logit_bias(r, token, bias);
    }
    return e;
}

static int read_stream_options(completion_request *r, struct json_reader *reader)
{
    struct json_string key;
    bool on;
    int e = 0;

    if (!json_enter_object(reader))
        return -EINVAL;
    while (e == 0 && json_next_member(reader, &key)) {
        bool usage_option = json_string_equals(&key, "include_usage");
        if ((!usage_option && !json_string_equals(&key, "include_obfuscation")) ||
            !json_read_bool(reader, &on))
            return -EINVAL;
        e = usage_option ? completion_request_set_include_usage(r, on)
                         : completion_request_set_include_obfuscation(r, on);
    }
    return e;
}

/* ---- The table ---- */

static const struct parameter parameters[N_PARAMETERS] = {
    {.name = "model", .set_text = completion_request_set_model},
    {.name = "suffix", .set_text = completion_request_set_suffix},
    {.name = "user", .set_text = completion_request_set_user},
    {.name = "max-tokens", .set_int = completion_request_set_max_tokens},
    {.name = "n", .set_int = completion_request_set_n},
    {.name = "best-of", .set_int = completion_request_set_best_of},
    {.name = "logprobs", .set_int = completion_request_set_logprobs},
    {.name = "temperature", .set_double = completion_request_set_temperature},
    {.name = "top-p", .set_double = completion_request_set_top_p},
    {.name = "frequency-penalty", .set_double = completion_request_set_frequency_penalty},
    {.name = "presence-penalty", .set_double = completion_request_set_presence_penalty},
    {.name = "seed",
     .read = read_seed,
     .set_value = set_seed,
     .wanted = "a whole number of 64 bits is wanted"},
    {.name = "echo", .read = read_echo, .set_value = set_echo, .wanted = "true or false is wanted"},
    {.name = "logit-bias",
     .read = read_logit_bias,
     .wanted = "a JSON object of token ids and numbers is wanted: {\"50256\": -100}"},
    {.name = "stream-options",
     .read = read_stream_options,
     .wanted = "a JSON object is wanted, with include_usage and include_obfuscation true or false",
     .is_option = true},
    {.name = "extra-body", .set_text = completion_request_set_extra_body, .is_option = true},
    {.name = "api-key",
     .set_text = completion_request_set_api_key,
     .wanted = "printable characters without spaces are wanted, or @FILE with them",
     .is_option = true},
};

const char *parameter_name(size_t i)
{
    return parameters[i].name;
}

size_t parameter_find(const char *name)
{
    size_t i = 0;

    while (i < N_PARAMETERS && strcmp(parameters[i].name, name) != 0)
        i++;
    return i;
}

size_t parameter_find_member(const struct json_string *key)
{
    for (size_t i = 0; i < N_PARAMETERS; i++) {
        const char *name = parameters[i].name;
        size_t n = 0;
        while (n < key->len && name[n] && key->data[n] == (name[n] == '-' ? '_' : name[n]))
            n++;
        if (n == key->len && !name[n] && !parameters[i].is_option)
            return i;
    }
    return N_PARAMETERS;
}

static const char *wanted_by(const struct parameter *p)
{
    return p->set_int      ? "a whole number is wanted"
           : p->set_double ? "a number is wanted"
           : p->wanted     ? p->wanted
                           : "the value can't be used";
}

int parameter_set(completion_request *r, size_t i, const char *value, const char **ret_why)
{
    const struct parameter *p = &parameters[i];
    struct json_reader reader;
    int32_t integer;
    char *end;

    *ret_why = wanted_by(p);
    if (p->set_text)
        return p->set_text(r, value, COMPLETION_ZERO_TERMINATED);
    if (p->set_value)
        return p->set_value(r, value);
    if (p->set_int)
        return parse_number(value, INT32_MIN, INT32_MAX, &integer) < 0 ? -EINVAL
                                                                       : p->set_int(r, integer);
    if (p->set_double) {
        double number = strtod(value, &end);
        return end == value || *end || !isfinite(number) ? -EINVAL : p->set_double(r, number);
    }
    json_reader_init(&reader, value, strlen(value));
    int e = p->read(r, &reader);
    return e == 0 && !json_reader_end(&reader) ? -EINVAL : e;
}

static int read_text(completion_request *r, const struct parameter *p, struct json_reader *reader,
                     const char **ret_why)
{
    struct buffer text = BUFFER_INIT(TEXT_MAX_BYTES);
    struct json_string string;

    *ret_why = "a text is wanted";
    if (!json_read_string(reader, &string))
        return -EINVAL;
    json_string_append(&string, &text);
    int e =
        text.error ? text.error : p->set_text(r, (char *)buffer_bytes(&text), buffer_length(&text));
    buffer_done(&text);
    return e;
}

int parameter_read(completion_request *r, size_t i, struct json_reader *reader,
                   const char **ret_why)
{
    const struct parameter *p = &parameters[i];
    int32_t integer;
    double number;

    *ret_why = wanted_by(p);
    if (p->set_text)
        return read_text(r, p, reader, ret_why);
    if (p->set_int)
        return json_read_int32(reader, &integer) ? p->set_int(r, integer) : -EINVAL;
    if (p->set_double)
        return json_read_double(reader, &number) ? p->set_double(r, number) : -EINVAL;
    return p->read(r, reader);
}

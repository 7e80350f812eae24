#include "config_value.h"

#include <errno.h>
#include <sched.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <syslog.h>
#include <unistd.h>

#define SECOND_US INT64_C(1000000)

enum { SIZE_LEAST = 64 << 10, NUMBER_MAX = 1000000000 };

int parse_fail(struct parse *p, const char *format, ...)
{
    if (!p->failed) {
        va_list args;
        int n = snprintf(p->error->text, sizeof p->error->text, "%s:%u: ", p->file, p->line);
        va_start(args, format);
        vsnprintf(p->error->text + n, sizeof p->error->text - (size_t)n, format, args);
        va_end(args);
        p->failed = true;
    }
    return -EINVAL;
}

int config_parse_duration(const char *text, int64_t *ret_us)
{
    static const struct {
        const char *name;
        int64_t us;
    } units[] = {
        {"us", 1},
        {"ms", 1000},
        {"s", SECOND_US},
        {"sec", SECOND_US},
        {"m", 60 * SECOND_US},
        {"min", 60 * SECOND_US},
        {"h", 3600 * SECOND_US},
        {"hr", 3600 * SECOND_US},
        {"d", 86400 * SECOND_US},
        {"", SECOND_US},
    };
    int64_t sum = 0;
    bool any = false;

    if (!strcmp(text, "infinity")) {
        *ret_us = CONFIG_INFINITY;
        return 0;
    }
    for (;;) {
        text += strspn(text, " \t");
        if (!*text)
            break;
        if (*text < '0' || *text > '9')
            return -EINVAL;

        char *end;
        errno = 0;
        long long number = strtoll(text, &end, 10);
        if (errno)
            return -EINVAL;
        size_t len = strspn(end, "abcdefghijklmnopqrstuvwxyz");
        size_t i = 0;
        while (i < sizeof units / sizeof *units &&
               (strlen(units[i].name) != len || strncmp(units[i].name, end, len) != 0))
            i++;
        if (i == sizeof units / sizeof *units)
            return -EINVAL;
        int64_t us;
        if (__builtin_mul_overflow((int64_t)number, units[i].us, &us) ||
            __builtin_add_overflow(sum, us, &sum))
            return -EINVAL;
        any = true;
        text = end + len;
    }
    if (!any)
        return -EINVAL;
    *ret_us = sum;
    return 0;
}

int config_set_duration(struct parse *p, const char *key, const char *value, void *field)
{
    if (config_parse_duration(value, field) < 0)
        return parse_fail(p, "%s: \"%s\" is not a duration; write 5s, 2min, 1h 30min or infinity",
                          key, value);
    return 0;
}

/* Digits, and at most one suffix out of "KMGT". Negative: none. */
static int64_t parse_number(const char *value, bool may_have_suffix)
{
    static const char suffixes[] = "KMGT";
    char *end;
    int64_t number;

    if (*value < '0' || *value > '9')
        return -1;
    errno = 0;
    number = strtoll(value, &end, 10);
    if (errno)
        return -1;
    const char *suffix = may_have_suffix && *end ? strchr(suffixes, *end) : NULL;
    if (suffix) {
        if (__builtin_mul_overflow(number, INT64_C(1) << (10 * (suffix - suffixes + 1)), &number))
            return -1;
        end++;
    }
    return *end ? -1 : number;
}

int config_set_size(struct parse *p, const char *key, const char *value, void *field)
{
    int64_t bytes = strcmp(value, "infinity") ? parse_number(value, true) : CONFIG_INFINITY;

    if (bytes < SIZE_LEAST)
        return parse_fail(p,
                          "%s: \"%s\" is not a size of at least 64K; write 64K, 4M, 1G or "
                          "infinity",
                          key, value);
    *(int64_t *)field = bytes;
    return 0;
}

static int set_number(struct parse *p, const char *key, const char *value, void *field,
                      int64_t least, bool may_be_infinite)
{
    int64_t number = may_be_infinite && !strcmp(value, "infinity") ? CONFIG_INFINITY
                                                                   : parse_number(value, false);

    if (number < least || (number > NUMBER_MAX && number != CONFIG_INFINITY))
        return parse_fail(p, "%s: \"%s\" is not a whole number from %d on%s", key, value,
                          (int)least, may_be_infinite ? ", or infinity" : "");
    *(int64_t *)field = number;
    return 0;
}

int config_set_count(struct parse *p, const char *key, const char *value, void *field)
{
    return set_number(p, key, value, field, 0, false);
}

int config_set_limit(struct parse *p, const char *key, const char *value, void *field)
{
    return set_number(p, key, value, field, 1, false);
}

int config_set_rate(struct parse *p, const char *key, const char *value, void *field)
{
    return set_number(p, key, value, field, 1, true);
}

static int64_t n_cpus(void)
{
    cpu_set_t set;
    long n;

    if (sched_getaffinity(0, sizeof set, &set) == 0)
        return CPU_COUNT(&set);
    /* More CPUs than the set has places for. */
    n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? n : 1;
}

int config_set_workers(struct parse *p, const char *key, const char *value, void *field)
{
    bool is_auto = !strcmp(value, "auto");
    int64_t n = is_auto ? n_cpus() : parse_number(value, false);

    if (is_auto && n > CONFIG_WORKERS_MAX)
        n = CONFIG_WORKERS_MAX;
    if (n < 1 || n > CONFIG_WORKERS_MAX)
        return parse_fail(p, "%s: \"%s\" is not a whole number from 1 to %d, or auto", key, value,
                          CONFIG_WORKERS_MAX);
    *(int64_t *)field = n;
    return 0;
}

int config_set_bool(struct parse *p, const char *key, const char *value, void *field)
{
    static const char *const yes[] = {"yes", "true", "on", "1", NULL};
    static const char *const no[] = {"no", "false", "off", "0", NULL};

    for (size_t i = 0; yes[i]; i++) {
        if (!strcasecmp(value, yes[i]) || !strcasecmp(value, no[i])) {
            *(bool *)field = !strcasecmp(value, yes[i]);
            return 0;
        }
    }
    return parse_fail(p, "%s: \"%s\" is neither yes nor no", key, value);
}

int config_set_text(struct parse *p, const char *key, const char *value, void *field)
{
    char **text = field;
    char *copy = NULL;

    if (*value && !(copy = strdup(value)))
        return parse_fail(p, "%s: out of memory", key);
    free(*text);
    *text = copy;
    return 0;
}

void config_list_free(char **list)
{
    for (size_t i = 0; list && list[i]; i++)
        free(list[i]);
    free(list);
}

int config_list_append(char ***list, const char *text, size_t len)
{
    size_t n = 0;

    while (*list && (*list)[n])
        n++;
    char **grown = realloc(*list, (n + 2) * sizeof *grown);
    if (!grown)
        return -ENOMEM;
    *list = grown;
    grown[n] = strndup(text, len);
    grown[n + 1] = NULL;
    return grown[n] ? 0 : -ENOMEM;
}

/* False: the list was emptied, and there is nothing to add. */
static bool list_begin(const char *value, char ***list)
{
    if (*value)
        return true;
    config_list_free(*list);
    *list = NULL;
    return false;
}

int config_set_words(struct parse *p, const char *key, const char *value, void *field)
{
    char ***list = field;

    if (!list_begin(value, list))
        return 0;
    for (;;) {
        value += strspn(value, " \t");
        size_t len = strcspn(value, " \t");
        if (len == 0)
            return 0;
        if (config_list_append(list, value, len) < 0)
            return parse_fail(p, "%s: out of memory", key);
        value += len;
    }
}

int config_set_servers(struct parse *p, const char *key, const char *value, void *field)
{
    struct config_upstream *u =
        (struct config_upstream *)((char *)field - offsetof(struct config_upstream, base_urls));

    if (u->base_urls_from != p->n_files) {
        config_list_free(u->base_urls);
        u->base_urls = NULL;
    }
    u->base_urls_from = p->n_files;
    return config_set_words(p, key, value, field);
}

int config_set_header(struct parse *p, const char *key, const char *value, void *field)
{
    static const char token[] =
        "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    static const char *const own[] = {
        "authorization",     "api-key", "content-length", "content-type",      "host",
        "transfer-encoding", "expect",  "connection",     "x-conversation-id", NULL};
    char ***list = field;

    if (!list_begin(value, list))
        return 0;
    size_t name_len = strspn(value, token);
    if (name_len == 0 || value[name_len] != ':')
        return parse_fail(p, "%s: write Name: value", key);
    for (const char *c = value; *c; c++)
        if ((unsigned char)*c < ' ' || *c == 0x7f)
            return parse_fail(p, "%s: control characters are not allowed", key);
    for (size_t i = 0; own[i]; i++)
        if (strlen(own[i]) == name_len && !strncasecmp(own[i], value, name_len))
            return parse_fail(p, "%s: %s can't be set here", key, own[i]);
    if (config_list_append(list, value, strlen(value)) < 0)
        return parse_fail(p, "%s: out of memory", key);
    return 0;
}

static int set_choice(struct parse *p, const char *key, const char *value, void *field,
                      const char *const *names, const int *values)
{
    char all[128] = "";

    for (size_t i = 0; names[i]; i++) {
        if (!strcmp(value, names[i])) {
            *(int *)field = values[i];
            return 0;
        }
        size_t n = strlen(all);
        snprintf(all + n, sizeof all - n, "%s%s", i ? ", " : "", names[i]);
    }
    return parse_fail(p, "%s: \"%s\" is not one of: %s", key, value, all);
}

int config_set_auth(struct parse *p, const char *key, const char *value, void *field)
{
    static const char *const names[] = {"bearer", "api-key", "none", NULL};
    static const int values[] = {CONFIG_AUTH_BEARER, CONFIG_AUTH_API_KEY, CONFIG_AUTH_NONE};

    return set_choice(p, key, value, field, names, values);
}

int config_set_http_version(struct parse *p, const char *key, const char *value, void *field)
{
    static const char *const names[] = {"1.1", "2", NULL};
    static const int values[] = {CONFIG_HTTP_1_1, CONFIG_HTTP_2};

    return set_choice(p, key, value, field, names, values);
}

int config_set_log_level(struct parse *p, const char *key, const char *value, void *field)
{
    static const char *const names[] = {"error", "warning", "notice", "info", "debug", NULL};
    static const int values[] = {LOG_ERR, LOG_WARNING, LOG_NOTICE, LOG_INFO, LOG_DEBUG};

    return set_choice(p, key, value, field, names, values);
}

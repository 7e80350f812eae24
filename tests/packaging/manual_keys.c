/*
 * manual-keys [--some]: reads what a page says of the configuration's keys, a line "SECTION<tab>KEY
 * <tab>DEFAULT" each, and says where the daemon's own tables and defaults have it otherwise. Every
 * key must be there once, with --some at most once.
 *
 * The tables are private to config.c, so that this program has a config.c of its own: the linker
 * takes none from the library then.
 */
#include "../../daemon/config.c"

#include <unistd.h>

enum { TABLE_MAX = 64 };

struct section {
    const char *name;
    const struct key *keys;
    const void *defaults;
    void *object; /* where what a page says is written to */
    unsigned n_mentions[TABLE_MAX];
};

/* NULL is empty. */
static bool lists_equal(char **a, char **b)
{
    size_t i = 0;

    for (; a && a[i]; i++)
        if (!b || !b[i] || strcmp(a[i], b[i]) != 0)
            return false;
    return !b || !b[i];
}

/* All globs are the one that fits everything. */
static bool models_equal(char **a, char **b)
{
    char *everything[] = {(char[]){"*"}, NULL};

    return lists_equal(a ? a : everything, b ? b : everything);
}

static bool is_one_of(config_setter set, const config_setter *setters, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (setters[i] == set)
            return true;
    return false;
}
#define IS_ONE_OF(set, ...)                                                                        \
    is_one_of(set, (const config_setter[]){__VA_ARGS__},                                           \
              sizeof((const config_setter[]){__VA_ARGS__}) / sizeof(config_setter))

static bool fields_equal(const struct key *key, const void *a, const void *b)
{
    if (IS_ONE_OF(key->set, config_set_duration, config_set_size, config_set_count,
                  config_set_limit, config_set_rate, config_set_workers))
        return *(const int64_t *)a == *(const int64_t *)b;
    if (key->set == config_set_bool)
        return *(const bool *)a == *(const bool *)b;
    if (IS_ONE_OF(key->set, config_set_auth, config_set_http_version, config_set_log_level))
        return *(const int *)a == *(const int *)b;
    if (IS_ONE_OF(key->set, config_set_words, config_set_header))
        return strcmp(key->name, "models") ? lists_equal(*(char ***)a, *(char ***)b)
                                           : models_equal(*(char ***)a, *(char ***)b);
    if (key->set == config_set_text) {
        const char *const *text = a, *const *other = b;
        return *text && *other ? !strcmp(*text, *other) : *text == *other;
    }
    fprintf(stderr, "manual-keys: %s is of a new kind: say in fields_equal() how to compare it\n",
            key->name);
    return false;
}

/* Tells what is wrong with a line; false if anything is. */
static bool check(struct section *s, const char *name, const char *value)
{
    struct config_error error;
    struct parse p = {.error = &error, .file = s->name};
    size_t i = 0;

    while (s->keys[i].name && strcmp(s->keys[i].name, name) != 0)
        i++;
    const struct key *key = &s->keys[i];
    if (!key->name) {
        printf("[%s] has no key %s\n", s->name, name);
        return false;
    }
    if (s->n_mentions[i]++ > 0) {
        printf("[%s] %s is there twice\n", s->name, name);
        return false;
    }
    if (key->set(&p, name, value, (char *)s->object + key->offset) < 0) {
        printf("%s\n", error.text);
        return false;
    }
    /* They have none, and can't be left out. */
    if (!strcmp(name, "base_url") || !strcmp(name, "user"))
        return true;
    if (!fields_equal(key, (char *)s->object + key->offset,
                      (const char *)s->defaults + key->offset)) {
        printf("[%s] %s = %s is not the default\n", s->name, name, value);
        return false;
    }
    return true;
}

static bool check_all_are_there(const struct section *s)
{
    bool good = true;

    for (size_t i = 0; s->keys[i].name; i++) {
        if (s->n_mentions[i] == 0) {
            printf("[%s] %s is missing\n", s->name, s->keys[i].name);
            good = false;
        }
    }
    return good;
}

static struct section *find_section(struct section *sections, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (!strcmp(sections[i].name, name))
            return &sections[i];
    return NULL;
}

static bool check_lines(struct section *sections, size_t n)
{
    char *line = NULL;
    size_t size = 0;
    bool good = true;

    while (getline(&line, &size, stdin) > 0) {
        char *rest = line, *name = strsep(&rest, "\t"), *key = strsep(&rest, "\t");
        struct section *s = find_section(sections, n, name);
        if (!s || !rest) {
            printf("what is this: %s\n", line);
            good = false;
            continue;
        }
        rest[strcspn(rest, "\n")] = '\0';
        good = check(s, key, rest) && good;
    }
    free(line);
    return good;
}

/* A configuration in which nothing is set; NULL: there is none. */
static struct config *load_nothing(void)
{
    char path[] = "/tmp/manual-keys.XXXXXX";
    struct config *config = NULL;
    struct config_error error;
    int fd = mkstemp(path);

    unsetenv("OPENAI_BASE_URL");
    if (fd >= 0 && config_load(path, NULL, &config, &error) < 0)
        fprintf(stderr, "manual-keys: %s\n", error.text);
    if (fd >= 0)
        unlink(path);
    return config;
}

int main(int argc, char **argv)
{
    bool some = argc > 1 && !strcmp(argv[1], "--some");
    struct config *defaults = load_nothing(), *said = load_nothing();

    if (!defaults || !said)
        return 2;

    struct section sections[] = {
        {.name = "daemon", .keys = daemon_keys, .defaults = defaults, .object = said},
        {.name = "upstream",
         .keys = upstream_keys,
         .defaults = defaults->upstreams[0],
         .object = upstream_get(said, "other")},
        {.name = "policy",
         .keys = policy_keys,
         .defaults = &config_policy_default,
         .object = policy_get(said, "*")},
        {.name = "token",
         .keys = token_keys,
         .defaults = config_token_get(defaults, "a"),
         .object = config_token_get(said, "b")},
    };
    size_t n = sizeof sections / sizeof *sections;
    bool good = check_lines(sections, n);

    for (size_t i = 0; i < n && !some; i++)
        good = check_all_are_there(&sections[i]) && good;
    config_unref(said);
    config_unref(defaults);
    return good ? 0 : 1;
}

/*
 * Owns the parsed configuration. One table says which keys there are, how each is read and where it
 * goes; what a value means is up to the modules that use it.
 */
#include "config.h"

#include <errno.h>
#include <glob.h>
#include <grp.h>
#include <ini.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>

#include "config_credential.h"
#include "config_endpoint.h"
#include "config_file.h"
#include "config_value.h"
#include "environment.h"

#define SECOND_US INT64_C(1000000)

/* ---- Keys ---- */

struct key {
    const char *name;
    config_setter set;
    size_t offset;
};

static const struct key daemon_keys[] = {
    {"workers", config_set_workers, offsetof(struct config, n_workers)},
    {"caller_first_byte_timeout", config_set_duration,
     offsetof(struct config, caller_first_byte_timeout_us)},
    {"caller_request_timeout", config_set_duration,
     offsetof(struct config, caller_request_timeout_us)},
    {"caller_stall_timeout", config_set_duration, offsetof(struct config, caller_stall_timeout_us)},
    {"drain_timeout", config_set_duration, offsetof(struct config, drain_timeout_us)},
    {"idle_exit", config_set_duration, offsetof(struct config, idle_exit_us)},
    {"memory_max", config_set_size, offsetof(struct config, memory_max_bytes)},
    {"log_level", config_set_log_level, offsetof(struct config, log_level)},
    {"openai_require_token", config_set_bool, offsetof(struct config, openai_require_token)},
    {NULL, NULL, 0},
};

#define UPSTREAM(name, field, set)                                                                 \
    {                                                                                              \
        name, set, offsetof(struct config_upstream, field)                                         \
    }
static const struct key upstream_keys[] = {
    UPSTREAM("models", models, config_set_words),
    UPSTREAM("base_url", base_urls, config_set_servers),
    UPSTREAM("auth", auth, config_set_auth),
    UPSTREAM("credential", credential, config_set_text),
    UPSTREAM("credential_file", credential_file, config_set_text),
    UPSTREAM("query", query, config_set_text),
    UPSTREAM("header", headers, config_set_header),
    UPSTREAM("ca_file", ca_file, config_set_text),
    UPSTREAM("proxy", proxy, config_set_text),
    UPSTREAM("http_version", http_version, config_set_http_version),
    UPSTREAM("connect_timeout", connect_timeout_us, config_set_duration),
    UPSTREAM("first_byte_timeout", first_byte_timeout_us, config_set_duration),
    UPSTREAM("idle_timeout", idle_timeout_us, config_set_duration),
    UPSTREAM("drop_parameters", drop_parameters, config_set_words),
    UPSTREAM("strict_done", strict_done, config_set_bool),
    UPSTREAM("validate", validate, config_set_bool),
    UPSTREAM("max_retries", max_retries, config_set_count),
    UPSTREAM("resend", resend, config_set_bool),
    UPSTREAM("max_concurrent", max_concurrent, config_set_limit),
    UPSTREAM("max_queued", max_queued, config_set_count),
    {NULL, NULL, 0},
};
#undef UPSTREAM

#define POLICY(name, field, set)                                                                   \
    {                                                                                              \
        name, set, offsetof(struct config_policy, field)                                           \
    }
static const struct key policy_keys[] = {
    POLICY("models", models, config_set_words),
    POLICY("allow_own_key", allow_own_key, config_set_bool),
    POLICY("allow_extra_body", allow_extra_body, config_set_bool),
    POLICY("max_concurrent", max_concurrent, config_set_limit),
    POLICY("max_queued", max_queued, config_set_count),
    POLICY("max_connections", max_connections, config_set_rate),
    POLICY("max_message", max_message_bytes, config_set_size),
    POLICY("max_memory", max_memory_bytes, config_set_size),
    POLICY("requests_per_minute", requests_per_minute, config_set_rate),
    POLICY("tokens_per_minute", tokens_per_minute, config_set_rate),
    {NULL, NULL, 0},
};
#undef POLICY

static const struct key token_keys[] = {
    {"user", config_set_text, offsetof(struct config_token, user)},
    {"credential", config_set_text, offsetof(struct config_token, credential)},
    {"credential_file", config_set_text, offsetof(struct config_token, credential_file)},
    {NULL, NULL, 0},
};

/* ---- Sections ---- */

static struct config_upstream *upstream_free(struct config_upstream *u)
{
    if (!u)
        return NULL;
    char *const texts[] = {u->name,  u->credential, u->credential_file,
                           u->query, u->ca_file,    u->proxy};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        free(texts[i]);
    config_endpoints_free(u);
    config_list_free(u->models);
    config_list_free(u->base_urls);
    config_list_free(u->headers);
    config_list_free(u->drop_parameters);
    secret_free(u->key);
    free(u);
    return NULL;
}

static struct config_upstream *upstream_get(struct config *c, const char *name)
{
    for (size_t i = 0; i < c->n_upstreams; i++)
        if (!strcmp(c->upstreams[i]->name, name))
            return c->upstreams[i];

    struct config_upstream **grown =
        reallocarray(c->upstreams, c->n_upstreams + 1, sizeof *c->upstreams);
    if (!grown)
        return NULL;
    c->upstreams = grown;

    struct config_upstream *u = calloc(1, sizeof *u);
    if (!u || !(u->name = strdup(name)))
        return upstream_free(u);
    u->auth = CONFIG_AUTH_BEARER;
    u->connect_timeout_us = 5 * SECOND_US;
    u->first_byte_timeout_us = 600 * SECOND_US;
    u->idle_timeout_us = 120 * SECOND_US;
    u->strict_done = true;
    u->validate = true;
    u->max_retries = 2;
    u->resend = true;
    u->max_concurrent = 256;
    u->max_queued = 1024;
    c->upstreams[c->n_upstreams++] = u;
    return u;
}

/* Together with memory_max they fit a host of 1 GiB. */
const struct config_policy config_policy_default = {
    .kind = CONFIG_POLICY_EVERYONE,
    .name = (char[]){"*"},
    .allow_extra_body = true,
    .max_concurrent = 64,
    .max_queued = 256,
    .max_connections = CONFIG_INFINITY, /* the share that admission.h leaves to one user */
    .max_message_bytes = 4 << 20,
    .max_memory_bytes = 128 << 20,
    .requests_per_minute = CONFIG_INFINITY,
    .tokens_per_minute = CONFIG_INFINITY,
};

static struct config_policy *policy_free(struct config_policy *p)
{
    if (p) {
        free(p->name);
        config_list_free(p->models);
        free(p);
    }
    return NULL;
}

static struct config_policy *policy_get(struct config *c, const char *name)
{
    for (size_t i = 0; i < c->n_policies; i++)
        if (!strcmp(c->policies[i]->name, name))
            return c->policies[i];

    struct config_policy **grown =
        reallocarray(c->policies, c->n_policies + 1, sizeof *c->policies);
    if (!grown)
        return NULL;
    c->policies = grown;

    struct config_policy *p = calloc(1, sizeof *p);
    char *copy = strdup(name);
    if (!p || !copy) {
        free(copy);
        free(p);
        return NULL;
    }
    *p = config_policy_default;
    p->name = copy;
    c->policies[c->n_policies++] = p;
    return p;
}

/* "*", "user:NAME" or "group:NAME"; names may be numbers. */
static int policy_resolve(struct parse *p, struct config_policy *policy)
{
    const char *name = strchr(policy->name, ':');
    char *end;

    if (!strcmp(policy->name, "*"))
        return 0;
    if (!name || !name[1])
        return parse_fail(p,
                          "[policy %s]: write [policy *], [policy user:NAME] or [policy "
                          "group:NAME]",
                          policy->name);
    name++;
    unsigned long number = strtoul(name, &end, 10);
    bool is_number = *name >= '0' && *name <= '9' && !*end && number < UINT32_MAX;

    if (!strncmp(policy->name, "user:", 5)) {
        const struct passwd *user = is_number ? NULL : getpwnam(name);
        if (!is_number && !user)
            return parse_fail(p, "[policy %s]: there is no such user", policy->name);
        policy->kind = CONFIG_POLICY_USER;
        policy->id = is_number ? (uint32_t)number : user->pw_uid;
        return 0;
    }
    if (!strncmp(policy->name, "group:", 6)) {
        const struct group *group = is_number ? NULL : getgrnam(name);
        if (!is_number && !group)
            return parse_fail(p, "[policy %s]: there is no such group", policy->name);
        policy->kind = CONFIG_POLICY_GROUP;
        policy->id = is_number ? (uint32_t)number : group->gr_gid;
        return 0;
    }
    return parse_fail(p, "[policy %s]: write user:NAME or group:NAME", policy->name);
}

/* The object and the keys of a section. */
static int section_find(struct parse *p, const char *section, void **ret_object,
                        const struct key **ret_keys)
{
    void *object;

    if (!strcmp(section, "daemon")) {
        *ret_object = p->config;
        *ret_keys = daemon_keys;
        return 0;
    }
    if (!strncmp(section, "upstream ", 9) && section[9 + strspn(section + 9, " ")]) {
        object = upstream_get(p->config, section + 9 + strspn(section + 9, " "));
        *ret_keys = upstream_keys;
    } else if (!strncmp(section, "policy ", 7)) {
        size_t n = p->config->n_policies;
        struct config_policy *policy =
            policy_get(p->config, section + 7 + strspn(section + 7, " "));
        if (policy && p->config->n_policies > n && policy_resolve(p, policy) < 0)
            return -EINVAL;
        object = policy;
        *ret_keys = policy_keys;
    } else if (!strncmp(section, "token ", 6) && section[6 + strspn(section + 6, " ")]) {
        object = config_token_get(p->config, section + 6 + strspn(section + 6, " "));
        *ret_keys = token_keys;
    } else if (!*section) {
        return parse_fail(p, "a key stands before the first section; begin with [daemon], "
                             "[upstream NAME] or [policy *]");
    } else {
        return parse_fail(p,
                          "unknown section [%s]; there are [daemon], [upstream NAME], "
                          "[policy *|user:NAME|group:NAME] and [token NAME]",
                          section);
    }
    if (!object)
        return parse_fail(p, "out of memory");
    *ret_object = object;
    return 0;
}

/* inih's callback: 0 is an error. */
static int handle_key(void *user, const char *section, const char *name, const char *value)
{
    struct parse *p = user;
    const struct key *key;
    void *object;

    if (p->failed || section_find(p, section, &object, &key) < 0)
        return 0;
    while (key->name && strcmp(key->name, name) != 0)
        key++;
    if (!key->name) {
        parse_fail(p, "[%s] has no key \"%s\"", section, name);
        return 0;
    }
    return key->set(p, name, value, (char *)object + key->offset) == 0;
}

/* inih tells of sections only through their keys; one without keys counts too, and so do its
 * mistakes. */
static int read_section(struct parse *p, const char *line)
{
    char name[50]; /* as much as inih keeps */
    size_t len = strcspn(line, "]");
    const struct key *keys;
    void *object;

    if (*line != '[' || line[len] != ']')
        return 0;
    if (--len >= sizeof name)
        return parse_fail(p, "the section's name is longer than %zu characters", sizeof name - 1);
    memcpy(name, line + 1, len);
    name[len] = '\0';
    return section_find(p, name, &object, &keys);
}

/* inih's line reader, so that the number of the line is known where a value is looked at, and a
 * line that inih would cut is refused instead. */
static char *read_line(char *text, int size, void *user)
{
    struct parse *p = user;

    if (p->failed || !fgets(text, size, p->stream))
        return NULL;
    p->line++;
    size_t len = strlen(text);
    if (len > 0 && text[len - 1] != '\n' && !feof(p->stream)) {
        parse_fail(p,
                   "the line is longer than %d characters, or holds a NUL; lists may be given "
                   "in several lines",
                   size - 2);
        return NULL;
    }
    size_t indent = strspn(text, " \t");
    /* inih would take it for more of the value above, whatever it looks like. */
    if (indent > 0 && !strchr("\r\n;#", text[indent])) {
        parse_fail(p,
                   "the line is indented; begin it at the margin (a list may be given in several "
                   "lines, each with its key)");
        return NULL;
    }
    return read_section(p, text) < 0 ? NULL : text;
}

static int parse_file(struct config *c, const char *path, struct config_error *error)
{
    struct parse p = {.config = c, .error = error, .file = path, .n_files = ++c->n_files};
    int r = config_file_open(path, &p.stream);

    if (r < 0) {
        snprintf(error->text, sizeof error->text, "%s: %s", path, config_file_fault(r));
        return r;
    }
    int line = ini_parse_stream(read_line, &p, handle_key, &p);
    if (ferror(p.stream))
        parse_fail(&p, "can't be read: %s", strerror(errno));
    fclose(p.stream);
    if (line > 0 && !p.failed) {
        p.line = (unsigned)line;
        parse_fail(&p, "neither a [section] nor key = value");
    }
    return p.failed ? -EINVAL : 0;
}

/* glob's callback: a folder that is there and can't be read must not pass for one without files. */
static int is_fatal(const char *path, int error)
{
    (void)path;
    errno = error;
    return error != ENOENT;
}

static int parse_files(struct config *c, const char *path, struct config_error *error)
{
    const char *main_path = path ? path : CONFIG_PATH;
    char pattern[4096];
    glob_t found;

    int r = parse_file(c, main_path, error);
    if (r < 0 && !(r == -ENOENT && !path))
        return r;

    if ((size_t)snprintf(pattern, sizeof pattern, "%s.d/*.conf", main_path) >= sizeof pattern)
        return 0;
    r = glob(pattern, 0, is_fatal, &found);
    if (r == GLOB_NOMATCH)
        return 0;
    if (r != 0) {
        snprintf(error->text, sizeof error->text, "%.400s: can't be listed: %s", pattern,
                 strerror(r == GLOB_NOSPACE ? ENOMEM : errno));
        return -EIO;
    }
    for (size_t i = 0; r == 0 && i < found.gl_pathc; i++)
        r = parse_file(c, found.gl_pathv[i], error);
    globfree(&found);
    return r;
}

/* ---- What follows from the keys ---- */

static int upstream_fail(struct config_error *error, const struct config_upstream *u,
                         const char *what)
{
    snprintf(error->text, sizeof error->text, "[upstream %s]: %s", u->name, what);
    return -EINVAL;
}

/* libcurl looks at the file with each new connection; a mistake should show before all calls fail.
 */
static int upstream_check_ca(const struct config_upstream *u, struct config_error *error)
{
    int r = u->ca_file ? config_file_find_certificate(u->ca_file) : 0;

    if (r < 0)
        snprintf(error->text, sizeof error->text, "[upstream %.64s]: ca_file %.200s: %s", u->name,
                 u->ca_file, config_file_fault(r));
    return r;
}

/* Without [upstream]: what the SDKs' environment variables say. */
static int upstream_from_environment(struct config *c, const struct environment *environment,
                                     struct config_error *error)
{
    const char *base_url = secure_getenv("OPENAI_BASE_URL");
    const struct secret *key = environment ? environment->key : NULL;
    struct config_upstream *u = upstream_get(c, "default");

    if (!base_url || !*base_url)
        base_url = "https://api.openai.com/v1";
    if (!u || config_list_append(&u->base_urls, base_url, strlen(base_url)) < 0 ||
        (key && secret_new(key->text, key->len, &u->key) < 0)) {
        snprintf(error->text, sizeof error->text, "out of memory");
        return -ENOMEM;
    }
    if (environment && environment->key_fault) {
        snprintf(error->text, sizeof error->text, "OPENAI_API_KEY can't be used: %s",
                 environment->key_fault);
        return -EINVAL;
    }
    return 0;
}

static int config_complete(struct config *c, const struct environment *environment,
                           struct config_error *error)
{
    int r = c->n_upstreams ? 0 : upstream_from_environment(c, environment, error);

    for (size_t i = 0; r == 0 && i < c->n_upstreams; i++) {
        struct config_upstream *u = c->upstreams[i];
        if (!u->models && config_list_append(&u->models, "*", 1) < 0)
            return upstream_fail(error, u, "out of memory");
        const char *fault = config_endpoints_make(u);
        r = fault ? upstream_fail(error, u, fault) : 0;
        if (r == 0)
            r = upstream_check_ca(u, error);
        if (r == 0)
            r = config_credential_read("upstream", u->name, u->credential, u->credential_file,
                                       &u->key, error);
    }
    return r == 0 ? config_tokens_complete(c, error) : r;
}

int config_load(const char *path, const struct environment *environment, struct config **ret,
                struct config_error *ret_error)
{
    struct config *c = calloc(1, sizeof *c);

    if (!c) {
        snprintf(ret_error->text, sizeof ret_error->text, "out of memory");
        return -ENOMEM;
    }
    c->n_refs = 1;
    c->n_workers = 1;
    c->caller_first_byte_timeout_us = 10 * SECOND_US;
    c->caller_request_timeout_us = 30 * SECOND_US;
    c->caller_stall_timeout_us = 60 * SECOND_US;
    c->drain_timeout_us = 30 * SECOND_US;
    c->idle_exit_us = CONFIG_INFINITY;
    c->memory_max_bytes = 256 << 20;
    c->log_level = LOG_INFO;
    c->openai_require_token = true;

    int r = parse_files(c, path, ret_error);
    if (r == 0)
        r = config_complete(c, environment, ret_error);
    if (r < 0) {
        config_unref(c);
        return r;
    }
    *ret = c;
    return 0;
}

struct config *config_ref(struct config *c)
{
    c->n_refs++;
    return c;
}

struct config *config_unref(struct config *c)
{
    if (!c || --c->n_refs > 0)
        return NULL;
    for (size_t i = 0; i < c->n_upstreams; i++)
        upstream_free(c->upstreams[i]);
    for (size_t i = 0; i < c->n_policies; i++)
        policy_free(c->policies[i]);
    config_tokens_free(c);
    free(c->upstreams);
    free(c->policies);
    free(c);
    return NULL;
}

/*
 * The configuration: INI files as the daemon's manual has them, read whole or not at all.
 *
 * A file and then the files FILE.d/[*].conf in name order are merged: a key given again holds, a
 * section given again continues. Unknown sections and keys, and values that can't be read, are
 * errors that name file and line. Immutable once loaded; shared by reference, also by threads.
 */
#ifndef CONFIG_H
#define CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "secret.h"

#define CONFIG_PATH "/etc/completiond/completiond.conf"

/* Durations are microseconds; CONFIG_INFINITY is "infinity". */
#define CONFIG_INFINITY INT64_MAX

enum { CONFIG_WORKERS_MAX = 64 };

enum config_auth { CONFIG_AUTH_BEARER, CONFIG_AUTH_API_KEY, CONFIG_AUTH_NONE };
enum config_http { CONFIG_HTTP_1_1, CONFIG_HTTP_2 };

struct environment;

/* One of the servers that an upstream consists of. */
struct config_endpoint {
    char *name;           /* HOST:PORT as in base_url, or the socket's path; base_url if another one
                           * of the upstream has that */
    const char *base_url; /* one of base_urls */
    char *url;            /* to POST to */
    char *unix_path;      /* NULL: TCP */
};

/* A call remembers in 64 bits which of them it has asked. */
enum { CONFIG_ENDPOINTS_MAX = 64 };

/* [upstream NAME] */
struct config_upstream {
    char *name;
    char **models; /* globs; NULL-terminated, as all lists */
    char **base_urls;
    unsigned base_urls_from; /* the number of the file that said so */
    enum config_auth auth;
    char *credential, *credential_file;
    char *query;
    char **headers; /* "Name: value" */
    char *ca_file, *proxy;
    enum config_http http_version;
    int64_t connect_timeout_us, first_byte_timeout_us, idle_timeout_us;
    char **drop_parameters;
    bool strict_done, validate;
    int64_t max_retries;
    bool resend;                        /* a request whose fate is unknown may be sent again */
    int64_t max_concurrent, max_queued; /* calls */

    /* Derived from the above. */
    struct config_endpoint *endpoints; /* at least one */
    size_t n_endpoints;
    struct secret *key; /* NULL: none */
};

enum config_policy_kind { CONFIG_POLICY_EVERYONE, CONFIG_POLICY_GROUP, CONFIG_POLICY_USER };

/* [policy *], [policy group:NAME], [policy user:NAME] */
struct config_policy {
    enum config_policy_kind kind;
    char *name;  /* as written behind "policy" */
    uint32_t id; /* uid or gid */
    char **models;
    bool allow_own_key, allow_extra_body;
    /* For each user. Counts and bytes are positive and at most SIZE_MAX. */
    int64_t max_concurrent, max_queued, max_connections, max_message_bytes, max_memory_bytes;
    int64_t requests_per_minute, tokens_per_minute; /* CONFIG_INFINITY: no limit */
};

/* [token NAME] */
struct config_token {
    char *name;
    char *user; /* name or number */
    char *credential, *credential_file;

    /* Derived from the above. */
    uid_t uid;
    gid_t gid;
    gid_t *groups; /* all that the user is in */
    size_t n_groups;
    struct secret *token;
};

/* What holds where no section says otherwise. */
extern const struct config_policy config_policy_default;

struct config {
    _Atomic unsigned n_refs;
    unsigned n_files;  /* it was read from */
    int64_t n_workers; /* read at start */
    int64_t drain_timeout_us;
    int64_t idle_exit_us;
    int64_t memory_max_bytes; /* of all callers together */
    int64_t caller_first_byte_timeout_us, caller_request_timeout_us, caller_stall_timeout_us;
    int log_level;                      /* as syslog's LOG_* */
    bool openai_require_token;          /* of callers over TCP */
    struct config_upstream **upstreams; /* in the order of their first mention; at least one */
    size_t n_upstreams;
    struct config_policy **policies; /* may be none: everything is allowed but own keys */
    size_t n_policies;
    struct config_token **tokens;
    size_t n_tokens;
};

struct config_error {
    char text[512]; /* "FILE:LINE: what is wrong and what would be right" */
};

/*
 * path NULL: CONFIG_PATH, which may be missing; a path that is given must exist. Without any
 * [upstream] there is one, "default", from OPENAI_BASE_URL (default https://api.openai.com/v1) and
 * OPENAI_API_KEY; the latter is in `environment`, as taken at start (NULL: none). Keys are read
 * here. 0, or negative errno with ret_error filled.
 */
int config_load(const char *path, const struct environment *environment, struct config **ret,
                struct config_error *ret_error);

struct config *config_ref(struct config *config);
/* Takes NULL; returns NULL. */
struct config *config_unref(struct config *config);

/* "5s", "2min", "1h 30min", "250ms", "infinity"; a bare number is seconds. 0 or -EINVAL. */
int config_parse_duration(const char *text, int64_t *ret_us);

#endif

/*
 * Who a caller is, and what the configuration lets it do. The identity is the kernel's, as it was
 * when the caller connected.
 */
#ifndef POLICY_H
#define POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct config;

struct caller {
    uid_t uid;
    gid_t gid;
    pid_t pid;     /* 0: it is none of ours to see */
    char *unit;    /* of systemd, "" if there is none; NULL: not asked for yet */
    gid_t *groups; /* supplementary ones */
    size_t n_groups;
};

/* Reads the identity of the socket's other end. 0 or negative errno. */
int caller_init(struct caller *caller, int fd);
/* Finds out which of systemd's units the process belongs to: a user's own unit, else the system's.
 * Once. */
void caller_find_unit(struct caller *caller);

void caller_done(struct caller *caller);

/* What holds for a caller: its user's section, else the first of a group of its, else everyone's,
 * else the defaults. Pointers are the configuration's. */
struct policy {
    const char *name;    /* of the section, for messages: "user:alice" */
    char *const *models; /* NULL: all */
    bool allow_own_key, allow_extra_body;
    size_t max_concurrent, max_queued; /* calls of one user */
    size_t max_connections;            /* of one user */
    size_t max_message_bytes;          /* of a request */
    size_t max_memory_bytes;           /* of one user, all connections and calls together */
    int64_t requests_per_minute, tokens_per_minute; /* of one user; INT64_MAX: no limit */
};

struct policy policy_find(const struct config *config, const struct caller *caller);

bool policy_allows_model(const struct policy *policy, const char *model);

#endif

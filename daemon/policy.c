#include "policy.h"

#include <errno.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <systemd/sd-login.h>

#include "config.h"

int caller_init(struct caller *caller, int fd)
{
    struct ucred cred;
    socklen_t len = sizeof cred;

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
        return -errno;
    *caller = (struct caller){.uid = cred.uid, .gid = cred.gid, .pid = cred.pid};

    /* The first time it says how much space it takes, unless it is none. */
    len = 0;
    while (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, caller->groups, &len) < 0) {
        if (errno != ERANGE)
            return 0;
        gid_t *groups = realloc(caller->groups, len);
        if (!groups)
            return -ENOMEM;
        caller->groups = groups;
    }
    caller->n_groups = len / sizeof(gid_t);
    return 0;
}

void caller_find_unit(struct caller *caller)
{
    /* 0 would be ourselves. */
    if (caller->unit || caller->pid <= 0)
        return;
    if (sd_pid_get_user_unit(caller->pid, &caller->unit) < 0 &&
        sd_pid_get_unit(caller->pid, &caller->unit) < 0)
        caller->unit = strdup("");
}

void caller_done(struct caller *caller)
{
    free(caller->unit);
    free(caller->groups);
    *caller = (struct caller){0};
}

static bool caller_in_group(const struct caller *caller, gid_t gid)
{
    if (caller->gid == gid)
        return true;
    for (size_t i = 0; i < caller->n_groups; i++)
        if (caller->groups[i] == gid)
            return true;
    return false;
}

static bool policy_matches(const struct config_policy *p, const struct caller *caller)
{
    if (p->kind == CONFIG_POLICY_USER)
        return p->id == caller->uid;
    return p->kind == CONFIG_POLICY_EVERYONE || caller_in_group(caller, p->id);
}

struct policy policy_find(const struct config *config, const struct caller *caller)
{
    const struct config_policy *best = NULL;

    for (size_t i = 0; i < config->n_policies; i++) {
        const struct config_policy *p = config->policies[i];
        if (policy_matches(p, caller) && (!best || p->kind > best->kind))
            best = p;
    }
    if (!best)
        best = &config_policy_default;
    return (struct policy){
        .name = best->name,
        .models = best->models,
        .allow_own_key = best->allow_own_key,
        .allow_extra_body = best->allow_extra_body,
        .max_concurrent = (size_t)best->max_concurrent,
        .max_queued = (size_t)best->max_queued,
        .max_connections = (size_t)best->max_connections,
        .max_message_bytes = (size_t)best->max_message_bytes,
        .max_memory_bytes = (size_t)best->max_memory_bytes,
        .requests_per_minute = best->requests_per_minute,
        .tokens_per_minute = best->tokens_per_minute,
    };
}

bool policy_allows_model(const struct policy *policy, const char *model)
{
    if (!policy->models)
        return true;
    for (char *const *glob = policy->models; *glob; glob++)
        if (fnmatch(*glob, model, 0) == 0)
            return true;
    return false;
}

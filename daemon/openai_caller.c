/*
 * Who a connection's caller is, what may be had for it, and who pays: by the kernel's word, or over
 * TCP by a token, which may be another's with each request.
 */
#include <errno.h>
#include <event2/bufferevent.h>
#include <event2/http.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "account.h"
#include "config.h"
#include "crew.h"
#include "metrics.h"
#include "openai_connection.h"
#include "openai_internal.h"
#include "openai_tcp.h"
#include "server.h"

enum { CONNECTION_BYTES = 8192 /* what evhttp and its bufferevent take for each */ };

int openai_look_at_caller(struct openai_connection *c)
{
    evutil_socket_t fd = bufferevent_getfd(c->bev);
    int on = 1, r = openai_tcp_knows_caller(fd);

    if (r != 0)
        return r < 0 ? r : caller_init(&c->caller, fd);
    c->is_tcp = true;
    c->is_stranger = c->worker->config->openai_require_token;
    openai_tcp_nobody(&c->caller);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return 0;
}

void openai_limit_requests(struct openai_connection *c, const struct policy *policy)
{
    size_t max_body = policy->max_message_bytes < OPENAI_BODY_MAX_BYTES ? policy->max_message_bytes
                                                                        : OPENAI_BODY_MAX_BYTES;

    c->max_request_bytes = max_body + OPENAI_HEADERS_MAX_BYTES + OPENAI_AHEAD_MAX_BYTES;
    evhttp_connection_set_max_body_size(c->http, (ev_ssize_t)max_body);
}

/* The user's account, and its limits as they are now; whether there is a place. */
int openai_enter(struct openai_connection *c)
{
    struct worker *w = c->worker;
    struct crew *crew = w->crew;
    struct policy policy = policy_find(w->config, &c->caller);

    c->account = accounts_get(&crew->accounts, c->caller.uid, worker_now_us());
    if (!c->account)
        return -ENOMEM;
    memory_set_limit(&c->account->memory, policy.max_memory_bytes);
    /* One of a user's programs leaves something to the others. */
    c->memory = MEMORY_INIT(policy.max_memory_bytes / 4 * 3, &c->account->memory);
    openai_limit_requests(c, &policy);
    bufferevent_setwatermark(c->bev, EV_READ, 0, c->max_request_bytes);
    if (!memory_charge(&c->memory, CONNECTION_BYTES))
        return -EDQUOT;
    accounts_lock(&crew->accounts);
    c->verdict = admission_enter(&crew->admission, c->caller.uid, c->account->n_connections,
                                 policy.max_connections);
    c->account->n_connections += c->verdict == ADMISSION_WELCOME;
    size_t n_of_user = c->account->n_connections, n = crew->admission.n;
    accounts_unlock(&crew->accounts);
    if (c->verdict == ADMISSION_WELCOME) {
        metrics_add(&w->metrics->totals.connections, 1);
        return 0;
    }
    metrics_add(&w->metrics->totals.connections_refused, 1);
    server_complain(w->server,
                    "too many connections: uid %u is refused (it has %zu, all have %zu of %zu)",
                    c->caller.uid, n_of_user, n, crew->admission.max);
    return c->verdict == ADMISSION_REFUSED ? 0 : -EUSERS;
}

void openai_leave(struct openai_connection *c)
{
    struct crew *crew = c->worker->crew;

    if (c->verdict == ADMISSION_DROPPED)
        return;
    accounts_lock(&crew->accounts);
    c->account->n_connections -= c->verdict == ADMISSION_WELCOME;
    admission_leave(&crew->admission, c->verdict);
    accounts_unlock(&crew->accounts);
}

/* As policy.h has it: what it points to is the connection's own. */
static int copy_caller(const struct caller *who, struct caller *ret)
{
    *ret = (struct caller){.uid = who->uid, .gid = who->gid};
    if (who->n_groups == 0)
        return 0;
    ret->groups = malloc(who->n_groups * sizeof *ret->groups);
    if (!ret->groups)
        return -ENOMEM;
    memcpy(ret->groups, who->groups, who->n_groups * sizeof *ret->groups);
    ret->n_groups = who->n_groups;
    return 0;
}

/* Everything that the connection holds goes from its account to this one. */
static int move_to(struct openai_connection *c, struct account *account,
                   const struct policy *policy)
{
    struct accounts *accounts = &c->worker->crew->accounts;
    bool counts = c->verdict == ADMISSION_WELCOME;

    /* For a moment both have it. */
    memory_set_limit(&account->memory, policy->max_memory_bytes);
    if (!memory_charge(&account->memory, c->memory.used))
        return -EDQUOT;
    accounts_lock(accounts);
    bool has_place = !counts || account->n_connections < policy->max_connections;
    if (counts && has_place) {
        c->account->n_connections--;
        account->n_connections++;
    }
    accounts_unlock(accounts);
    memory_release(has_place ? &c->account->memory : &account->memory, c->memory.used);
    if (!has_place)
        return -EUSERS;
    c->memory.parent = &account->memory;
    c->memory.limit = policy->max_memory_bytes / 4 * 3;
    return 0;
}

/* Copied. 0, -ENOMEM, -EDQUOT (its account can't), -EUSERS (it has as many as it may). */
static int become(struct openai_connection *c, const struct caller *who)
{
    struct policy policy = policy_find(c->worker->config, who);
    struct caller caller;
    int r = 0;

    openai_limit_requests(c, &policy);
    if (who->uid == c->caller.uid && who->gid == c->caller.gid) {
        openai_know(c->openai, c);
        return 0;
    }
    struct account *account = accounts_get(&c->worker->crew->accounts, who->uid, worker_now_us());
    if (!account)
        return -ENOMEM;
    r = copy_caller(who, &caller);
    if (r == 0 && account != c->account)
        r = move_to(c, account, &policy);
    if (r < 0) {
        caller_done(&caller);
        account_unref(account);
        return r;
    }
    account_unref(c->account);
    caller_done(&c->caller);
    c->account = account;
    c->caller = caller;
    openai_know(c->openai, c);
    return 0;
}

const char *openai_bearer_of(struct evhttp_request *http)
{
    const char *value = evhttp_find_header(evhttp_request_get_input_headers(http), "Authorization");

    if (!value || strncasecmp(value, "Bearer ", 7) != 0)
        return NULL;
    value += 7 + strspn(value + 7, " ");
    return *value ? value : NULL;
}

const struct openai_refusal *openai_identify(struct openai_connection *c,
                                             struct evhttp_request *http, bool *ret_has_token)
{
    static const struct openai_refusal
        full = {429, GRPC_RESOURCE_EXHAUSTED, "LOCAL_LIMIT", NULL,
                "your calls hold as much of completiond's memory as they may (max_memory of your "
                "policy, memory_max of all); make fewer or smaller ones at once"},
        unknown = {401, GRPC_UNAUTHENTICATED, "NOT_ALLOWED", "Authorization",
                   "over TCP the header Authorization: Bearer must show a token of the daemon's "
                   "([token NAME] in its configuration), in place of an API key"},
        crowded = {429, GRPC_RESOURCE_EXHAUSTED, "LOCAL_LIMIT", NULL,
                   "too many connections of this user (see max_connections); close some"};
    const struct config *config = c->worker->config;
    struct caller who;

    *ret_has_token = false;
    if (c->over_memory)
        return &full;
    if (!c->is_tcp)
        return NULL;
    const struct openai_refusal *refusal = openai_tcp_check(http);
    if (refusal)
        return refusal;
    *ret_has_token =
        openai_tcp_identify(config, openai_token(c->openai), openai_bearer_of(http), &who);
    if (!*ret_has_token && config->openai_require_token)
        return &unknown;
    if (!*ret_has_token)
        openai_tcp_nobody(&who);
    int r = become(c, &who);
    return r == 0 ? NULL : r == -EUSERS ? &crowded : &full;
}

/*
 * A request that is being answered: its choices grow by turns, a token each, in slices between
 * which the event loop serves others. It is paced if so asked, waits for a reader that is slow, and
 * ends at once when its client goes away.
 */
#ifndef JOB_H
#define JOB_H

#include "choice.h"
#include "request.h"

struct event_base;
struct evhttp_request;

struct job_counters {
    uint64_t streams, tokens, clients_gone, active;
};

/* What jobs need of the server; outlives them. */
struct job_service {
    struct event_base *base;
    const char *model_name;
    struct choice_tools tools;
    double tokens_per_second; /* of each choice; 0: as fast as it goes */
    struct job_counters counters;
};

/* Takes the request, which is zeroed, and answers the HTTP request, now or later. When the HTTP
 * server is freed its jobs go too. */
void job_start(struct job_service *service, struct evhttp_request *http, struct request *request,
               int64_t started_ms);

#endif

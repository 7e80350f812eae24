/*
 * libevent's memory. It is wiped before it is freed, since callers over HTTP send keys and prompts;
 * and there is a reserve, because evhttp 2.1.12 does not get over the want of it: where a
 * connection or a request can't be allocated as a whole, it crashes (evhttp_connection_free()
 * without a base, evhttp_clear_headers() of NULL). So it is only let begin what the reserve
 * suffices for.
 *
 * Of each thread: libevent's hooks know no user.
 */
#ifndef EVENT_MEMORY_H
#define EVENT_MEMORY_H

#include <stdbool.h>

/* Before libevent is used. */
void event_memory_init(void);

/* Fills this thread's reserve. False: there is no memory for that now. */
bool event_memory_reserve(void);
/* Gives it back. */
void event_memory_release(void);

/* How often libevent was refused memory in this thread. */
unsigned long event_memory_n_refused(void);

#endif

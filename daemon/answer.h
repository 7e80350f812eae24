/*
 * The way back of a completion call: what its transfer brings becomes replies and the status.
 * Decides what a response is, when a stream was whole, and what an attempt that failed means.
 */
#ifndef ANSWER_H
#define ANSWER_H

#include "completion/v1/completion.pb-c.h"
#include "upstream.h"

/* Of the transfers of calls; their user is the call. */
extern const struct transfer_handler answer_handler;

Completion__V1__Phase answer_phase(enum transfer_phase phase);

#endif

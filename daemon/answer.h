/*
 * The way back of a completion call: what its transfer brings becomes replies and the status.
 * Decides what a response is, and when a stream was whole.
 */
#ifndef ANSWER_H
#define ANSWER_H

struct buffer;
struct call;

/* Sends the body (taken over) to call->upstream. 0 or -ENOMEM. */
int answer_start(struct call *call, struct buffer *body);

/* The caller's deadline has passed while the transfer runs. */
void answer_expired(struct call *call);

#endif

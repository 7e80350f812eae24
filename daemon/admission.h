/*
 * Which connections may stay, so that no user can take the place of the others: counts them by
 * user, and keeps places free for those who have few. Pure bookkeeping, without sockets.
 *
 *     |<------------------------- max ------------------------->|
 *     | for everyone, up to max_per_user | for those | for the  |
 *     | for each                         | with few  | operator |
 *
 * What is over a user's share is refused: such connections are few at a time, have places of their
 * own, and live just long enough to be told why.
 */
#ifndef ADMISSION_H
#define ADMISSION_H

#include <stddef.h>
#include <sys/types.h>

struct admission {
    size_t n, max;
    size_t max_per_user;
    size_t n_refused;
    uid_t operator; /* the daemon's own user; root counts as operator too */
    void *users;    /* a tree, tsearch(3) */
};

enum admission_verdict {
    ADMISSION_WELCOME,
    ADMISSION_REFUSED, /* tell it, and close soon */
    ADMISSION_DROPPED, /* close at once; not counted */
};

/* max: connections at once. */
void admission_init(struct admission *a, size_t max);
/* Everyone must have left. */
void admission_done(struct admission *a);

enum admission_verdict admission_enter(struct admission *a, uid_t uid);
/* Once for each that entered and was not dropped. */
void admission_leave(struct admission *a, uid_t uid, enum admission_verdict verdict);

#endif

/*
 * Which connections may stay, so that no user can take the place of the others: keeps places free
 * for those who have few. Pure bookkeeping, without sockets.
 *
 *     |<------------------------- max ------------------------->|
 *     | for everyone, up to three        | for those | for the  |
 *     | quarters for one user            | with few  | operator |
 *
 * What is over a user's share is refused: such connections are few at a time, have places of their
 * own, and live just long enough to be told why. One for all workers; the lock of the accounts
 * guards it.
 */
#ifndef ADMISSION_H
#define ADMISSION_H

#include <stddef.h>
#include <sys/types.h>

struct admission {
    size_t n, max;
    size_t n_refused;
    uid_t operator; /* the daemon's own user; root counts as operator too */
};

enum admission_verdict {
    ADMISSION_WELCOME,
    ADMISSION_REFUSED, /* tell it, and close soon */
    ADMISSION_DROPPED, /* close at once; not counted */
};

/* max: connections at once. */
void admission_init(struct admission *a, size_t max);

/* A connection of a user who has n_of_user already, and may have max_of_user. */
enum admission_verdict admission_enter(struct admission *a, uid_t uid, size_t n_of_user,
                                       size_t max_of_user);
/* Once for each that entered and was not dropped. */
void admission_leave(struct admission *a, enum admission_verdict verdict);

#endif

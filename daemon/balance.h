/*
 * Which of an upstream's servers the next call asks: the one that has the fewest of our calls, of
 * those that are well; among equals chance decides, because hosts that know nothing of each other
 * share servers better like that than by turns (tests/bench/bench_fleet_sim.py). Pure.
 *
 * Choosing looks at each server once, and takes no memory and no lock.
 */
#ifndef BALANCE_H
#define BALANCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "load.h"

/* Servers are told apart by their place, below 64. */
struct balance {
    struct load *const *loads; /* not owned */
    size_t n;
};

/*
 * The place of the server to ask. tried: the places that this call has asked already, as bits: they
 * come behind others that are as well. What rests comes behind those, and what can't be reached
 * last. -1: none of them could be reached lately; *ret_wait_us are the microseconds until one is
 * tried.
 */
int balance_choose(const struct balance *b, uint64_t tried, uint64_t chance, int64_t now_us,
                   int64_t *ret_wait_us);

/* There is one that this call has not asked, and that is well as far as is known. */
bool balance_has_other(const struct balance *b, uint64_t tried, int64_t now_us);

/* How many of them are not worth a connection. */
size_t balance_n_open(const struct balance *b);

#endif

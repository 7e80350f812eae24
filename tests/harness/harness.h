/*
 * What every part of the harness takes from cmocka, and its clock. All waiting is for events, with
 * one bound beyond which something has gone wrong: it is generous, for sanitizers and busy
 * machines.
 */
#ifndef HARNESS_H
#define HARNESS_H

/* cmocka wants these four before itself. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

enum { HARNESS_TIMEOUT_MS = 30000 };

/* The thread sanitizer is in here, and in the daemon. */
#ifdef __SANITIZE_THREAD__
enum { HARNESS_HAS_TSAN = 1 };
#else
enum { HARNESS_HAS_TSAN = 0 };
#endif

int64_t harness_now_ms(void);

#endif

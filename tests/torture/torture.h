/* One run of the torture, and the paths that it takes things along. */
#ifndef TORTURE_H
#define TORTURE_H

#include "caller.h"
#include "plan.h"
#include "target.h"
#include "upstream.h"

/* What came of one time along a path. */
struct result {
    char what[32];    /* "OK", "UNAVAILABLE", "kept", ...: counted by this */
    char text[512];   /* what was said */
    char problem[96]; /* "": it is as it should be */
};

struct torture {
    char directory[64];
    unsigned plain_port, closing_port, busy_port, tls_port;
    struct target daemon;  /* tortured, but for the paths of the library */
    struct target program; /* the library's */
    struct target *subject;
    struct caller caller;
};

/* Along all of these a process goes many times; but for `start`, where it is another each time. */
struct path {
    const char *name;
    bool of_library;
    /* Before the failure is armed; false: it did not work. */
    bool (*prepare)(struct torture *t);
    /* Arms, goes along, disarms, and judges. */
    void (*run)(struct torture *t, struct result *ret);
    /* Behind it: what has to work again, and bring back what is kept. False: it did not. */
    bool (*recover)(struct torture *t, struct result *ret);
};

extern const struct path paths[];
extern const size_t n_paths;

/* Starts what the path needs, if it does not run. */
bool paths_start(struct torture *t, const struct path *path);

/* The start of a daemon, with what has been planned. */
void paths_run_start(struct torture *t, struct result *ret);

void result_fail(struct result *r, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif

/*
 * The usual set: a fake upstream, a daemon that asks it, and a caller connected to the daemon.
 *
 * The daemon logs all it can. Its key, and whatever a test puts into prompts and completions that
 * begins with SCENE_SECRET, must not be found in the log: scene_stop() looks.
 */
#ifndef SCENE_H
#define SCENE_H

#include "daemon.h"
#include "fake.h"
#include "harness.h"
#include "rpc.h"

#define SCENE_KEY    "sk-CANARY-0123456789abcdef"
#define SCENE_SECRET "CANARY"

struct scene {
    struct fake *fake;
    struct daemon daemon;
    struct rpc rpc;
};

/*
 * Starts all three. The daemon does not retry, unless settings say so. settings: further lines of the section [upstream fake], which may go on with
 * other sections; NULL: none. A `base_url` in it holds instead of the fake's, a `credential_file`
 * instead of one with SCENE_KEY.
 */
void scene_start(struct scene *s, fake_handler handler, const void *user, const char *settings);
/* The same in steps: what scene_start() would write, without starting the daemon. */
void scene_prepare(struct scene *s, fake_handler handler, const void *user, const char *settings);

/* Stops the daemon, which must have survived all of it. */
void scene_stop(struct scene *s);

/* The daemon answers a health check on this connection. */
void scene_assert_serving(struct scene *s);

/* For cmocka: *state is a scene. */
int scene_setup(void **state);
int scene_teardown(void **state);
#define scene_test(function) cmocka_unit_test_setup_teardown(function, scene_setup, scene_teardown)

#endif

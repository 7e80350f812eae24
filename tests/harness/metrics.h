/*
 * A daemon's metrics socket: asking it, and reading what it says. Failures fail the test.
 */
#ifndef HARNESS_METRICS_H
#define HARNESS_METRICS_H

#include "scene.h"

#define METRICS_GET "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"

/* scene_start(), with a metrics socket. */
void metrics_start(struct scene *s, fake_handler handler, const void *user, const char *settings);

int metrics_connect(const struct scene *s);
/* Up to the end, to be freed. */
char *metrics_receive(int fd);
/* The whole answer to one request, to be freed. */
char *metrics_ask(const struct scene *s, const char *request);
/* The page, with its head, to be freed. It holds no secrets. */
char *metrics_get(const struct scene *s);

/* The value of a series, "completiond_x{a=\"b\"}"; -1 if it is not there. */
double metrics_value(const char *page, const char *series);
void metrics_expect(const char *page, const char *series, double expected);
/* Asks again and again until it is that. */
void metrics_await(const struct scene *s, const char *series, double expected);

#endif

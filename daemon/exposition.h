/*
 * The metrics as text: OpenMetrics 1.0, or Prometheus' text format 0.0.4 for those who ask for it.
 * The two differ in the names of counters' families and in the end.
 */
#ifndef EXPOSITION_H
#define EXPOSITION_H

#include <stdbool.h>

struct buffer;
struct worker;

/* Appends all of it, the sums over all workers; ask for out->error. */
void exposition_write(const struct worker *w, bool openmetrics, struct buffer *out);

#endif

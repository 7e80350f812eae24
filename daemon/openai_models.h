/*
 * The models that a caller may ask for, as far as the configuration knows them: names in `models`
 * of the upstreams that are no patterns. Upstreams are not asked for theirs: that would be another
 * way to them beside the one that limits, records and retries, and a pattern says that the list is
 * not the configuration's to know.
 */
#ifndef OPENAI_MODELS_H
#define OPENAI_MODELS_H

#include <stdbool.h>

#include "../proto/buffer.h"

struct policy;
struct worker;

/* Appends the list of them; or the one of that name, as it stands in a path, which may be any that
 * an upstream would be asked for. False: nobody would. */
bool openai_models_write(const struct worker *w, const struct policy *policy, const char *name,
                         struct buffer *out);

#endif

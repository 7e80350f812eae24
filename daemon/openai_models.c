#include "openai_models.h"

#include <event2/http.h>
#include <stdlib.h>
#include <string.h>

#include "../proto/json_writer.h"
#include "../proto/utf8.h"
#include "config.h"
#include "crew.h"
#include "policy.h"
#include "upstream.h"
#include "worker.h"

static void put_text(struct json_writer *w, const char *key, const char *text)
{
    json_key(w, key);
    json_string(w, text, strlen(text));
}

/* created: the API wants a time; that of the configuration is the only one known. */
static void put_model(struct json_writer *json, const struct worker *w, const char *name,
                      const struct upstream *upstream)
{
    json_begin_object(json);
    put_text(json, "id", name);
    put_text(json, "object", "model");
    json_key(json, "created");
    json_int(json, w->crew->life.config_time_us / 1000000);
    put_text(json, "owned_by", upstream_settings(upstream)->name);
    json_end_object(json);
}

static struct upstream *find(const struct worker *w, const struct policy *policy, const char *name)
{
    return *name && policy_allows_model(policy, name)
               ? upstream_choose(w->upstreams, w->n_upstreams, name)
               : NULL;
}

/* It is listed with the upstream that would be asked, and so once. */
static void put_models(struct json_writer *json, const struct worker *w,
                       const struct policy *policy, const struct upstream *upstream)
{
    char **models = upstream_settings(upstream)->models;

    for (size_t i = 0; models && models[i]; i++) {
        bool again = strpbrk(models[i], "*?[\\") || !utf8_is_valid(models[i], strlen(models[i]));
        for (size_t j = 0; j < i; j++)
            again = again || !strcmp(models[i], models[j]);
        if (!again && find(w, policy, models[i]) == upstream)
            put_model(json, w, models[i], upstream);
    }
}

static bool write_one(const struct worker *w, const struct policy *policy, const char *path,
                      struct buffer *out)
{
    struct json_writer json = json_writer(out);
    size_t len = 0;
    char *name = evhttp_uridecode(path, 0, &len);
    struct upstream *upstream =
        name && strlen(name) == len && utf8_is_valid(name, len) ? find(w, policy, name) : NULL;

    if (upstream)
        put_model(&json, w, name, upstream);
    buffer_append_byte(out, '\n');
    free(name);
    return upstream;
}

bool openai_models_write(const struct worker *w, const struct policy *policy, const char *name,
                         struct buffer *out)
{
    struct json_writer json = json_writer(out);

    if (name)
        return write_one(w, policy, name, out);
    json_begin_object(&json);
    put_text(&json, "object", "list");
    json_key(&json, "data");
    json_begin_array(&json);
    for (size_t i = 0; i < w->n_upstreams; i++)
        put_models(&json, w, policy, w->upstreams[i]);
    json_end_array(&json);
    json_end_object(&json);
    buffer_append_byte(out, '\n');
    return true;
}

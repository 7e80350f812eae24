/* [token NAME]: whom a caller is taken for that shows the token, where the kernel can't tell. */
#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config_credential.h"

/* One that can be guessed is none. */
enum { TOKEN_MIN_BYTES = 16, GROUPS_MAX = 65536 };

static struct config_token *token_free(struct config_token *t)
{
    if (t) {
        free(t->name);
        free(t->user);
        free(t->credential);
        free(t->credential_file);
        free(t->groups);
        secret_free(t->token);
        free(t);
    }
    return NULL;
}

struct config_token *config_token_get(struct config *c, const char *name)
{
    for (size_t i = 0; i < c->n_tokens; i++)
        if (!strcmp(c->tokens[i]->name, name))
            return c->tokens[i];

    struct config_token **grown = reallocarray(c->tokens, c->n_tokens + 1, sizeof *c->tokens);
    if (!grown)
        return NULL;
    c->tokens = grown;

    struct config_token *t = calloc(1, sizeof *t);
    if (!t || !(t->name = strdup(name)))
        return token_free(t);
    c->tokens[c->n_tokens++] = t;
    return t;
}

void config_tokens_free(struct config *c)
{
    for (size_t i = 0; i < c->n_tokens; i++)
        token_free(c->tokens[i]);
    free(c->tokens);
}

static int refuse(struct config_error *error, const struct config_token *t, const char *what)
{
    snprintf(error->text, sizeof error->text, "[token %.64s]: %s", t->name, what);
    return -EINVAL;
}

/* As the kernel would have it, were it asked. */
static int find_groups(struct config_token *t, const char *user, struct config_error *error)
{
    int n = 0;

    getgrouplist(user, t->gid, NULL, &n);
    if (n <= 0 || n > GROUPS_MAX)
        return 0;
    t->groups = calloc((size_t)n, sizeof *t->groups);
    if (!t->groups)
        return refuse(error, t, "out of memory");
    if (getgrouplist(user, t->gid, t->groups, &n) < 0)
        n = 0;
    t->n_groups = (size_t)n;
    return 0;
}

static int find_user(struct config_token *t, struct config_error *error)
{
    char *end;

    if (!t->user)
        return refuse(error, t, "user is missing: whose policy and limits hold for it");
    unsigned long number = strtoul(t->user, &end, 10);
    bool is_number = *t->user >= '0' && *t->user <= '9' && !*end && number < UINT32_MAX;
    const struct passwd *found = is_number ? getpwuid((uid_t)number) : getpwnam(t->user);

    if (!found && !is_number)
        return refuse(error, t, "there is no such user");
    t->uid = is_number ? (uid_t)number : found->pw_uid;
    t->gid = found ? found->pw_gid : (gid_t)-1;
    if (!found)
        return 0;
    char name[256];
    snprintf(name, sizeof name, "%s", found->pw_name);
    return find_groups(t, name, error);
}

int config_tokens_complete(struct config *c, struct config_error *error)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < c->n_tokens; i++) {
        struct config_token *t = c->tokens[i];
        r = find_user(t, error);
        if (r == 0)
            r = config_credential_read("token", t->name, t->credential, t->credential_file,
                                       &t->token, error);
        if (r == 0 && !t->token)
            r = refuse(error, t, "credential or credential_file is missing: where the token is");
        if (r == 0 && t->token->len < TOKEN_MIN_BYTES)
            r = refuse(error, t, "the token is shorter than 16 characters; make a random one");
    }
    return r;
}

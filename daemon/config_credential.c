#include "config_credential.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int refuse(struct config_error *error, const char *kind, const char *name, const char *what)
{
    snprintf(error->text, sizeof error->text, "[%s %.64s]: %s", kind, name, what);
    return -EINVAL;
}

int config_credential_read(const char *kind, const char *name, const char *credential,
                           const char *credential_file, struct secret **ret,
                           struct config_error *error)
{
    const char *directory = getenv("CREDENTIALS_DIRECTORY");
    char path[4096];

    if (credential && credential_file)
        return refuse(error, kind, name, "credential and credential_file exclude each other");
    if (!credential && !credential_file)
        return 0;
    if (credential_file) {
        snprintf(path, sizeof path, "%s", credential_file);
    } else {
        if (strchr(credential, '/'))
            return refuse(error, kind, name,
                          "credential is a name, not a path; a path goes to credential_file");
        if (!directory)
            return refuse(error, kind, name,
                          "credential needs LoadCredential= in the unit (CREDENTIALS_DIRECTORY is "
                          "not set); else use credential_file");
        snprintf(path, sizeof path, "%s/%s", directory, credential);
    }

    const char *why = "";
    int r = secret_read(path, ret, &why);
    if (r < 0)
        snprintf(error->text, sizeof error->text, "[%s %.64s]: the key in %.200s can't be used: %s",
                 kind, name, path, why);
    return r;
}

/*
 * Configuration files: read or refused with a reason, never a crash, nothing left behind. The file
 * lies in memory, and has no drop-ins.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "config.h"

enum { SIZE_MAX_BYTES = 64 * 1024 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define require(ok)                                                                                \
    do {                                                                                           \
        if (!(ok)) {                                                                               \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #ok);                               \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

static void check_list(char *const *list)
{
    for (size_t i = 0; list && list[i]; i++)
        require(*list[i]);
}

static void check_endpoint(const struct config_endpoint *e)
{
    require(e->name && *e->name && e->base_url && e->url);
    require(!strchr(e->url, '\n') && !strchr(e->url, '\r') && !strchr(e->url, ' '));
    require(strncmp(e->url, "http://", 7) == 0 || strncmp(e->url, "https://", 8) == 0);
    require(!e->unix_path || *e->unix_path == '/');
}

static void check_upstream(const struct config_upstream *u)
{
    require(u->name && *u->name && u->models && *u->models);
    require(u->n_endpoints > 0 && u->n_endpoints <= CONFIG_ENDPOINTS_MAX);
    for (size_t i = 0; i < u->n_endpoints; i++)
        check_endpoint(&u->endpoints[i]);
    require(u->connect_timeout_us >= 0 && u->first_byte_timeout_us >= 0 && u->idle_timeout_us >= 0);
    check_list(u->models);
    check_list(u->drop_parameters);
    check_list(u->headers);
    for (size_t i = 0; u->headers && u->headers[i]; i++)
        require(strchr(u->headers[i], ':') && !strpbrk(u->headers[i], "\r\n"));
}

static void check_config(struct config *c)
{
    require(c->n_upstreams > 0 && c->drain_timeout_us >= 0);
    for (size_t i = 0; i < c->n_upstreams; i++)
        check_upstream(c->upstreams[i]);
    for (size_t i = 0; i < c->n_policies; i++) {
        require(c->policies[i]->name);
        check_list(c->policies[i]->models);
    }
    require(config_ref(c) == c);
    require(!config_unref(c));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct config_error error = {""};
    struct config *c = NULL;
    char path[64];

    /* Keys are read from files: from none that does something when it is opened. */
    if (size > SIZE_MAX_BYTES || memmem(data, size, "/dev", 4) || memmem(data, size, "/proc", 5) ||
        memmem(data, size, "/sys", 4))
        return 0;
    int fd = memfd_create("config", MFD_CLOEXEC);
    require(fd >= 0);
    require(size == 0 || write(fd, data, size) == (ssize_t)size);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int r = config_load(path, NULL, &c, &error);
    close(fd);
    if (r < 0) {
        require(!c && *error.text && strlen(error.text) < sizeof error.text);
        return 0;
    }
    check_config(c);
    require(!config_unref(c));
    return 0;
}

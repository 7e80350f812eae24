#include "curl_memory.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "wipe.h"

/* Not in the worker: libcurl's hooks know no user. */
static _Thread_local unsigned long n_refused;

static void *checked(void *memory, bool wanted)
{
    if (!memory && wanted)
        n_refused++;
    return memory;
}

static void *curl_malloc(size_t size)
{
    return checked(malloc(size), size > 0);
}

static void *curl_calloc(size_t n, size_t size)
{
    return checked(calloc(n, size), n > 0 && size > 0);
}

static void *curl_realloc(void *memory, size_t size)
{
    return checked(wipe_realloc(memory, size), size > 0);
}

static char *curl_strdup(const char *text)
{
    return checked(strdup(text), true);
}

unsigned long curl_memory_n_refused(void)
{
    return n_refused;
}

int curl_memory_init(void)
{
    return curl_global_init_mem(CURL_GLOBAL_DEFAULT, curl_malloc, wipe_free, curl_realloc,
                                curl_strdup, curl_calloc) == CURLE_OK
               ? 0
               : -ENOMEM;
}

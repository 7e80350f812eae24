/* What is said on the command line. */
#ifndef OPTIONS_H
#define OPTIONS_H

#include <stdbool.h>
#include <stddef.h>

#include "log.h"

enum { OPTIONS_LISTEN_MAX = 16 };

/* Texts are argv's. */
struct options {
    const char *config_path;
    const char *listen[OPTIONS_LISTEN_MAX];
    size_t n_listen;
    const char *openai_listen[OPTIONS_LISTEN_MAX];
    size_t n_openai_listen;
    const char *metrics_listen; /* NULL: none */
    enum log_format log_format;
    bool check_config;
};

/* -1: go on; else the exit status, and all has been said. o is zeroed at first. */
int options_parse(int argc, char **argv, struct options *o);

#endif

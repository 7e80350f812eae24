/*
 * How the values of the configuration's keys are read: text to a field of the configuration. A
 * setter returns 0, or -EINVAL with the error noted, which names file, line and key.
 */
#ifndef CONFIG_VALUE_H
#define CONFIG_VALUE_H

#include <stdbool.h>
#include <stdio.h>

#include "config.h"

/* A file that is being read. */
struct parse {
    struct config *config;
    struct config_error *error;
    const char *file;
    FILE *stream;
    unsigned n_files; /* of this configuration so far */
    unsigned line;
    bool failed;
};

/* Notes the first error. Returns -EINVAL. */
int parse_fail(struct parse *p, const char *format, ...) __attribute__((format(printf, 2, 3)));

typedef int (*config_setter)(struct parse *p, const char *key, const char *value, void *field);

int config_set_duration(struct parse *p, const char *key, const char *value, void *field);
/* int64_t: "4M" (systemd's suffixes K, M, G, T, of 1024); at least 64K, or infinity. */
int config_set_size(struct parse *p, const char *key, const char *value, void *field);
/* int64_t: a whole number from 0 on; from 1 on; from 1 on, or infinity. */
int config_set_count(struct parse *p, const char *key, const char *value, void *field);
int config_set_limit(struct parse *p, const char *key, const char *value, void *field);
int config_set_rate(struct parse *p, const char *key, const char *value, void *field);
/* int64_t: from 1 to 64, or auto: as many as the process may use CPUs. */
int config_set_workers(struct parse *p, const char *key, const char *value, void *field);
int config_set_bool(struct parse *p, const char *key, const char *value, void *field);
/* Empty is NULL. */
int config_set_text(struct parse *p, const char *key, const char *value, void *field);
/* Lists: each mention adds to it; an empty one empties it, as in systemd's files. */
int config_set_words(struct parse *p, const char *key, const char *value, void *field);
/* As words, but a file does not add to what others say: who is asked, and gets the key, is to be
 * seen in one place. */
int config_set_servers(struct parse *p, const char *key, const char *value, void *field);
int config_set_header(struct parse *p, const char *key, const char *value, void *field);
int config_set_auth(struct parse *p, const char *key, const char *value, void *field);
int config_set_http_version(struct parse *p, const char *key, const char *value, void *field);
int config_set_log_level(struct parse *p, const char *key, const char *value, void *field);

/* Lists of texts, NULL-terminated; NULL is an empty one. */
void config_list_free(char **list);
/* 0 or -ENOMEM. */
int config_list_append(char ***list, const char *text, size_t len);

#endif

/*
 * Where an upstream is: from base_url and query to what libcurl is given.
 */
#ifndef CONFIG_ENDPOINT_H
#define CONFIG_ENDPOINT_H

struct config_endpoint;
struct config_upstream;

/* The endpoints of an upstream whose keys have all been read. NULL, or what is wrong, for people;
 * whatever there is then belongs to the upstream all the same. */
const char *config_endpoints_make(struct config_upstream *u);

void config_endpoints_free(struct config_upstream *u);

#endif

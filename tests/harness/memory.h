/*
 * A text looked for in all of a process's memory: what a core dump, or swap, could hold. Needs root
 * if the process is not dumpable. Failures fail the test.
 */
#ifndef MEMORY_H
#define MEMORY_H

#include <stdint.h>
#include <sys/types.h>

struct memory_finds {
    unsigned in_secret_memory; /* in mappings that are locked and not to be dumped */
    unsigned elsewhere;        /* these are shown */
};

struct memory_finds memory_search(pid_t pid, const char *text);

/* How often the text is in a file. name (or NULL): say where it is. */
unsigned memory_search_file(int fd, uint64_t from, uint64_t to, const char *text, const char *name);

#endif

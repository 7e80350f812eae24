#include "memory.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "harness.h"

unsigned memory_search_file(int fd, uint64_t from, uint64_t to, const char *text, const char *name)
{
    enum { SIZE = 1 << 20 };
    size_t text_len = strlen(text), kept = 0;
    char *data = malloc(SIZE);
    unsigned n_found = 0;

    assert_non_null(data);
    while (from < to) {
        size_t want = to - from < SIZE - kept ? (size_t)(to - from) : SIZE - kept;
        ssize_t got = pread(fd, data + kept, want, (off_t)from);
        if (got <= 0)
            break;
        size_t len = kept + (size_t)got;
        for (const char *p = data; (p = memmem(p, len - (size_t)(p - data), text, text_len)); p++) {
            n_found++;
            if (name)
                print_message("%s at %llx in %s", text,
                              (unsigned long long)(from - kept + (size_t)(p - data)), name);
        }
        kept = len < text_len - 1 ? len : text_len - 1;
        memmove(data, data + len - kept, kept);
        from += (uint64_t)got;
    }
    free(data);
    return n_found;
}

struct memory_finds memory_search(pid_t pid, const char *text)
{
    struct memory_finds finds = {0};
    char path[64], line[512], mapping[512] = "";
    unsigned long long from = 0, to = 0, rss_kib = 0;

    snprintf(path, sizeof path, "/proc/%d/smaps", (int)pid);
    FILE *smaps = fopen(path, "re");
    snprintf(path, sizeof path, "/proc/%d/mem", (int)pid);
    int mem = open(path, O_RDONLY | O_CLOEXEC);
    assert_non_null(smaps);
    assert_true(mem >= 0);
    while (fgets(line, sizeof line, smaps)) {
        unsigned long long first, last;
        if (sscanf(line, "%llx-%llx ", &first, &last) == 2) {
            from = first;
            to = last;
            strcpy(mapping, line);
            rss_kib = 0;
        }
        sscanf(line, "Rss: %llu", &rss_kib);
        if (strncmp(line, "VmFlags:", 8) != 0 || rss_kib == 0 || !strstr(line, " rd"))
            continue;
        /* The sanitizer's shadow, of terabytes and without data. */
        if (to - from > UINT64_C(1) << 32 && strstr(line, " dd"))
            continue;
        if (strstr(line, " dd") && strstr(line, " lo"))
            finds.in_secret_memory += memory_search_file(mem, from, to, text, NULL);
        else
            finds.elsewhere += memory_search_file(mem, from, to, text, mapping);
    }
    fclose(smaps);
    close(mem);
    return finds;
}

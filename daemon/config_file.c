#include "config_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int config_file_open(const char *path, FILE **ret)
{
    struct stat st;
    FILE *f = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK), r = 0;

    if (fd < 0)
        return -errno;
    if (fstat(fd, &st) < 0)
        r = -errno;
    else if (S_ISDIR(st.st_mode))
        r = -EISDIR;
    else if (!S_ISREG(st.st_mode) && !S_ISCHR(st.st_mode))
        r = -EINVAL;
    else if (!(f = fdopen(fd, "r")))
        r = -errno;
    if (r < 0) {
        close(fd);
        return r;
    }
    *ret = f;
    return 0;
}

int config_file_find_certificate(const char *path)
{
    char line[256];
    bool found = false;
    FILE *f;
    int r = config_file_open(path, &f);

    if (r < 0)
        return r;
    while (!found && fgets(line, sizeof line, f))
        found = !strncmp(line, "-----BEGIN ", 11) && strstr(line, "CERTIFICATE-----");
    fclose(f);
    return found ? 0 : -ENODATA;
}

const char *config_file_fault(int r)
{
    return r == -EINVAL    ? "not a regular file"
           : r == -ENODATA ? "there is no certificate in it (PEM)"
                           : strerror(-r);
}

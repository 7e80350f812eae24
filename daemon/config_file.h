/*
 * The files that a configuration consists of and names, opened so that none of them can hold up a
 * reload, and with it everybody.
 */
#ifndef CONFIG_FILE_H
#define CONFIG_FILE_H

#include <stdio.h>

/* Opens a file for reading, close-on-exec. Regular files, and devices: /dev/null is as good as an
 * empty file. 0 or negative errno: -EISDIR, -EINVAL for a FIFO and the like. Never waits. */
int config_file_open(const char *path, FILE **ret);

/* 0 if there is a certificate in the file (PEM); whether it is good is not looked at. As above, or
 * -ENODATA. */
int config_file_find_certificate(const char *path);

/* What is wrong, for people. */
const char *config_file_fault(int r);

#endif

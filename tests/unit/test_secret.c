/* Keys: where they may come from, what becomes of their bytes, and the memory they lie in. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "config.h"
#include "environment.h"
#include "secret.h"
#include "upstream_internal.h"
#include "wipe.h"

struct fixture {
    char directory[64], path[96];
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);

    strcpy(f->directory, "/tmp/test_secret.XXXXXX");
    assert_non_null(mkdtemp(f->directory));
    snprintf(f->path, sizeof f->path, "%s/key", f->directory);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    char other[128];

    snprintf(other, sizeof other, "%s/target", f->directory);
    unlink(other);
    unlink(f->path);
    rmdir(f->path);
    assert_int_equal(rmdir(f->directory), 0);
    free(f);
    return 0;
}

static void write_file(const char *path, const void *bytes, size_t len, mode_t mode)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, len), len);
    close(fd);
    assert_int_equal(chmod(path, mode), 0);
}

static void expect_refused(const char *path, int error, const char *what)
{
    struct secret *s = NULL;
    const char *why = NULL;
    int r = secret_read(path, &s, &why);

    assert_null(s);
    if (r != error || !why || !strstr(why, what))
        fail_msg("%s (%s), not %s (%s)", strerror(-r), why, strerror(-error), what);
}

/* ---- Files ---- */

static void white_space_at_the_end_is_no_part_of_a_key(void **state)
{
    static const char *const texts[] = {"sk-key", "sk-key\n", "sk-key\r\n", "sk-key \t\n\n"};
    struct fixture *f = *state;

    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct secret *s = NULL;
        const char *why;

        write_file(f->path, texts[i], strlen(texts[i]), 0400);
        assert_int_equal(secret_read(f->path, &s, &why), 0);
        assert_string_equal(s->text, "sk-key");
        assert_int_equal(s->len, 6);
        secret_free(s);
    }
}

static void bytes_that_make_no_key_are_refused(void **state)
{
    static const struct {
        const char *bytes;
        size_t len;
        const char *what;
    } cases[] = {
        {"", 0, "empty"},
        {"\r\n \t\n", 5, "empty"},
        {"two words", 9, "one line"},
        {"two\nlines\n", 10, "one line"},
        {"sk-\0key", 7, "one line"},
        {"sk-key\0", 7, "one line"},
        {"sk-key\0\n", 8, "one line"},
        {"\xef\xbb\xbfsk-key", 9, "one line"},
        {"sk-k\xc3\xa9y", 7, "one line"},
        {"sk-key\x1b", 7, "one line"},
        {" sk-key", 7, "one line"},
    };
    struct fixture *f = *state;

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_file(f->path, cases[i].bytes, cases[i].len, 0600);
        expect_refused(f->path, -EINVAL, cases[i].what);
    }
}

static void size_is_limited(void **state)
{
    enum { SIZE = 1 << 20 };
    struct fixture *f = *state;
    char *text = malloc(SIZE);
    struct secret *s = NULL;
    const char *why;

    assert_non_null(text);
    memset(text, 'k', SIZE);
    write_file(f->path, text, SIZE, 0600);
    expect_refused(f->path, -EINVAL, "longer than 3072");
    write_file(f->path, text, SECRET_MAX + 1, 0600);
    expect_refused(f->path, -EINVAL, "longer than 3072");
    text[SECRET_MAX] = '\n';
    write_file(f->path, text, SECRET_MAX + 1, 0600);
    assert_int_equal(secret_read(f->path, &s, &why), 0);
    assert_int_equal(s->len, SECRET_MAX);
    secret_free(s);
    /* A key, and white space, and what nobody has read. */
    memset(text + 6, ' ', 8000);
    write_file(f->path, text, SIZE, 0600);
    expect_refused(f->path, -EINVAL, "longer than 3072");
    free(text);
}

static void files_that_others_have_a_hand_in_are_refused(void **state)
{
    static const struct {
        mode_t mode;
        const char *what;
    } cases[] = {
        {0604, "chmod o="}, {0602, "chmod o="},  {0601, "chmod o="},
        {0666, "chmod o="}, {0620, "chmod g-w"}, {0660, "chmod g-w"},
    };
    static const mode_t good[] = {0400, 0600, 0440, 0640};
    struct fixture *f = *state;

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_file(f->path, "sk-key", 6, cases[i].mode);
        expect_refused(f->path, -EPERM, cases[i].what);
    }
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        struct secret *s = NULL;
        const char *why;
        write_file(f->path, "sk-key", 6, good[i]);
        assert_int_equal(secret_read(f->path, &s, &why), 0);
        secret_free(s);
    }
    if (geteuid() != 0) {
        print_message("skipped: another owner, needs root\n");
        return;
    }
    write_file(f->path, "sk-key", 6, 0600);
    assert_int_equal(chown(f->path, 12345, (gid_t)-1), 0);
    expect_refused(f->path, -EPERM, "owner");
}

/* A test that waits fails by its time. */
static void what_is_no_file_is_refused_at_once(void **state)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct fixture *f = *state;
    char target[128];

    assert_int_equal(mkfifo(f->path, 0600), 0);
    expect_refused(f->path, -EPERM, "not a regular file");
    unlink(f->path);

    assert_int_equal(mkdir(f->path, 0700), 0);
    expect_refused(f->path, -EPERM, "not a regular file");
    rmdir(f->path);

    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", f->path);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    expect_refused(f->path, -ENXIO, "");
    close(fd);
    unlink(f->path);

    /* The target is good; who made the link is not known. */
    snprintf(target, sizeof target, "%s/target", f->directory);
    write_file(target, "sk-key", 6, 0600);
    assert_int_equal(symlink(target, f->path), 0);
    expect_refused(f->path, -ELOOP, "symbolic link");
    unlink(f->path);

    expect_refused(f->path, -ENOENT, "No such file");
    expect_refused("/dev/zero", -EPERM, "not a regular file");
}

/* ---- Memory ---- */

/* Of the mapping that holds the address: the line VmFlags. */
static void read_flags(const void *address, char flags[static 256])
{
    FILE *smaps = fopen("/proc/self/smaps", "re");
    unsigned long from, to, at = (unsigned long)address;
    char line[256];
    bool inside = false;

    assert_non_null(smaps);
    *flags = '\0';
    while (fgets(line, sizeof line, smaps)) {
        if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
            inside = from <= at && at < to;
        else if (inside && !strncmp(line, "VmFlags:", 8))
            strcpy(flags, line);
    }
    fclose(smaps);
}

static void assert_is_secret_memory(const void *address)
{
    char flags[256];

    read_flags(address, flags);
    /* dontdump, dontcopy, locked */
    if (!strstr(flags, " dd") || !strstr(flags, " dc") || !strstr(flags, " lo"))
        fail_msg("memory of a key: %s", flags);
}

static void keys_lie_in_memory_of_their_own(void **state)
{
    struct secret *s = NULL;

    (void)state;
    assert_int_equal(secret_new("sk-key\n", 7, &s), 0);
    assert_string_equal(s->text, "sk-key");
    assert_is_secret_memory(s);
    assert_is_secret_memory(s->text + s->len);
    assert_null(secret_free(s));
    assert_null(secret_free(NULL));
    assert_int_equal(secret_new("a b", 3, &s), -EINVAL);
}

static void header_with_the_key_lies_there_too(void **state)
{
    static const char *const expected[] = {"Accept: application/json",
                                           "Content-Type: application/json",
                                           "Accept-Encoding: identity",
                                           "Expect:",
                                           "X-One: 1",
                                           "X-Two: 2",
                                           NULL};
    char one[] = "X-One: 1", two[] = "X-Two: 2", *extra[] = {one, two, NULL};
    struct config_upstream settings = {.headers = extra};
    char key[SECRET_MAX + 1];

    (void)state;
    memset(key, 'k', SECRET_MAX);
    key[SECRET_MAX] = '\0';
    for (int auth = CONFIG_AUTH_BEARER; auth <= CONFIG_AUTH_NONE; auth++) {
        struct curl_slist *list = NULL, *h;
        size_t i = 0;

        settings.auth = (enum config_auth)auth;
        assert_int_equal(upstream_headers_new(&settings, key, false, &list), 0);
        for (h = list; h && expected[i]; h = h->next, i++) {
            assert_string_equal(h->data, expected[i]);
            assert_is_secret_memory(h->data);
        }
        assert_null(expected[i]);
        if (auth == CONFIG_AUTH_NONE) {
            assert_null(h);
        } else {
            const char *prefix =
                auth == CONFIG_AUTH_BEARER ? "Authorization: Bearer " : "api-key: ";
            assert_non_null(h);
            assert_memory_equal(h->data, prefix, strlen(prefix));
            assert_string_equal(h->data + strlen(prefix), key);
            assert_is_secret_memory(h->data);
            assert_is_secret_memory(h->data + strlen(h->data));
            assert_null(h->next);
        }
        assert_null(upstream_headers_free(list));
    }
}

static void memory_keeps_what_it_holds_when_it_grows(void **state)
{
    char *p = wipe_realloc(NULL, 10);

    (void)state;
    assert_non_null(p);
    strcpy(p, "123456789");
    for (size_t size = 11; size < 100000; size *= 2) {
        p = wipe_realloc(p, size);
        assert_non_null(p);
        assert_string_equal(p, "123456789");
        p[size - 1] = 'x';
    }
    p = wipe_realloc(p, 5);
    assert_memory_equal(p, "12345", 5);
    wipe_free(p);
    wipe_free(NULL);
}

/* ---- Environment ---- */

static void key_leaves_the_environment(void **state)
{
    /* As the kernel has it: the variables' own bytes, one name twice. */
    char first[] = "OPENAI_API_KEY=sk-first\n", second[] = "OPENAI_API_KEY=sk-second";
    char other[] = "OPENAI_API_KEYS=stays", file[] = "SSLKEYLOGFILE=/tmp/x";
    char *variables[] = {first, other, second, file, NULL}, **saved = environ;
    struct environment e;

    (void)state;
    environ = variables;
    environment_take(&e);
    assert_null(getenv("OPENAI_API_KEY"));
    assert_null(getenv("SSLKEYLOGFILE"));
    assert_string_equal(getenv("OPENAI_API_KEYS"), "stays");
    environ = saved;
    assert_string_equal(e.key->text, "sk-first");
    assert_null(e.key_fault);
    assert_null(memmem(first, sizeof first, "sk", 2));
    assert_null(memmem(second, sizeof second, "sk", 2));
    environment_done(&e);
    assert_null(e.key);
}

static void bad_key_in_the_environment_is_kept_in_mind(void **state)
{
    struct environment e;

    (void)state;
    setenv("OPENAI_API_KEY", "two words", 1);
    environment_take(&e);
    assert_null(e.key);
    assert_non_null(strstr(e.key_fault, "without spaces"));
    environment_done(&e);
    setenv("OPENAI_API_KEY", "", 1);
    environment_take(&e);
    assert_null(e.key);
    assert_null(e.key_fault);
    environment_done(&e);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(white_space_at_the_end_is_no_part_of_a_key),
        TEST(bytes_that_make_no_key_are_refused),
        TEST(size_is_limited),
        TEST(files_that_others_have_a_hand_in_are_refused),
        TEST(what_is_no_file_is_refused_at_once),
        cmocka_unit_test(keys_lie_in_memory_of_their_own),
        cmocka_unit_test(header_with_the_key_lies_there_too),
        cmocka_unit_test(memory_keeps_what_it_holds_when_it_grows),
        cmocka_unit_test(key_leaves_the_environment),
        cmocka_unit_test(bad_key_in_the_environment_is_kept_in_mind),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

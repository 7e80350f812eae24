/*
 * Batches that were interrupted and go on: whatever ended them, nothing that had come is asked
 * again, and the file is in the end as if nothing had happened.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli_batch.h"
#include "scene.h"

#define RUN(...)                                                                                   \
    CLI_ARGUMENTS("create", "--model", "m", "--jsonl", in_path, "--output-file", out_path,         \
                  __VA_ARGS__)

enum { PATH_MAX_BYTES = 160 };

static char in_path[PATH_MAX_BYTES], out_path[PATH_MAX_BYTES], partial_path[PATH_MAX_BYTES + 8];

/* ---- Files ---- */

static char *read_file(const char *path)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(fstat(fd, &st), 0);
    char *text = malloc((size_t)st.st_size + 1);
    assert_non_null(text);
    assert_int_equal(read(fd, text, (size_t)st.st_size), st.st_size);
    text[st.st_size] = '\0';
    close(fd);
    return text;
}

static void write_file(const char *path, const char *text, size_t length)
{
    FILE *f = fopen(path, "we");

    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, length, f), length);
    assert_int_equal(fclose(f), 0);
}

static bool is_there(const char *path)
{
    return access(path, F_OK) == 0;
}

/* n requests, "p0" and so on, or "hang3" for those of a list that ends with -1. */
static void write_requests(struct scene *s, int n, const int *hangs, bool ids)
{
    char *text;
    size_t size;
    FILE *f = open_memstream(&text, &size);

    for (int i = 0; i < n; i++) {
        bool hang = false;
        for (const int *h = hangs; h && *h >= 0; h++)
            hang = hang || *h == i;
        fputc('{', f);
        if (ids)
            fprintf(f, "\"custom_id\":\"id%d\",", i);
        fprintf(f, "\"prompt\":\"%s%d\"}\n", hang ? "hang" : "p", i);
    }
    fclose(f);
    snprintf(in_path, sizeof in_path, "%s", directory_write(&s->daemon.directory, "in", text));
    snprintf(out_path, sizeof out_path, "%s", directory_path(&s->daemon.directory, "out"));
    snprintf(partial_path, sizeof partial_path, "%s.partial", out_path);
    free(text);
}

/* The file has n results, of requests as they were written; nothing is left beside it. */
static void assert_whole(size_t n)
{
    char *text = read_file(out_path);
    json_object *all = batch_results(text);

    assert_int_equal(json_object_array_length(all), n);
    for (size_t i = 0; i < n; i++) {
        char p[32], hang[32];
        snprintf(p, sizeof p, "p%zu", i);
        snprintf(hang, sizeof hang, "hang%zu", i);
        const char *got = batch_text_of(all, i);
        if (strcmp(got, p) != 0)
            assert_string_equal(got, hang);
    }
    json_object_put(all);
    free(text);
    assert_false(is_there(partial_path));
}

/* What waits for an earlier one has this. */
static void await_partial(const char *part)
{
    int64_t start = harness_now_ms();
    bool found = false;

    while (!found) {
        char *text = read_file(partial_path);
        found = strstr(text, part);
        if (!found && harness_now_ms() - start > HARNESS_TIMEOUT_MS)
            fail_msg("%s does not come in: %s", part, text);
        free(text);
    }
}

/* ---- Interruptions ---- */

/* Killed while one hangs and the others have come. */
static void test_a_kill_repeats_nothing_that_had_come(void **state)
{
    static const int signals[] = {SIGKILL, SIGINT, SIGTERM};
    struct scene *s = *state;
    struct cli c;

    for (size_t i = 0; i < 3; i++) {
        scene_start(s, batch_serve, NULL, NULL);
        write_requests(s, 20, (const int[]){3, 7, -1}, true);
        cli_start(&c, s->daemon.socket, NULL, RUN("--jobs", "3"));
        /* All but two have come, and all but three wait. */
        assert_true(fake_await(s->fake, FAKE_STEP, 20));
        await_partial("p19");
        cli_signal(&c, signals[i]);
        cli_wait_exit(&c, signals[i] == SIGKILL ? 128 + SIGKILL : 130);
        if (signals[i] != SIGKILL) {
            cli_assert_has(cli_errors(&c), "interrupted: 2 calls were cancelled");
            cli_assert_has(cli_errors(&c), "To go on: the same command, with --resume.\n");
        }
        assert_true(is_there(partial_path));
        cli_done(&c);
        fake_mark(s->fake, FAKE_GO);
        cli_run(&c, 0, s->daemon.socket, NULL, RUN("--jobs", "3", "--resume"));
        assert_whole(20);
        assert_int_equal(fake_count(s->fake, FAKE_STEP), 22);
        cli_done(&c);
        scene_stop(s);
        scene_teardown(state);
        scene_setup(state);
        s = *state;
    }
}

/* At any moment, again and again. */
static void test_many_kills_lose_and_repeat_nothing(void **state)
{
    enum { N = 600, KILLS_MAX = 100 };
    struct scene *s = *state;
    struct cli c;
    int n_kills = 0, status;

    scene_start(s, batch_serve, NULL, NULL);
    write_requests(s, N, NULL, true);
    for (unsigned step = 20;; step += 17) {
        cli_start(&c, s->daemon.socket, NULL, RUN("--jobs", "5", "--resume"));
        if (n_kills < KILLS_MAX && fake_count(s->fake, FAKE_STEP) + step < N) {
            assert_true(fake_await(s->fake, FAKE_STEP, fake_count(s->fake, FAKE_STEP) + step / 2));
            cli_signal(&c, SIGKILL);
        }
        status = cli_wait(&c);
        cli_done(&c);
        if (status != 128 + SIGKILL)
            break;
        n_kills++;
    }
    assert_int_equal(status, 0);
    assert_true(n_kills > 3);
    assert_whole(N);
    /* Only what was on its way when it was killed may have been asked again. */
    assert_in_range(fake_count(s->fake, FAKE_STEP), N, N + 5u * (unsigned)n_kills);
    scene_stop(s);
}

/* ---- Ends that are not whole ---- */

static void test_a_torn_end_is_cut_and_asked_again(void **state)
{
    enum { N = 6 };
    struct scene *s = *state;
    struct cli c;

    scene_start(s, batch_serve, NULL, NULL);
    write_requests(s, N, NULL, false);
    cli_run(&c, 0, s->daemon.socket, NULL, RUN("--jobs", "1"));
    cli_done(&c);
    char *whole = read_file(out_path);
    size_t length = strlen(whole);
    char *last = memrchr(whole, '\n', length - 1);
    size_t last_length = (size_t)(whole + length - last - 1);
    for (size_t cut = 0; cut < last_length + 3; cut += cut < 12 || cut + 3 > last_length ? 1 : 7) {
        unsigned before = fake_count(s->fake, FAKE_STEP);
        write_file(out_path, whole, length - cut);
        cli_run(&c, 0, s->daemon.socket, NULL, RUN("--resume"));
        cli_done(&c);
        assert_whole(N);
        char *again = read_file(out_path);
        assert_string_equal(again, whole);
        free(again);
        /* An end of line is no result. */
        unsigned n = cut < 2 ? 0 : cut < last_length + 2 ? 1 : 2;
        assert_int_equal(fake_count(s->fake, FAKE_STEP), before + n);
    }
    free(whole);
    scene_stop(s);
}

/* As a file system may leave a file that grew when the power failed. */
static void test_zeros_at_the_end_are_cut(void **state)
{
    enum { N = 4, ZEROS = 5000 };
    struct scene *s = *state;
    struct cli c;

    scene_start(s, batch_serve, NULL, NULL);
    write_requests(s, N, NULL, false);
    cli_run(&c, 0, s->daemon.socket, NULL, RUN("--jobs", "1"));
    cli_done(&c);
    char *whole = read_file(out_path);
    size_t lengths[] = {strlen(whole), strlen(whole) - 30, 0};
    for (size_t i = 0; i < 3; i++) {
        char *damaged = calloc(1, lengths[i] + ZEROS);
        assert_non_null(damaged);
        memcpy(damaged, whole, lengths[i]);
        if (i == 1)
            damaged[lengths[i] + ZEROS - 1] = '\n';
        write_file(out_path, damaged, lengths[i] + ZEROS);
        free(damaged);
        cli_run(&c, 0, s->daemon.socket, NULL, RUN("--resume"));
        cli_done(&c);
        assert_whole(N);
    }
    free(whole);
    scene_stop(s);
}

/* What waits is worth nothing if it can't be read, and harms nobody. */
static void test_a_torn_partial_file_is_read_as_far_as_it_goes(void **state)
{
    static const struct {
        const char *partial;
        unsigned n_asked;
    } table[] = {
        {"", 4},
        {"{\"index\":2,\"response\":{\"status_code\":200,\"body\":{\"choices\":[{\"text\":\"p2\"}]}"
         "},"
         "\"error\":null}\n{\"index\":3,\"resp",
         3},
        {"{\"index\":2,\"resp", 4},
        {"nonsense\n", 4},
        {"{\"index\":2}\n{\"index\":2}\n", 3},
        {"{\"index\":99999999}\n{\"index\":-1}\n", 4},
    };
    struct scene *s = *state;
    struct cli c;

    scene_start(s, batch_serve, NULL, NULL);
    write_requests(s, 4, NULL, false);
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        unsigned before = fake_count(s->fake, FAKE_STEP);
        write_file(out_path, "", 0);
        write_file(partial_path, table[i].partial, strlen(table[i].partial));
        cli_run(&c, 0, s->daemon.socket, NULL, RUN("--resume"));
        cli_done(&c);
        assert_int_equal(fake_count(s->fake, FAKE_STEP) - before, table[i].n_asked);
        assert_false(is_there(partial_path));
    }
    scene_stop(s);
}

/* Killed, or without room for more, between what had come and those that it was waiting for: any of
 * them may be in either file, or in both. */
static void test_what_waited_may_be_next(void **state)
{
    enum { N = 5 };
    struct scene *s = *state;
    struct cli c;

    scene_start(s, batch_serve, NULL, NULL);
    for (int with_ids = 0; with_ids < 2; with_ids++) {
        write_requests(s, N, NULL, with_ids);
        cli_run(&c, 0, s->daemon.socket, NULL, RUN("--jobs", "1"));
        cli_done(&c);
        char *whole = read_file(out_path);
        const char *next = whole;
        for (int n = 0; n <= N; n++) {
            unsigned before = fake_count(s->fake, FAKE_STEP);
            write_file(out_path, whole, (size_t)(next - whole));
            write_file(partial_path, whole, strlen(whole));
            cli_run(&c, 0, s->daemon.socket, NULL, RUN("--resume"));
            cli_done(&c);
            assert_whole(N);
            assert_int_equal(fake_count(s->fake, FAKE_STEP), before);
            if (n < N)
                next = strchr(next, '\n') + 1;
        }
        free(whole);
        assert_int_equal(unlink(out_path), 0);
    }
    scene_stop(s);
}

/* ---- Files that it must not touch ---- */

static void assert_refused(struct scene *s, int status, const char *const *arguments,
                           const char *says, const char *before)
{
    struct cli c;

    cli_run(&c, status, s->daemon.socket, NULL, arguments);
    cli_assert_has(cli_errors(&c), says);
    cli_assert_has(cli_errors(&c), out_path);
    cli_done(&c);
    char *after = read_file(out_path);
    assert_string_equal(after, before);
    free(after);
}

static void test_what_is_there_is_not_written_over(void **state)
{
    struct scene *s = *state;

    scene_start(s, batch_serve, NULL, NULL);
    write_requests(s, 2, NULL, false);
    write_file(out_path, "mine\n", 5);
    assert_refused(s, 2, RUN("--jobs", "1"), "has results already; --resume goes on", "mine\n");
    assert_refused(s, 1, RUN("--resume"), "line 1 is not the result of request 0", "mine\n");
    write_file(out_path, "mine", 4);
    assert_refused(s, 1, RUN("--resume"), "line 1 is not the result of request 0", "mine");
    write_file(out_path, "{\"index\":1}\n", 12);
    assert_refused(s, 1, RUN("--resume"), "line 1 is not the result of request 0",
                   "{\"index\":1}\n");
    write_file(out_path, "{\"index\":0}\nmine\n", 17);
    assert_refused(s, 1, RUN("--resume"), "line 2 is not the result of request 1",
                   "{\"index\":0}\nmine\n");
    assert_int_equal(fake_count(s->fake, FAKE_REQUESTED), 0);
    scene_stop(s);
}

static void test_other_requests_are_noticed(void **state)
{
    struct scene *s = *state;
    struct cli c;

    scene_start(s, batch_serve, NULL, NULL);
    write_requests(s, 4, NULL, true);
    cli_run(&c, 0, s->daemon.socket, NULL, RUN("--jobs", "1"));
    cli_done(&c);
    char *before = read_file(out_path);
    char *requests = read_file(in_path);
    unsigned n_asked = fake_count(s->fake, FAKE_REQUESTED);

    /* Fewer, others, in another order. */
    write_file(in_path, requests, (size_t)(strchr(requests, '\n') + 1 - requests));
    assert_refused(s, 2, RUN("--resume"), "has results of other requests than", before);
    requests[strlen("{\"custom_id\":\"i")] = 'x';
    write_file(in_path, requests, strlen(requests));
    assert_refused(s, 2, RUN("--resume"), "has results of other requests than", before);
    assert_int_equal(fake_count(s->fake, FAKE_REQUESTED), n_asked);
    free(requests);
    free(before);
    scene_stop(s);
}

static void test_two_at_once_do_not_write_to_one_file(void **state)
{
    struct scene *s = *state;
    struct cli first;

    scene_start(s, batch_serve, NULL, NULL);
    write_requests(s, 2, (const int[]){0, -1}, false);
    cli_start(&first, s->daemon.socket, NULL, RUN("--jobs", "1"));
    assert_true(fake_await(s->fake, FAKE_STEP, 1));
    assert_refused(s, 1, RUN("--resume"), "another batch is writing to it", "");
    assert_refused(s, 1, RUN("--jobs", "1"), "another batch is writing to it", "");
    fake_mark(s->fake, FAKE_GO);
    cli_wait_exit(&first, 0);
    cli_done(&first);
    assert_whole(2);
    scene_stop(s);
}

/* ---- The rest ---- */

static void test_resuming_what_is_done_asks_nothing(void **state)
{
    struct scene *s = *state;
    struct cli c;

    scene_start(s, batch_serve, NULL, NULL);
    write_requests(s, 3, NULL, false);
    /* It may be there from the beginning: one command for all days. */
    cli_run(&c, 0, s->daemon.socket, NULL, RUN("--resume"));
    cli_done(&c);
    assert_int_equal(fake_count(s->fake, FAKE_REQUESTED), 3);
    cli_run(&c, 0, s->daemon.socket, NULL, RUN("--resume"));
    assert_string_equal(cli_text(&c), "");
    assert_string_equal(cli_errors(&c), "");
    cli_done(&c);
    assert_int_equal(fake_count(s->fake, FAKE_REQUESTED), 3);
    assert_whole(3);

    /* More may be added behind. */
    FILE *f = fopen(in_path, "ae");
    fputs("\n{\"prompt\":\"p3\"}\nnonsense\n", f);
    fclose(f);
    for (int i = 0; i < 2; i++) {
        cli_run(&c, 8, s->daemon.socket, NULL, RUN("--resume"));
        cli_assert_has(cli_errors(&c), i ? "0 answered, 0 failed, 5 had been done before"
                                         : "1 answered, 1 failed, 3 had been done before");
        cli_done(&c);
    }
    assert_int_equal(fake_count(s->fake, FAKE_REQUESTED), 4);
    scene_stop(s);
}

/* What lies beside a file that was removed is of another day. */
static void test_a_removed_file_begins_anew(void **state)
{
    static const char stale[] = "{\"index\":1,\"response\":null,\"error\":null}\n";
    struct scene *s = *state;
    struct cli c;

    scene_start(s, batch_serve, NULL, NULL);
    write_requests(s, 3, NULL, false);
    write_file(partial_path, stale, strlen(stale));
    cli_run(&c, 0, s->daemon.socket, NULL, RUN("--resume"));
    cli_done(&c);
    assert_whole(3);
    scene_stop(s);
}

static void test_a_full_disk_leaves_whole_lines_and_goes_on(void **state)
{
    struct cli_options small = {.file_size_max = 1500};
    struct scene *s = *state;
    struct cli c;

    scene_start(s, batch_serve, NULL, NULL);
    write_requests(s, 20, NULL, false);
    cli_run(&c, 1, s->daemon.socket, &small, RUN("--jobs", "1"));
    cli_assert_has(cli_errors(&c), "the output can't be written: File too large\n");
    cli_assert_has(cli_errors(&c), "To go on: the same command, with --resume.\n");
    cli_done(&c);
    char *text = read_file(out_path);
    assert_true(*text && text[strlen(text) - 1] == '\n');
    free(text);
    unsigned before = fake_count(s->fake, FAKE_STEP);
    cli_run(&c, 0, s->daemon.socket, NULL, RUN("--resume"));
    cli_done(&c);
    assert_whole(20);
    assert_true(before < 10);
    scene_stop(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_a_kill_repeats_nothing_that_had_come),
        scene_test(test_many_kills_lose_and_repeat_nothing),
        scene_test(test_a_torn_end_is_cut_and_asked_again),
        scene_test(test_zeros_at_the_end_are_cut),
        scene_test(test_a_torn_partial_file_is_read_as_far_as_it_goes),
        scene_test(test_what_waited_may_be_next),
        scene_test(test_what_is_there_is_not_written_over),
        scene_test(test_other_requests_are_noticed),
        scene_test(test_two_at_once_do_not_write_to_one_file),
        scene_test(test_resuming_what_is_done_asks_nothing),
        scene_test(test_a_removed_file_begins_anew),
        scene_test(test_a_full_disk_leaves_whole_lines_and_goes_on),
    };

    return cmocka_run_group_tests_name("cli resume", tests, NULL, NULL);
}

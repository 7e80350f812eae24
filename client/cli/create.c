/* completionctl create: the call itself. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "batch.h"

enum { WAIT_MS = 100 };

/* One call of which the answer is written as it comes. */
struct job {
    completion_client *client;
    const struct create_options *options;
    completion_error *error;
    struct printer printer;
    struct progress progress;
};

/* What comes, to where it belongs. */
static int take(struct job *j, const completion_result *result)
{
    progress_note(&j->progress, result);
    int status = printer_print(&j->printer, result);
    progress_draw(&j->progress);
    return status;
}

/* r: what the call came to; status: what became of the output. */
static int finish(struct job *j, int r, int status)
{
    progress_hide(&j->progress);
    if (status == EXIT_OK)
        status = printer_end(&j->printer);
    if (status == EXIT_INTERRUPTED || (r == -ECANCELED && was_interrupted()))
        return progress_interrupted(&j->progress, j->error);
    if (status)
        return status;
    if (r < 0) {
        status = report(r, j->error);
        /* Whatever failed, the daemon's death too. */
        return j->options->stream && j->progress.first_ms > 0 && status == EXIT_UPSTREAM
                   ? EXIT_TRUNCATED
                   : status;
    }
    if (j->options->usage)
        progress_print_usage(&j->progress);
    return EXIT_OK;
}

static int create_whole(struct job *j)
{
    completion_result *result;
    int r = completion_create(j->client, j->options->request, j->options->timeout_ms, &result,
                              j->error);

    if (r < 0)
        return finish(j, r, EXIT_OK);
    int status = take(j, result);
    completion_result_free(result);
    return finish(j, r, status);
}

static int create_stream(struct job *j)
{
    completion_stream *stream;
    const completion_result *chunk;
    int status = EXIT_OK;
    int r = completion_stream_open(j->client, j->options->request, j->options->timeout_ms, &stream,
                                   j->error);

    if (r < 0)
        return finish(j, r, EXIT_OK);
    while (status == EXIT_OK && (r = completion_stream_next(stream, &chunk, j->error)) > 0) {
        status = take(j, chunk);
        /* A fast stream never waits: Ctrl-C is looked for here too. */
        if (was_interrupted())
            completion_stream_cancel(stream);
    }
    completion_stream_free(stream);
    return finish(j, r, status);
}

static int run(const struct create_options *o)
{
    struct job j = {.options = o, .error = completion_error_new()};
    int r = completion_client_new(o->socket, &j.client), status;

    if (r < 0 || !j.error) {
        status = r < 0 ? socket_error("create", r) : out_of_memory();
    } else if (o->jsonl) {
        catch_interrupts();
        status = batch_run(j.client, o, j.error);
    } else {
        printer_init(&j.printer, o);
        progress_init(&j.progress, o);
        completion_client_set_wait(j.client, progress_wait, &j.progress, WAIT_MS);
        catch_interrupts();
        status = o->stream ? create_stream(&j) : create_whole(&j);
    }
    completion_client_free(j.client);
    completion_error_free(j.error);
    return status;
}

int run_create(int argc, char **argv)
{
    struct create_options o;
    int status = options_parse(argc, argv, &o);

    if (status == EXIT_OK && !o.help)
        status = run(&o);
    options_done(&o);
    return status;
}

/* completionctl create: the call itself. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "completionctl.h"

enum { WAIT_MS = 100 };

static int create_whole(completion_client *client, const struct create_options *o,
                        struct printer *p, completion_error *error)
{
    completion_result *result;
    int r = completion_create(client, o->request, o->timeout_ms, &result, error);

    if (r < 0) {
        printer_end(p);
        return report(r, error);
    }
    int status = printer_print(p, result);
    completion_result_free(result);
    return status ? status : printer_end(p);
}

static int create_stream(completion_client *client, const struct create_options *o,
                         struct printer *p, completion_error *error)
{
    completion_stream *stream;
    const completion_result *chunk;
    int status = EXIT_OK;
    bool wrote = false;
    int r = completion_stream_open(client, o->request, o->timeout_ms, &stream, error);

    if (r < 0) {
        printer_end(p);
        return report(r, error);
    }
    while (status == EXIT_OK && (r = completion_stream_next(stream, &chunk, error)) > 0) {
        status = printer_print(p, chunk);
        wrote = true;
        /* A fast stream never waits: Ctrl-C is looked for here too. */
        if (was_interrupted())
            completion_stream_cancel(stream);
    }
    completion_stream_free(stream);
    if (status)
        return status;
    status = printer_end(p);
    if (r == 0)
        return status;
    status = report(r, error);
    /* Whatever failed, the daemon's death too. */
    return wrote && status == EXIT_UPSTREAM ? EXIT_TRUNCATED : status;
}

int run_create(int argc, char **argv)
{
    struct create_options o = {.timeout_ms = -1};
    completion_client *client = NULL;
    completion_error *error = completion_error_new();
    struct printer printer;
    int status = error ? options_parse(argc, argv, &o) : EXIT_LOCAL;

    if (status == EXIT_OK && !o.help) {
        int r = completion_client_new(o.socket, &client);
        if (r < 0)
            status = socket_error("create", r);
    }
    if (client) {
        printer_init(&printer, &o);
        completion_client_set_wait(client, printer_wait, &printer, WAIT_MS);
        catch_interrupts();
        status = o.stream ? create_stream(client, &o, &printer, error)
                          : create_whole(client, &o, &printer, error);
    }
    completion_client_free(client);
    completion_request_free(o.request);
    completion_error_free(error);
    return status;
}

/* One prompt, and its answer as it comes: stream PROMPT */
#include <completion.h>
#include <stdio.h>

static int print(completion_stream *stream, completion_error *error)
{
    const completion_result *chunk;
    int r;

    while ((r = completion_stream_next(stream, &chunk, error)) == 1) {
        completion_text text = completion_choice_text(chunk, 0);
        if (text.length > 0)
            fwrite(text.data, 1, text.length, stdout);
        fflush(stdout);
    }
    return r;
}

int main(int argc, char **argv)
{
    completion_client *client = NULL;
    completion_request *request = NULL;
    completion_stream *stream = NULL;
    completion_error *error = completion_error_new();
    int r = -1;

    if (argc == 2 && completion_client_new(NULL, &client) == 0 &&
        completion_request_new(&request) == 0) {
        completion_request_set_model(request, "gpt-3.5-turbo-instruct", COMPLETION_ZERO_TERMINATED);
        completion_request_set_prompt(request, argv[1], COMPLETION_ZERO_TERMINATED);
        completion_request_set_max_tokens(request, 24);
        completion_request_set_seed(request, 1);
        r = completion_stream_open(client, request, 30000, &stream, error);
        if (r == 0)
            r = print(stream, error);
        if (r < 0)
            fprintf(stderr, "%s\n", completion_error_message(error));
    }
    completion_stream_free(stream);
    completion_request_free(request);
    completion_client_free(client);
    completion_error_free(error);
    return r < 0;
}

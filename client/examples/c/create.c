/* One prompt, one answer: create PROMPT */
#include <completion.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    completion_client *client = NULL;
    completion_request *request = NULL;
    completion_result *result = NULL;
    completion_error *error = completion_error_new();
    int status = 1;

    if (argc == 2 && completion_client_new(NULL, &client) == 0 &&
        completion_request_new(&request) == 0) {
        completion_request_set_model(request, "gpt-3.5-turbo-instruct", COMPLETION_ZERO_TERMINATED);
        completion_request_set_prompt(request, argv[1], COMPLETION_ZERO_TERMINATED);
        completion_request_set_max_tokens(request, 24);
        completion_request_set_seed(request, 1);
        if (completion_create(client, request, 30000, &result, error) < 0) {
            fprintf(stderr, "%s\n", completion_error_message(error));
        } else {
            completion_text text = completion_choice_text(result, 0);
            fwrite(text.data, 1, text.length, stdout);
            status = 0;
        }
    }
    completion_result_free(result);
    completion_request_free(request);
    completion_client_free(client);
    completion_error_free(error);
    return status;
}

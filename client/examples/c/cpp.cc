// One prompt, its answer as it comes, and the same once more on a loop: cpp PROMPT
#include <completion.hpp>
#include <iostream>
#include <poll.h>

static void on_loop(completion::client &client, const completion::request &request)
{
    completion::call call = client.start(request, std::chrono::seconds(30));
    completion::view answer;

    for (;;) {
        switch (call.next(&answer)) {
        case completion::call::state::has_result:
            std::cout << "again:" << answer.text() << '\n';
            break;
        case completion::call::state::ended:
            return;
        case completion::call::state::waiting:
            struct pollfd p = {client.fd(), static_cast<short>(client.events()), 0};
            poll(&p, 1, client.timeout());
            client.process();
            break;
        }
    }
}

int main(int argc, char **argv)
try {
    completion::client client;
    completion::request request;

    request.model("gpt-3.5-turbo-instruct").prompt(argc > 1 ? argv[1] : "").max_tokens(24).seed(1);
    completion::stream stream = client.open(request, std::chrono::seconds(30));
    while (completion::view chunk = stream.next())
        std::cout << chunk.text() << std::flush;
    std::cout << '\n';
    on_loop(client, request);
    return 0;
} catch (const completion::error &error) {
    std::cerr << error.what() << '\n';
    return error.retryable() ? 75 : 1;
}

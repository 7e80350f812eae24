// What a program does with completiond: ask, read a stream, cancel, keep a deadline, read an error.
#include <chrono>
#include <cstdlib>
#include <iostream>
#include <string>

#include <grpcpp/grpcpp.h>

#include "completion/v1/completion.grpc.pb.h"

namespace pb = completion::v1;

int main()
{
    const char *path = std::getenv("COMPLETIOND_SOCKET");
    std::string target = std::string("unix:") + (path ? path : "/run/completiond/rpc.sock");
    auto completions =
        pb::Completions::NewStub(grpc::CreateChannel(target, grpc::InsecureChannelCredentials()));

    pb::CreateCompletionRequest request;
    request.set_model("gpt-3.5-turbo-instruct");
    request.set_prompt_string("Once upon a time");
    request.set_temperature(0);
    request.set_max_tokens(12);

    { // The whole answer.
        grpc::ClientContext context;
        pb::Completion answer;
        grpc::Status status = completions->Create(&context, request, &answer);
        if (!status.ok()) {
            std::cerr << status.error_message() << "\n";
            return 1;
        }
        std::cout << "unary:" << answer.choices(0).text() << "\n";
    }
    { // The same in pieces, as they are generated.
        grpc::ClientContext context;
        pb::Completion chunk;
        auto stream = completions->CreateStream(&context, request);
        std::cout << "stream:";
        while (stream->Read(&chunk))
            for (const auto &choice : chunk.choices())
                std::cout << choice.text() << std::flush;
        std::cout << "\n";
        if (!stream->Finish().ok()) // the answer was cut
            return 1;
    }

    request.set_max_tokens(1000);
    { // Whoever has read enough cancels, and the generation stops.
        grpc::ClientContext context;
        pb::Completion first;
        auto stream = completions->CreateStream(&context, request);
        if (stream->Read(&first))
            std::cout << "cancelled after:" << first.choices(0).text() << "\n";
        context.TryCancel();
        stream->Finish();
    }
    { // A point in time for everything, the wait for the upstream included.
        grpc::ClientContext context;
        pb::Completion answer;
        context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(200));
        grpc::Status status = completions->Create(&context, request, &answer);
        if (status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED)
            std::cout << "deadline: DEADLINE_EXCEEDED\n";
    }
    { // What is wrong, in fields.
        grpc::ClientContext context;
        pb::Completion answer;
        pb::ErrorStatus error;
        request.set_temperature(3);
        grpc::Status status = completions->Create(&context, request, &answer);
        error.ParseFromString(status.error_details());
        const pb::ErrorDetail &detail = error.details(0).value();
        if (status.error_code() == grpc::StatusCode::INVALID_ARGUMENT)
            std::cout << "error: INVALID_ARGUMENT " << detail.reason() << " " << detail.param() << "\n";
    }
}

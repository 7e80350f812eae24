/*
 * A caller that uses gRPC C++: stubs made by protoc, the asynchronous API, one completion queue.
 */
#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <vector>

#include "completion/v1/completion.grpc.pb.h"
#include "load.h"

namespace
{

using completion::v1::Completion;
using completion::v1::Completions;
using completion::v1::CreateCompletionRequest;

struct Client {
    struct load load;
    grpc::CompletionQueue queue;
    std::vector<std::unique_ptr<Completions::Stub>> stubs;
};

CreateCompletionRequest make_request(const struct load &l)
{
    CreateCompletionRequest request;

    request.set_model(l.model);
    request.set_prompt_string("Say this is a test, and say why.");
    request.set_max_tokens(l.n_chunks ? static_cast<int32_t>(l.n_chunks) : 7);
    return request;
}

void read_completion(Client *client, unsigned slot, const Completion &completion)
{
    struct load_answer answer = {};

    answer.id_bytes = completion.id().size();
    answer.model_bytes = completion.model().size();
    answer.total_tokens = completion.usage().total_tokens();
    for (const auto &choice : completion.choices()) {
        if (!answer.text)
            answer.text = choice.text().data();
        answer.text_bytes += choice.text().size();
        answer.is_finished = answer.is_finished || choice.has_finish_reason();
    }
    load_answer(&client->load, slot, &answer);
}

/* What is behind a tag of the completion queue. Deletes itself at the end. */
class Call
{
  public:
    Call(Client *client, unsigned slot) : client_(client), slot_(slot)
    {
        const struct load &l = client->load;
        Completions::Stub *stub = client->stubs[slot % client->stubs.size()].get();

        if (l.n_chunks) {
            stream_ = stub->PrepareAsyncCreateStream(&context_, make_request(l), &client->queue);
            stream_->StartCall(this);
            return;
        }
        unary_ = stub->PrepareAsyncCreate(&context_, make_request(l), &client->queue);
        unary_->StartCall();
        unary_->Finish(&completion_, &status_, this);
        is_finishing_ = true;
    }

    void proceed(bool ok)
    {
        if (is_finishing_) {
            end();
            return;
        }
        if (has_started_ && ok)
            read_completion(client_, slot_, completion_);
        has_started_ = true;
        if (ok) {
            stream_->Read(&completion_, this);
        } else {
            is_finishing_ = true;
            stream_->Finish(&status_, this);
        }
    }

  private:
    void end()
    {
        struct load *l = &client_->load;
        unsigned slot = slot_;

        if (!status_.ok())
            load_fail("status %d: %s", status_.error_code(), status_.error_message().c_str());
        if (unary_)
            read_completion(client_, slot_, completion_);
        delete this;
        load_end(l, slot);
    }

    Client *client_;
    unsigned slot_;
    grpc::ClientContext context_;
    Completion completion_;
    grpc::Status status_;
    std::unique_ptr<grpc::ClientAsyncResponseReader<Completion>> unary_;
    std::unique_ptr<grpc::ClientAsyncReader<Completion>> stream_;
    bool has_started_ = false, is_finishing_ = false;
};

void start_call(void *user, unsigned slot)
{
    new Call(static_cast<Client *>(user), slot);
}

void run(void *user)
{
    auto *client = static_cast<Client *>(user);
    void *tag;
    bool ok;

    while (!load_is_over(&client->load) && client->queue.Next(&tag, &ok))
        static_cast<Call *>(tag)->proceed(ok);
}

} // namespace

int main(int argc, char **argv)
{
    Client client;

    load_init(&client.load, argc, argv);
    load_begin(&client.load);
    for (unsigned i = 0; i < client.load.n_connections; i++) {
        grpc::ChannelArguments arguments;
        arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
        client.stubs.push_back(Completions::NewStub(
            grpc::CreateCustomChannel(std::string("unix:") + client.load.target,
                                      grpc::InsecureChannelCredentials(), arguments)));
    }
    client.load.start = start_call;
    client.load.run = run;
    client.load.user = &client;
    load_run(&client.load);
    load_done(&client.load);
    client.queue.Shutdown();
}

/*
 * completiond's job done with gRPC C++, as it would be written by somebody who knows it: the
 * asynchronous API with one completion queue and one thread for it; another thread runs libcurl's
 * multi-socket interface on libevent, keeps its connections, and reads answers with cJSON. Answers
 * are handed to gRPC where they are read; a stream has one write under way, and what gathers
 * meanwhile leaves together. A reader that is slow pauses its transfer. A line for each call is
 * logged.
 *
 * It does not know who calls, and has neither limits, nor retries, nor metrics.
 */
#include <cjson/cJSON.h>
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "bench_grpc_upstream.h"
#include "completion/v1/completion.grpc.pb.h"

namespace
{

using completion::v1::Completion;
using completion::v1::Completions;
using completion::v1::CreateCompletionRequest;

constexpr size_t pending_max = 256; /* chunks that wait for a slow reader */
constexpr int calls_awaited = 128;  /* of each method */

/* ---- JSON ---- */

std::string make_body(const CreateCompletionRequest &r, bool is_stream)
{
    cJSON *body = cJSON_CreateObject();

    cJSON_AddStringToObject(body, "model", r.model().c_str());
    if (r.has_prompt_string())
        cJSON_AddStringToObject(body, "prompt", r.prompt_string().c_str());
    if (r.has_max_tokens())
        cJSON_AddNumberToObject(body, "max_tokens", r.max_tokens());
    if (r.has_n())
        cJSON_AddNumberToObject(body, "n", r.n());
    if (r.has_temperature())
        cJSON_AddNumberToObject(body, "temperature", r.temperature());
    if (r.has_top_p())
        cJSON_AddNumberToObject(body, "top_p", r.top_p());
    if (r.has_seed())
        cJSON_AddNumberToObject(body, "seed", static_cast<double>(r.seed()));
    if (r.has_stop_string())
        cJSON_AddStringToObject(body, "stop", r.stop_string().c_str());
    if (is_stream)
        cJSON_AddTrueToObject(body, "stream");
    char *text = cJSON_PrintUnformatted(body);
    std::string result = text;
    cJSON_free(text);
    cJSON_Delete(body);
    return result;
}

const char *string_of(const cJSON *object, const char *name)
{
    return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, name));
}

int64_t number_of(const cJSON *object, const char *name)
{
    const cJSON *number = cJSON_GetObjectItemCaseSensitive(object, name);

    return cJSON_IsNumber(number) ? static_cast<int64_t>(number->valuedouble) : 0;
}

void read_choice(const cJSON *json, completion::v1::CompletionChoice *choice)
{
    const char *reason = string_of(json, "finish_reason");

    if (const char *text = string_of(json, "text"))
        choice->set_text(text);
    choice->set_index(static_cast<int32_t>(number_of(json, "index")));
    if (!reason)
        return;
    choice->set_finish_reason(std::strcmp(reason, "stop") == 0 ? completion::v1::FINISH_REASON_STOP
                              : std::strcmp(reason, "length") == 0
                                  ? completion::v1::FINISH_REASON_LENGTH
                                  : completion::v1::FINISH_REASON_OTHER);
}

bool read_completion(const char *text, size_t len, Completion *completion)
{
    cJSON *json = cJSON_ParseWithLength(text, len);
    const cJSON *choices = cJSON_GetObjectItemCaseSensitive(json, "choices");

    if (const char *id = string_of(json, "id"))
        completion->set_id(id);
    if (const char *object = string_of(json, "object"))
        completion->set_object(object);
    if (const char *model = string_of(json, "model"))
        completion->set_model(model);
    if (const char *fingerprint = string_of(json, "system_fingerprint"))
        completion->set_system_fingerprint(fingerprint);
    completion->set_created(number_of(json, "created"));
    for (const cJSON *c = choices ? choices->child : nullptr; c; c = c->next)
        read_choice(c, completion->add_choices());
    const cJSON *usage = cJSON_GetObjectItemCaseSensitive(json, "usage");
    if (cJSON_IsObject(usage)) {
        completion->mutable_usage()->set_prompt_tokens(number_of(usage, "prompt_tokens"));
        completion->mutable_usage()->set_completion_tokens(number_of(usage, "completion_tokens"));
        completion->mutable_usage()->set_total_tokens(number_of(usage, "total_tokens"));
    }
    cJSON_Delete(json);
    return choices != nullptr;
}

/* ---- Calls ---- */

struct Server {
    Completions::AsyncService service;
    std::unique_ptr<grpc::ServerCompletionQueue> queue;
    Upstream *upstream;
};

/* What is behind a tag of the completion queue. */
class Call : public Transfer
{
  public:
    virtual void proceed(bool ok) = 0;

  protected:
    explicit Call(Server *server) : server_(server)
    {
    }

    void begin(bool is_stream)
    {
        start_ = Clock::now();
        body = make_body(request_, is_stream);
        deadline = context_.deadline();
        server_->upstream->start(this);
    }

    void log(const char *method, const grpc::Status &status)
    {
        auto us = std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - start_);

        std::fprintf(stdout, "%lld %s %s: status %d, %lld us\n",
                     static_cast<long long>(start_.time_since_epoch().count()), method,
                     request_.model().c_str(), static_cast<int>(status.error_code()),
                     static_cast<long long>(us.count()));
    }

    Server *server_;
    grpc::ServerContext context_;
    CreateCompletionRequest request_;
    Clock::time_point start_;
};

class UnaryCall final : public Call
{
  public:
    explicit UnaryCall(Server *server) : Call(server), responder_(&context_)
    {
        server_->service.RequestCreate(&context_, &request_, &responder_, server_->queue.get(),
                                       server_->queue.get(), this);
    }

    void proceed(bool ok) override
    {
        if (has_begun_ || !ok) {
            delete this;
            return;
        }
        has_begun_ = true;
        new UnaryCall(server_);
        begin(false);
    }

    bool on_data(const char *data, size_t n) override
    {
        answer_.append(data, n);
        return true;
    }

    void on_end(const grpc::Status &status) override
    {
        grpc::Status end = status;
        Completion completion;

        if (end.ok() && !read_completion(answer_.data(), answer_.size(), &completion))
            end = {grpc::StatusCode::UNAVAILABLE, "the upstream's answer makes no sense"};
        log("Create", end);
        responder_.Finish(completion, end, this);
    }

  private:
    grpc::ServerAsyncResponseWriter<Completion> responder_;
    bool has_begun_ = false;
    std::string answer_;
};

class StreamCall final : public Call
{
  public:
    explicit StreamCall(Server *server) : Call(server), writer_(&context_)
    {
        server_->service.RequestCreateStream(&context_, &request_, &writer_, server_->queue.get(),
                                             server_->queue.get(), this);
    }

    void proceed(bool ok) override
    {
        if (!has_begun_ && ok) {
            has_begun_ = true;
            new StreamCall(server_);
            begin(true);
            return;
        }
        std::unique_lock<std::mutex> lock(mutex_);
        if (is_finishing_ || !has_begun_) {
            lock.unlock();
            delete this;
            return;
        }
        is_busy_ = false;
        if (!ok) {
            is_broken_ = true;
            pending_.clear();
        }
        write_next();
        if (is_paused_ && pending_.size() < pending_max / 2) {
            is_paused_ = false;
            server_->upstream->resume(this);
        }
    }

    bool is_full() override
    {
        std::lock_guard<std::mutex> lock(mutex_);

        is_paused_ = pending_.size() >= pending_max;
        return is_paused_;
    }

    bool on_data(const char *data, size_t n) override
    {
        const char *end;

        while ((end = static_cast<const char *>(std::memchr(data, '\n', n)))) {
            size_t len = static_cast<size_t>(end - data);
            bool ok;
            if (!line_.empty()) {
                line_.append(data, len);
                ok = on_line(line_.data(), line_.size());
                line_.clear();
            } else {
                ok = on_line(data, len);
            }
            if (!ok)
                return false;
            data += len + 1;
            n -= len + 1;
        }
        line_.append(data, n);
        return true;
    }

    void on_end(const grpc::Status &status) override
    {
        std::lock_guard<std::mutex> lock(mutex_);

        end_ = status.ok() && !is_done_
                   ? grpc::Status{grpc::StatusCode::UNAVAILABLE, "the stream was cut"}
                   : status;
        log("CreateStream", end_);
        has_ended_ = true;
        if (!is_busy_)
            write_next();
    }

  private:
    bool on_line(const char *line, size_t len)
    {
        Completion chunk;

        if (len < 6 || std::memcmp(line, "data: ", 6) != 0)
            return true;
        if (len == 12 && std::memcmp(line + 6, "[DONE]", 6) == 0) {
            is_done_ = true;
            return true;
        }
        if (!read_completion(line + 6, len - 6, &chunk))
            return false;
        std::lock_guard<std::mutex> lock(mutex_);
        if (is_broken_)
            return false;
        pending_.push_back(std::move(chunk));
        if (!is_busy_)
            write_next();
        return true;
    }

    /* With the mutex held, and nothing under way. */
    void write_next()
    {
        if (!pending_.empty()) {
            grpc::WriteOptions options;
            if (pending_.size() > 1)
                options.set_buffer_hint();
            is_busy_ = true;
            writer_.Write(pending_.front(), options, this);
            pending_.pop_front();
        } else if (has_ended_) {
            is_finishing_ = true;
            writer_.Finish(end_, this);
        }
    }

    grpc::ServerAsyncWriter<Completion> writer_;
    bool has_begun_ = false;
    std::string line_; /* as far as it came */
    bool is_done_ = false;
    std::mutex mutex_; /* for what follows */
    std::deque<Completion> pending_;
    bool is_busy_ = false, is_paused_ = false, is_broken_ = false;
    bool has_ended_ = false, is_finishing_ = false;
    grpc::Status end_;
};

} // namespace

int main(int argc, char **argv)
{
    if (argc != 3) {
        std::fprintf(stderr, "usage: bench_grpc_server SOCKET BASE_URL\n");
        return EXIT_FAILURE;
    }
    static char log_buffer[65536];
    std::setvbuf(stdout, log_buffer, _IOFBF, sizeof log_buffer);

    Upstream upstream(argv[2]);
    Server server;
    grpc::ServerBuilder builder;
    server.upstream = &upstream;
    builder.AddListeningPort(std::string("unix:") + argv[1], grpc::InsecureServerCredentials());
    builder.RegisterService(&server.service);
    server.queue = builder.AddCompletionQueue();
    std::unique_ptr<grpc::Server> listening = builder.BuildAndStart();
    if (!listening)
        fail("cannot listen");
    std::thread([&upstream] { upstream.run(); }).detach();
    for (int i = 0; i < calls_awaited; i++) {
        new UnaryCall(&server);
        new StreamCall(&server);
    }
    void *tag;
    bool ok;
    while (server.queue->Next(&tag, &ok))
        static_cast<Call *>(tag)->proceed(ok);
}

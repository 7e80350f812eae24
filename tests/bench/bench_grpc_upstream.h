/*
 * The HTTP side of bench_grpc_server, in a thread of its own: libcurl's multi-socket interface on
 * libevent, with handles that are used again.
 */
#ifndef BENCH_GRPC_UPSTREAM_H
#define BENCH_GRPC_UPSTREAM_H

#include <curl/curl.h>
#include <event2/event.h>
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <mutex>
#include <string>
#include <vector>

using Clock = std::chrono::system_clock;

[[noreturn]] void fail(const char *what);

/* One request. All but `body` and `deadline`, which are set before it starts, belongs to the
 * upstream's thread, where the functions are called, too. */
class Transfer
{
  public:
    virtual ~Transfer() = default;

    /* False: stop. */
    virtual bool on_data(const char *data, size_t n) = 0;
    virtual bool is_full()
    {
        return false;
    }
    /* The transfer is forgotten when it is called. */
    virtual void on_end(const grpc::Status &status) = 0;

    std::string body;
    Clock::time_point deadline = Clock::time_point::max();
    CURL *easy = nullptr;
};

class Upstream
{
  public:
    explicit Upstream(const std::string &base_url);
    /* From any thread. */
    void start(Transfer *t)
    {
        post(t, false);
    }
    void resume(Transfer *t)
    {
        post(t, true);
    }
    void run()
    {
        event_base_dispatch(base_);
    }

  private:
    struct Job {
        Transfer *transfer;
        bool is_resume;
    };

    void post(Transfer *t, bool is_resume);
    void take_jobs();
    void begin(Transfer *t);
    CURL *take_easy();
    void act(curl_socket_t fd, int bits);
    static size_t on_data(char *data, size_t size, size_t n, void *user);
    static int on_socket(CURL *, curl_socket_t fd, int what, void *user, void *socket_user);
    static int on_timer(CURLM *, long timeout_ms, void *user);

    std::string url_;
    event_base *base_;
    CURLM *multi_;
    curl_slist *headers_ = nullptr;
    event *timer_, *wake_;
    int wake_fd_;
    std::vector<CURL *> idle_;
    std::mutex mutex_;
    std::vector<Job> jobs_;
};

#endif

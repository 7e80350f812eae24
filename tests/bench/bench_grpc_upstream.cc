#include "bench_grpc_upstream.h"

#include <event2/event_struct.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

void fail(const char *what)
{
    std::fprintf(stderr, "bench_grpc_server: %s\n", what);
    std::exit(EXIT_FAILURE);
}

Upstream::Upstream(const std::string &base_url) : url_(base_url + "/completions")
{
    curl_global_init(CURL_GLOBAL_ALL);
    base_ = event_base_new();
    multi_ = curl_multi_init();
    wake_fd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (!base_ || !multi_ || wake_fd_ < 0)
        fail("out of memory");
    headers_ = curl_slist_append(headers_, "Content-Type: application/json");
    headers_ = curl_slist_append(headers_, "Expect:");
    timer_ = evtimer_new(
        base_,
        [](evutil_socket_t, short, void *user) {
            static_cast<Upstream *>(user)->act(CURL_SOCKET_TIMEOUT, 0);
        },
        this);
    wake_ = event_new(
        base_, wake_fd_, EV_READ | EV_PERSIST,
        [](evutil_socket_t, short, void *user) { static_cast<Upstream *>(user)->take_jobs(); },
        this);
    event_add(wake_, nullptr);
    curl_multi_setopt(multi_, CURLMOPT_SOCKETFUNCTION, on_socket);
    curl_multi_setopt(multi_, CURLMOPT_SOCKETDATA, this);
    curl_multi_setopt(multi_, CURLMOPT_TIMERFUNCTION, on_timer);
    curl_multi_setopt(multi_, CURLMOPT_TIMERDATA, this);
    curl_multi_setopt(multi_, CURLMOPT_MAXCONNECTS, 4096L);
}

void Upstream::post(Transfer *t, bool is_resume)
{
    const uint64_t one = 1;
    bool is_first;

    {
        std::lock_guard<std::mutex> lock(mutex_);
        is_first = jobs_.empty();
        jobs_.push_back({t, is_resume});
    }
    if (is_first && write(wake_fd_, &one, sizeof one) < 0)
        fail("eventfd");
}

void Upstream::take_jobs()
{
    uint64_t count;
    std::vector<Job> jobs;

    if (read(wake_fd_, &count, sizeof count) < 0)
        return;
    {
        std::lock_guard<std::mutex> lock(mutex_);
        jobs.swap(jobs_);
    }
    for (const Job &job : jobs) {
        if (!job.is_resume)
            begin(job.transfer);
        else if (job.transfer->easy)
            curl_easy_pause(job.transfer->easy, CURLPAUSE_CONT);
    }
}

size_t Upstream::on_data(char *data, size_t, size_t n, void *user)
{
    auto *t = static_cast<Transfer *>(user);

    if (t->is_full())
        return CURL_WRITEFUNC_PAUSE;
    return t->on_data(data, n) ? n : 0;
}

CURL *Upstream::take_easy()
{
    if (!idle_.empty()) {
        CURL *easy = idle_.back();
        idle_.pop_back();
        return easy;
    }
    CURL *easy = curl_easy_init();
    if (!easy)
        fail("out of memory");
    curl_easy_setopt(easy, CURLOPT_URL, url_.c_str());
    curl_easy_setopt(easy, CURLOPT_PROXY, "");
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_1_1));
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers_);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_data);
    return easy;
}

void Upstream::begin(Transfer *t)
{
    CURL *easy = take_easy();
    long timeout_ms = 0;

    if (t->deadline != Clock::time_point::max()) {
        auto left =
            std::chrono::duration_cast<std::chrono::milliseconds>(t->deadline - Clock::now());
        timeout_ms = left.count() > 0 ? static_cast<long>(left.count()) : 1;
    }
    t->easy = easy;
    curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, timeout_ms);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, t);
    curl_easy_setopt(easy, CURLOPT_PRIVATE, t);
    curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE, static_cast<long>(t->body.size()));
    curl_easy_setopt(easy, CURLOPT_POSTFIELDS, t->body.c_str());
    if (curl_multi_add_handle(multi_, easy) != CURLM_OK)
        fail("libcurl takes no more requests");
}

void Upstream::act(curl_socket_t fd, int bits)
{
    CURLMsg *message;
    int n;

    curl_multi_socket_action(multi_, fd, bits, &n);
    while ((message = curl_multi_info_read(multi_, &n))) {
        CURL *easy = message->easy_handle;
        CURLcode result = message->data.result;
        Transfer *t = nullptr;
        long http_status = 0;

        curl_easy_getinfo(easy, CURLINFO_PRIVATE, &t);
        curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &http_status);
        curl_multi_remove_handle(multi_, easy);
        idle_.push_back(easy);
        t->easy = nullptr;
        if (result == CURLE_OPERATION_TIMEDOUT)
            t->on_end({grpc::StatusCode::DEADLINE_EXCEEDED, "no answer in time"});
        else if (result != CURLE_OK || http_status != 200)
            t->on_end({grpc::StatusCode::UNAVAILABLE, curl_easy_strerror(result)});
        else
            t->on_end(grpc::Status::OK);
    }
}

int Upstream::on_socket(CURL *, curl_socket_t fd, int what, void *user, void *socket_user)
{
    auto *u = static_cast<Upstream *>(user);
    auto *watch = static_cast<event *>(socket_user);

    if (watch)
        event_del(watch);
    if (what == CURL_POLL_REMOVE) {
        if (watch)
            event_free(watch);
        curl_multi_assign(u->multi_, fd, nullptr);
        return 0;
    }
    short events = static_cast<short>(EV_PERSIST | (what & CURL_POLL_IN ? EV_READ : 0) |
                                      (what & CURL_POLL_OUT ? EV_WRITE : 0));
    auto act = [](evutil_socket_t ready, short ready_for, void *self) {
        static_cast<Upstream *>(self)->act(ready,
                                           (ready_for & EV_READ ? CURL_CSELECT_IN : 0) |
                                               (ready_for & EV_WRITE ? CURL_CSELECT_OUT : 0));
    };
    if (watch) {
        event_assign(watch, u->base_, fd, events, act, u);
    } else {
        watch = event_new(u->base_, fd, events, act, u);
        curl_multi_assign(u->multi_, fd, watch);
    }
    return event_add(watch, nullptr);
}

int Upstream::on_timer(CURLM *, long timeout_ms, void *user)
{
    auto *u = static_cast<Upstream *>(user);
    timeval tv = {timeout_ms / 1000, timeout_ms % 1000 * 1000};

    return timeout_ms < 0 ? evtimer_del(u->timer_) : evtimer_add(u->timer_, &tv);
}

/*
 * <completion.h> for C++11 and later: objects that free themselves, failures as exceptions. Nothing
 * is in it that is not in the C library; what a function does is said there, and get() gives the C
 * object for all that is not wrapped.
 *
 *     completion::client client;
 *     completion::request request;
 *     request.model("gpt-3.5-turbo-instruct").prompt("Once upon a time").max_tokens(24);
 *     std::cout << client.create(request).text();
 *
 *     completion::stream stream = client.open(request, std::chrono::seconds(30));
 *     while (completion::view chunk = stream.next())
 *         std::cout << chunk.text();
 *
 * Objects can be moved, not copied. A client must outlive its streams and calls to be of use to
 * them; it is no crash if it does not.
 */
#ifndef COMPLETION_HPP
#define COMPLETION_HPP

#include <cerrno>
#include <chrono>
#include <completion.h>
#include <cstdlib>
#include <exception>
#include <functional>
#include <memory>
#include <new>
#include <ostream>
#include <stdexcept>
#include <string>
#include <utility>
#if __cplusplus >= 201703L
#include <string_view>
#endif

namespace completion
{

using milliseconds = std::chrono::milliseconds;

/* No deadline. */
constexpr milliseconds forever{-1};

/* ---- Texts ---- */

/* Lasts as long as what it was asked of. */
class text_view
{
  public:
    text_view() : text_{nullptr, 0}
    {
    }
    text_view(completion_text text) : text_(text)
    {
    }

    const char *data() const
    {
        return text_.data;
    }
    std::size_t size() const
    {
        return text_.length;
    }
    bool empty() const
    {
        return text_.length == 0;
    }
    /* It is there, though maybe empty. */
    explicit operator bool() const
    {
        return text_.data != nullptr;
    }
    std::string str() const
    {
        return text_.data ? std::string(text_.data, text_.length) : std::string();
    }
#if __cplusplus >= 201703L
    operator std::string_view() const
    {
        return {text_.data, text_.length};
    }
#endif

  private:
    completion_text text_;
};

inline std::ostream &operator<<(std::ostream &out, text_view text)
{
    return out.write(text.data(), static_cast<std::streamsize>(text.size()));
}

/* ---- Failures ---- */

/* Every failure of a call; number() is the C function's negative errno. */
class error : public std::runtime_error
{
  public:
    error(int number, std::shared_ptr<completion_error> object)
        : std::runtime_error(object && *completion_error_message(object.get())
                                 ? completion_error_message(object.get())
                                 : "completion: error " + std::to_string(-number)),
          number_(number), object_(std::move(object))
    {
    }

    int number() const
    {
        return number_;
    }
    /* For completion_error_...(); may be NULL. */
    const completion_error *get() const
    {
        return object_.get();
    }
    completion_status status() const
    {
        return completion_error_status(get());
    }
    std::string reason() const
    {
        return completion_error_reason(get());
    }
    std::string code() const
    {
        return completion_error_code(get());
    }
    std::string param() const
    {
        return completion_error_param(get());
    }
    milliseconds retry_after() const
    {
        return milliseconds(completion_error_retry_after_ms(get()));
    }
    bool retryable() const
    {
        return completion_error_retryable(get()) != 0;
    }
    bool maybe_executed() const
    {
        return completion_error_maybe_executed(get()) != 0;
    }

  private:
    int number_;
    std::shared_ptr<completion_error> object_;
};

namespace detail
{

/* An error object for one call, made into an exception if that fails. */
class attempt
{
  public:
    attempt() : object_(completion_error_new(), completion_error_free)
    {
    }
    operator completion_error *() const
    {
        return object_.get();
    }
    int check(int r) const
    {
        if (r == -ENOMEM)
            throw std::bad_alloc();
        if (r < 0)
            throw error(r, object_);
        return r;
    }

  private:
    std::shared_ptr<completion_error> object_;
};

inline void check(int r)
{
    if (r == -ENOMEM)
        throw std::bad_alloc();
    if (r < 0)
        throw error(r, nullptr);
}

struct deleter {
    void operator()(completion_client *p) const
    {
        completion_client_free(p);
    }
    void operator()(completion_request *p) const
    {
        completion_request_free(p);
    }
    void operator()(completion_result *p) const
    {
        completion_result_free(p);
    }
    void operator()(completion_stream *p) const
    {
        completion_stream_free(p);
    }
    void operator()(completion_call *p) const
    {
        completion_call_free(p);
    }
    void operator()(completion_gather *p) const
    {
        completion_gather_free(p);
    }
};

template <class T> using owner = std::unique_ptr<T, deleter>;

} // namespace detail

/* ---- Results ---- */

class result;

/* A result that belongs to a stream or call, or no result. */
class view
{
  public:
    view() = default;
    explicit view(const completion_result *result) : result_(result)
    {
    }

    explicit operator bool() const
    {
        return result_ != nullptr;
    }
    const completion_result *get() const
    {
        return result_;
    }

    std::size_t size() const
    {
        return completion_result_n_choices(result_);
    }
    text_view text(std::size_t choice = 0) const
    {
        return completion_choice_text(result_, choice);
    }
    completion_finish_reason finish_reason(std::size_t choice = 0) const
    {
        return completion_choice_finish_reason(result_, choice);
    }
    int index(std::size_t choice = 0) const
    {
        std::int32_t index = 0;
        completion_choice_index(result_, choice, &index);
        return index;
    }
    text_view id() const
    {
        return completion_result_id(result_);
    }
    text_view model() const
    {
        return completion_result_model(result_);
    }
    /* 0 if it is not there. */
    std::int64_t usage(completion_usage_field field) const
    {
        std::int64_t value = 0;
        completion_result_usage(result_, field, &value);
        return value;
    }
    std::string json() const
    {
        char *text = nullptr;
        std::size_t length = 0;
        detail::check(completion_result_to_json(result_, &text, &length));
        std::unique_ptr<char, void (*)(void *)> owner(text, std::free);
        return std::string(text, length);
    }
    result copy() const;

  protected:
    const completion_result *result_ = nullptr;
};

/* One that belongs to nobody else. What was moved from is no result. */
class result : public view
{
  public:
    explicit result(completion_result *result) : view(result), owner_(result)
    {
    }
    result(result &&other) noexcept : view(other), owner_(std::move(other.owner_))
    {
        other.result_ = nullptr;
    }
    result &operator=(result &&other) noexcept
    {
        owner_ = std::move(other.owner_);
        result_ = owner_.get();
        other.result_ = other.owner_.get();
        return *this;
    }

  private:
    detail::owner<completion_result> owner_;
};

inline result view::copy() const
{
    completion_result *copy = nullptr;
    detail::check(completion_result_copy(result_, &copy));
    return result(copy);
}

/* ---- Requests ---- */

class request
{
  public:
    request()
    {
        completion_request *request = nullptr;
        detail::check(completion_request_new(&request));
        owner_.reset(request);
    }
    completion_request *get() const
    {
        return owner_.get();
    }

#define COMPLETION_TEXT(name, function)                                                            \
    request &name(const std::string &text)                                                         \
    {                                                                                              \
        detail::check(completion_request_##function(get(), text.data(), text.size()));             \
        return *this;                                                                              \
    }
#define COMPLETION_NUMBER(name, type)                                                              \
    request &name(type value)                                                                      \
    {                                                                                              \
        detail::check(completion_request_set_##name(get(), value));                                \
        return *this;                                                                              \
    }
    COMPLETION_TEXT(model, set_model)
    COMPLETION_TEXT(prompt, set_prompt)
    COMPLETION_TEXT(add_prompt, add_prompt)
    COMPLETION_TEXT(stop, set_stop)
    COMPLETION_TEXT(add_stop, add_stop)
    COMPLETION_TEXT(suffix, set_suffix)
    COMPLETION_TEXT(user, set_user)
    COMPLETION_TEXT(extra_body, set_extra_body)
    COMPLETION_TEXT(api_key, set_api_key)
    COMPLETION_NUMBER(best_of, std::int32_t)
    COMPLETION_NUMBER(echo, bool)
    COMPLETION_NUMBER(frequency_penalty, double)
    COMPLETION_NUMBER(logprobs, std::int32_t)
    COMPLETION_NUMBER(max_tokens, std::int32_t)
    COMPLETION_NUMBER(n, std::int32_t)
    COMPLETION_NUMBER(presence_penalty, double)
    COMPLETION_NUMBER(seed, std::int64_t)
    COMPLETION_NUMBER(include_obfuscation, bool)
    COMPLETION_NUMBER(include_usage, bool)
    COMPLETION_NUMBER(temperature, double)
    COMPLETION_NUMBER(top_p, double)
    COMPLETION_NUMBER(priority, int)
#undef COMPLETION_TEXT
#undef COMPLETION_NUMBER
    request &logit_bias(std::int32_t token, double bias)
    {
        detail::check(completion_request_add_logit_bias(get(), token, bias));
        return *this;
    }

  private:
    detail::owner<completion_request> owner_;
};

/* ---- Streams made whole ---- */

class gather
{
  public:
    gather()
    {
        completion_gather *gather = nullptr;
        detail::check(completion_gather_new(&gather));
        owner_.reset(gather);
    }
    void add(view chunk)
    {
        detail::check(completion_gather_add(owner_.get(), chunk.get()));
    }
    completion::result result() const
    {
        completion_result *result = nullptr;
        detail::check(completion_gather_result(owner_.get(), &result));
        return completion::result(result);
    }

  private:
    detail::owner<completion_gather> owner_;
};

/* ---- Streams ---- */

class stream
{
  public:
    explicit stream(completion_stream *stream) : owner_(stream)
    {
    }
    completion_stream *get() const
    {
        return owner_.get();
    }

    /* No result at the end of a whole answer. */
    view next()
    {
        detail::attempt attempt;
        const completion_result *chunk = nullptr;
        return attempt.check(completion_stream_next(get(), &chunk, attempt)) == 1 ? view(chunk)
                                                                                  : view();
    }
    void cancel()
    {
        completion_stream_cancel(get());
    }

  private:
    detail::owner<completion_stream> owner_;
};

/* ---- Calls in an event loop ---- */

class call
{
  public:
    enum class state { waiting, has_result, ended };

    explicit call(completion_call *call) : owner_(call)
    {
    }
    completion_call *get() const
    {
        return owner_.get();
    }

    /* has_result: *ret is one. */
    state next(view *ret)
    {
        detail::attempt attempt;
        const completion_result *result = nullptr;
        int r = completion_call_next(get(), &result, attempt);
        if (r == -EAGAIN)
            return state::waiting;
        if (attempt.check(r) == 0)
            return state::ended;
        *ret = view(result);
        return state::has_result;
    }
    void pause()
    {
        completion_call_pause(get());
    }
    void resume()
    {
        completion_call_resume(get());
    }
    void cancel()
    {
        completion_call_cancel(get());
    }

    /* As completion_call_set_callback(). The function lives until another is set or the call is
     * destroyed, which it may do itself; it must not throw: std::terminate() is called. */
    void on_news(std::function<void()> function)
    {
        news_.reset(new std::function<void()>(std::move(function)));
        completion_call_set_callback(get(), run, news_.get());
    }

  private:
    static void run(completion_call *, void *user) noexcept
    {
        /* A copy, which outlives the call. */
        std::function<void()> function = *static_cast<std::function<void()> *>(user);
        function();
    }

    std::unique_ptr<std::function<void()>> news_;
    detail::owner<completion_call> owner_;
};

/* ---- Clients ---- */

class client
{
  public:
    /* nullptr: the usual socket. */
    explicit client(const char *socket = nullptr)
    {
        completion_client *client = nullptr;
        detail::check(completion_client_new(socket, &client));
        owner_.reset(client);
    }
    explicit client(const std::string &socket) : client(socket.c_str())
    {
    }
    completion_client *get() const
    {
        return owner_.get();
    }

    result create(const request &request, milliseconds timeout = forever)
    {
        detail::attempt attempt;
        completion_result *r = nullptr;
        attempt.check(completion_create(get(), request.get(), timeout.count(), &r, attempt));
        return result(r);
    }
    stream open(const request &request, milliseconds timeout = forever)
    {
        detail::attempt attempt;
        completion_stream *s = nullptr;
        attempt.check(completion_stream_open(get(), request.get(), timeout.count(), &s, attempt));
        return stream(s);
    }
    bool check(milliseconds timeout = forever)
    {
        detail::attempt attempt;
        return attempt.check(completion_client_check(get(), timeout.count(), attempt)) == 1;
    }

    call start(const request &request, milliseconds timeout = forever)
    {
        detail::attempt attempt;
        completion_call *c = nullptr;
        attempt.check(completion_call_start(get(), request.get(), timeout.count(), &c, attempt));
        return call(c);
    }
    call start_stream(const request &request, milliseconds timeout = forever)
    {
        detail::attempt attempt;
        completion_call *c = nullptr;
        attempt.check(
            completion_call_start_stream(get(), request.get(), timeout.count(), &c, attempt));
        return call(c);
    }
    int fd()
    {
        return completion_client_get_fd(get());
    }
    int events() const
    {
        return completion_client_get_events(get());
    }
    int timeout() const
    {
        return completion_client_get_timeout(get());
    }
    int process()
    {
        return completion_client_process(get());
    }

    void allow_server_uid(std::int64_t uid)
    {
        detail::check(completion_client_allow_server_uid(get(), uid));
    }
    void reconnect(milliseconds wait, int resend = 1)
    {
        detail::check(completion_client_set_reconnect(get(), wait.count(), resend));
    }

  private:
    detail::owner<completion_client> owner_;
};

} // namespace completion

#endif

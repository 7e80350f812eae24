/*
 * What a caller does without completiond, done well: libcurl's multi-socket interface on libevent,
 * connections kept alive, handles used again, answers and events read with cJSON. With --socket it
 * asks an HTTP proxy there.
 */
#include <cjson/cJSON.h>
#include <curl/curl.h>
#include <event2/event_struct.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "load.h"

struct direct;

/* One call at a time, on a handle of its own. */
struct direct_slot {
    struct direct *direct;
    unsigned number;
    CURL *easy;
    bool is_done; /* [DONE] came */
    char *text;   /* of the answer, or of the event that is not complete */
    size_t n_text, capacity;
};

struct direct {
    struct load *load;
    CURLM *multi;
    struct event timer;
    struct curl_slist *headers;
    struct direct_slot *slots;
    char url[512];
    char request[512];
};

/* ---- Answers ---- */

static size_t string_bytes(const cJSON *object, const char *name)
{
    const cJSON *string = cJSON_GetObjectItemCaseSensitive(object, name);

    return cJSON_IsString(string) ? strlen(string->valuestring) : 0;
}

static void read_completion(struct direct_slot *s, const char *json, size_t len)
{
    cJSON *completion = cJSON_ParseWithLength(json, len);
    const cJSON *choices = cJSON_GetObjectItemCaseSensitive(completion, "choices");
    const cJSON *usage = cJSON_GetObjectItemCaseSensitive(completion, "usage");
    const cJSON *total = cJSON_GetObjectItemCaseSensitive(usage, "total_tokens");
    struct load_answer answer = {
        .id_bytes = string_bytes(completion, "id"),
        .model_bytes = string_bytes(completion, "model"),
        .total_tokens = cJSON_IsNumber(total) ? (int64_t)total->valuedouble : 0,
    };

    for (const cJSON *choice = choices ? choices->child : NULL; choice; choice = choice->next) {
        const cJSON *text = cJSON_GetObjectItemCaseSensitive(choice, "text");
        if (!cJSON_IsString(text))
            load_fail("not a completion: %.*s", (int)len, json);
        if (!answer.text)
            answer.text = text->valuestring;
        answer.text_bytes += strlen(text->valuestring);
        answer.is_finished = answer.is_finished || string_bytes(choice, "finish_reason") > 0;
    }
    load_answer(s->direct->load, s->number, &answer);
    cJSON_Delete(completion);
}

static void keep(struct direct_slot *s, const char *data, size_t n)
{
    if (s->n_text + n > s->capacity) {
        s->capacity = (s->n_text + n) * 2;
        s->text = realloc(s->text, s->capacity);
        if (!s->text)
            load_fail("out of memory");
    }
    memcpy(s->text + s->n_text, data, n);
    s->n_text += n;
}

static void read_line(struct direct_slot *s, const char *line, size_t len)
{
    if (len < 6 || memcmp(line, "data: ", 6) != 0)
        return;
    if (len == 12 && memcmp(line + 6, "[DONE]", 6) == 0)
        s->is_done = true;
    else
        read_completion(s, line + 6, len - 6);
}

/* Lines that are whole are read where they are; only a cut one is copied. */
static void read_events(struct direct_slot *s, const char *data, size_t n)
{
    const char *end;

    while ((end = memchr(data, '\n', n))) {
        size_t len = (size_t)(end - data);
        if (s->n_text > 0) {
            keep(s, data, len);
            read_line(s, s->text, s->n_text);
            s->n_text = 0;
        } else {
            read_line(s, data, len);
        }
        data += len + 1;
        n -= len + 1;
    }
    if (n > 0)
        keep(s, data, n);
}

static size_t on_data(char *data, size_t size, size_t n, void *user)
{
    struct direct_slot *s = user;

    (void)size;
    if (s->direct->load->n_chunks)
        read_events(s, data, n);
    else
        keep(s, data, n);
    return n;
}

/* ---- libcurl on libevent ---- */

static void end_call(struct direct_slot *s, CURLcode result)
{
    long status = 0;

    curl_easy_getinfo(s->easy, CURLINFO_RESPONSE_CODE, &status);
    if (result != CURLE_OK || status != 200)
        load_fail("HTTP status %ld, %s", status, curl_easy_strerror(result));
    if (s->direct->load->n_chunks) {
        if (!s->is_done)
            load_fail("a stream without an end");
    } else {
        read_completion(s, s->text, s->n_text);
    }
    load_end(s->direct->load, s->number);
}

static void check_multi(struct direct *d)
{
    CURLMsg *message;
    int n_left;

    while ((message = curl_multi_info_read(d->multi, &n_left))) {
        CURL *easy = message->easy_handle;
        CURLcode result = message->data.result;
        struct direct_slot *s = NULL;

        curl_easy_getinfo(easy, CURLINFO_PRIVATE, (char **)&s);
        curl_multi_remove_handle(d->multi, easy);
        end_call(s, result);
    }
}

static void on_socket(evutil_socket_t fd, short what, void *user)
{
    struct direct *d = user;
    int bits = (what & EV_READ ? CURL_CSELECT_IN : 0) | (what & EV_WRITE ? CURL_CSELECT_OUT : 0);
    int n_running;

    curl_multi_socket_action(d->multi, fd, bits, &n_running);
    check_multi(d);
}

static void on_timer(evutil_socket_t fd, short what, void *user)
{
    struct direct *d = user;
    int n_running;

    (void)fd, (void)what;
    curl_multi_socket_action(d->multi, CURL_SOCKET_TIMEOUT, 0, &n_running);
    check_multi(d);
}

static int socket_changed(CURL *easy, curl_socket_t fd, int what, void *user, void *socket_user)
{
    struct direct *d = user;
    struct event *event = socket_user;

    (void)easy;
    if (event)
        event_del(event);
    if (what == CURL_POLL_REMOVE) {
        free(event);
        curl_multi_assign(d->multi, fd, NULL);
        return 0;
    }
    if (!event && !(event = malloc(sizeof *event)))
        return -1;
    curl_multi_assign(d->multi, fd, event);
    short events = (short)(EV_PERSIST | (what & CURL_POLL_IN ? EV_READ : 0) |
                           (what & CURL_POLL_OUT ? EV_WRITE : 0));
    event_assign(event, d->load->base, fd, events, on_socket, d);
    return event_add(event, NULL);
}

static int timer_changed(CURLM *multi, long timeout_ms, void *user)
{
    struct direct *d = user;
    struct timeval tv = {timeout_ms / 1000, timeout_ms % 1000 * 1000};

    (void)multi;
    return timeout_ms < 0 ? evtimer_del(&d->timer) : evtimer_add(&d->timer, &tv);
}

/* ---- Calls ---- */

static void start_call(void *user, unsigned slot)
{
    struct direct *d = user;
    struct direct_slot *s = &d->slots[slot];

    s->n_text = 0;
    s->is_done = false;
    /* A caller makes the body anew for each call. */
    int n = snprintf(d->request, sizeof d->request,
                     "{\"model\":\"%s\",\"prompt\":\"Say this is a test, and say why.\","
                     "\"max_tokens\":%u%s}",
                     d->load->model, d->load->n_chunks ? d->load->n_chunks : 7,
                     d->load->n_chunks ? ",\"stream\":true" : "");
    curl_easy_setopt(s->easy, CURLOPT_POSTFIELDSIZE, (long)n);
    curl_easy_setopt(s->easy, CURLOPT_COPYPOSTFIELDS, d->request);
    if (curl_multi_add_handle(d->multi, s->easy) != CURLM_OK)
        load_fail("libcurl takes no more calls");
}

static void slot_init(struct direct *d, unsigned number)
{
    struct direct_slot *s = &d->slots[number];

    s->direct = d;
    s->number = number;
    s->easy = curl_easy_init();
    if (!s->easy)
        load_fail("out of memory");
    curl_easy_setopt(s->easy, CURLOPT_URL, d->url);
    curl_easy_setopt(s->easy, CURLOPT_PROXY, "");
    if (d->load->is_one_by_one)
        curl_easy_setopt(s->easy, CURLOPT_FRESH_CONNECT, 1L);
    if (d->load->socket)
        curl_easy_setopt(s->easy, CURLOPT_UNIX_SOCKET_PATH, d->load->socket);
    curl_easy_setopt(s->easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(s->easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(s->easy, CURLOPT_HTTPHEADER, d->headers);
    curl_easy_setopt(s->easy, CURLOPT_WRITEFUNCTION, on_data);
    curl_easy_setopt(s->easy, CURLOPT_WRITEDATA, s);
    curl_easy_setopt(s->easy, CURLOPT_PRIVATE, s);
}

static void direct_init(struct direct *d, struct load *load)
{
    static const char *const headers[] = {"Content-Type: application/json",
                                          "Expect:", "Authorization: Bearer sk-none"};

    *d = (struct direct){.load = load};
    curl_global_init(CURL_GLOBAL_ALL);
    d->multi = curl_multi_init();
    d->slots = calloc(load->in_flight, sizeof *d->slots);
    if (!d->multi || !d->slots)
        load_fail("out of memory");
    snprintf(d->url, sizeof d->url, "%s/completions", load->target);
    for (size_t i = 0; i < sizeof headers / sizeof *headers; i++)
        d->headers = curl_slist_append(d->headers, headers[i]);
    evtimer_assign(&d->timer, load->base, on_timer, d);
    curl_multi_setopt(d->multi, CURLMOPT_SOCKETFUNCTION, socket_changed);
    curl_multi_setopt(d->multi, CURLMOPT_SOCKETDATA, d);
    curl_multi_setopt(d->multi, CURLMOPT_TIMERFUNCTION, timer_changed);
    curl_multi_setopt(d->multi, CURLMOPT_TIMERDATA, d);
    curl_multi_setopt(d->multi, CURLMOPT_MAXCONNECTS, (long)load->in_flight + 1);
    for (unsigned i = 0; i < load->in_flight; i++)
        slot_init(d, i);
}

static void direct_done(struct direct *d)
{
    for (unsigned i = 0; i < d->load->in_flight; i++) {
        curl_easy_cleanup(d->slots[i].easy);
        free(d->slots[i].text);
    }
    curl_multi_cleanup(d->multi);
    evtimer_del(&d->timer);
    curl_slist_free_all(d->headers);
    free(d->slots);
    curl_global_cleanup();
}

int main(int argc, char **argv)
{
    struct load load;
    struct direct direct;

    load_init(&load, argc, argv);
    direct_init(&direct, &load);
    load.start = start_call;
    load.user = &direct;
    load_begin(&load);
    load_run(&load);
    direct_done(&direct);
    load_done(&load);
    return 0;
}

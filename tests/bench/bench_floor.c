/*
 * The floor of what a caller spends: the bytes of the request written to a socket, the bytes of the
 * answer read from it until its known end, one connection for each call in flight, nothing looked
 * into but the times that a paced upstream sends.
 */
#include <errno.h>
#include <event2/event_struct.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "load.h"

/* How bench_upstream's answers end, and where it puts the time. */
static const char unary_end[] = ":12}}", stream_end[] = "0\r\n\r\n", before_time[] = "\"text\":\"";

enum { END_BYTES = sizeof stream_end - 1, TIME_BYTES = 18 };

struct floor_slot {
    struct floor *floor;
    unsigned number;
    int fd;
    struct event readable;
    char tail[END_BYTES]; /* the last bytes that came */
};

struct floor {
    struct load *load;
    struct floor_slot *slots;
    char request[1024];
};

/* Chunks without a time are not told of. */
static void find_times(struct floor_slot *s, const char *data, size_t n)
{
    const char *end = data + n;

    while ((data = memmem(data, (size_t)(end - data), before_time, sizeof before_time - 1))) {
        data += sizeof before_time - 1;
        if (end - data < TIME_BYTES)
            return;
        load_answer(s->floor->load, s->number,
                    &(struct load_answer){.text = data, .text_bytes = TIME_BYTES});
    }
}

static void keep_tail(struct floor_slot *s, const char *data, size_t n)
{
    if (n < END_BYTES) {
        memmove(s->tail, s->tail + n, END_BYTES - n);
        memcpy(s->tail + END_BYTES - n, data, n);
    } else {
        memcpy(s->tail, data + n - END_BYTES, END_BYTES);
    }
}

static void on_readable(evutil_socket_t fd, short what, void *user)
{
    struct floor_slot *s = user;
    const struct load *l = s->floor->load;
    char data[65536];
    ssize_t n = recv(fd, data, sizeof data, MSG_DONTWAIT);

    (void)what;
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0)
        load_fail("recv: %s", n < 0 ? strerror(errno) : "closed by the relay");
    if (strncmp(l->model, "paced", 5) == 0)
        find_times(s, data, (size_t)n);
    keep_tail(s, data, (size_t)n);
    if (memcmp(s->tail, l->n_chunks ? stream_end : unary_end, END_BYTES) == 0) {
        memset(s->tail, 0, END_BYTES);
        load_end(s->floor->load, s->number);
    }
}

static void start_call(void *user, unsigned slot)
{
    struct floor *f = user;
    const struct load *l = f->load;
    char body[512];

    /* A caller makes the request anew for each call. */
    int n_body =
        snprintf(body, sizeof body,
                 "{\"model\":\"%s\",\"prompt\":\"Say this is a test, and say why.\","
                 "\"max_tokens\":%u%s}",
                 l->model, l->n_chunks ? l->n_chunks : 7, l->n_chunks ? ",\"stream\":true" : "");
    int n = snprintf(f->request, sizeof f->request,
                     "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n"
                     "Content-Type: application/json\r\nAuthorization: Bearer sk-none\r\n"
                     "Content-Length: %d\r\n\r\n%s",
                     n_body, body);
    if (send(f->slots[slot].fd, f->request, (size_t)n, MSG_NOSIGNAL) != n)
        load_fail("send: %s", strerror(errno));
}

static void slot_connect(struct floor *f, unsigned number)
{
    struct floor_slot *s = &f->slots[number];
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    *s = (struct floor_slot){.floor = f, .number = number};
    if (strlen(f->load->target) >= sizeof address.sun_path)
        load_fail("the path of the socket is too long");
    memcpy(address.sun_path, f->load->target, strlen(f->load->target) + 1);
    s->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (s->fd < 0 || connect(s->fd, (struct sockaddr *)&address, sizeof address) < 0)
        load_fail("%s: %s", f->load->target, strerror(errno));
    event_assign(&s->readable, f->load->base, s->fd, EV_READ | EV_PERSIST, on_readable, s);
    if (event_add(&s->readable, NULL) < 0)
        load_fail("out of memory");
}

int main(int argc, char **argv)
{
    struct load load;
    struct floor floor = {.load = &load};

    load_init(&load, argc, argv);
    floor.slots = calloc(load.in_flight, sizeof *floor.slots);
    if (!floor.slots)
        load_fail("out of memory");
    load_begin(&load);
    for (unsigned i = 0; i < load.in_flight; i++)
        slot_connect(&floor, i);
    load.start = start_call;
    load.user = &floor;
    load.is_blind = true;
    load_run(&load);
    for (unsigned i = 0; i < load.in_flight; i++) {
        event_del(&floor.slots[i].readable);
        close(floor.slots[i].fd);
    }
    free(floor.slots);
    load_done(&load);
    return 0;
}

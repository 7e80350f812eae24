#include "nameserver.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "harness.h"
#include "network.h"

enum { QUESTION_MAX = 512, HELD_MAX = 64, ADDRESSES_MAX = 24, HEADER = 12, TYPE_A = 1 };

struct question {
    uint8_t bytes[QUESTION_MAX];
    size_t len; /* header and first question */
    struct sockaddr_in from;
    bool is_ipv4;
};

struct nameserver {
    int fd;
    pthread_t thread;
    pthread_mutex_t lock; /* over all that follows */
    pthread_cond_t changed;
    enum nameserver_mode mode;
    struct in_addr addresses[ADDRESSES_MAX];
    size_t n_addresses, n_held;
    struct question held[HELD_MAX];
    unsigned n_questions;
};

/* True if it is a question that can be answered. */
static bool parse(struct question *q, size_t n)
{
    size_t at = HEADER;

    while (at < n && q->bytes[at])
        at += q->bytes[at] + 1u;
    if (at + 5 > n)
        return false;
    q->len = at + 5;
    q->is_ipv4 = q->bytes[at + 1] == 0 && q->bytes[at + 2] == TYPE_A;
    return true;
}

static void answer(struct nameserver *n, const struct question *q)
{
    static const uint8_t record[] = {0xc0, HEADER, 0, TYPE_A, 0, 1, 0, 0, 0, 0, 0, 4};
    uint8_t reply[QUESTION_MAX + ADDRESSES_MAX * (sizeof record + 4)];
    size_t len = q->len;
    size_t n_answers = n->mode == NAMESERVER_ANSWERS && q->is_ipv4 ? n->n_addresses : 0;

    memcpy(reply, q->bytes, len);
    reply[2] = 0x84; /* a response, authoritative */
    reply[3] = (uint8_t)(0x80 | (n->mode == NAMESERVER_NXDOMAIN   ? 3
                                 : n->mode == NAMESERVER_SERVFAIL ? 2
                                                                  : 0));
    memset(reply + 4, 0, HEADER - 4);
    reply[5] = 1;
    reply[7] = (uint8_t)n_answers;
    for (size_t i = 0; i < n_answers; i++) {
        memcpy(reply + len, record, sizeof record);
        memcpy(reply + len + sizeof record, &n->addresses[i], 4);
        len += sizeof record + 4;
    }
    sendto(n->fd, reply, len, 0, (const struct sockaddr *)&q->from, sizeof q->from);
}

static void take(struct nameserver *n, struct question *q)
{
    pthread_mutex_lock(&n->lock);
    if (n->mode == NAMESERVER_WAITS && n->n_held < HELD_MAX)
        n->held[n->n_held++] = *q;
    else if (n->mode != NAMESERVER_SILENT && n->mode != NAMESERVER_WAITS)
        answer(n, q);
    n->n_questions += q->is_ipv4;
    pthread_cond_broadcast(&n->changed);
    pthread_mutex_unlock(&n->lock);
}

static void *run(void *user)
{
    struct nameserver *n = user;
    struct question q;

    for (;;) {
        socklen_t len = sizeof q.from;
        ssize_t got = recvfrom(n->fd, q.bytes, sizeof q.bytes, 0, (struct sockaddr *)&q.from, &len);
        if (got <= 0)
            return NULL;
        if (parse(&q, (size_t)got))
            take(n, &q);
    }
}

void nameserver_set(struct nameserver *n, enum nameserver_mode mode, const char *addresses)
{
    char text[ADDRESSES_MAX * INET_ADDRSTRLEN], *rest = text;
    const char *word;

    snprintf(text, sizeof text, "%s", addresses);
    pthread_mutex_lock(&n->lock);
    n->mode = mode;
    n->n_addresses = 0;
    while ((word = strsep(&rest, " ")) && n->n_addresses < ADDRESSES_MAX)
        if (*word)
            assert_int_equal(inet_pton(AF_INET, word, &n->addresses[n->n_addresses++]), 1);
    while (mode != NAMESERVER_WAITS && mode != NAMESERVER_SILENT && n->n_held > 0)
        answer(n, &n->held[--n->n_held]);
    pthread_mutex_unlock(&n->lock);
}

unsigned nameserver_n_questions(struct nameserver *n)
{
    pthread_mutex_lock(&n->lock);
    unsigned count = n->n_questions;
    pthread_mutex_unlock(&n->lock);
    return count;
}

bool nameserver_await(struct nameserver *n, unsigned n_questions)
{
    struct timespec until;
    int r = 0;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += HARNESS_TIMEOUT_MS / 1000;
    pthread_mutex_lock(&n->lock);
    while (n->n_questions < n_questions && r == 0)
        r = pthread_cond_timedwait(&n->changed, &n->lock, &until);
    pthread_mutex_unlock(&n->lock);
    return r == 0;
}

struct nameserver *nameserver_new(void)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(53), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct nameserver *n = calloc(1, sizeof *n);

    assert_non_null(n);
    network_file("/etc/resolv.conf", "nameserver 127.0.0.1\n");
    pthread_mutex_init(&n->lock, NULL);
    pthread_cond_init(&n->changed, NULL);
    n->fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(n->fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(pthread_create(&n->thread, NULL, run, n), 0);
    return n;
}

struct nameserver *nameserver_free(struct nameserver *n)
{
    if (!n)
        return NULL;
    /* Wakes the thread, though the socket is not connected. */
    shutdown(n->fd, SHUT_RDWR);
    pthread_join(n->thread, NULL);
    close(n->fd);
    pthread_cond_destroy(&n->changed);
    pthread_mutex_destroy(&n->lock);
    free(n);
    return NULL;
}

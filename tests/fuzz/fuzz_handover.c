/*
 * What the two sides of a handover say to each other, in any order and form: the old one gives the
 * service away only to one who said READY and then SERVING, the new one takes it only at GO, and
 * what is kept of texts fits its place and is one line.
 */
#include "../../daemon/handover.c"

#include "input.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MESSAGE_MAX = FIRST_MAX + 64, MESSAGES = 8, PASSED = 2 };

static char passed_paths[PASSED][64]; /* the second has none */

/* What came of it. */
struct events {
    unsigned n_given, n_failed, n_reload, n_terminate;
};

static void on_given(void *user)
{
    ((struct events *)user)->n_given++;
}

static void on_failed(void *user, const char *why)
{
    require(strlen(why) < sizeof((struct handover *)NULL)->why && !strpbrk(why, "\r\n"));
    ((struct events *)user)->n_failed++;
}

static void on_reload(void *user)
{
    ((struct events *)user)->n_reload++;
}

static void on_terminate(void *user)
{
    ((struct events *)user)->n_terminate++;
}

static const struct handover_handler handler = {on_given, on_failed, on_reload, on_terminate};

/* Descriptors 3 and 4, as from systemd. */
static void pass_sockets(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    for (int i = 0; i < PASSED; i++) {
        int fd = socket(AF_UNIX, SOCK_STREAM, 0);
        require(fd >= 0 && dup2(fd, SD_LISTEN_FDS_START + i) >= 0);
        if (fd != SD_LISTEN_FDS_START + i)
            close(fd);
    }
    snprintf(passed_paths[0], sizeof passed_paths[0], "/tmp/completiond-fuzz-handover.%d",
             (int)getpid());
    strcpy(address.sun_path, passed_paths[0]);
    unlink(address.sun_path);
    require(bind(SD_LISTEN_FDS_START, (struct sockaddr *)&address, sizeof address) == 0);
    unlink(address.sun_path);
    setenv("LISTEN_FDS", "2", 1);
    setenv("LISTEN_FDNAMES", "rpc:metrics", 1);
}

static struct event_base *the_base(void)
{
    static struct event_base *base;

    if (!base) {
        pass_sockets();
        base = event_base_new();
        require(base);
    }
    return base;
}

static int make_peer(int *ret_other)
{
    int pair[2];

    require(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
    *ret_other = pair[1];
    return pair[0];
}

/* A word of the protocol, with something behind it or not; or anything. */
static size_t take_message(struct input *in, char *out)
{
    static const char *const words[] = {READY,           GO, SERVING, TERMINATE, REFUSED,
                                        SUCCESSOR_ERRNO, KEY};
    uint8_t choice = input_byte(in);
    size_t n = 0, len = 0;

    if (choice % 8 < sizeof words / sizeof *words)
        n = (size_t)sprintf(out, "%s", words[choice % 8]);
    if (choice & 8 || n == 0) {
        const uint8_t *text = input_text(in, 600, &len);
        memcpy(out + n, text, len);
    }
    return n + len;
}

/* As a reader of C's texts sees it. */
static bool is_word(const char *message, size_t len, const char *word)
{
    return strnlen(message, len) == strlen(word) && !memcmp(message, word, strlen(word));
}

static void check_said(int fd, const char *expected)
{
    char text[64];
    ssize_t n = recv(fd, text, sizeof text, MSG_DONTWAIT);

    if (expected)
        require(n == (ssize_t)strlen(expected) && !memcmp(text, expected, (size_t)n));
    else
        require(n < 0 && errno == EAGAIN);
}

/* ---- The old one ---- */

static void try_old(struct input *in, struct event_base *base, struct log *log)
{
    char path[] = "/usr/sbin/completiond", message[MESSAGE_MAX];
    struct systemd_manager manager = {.fd = -1};
    struct events events = {0};
    struct handover h = {.base = base, .log = log, .manager = &manager, .path = path};
    enum handover_state expected = HANDOVER_STARTING;
    int other;

    h.owner = true;
    h.successor.pidfd = -1;
    h.peer = make_peer(&other);
    h.state = HANDOVER_STARTING;
    handover_set_handler(&h, base, &handler, &events);
    require(listen_to_peer(&h, on_new_says, on_timeout, HANDOVER_TIMEOUT_US) == 0);
    evtimer_assign(&manager.again, base, on_timeout, &h);
    for (int i = input_byte(in) % MESSAGES; i > 0 && expected != HANDOVER_GIVEN; i--) {
        size_t len = take_message(in, message);
        if (len == 0 || send(other, message, len, 0) < 0)
            continue;
        if (input_byte(in) % 8 == 0)
            require(handover_request(&h));
        event_base_loop(base, EVLOOP_NONBLOCK);
        /* Longer ones are cut, and so are no words. */
        bool goes = expected == HANDOVER_STARTING && is_word(message, len, READY);
        bool gives = expected == HANDOVER_GOING && is_word(message, len, SERVING);
        if (goes)
            expected = HANDOVER_GOING;
        if (gives)
            expected = HANDOVER_GIVEN;
        require(h.state == expected && events.n_given == gives && events.n_failed == 0);
        if (!gives)
            check_said(other, goes ? GO : NULL);
        require(memchr(h.why, '\0', sizeof h.why) && !strpbrk(h.why, "\r\n"));
    }
    close(other);
    event_base_loop(base, EVLOOP_NONBLOCK);
    bool given = expected == HANDOVER_GIVEN;
    require(events.n_given == given && events.n_failed == !given && h.owner == !given);
    require(h.state == (given ? HANDOVER_GIVEN : HANDOVER_NONE) && h.peer < 0);
    require(events.n_terminate == 0);
    event_del(&manager.again);
    h.path = NULL;
    handover_done(&h);
}

/* ---- The new one ---- */

/* What the last line says that begins with this; NULL: there is none. */
static const char *last_line(const char *text, const char *name, size_t *ret_len)
{
    const char *found = NULL;

    for (const char *line = text; *line;) {
        size_t len = strcspn(line, "\n");
        if (!strncmp(line, name, strlen(name))) {
            found = line + strlen(name);
            *ret_len = len - strlen(name);
        }
        line += len + (line[len] == '\n');
    }
    return found;
}

static bool is_owned(const char *owned, size_t len, size_t i)
{
    return owned && i < len && owned[i] == '1';
}

static void check_taken(const struct handover *h, const struct environment *e, const char *first)
{
    size_t key_len = 0, owned_len = 0;
    const char *key = last_line(first, KEY, &key_len), *owned = last_line(first, OWNED, &owned_len);

    require(!!key == !!e->key);
    if (key) {
        require(!secret_fault(key, key_len) && e->key->len <= key_len);
        require(!memcmp(e->key->text, key, e->key->len) && !e->key->text[e->key->len]);
    }
    require(h->n_sockets == PASSED);
    for (size_t i = 0; i < PASSED; i++)
        require(!strcmp(h->sockets[i].path, is_owned(owned, owned_len, i) ? passed_paths[i] : ""));
}

/* READY was said. Returns whether it serves. */
static bool go_on(struct handover *h, struct input *in, int other)
{
    char message[MESSAGE_MAX];
    size_t len = take_message(in, message);
    bool goes = len > 0 && send(other, message, len, 0) > 0 && is_word(message, len, GO);

    if (len == 0)
        shutdown(other, SHUT_WR);
    require(handover_await(h) == (goes ? 0 : -ECANCELED) && h->owner == goes);
    check_said(other, READY);
    require(handover_serve(h) == goes);
    if (!goes)
        return false;
    event_base_loop(h->base, EVLOOP_NONBLOCK);
    check_said(other, SERVING);
    return true;
}

static void settle_down(struct handover *h, struct input *in, int other, struct events *events)
{
    char message[MESSAGE_MAX];
    unsigned n_terminate = 0;
    bool again = input_byte(in) % 2;

    for (int i = input_byte(in) % MESSAGES; i > 0; i--) {
        size_t len = take_message(in, message);
        if (len == 0 || send(other, message, len, 0) < 0)
            continue;
        n_terminate += is_word(message, len, TERMINATE);
        event_base_loop(h->base, EVLOOP_NONBLOCK);
        require(h->state == HANDOVER_SETTLING && events->n_terminate == n_terminate);
    }
    if (again)
        require(handover_request(h) && events->n_reload == 0);
    close(other);
    event_base_loop(h->base, EVLOOP_NONBLOCK);
    require(h->state == HANDOVER_NONE && events->n_reload == again && events->n_given == 0);
}

static void try_new(struct input *in, struct event_base *base, struct log *log)
{
    char first[MESSAGE_MAX], number[16], program[] = "completiond", *argv[] = {program, NULL};
    struct environment environment = {0};
    struct systemd_manager manager = {.fd = -1};
    struct events events = {0};
    struct handover h;
    size_t len;
    const uint8_t *text = input_text(in, FIRST_MAX + 32, &len);
    int other, ours = make_peer(&other);

    if (len > 0)
        require(send(other, text, len, 0) == (ssize_t)len);
    memcpy(first, text, len);
    first[len < FIRST_MAX ? len : FIRST_MAX - 1] = '\0';
    snprintf(number, sizeof number, "%d", ours);
    setenv(SUCCESSOR_VARIABLE, number, 1);
    int r = handover_init(&h, log, &manager, argv, &environment);
    require(h.peer == ours && h.state == HANDOVER_COMING && !getenv(SUCCESSOR_VARIABLE));
    if (len == 0)
        require(r == -EPROTO);
    if (r == 0)
        check_taken(&h, &environment, first);
    handover_set_handler(&h, base, &handler, &events);
    if (r == 0 && go_on(&h, in, other))
        settle_down(&h, in, other, &events);
    else
        close(other);
    handover_done(&h);
    environment.key = secret_free(environment.key);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct log log = {.fd = -1};
    struct event_base *base = the_base();
    struct input in = {data, data + size};

    if (input_byte(&in) % 2)
        try_old(&in, base, &log);
    else
        try_new(&in, base, &log);
    return 0;
}

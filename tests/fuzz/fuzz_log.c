/*
 * Records with hostile texts, in each of the log's formats: the journal gets one line for each
 * field that was given and no other, a line of JSON has the same fields with the same values, a
 * line of text is one line.
 */
#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "input.h"
#include "json_reader.h"
#include "log.h"
#include "utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { RECORD_MAX = 1 << 16, TEXT_MAX = 2 * LOG_TEXT_MAX };

/* Where each format's records go to. Made once. */
struct places {
    char path[64];
    int journal, json[2], text[2];
};

struct record {
    int level;
    char message[TEXT_MAX + 1];
    struct log_field fields[LOG_FIELDS_MAX];
    char texts[LOG_FIELDS_MAX][2 * LOG_VALUE_MAX + 1];
    size_t n;
};

/* ---- Places ---- */

static void make_pair(int pair[2])
{
    require(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
}

static const struct places *find_places(void)
{
    static struct places p;
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    if (p.journal > 0)
        return &p;
    snprintf(p.path, sizeof p.path, "/tmp/completiond-fuzz-log.%d", (int)getpid());
    memcpy(address.sun_path, p.path, sizeof p.path);
    p.journal = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    require(p.journal > 0);
    unlink(p.path);
    require(bind(p.journal, (struct sockaddr *)&address, sizeof address) == 0);
    make_pair(p.json);
    make_pair(p.text);
    return &p;
}

static void remove_path(void)
{
    unlink(find_places()->path);
}

/* The one record that is there. */
static size_t receive(int fd, char *out)
{
    char more;
    ssize_t n = recv(fd, out, RECORD_MAX - 1, 0);

    require(n > 0 && n < RECORD_MAX - 1);
    out[n] = '\0';
    require(recv(fd, &more, 1, 0) < 0 && errno == EAGAIN);
    return (size_t)n;
}

static size_t send_to_journal(const struct places *p, const struct record *r, char *out)
{
    struct log log;

    require(log_init_journal(&log, p->path));
    log.level = LOG_DEBUG;
    log_record(&log, r->level, r->message, r->fields, r->n);
    require(log.n_lost == 0);
    log_done(&log);
    return receive(p->journal, out);
}

static size_t send_as_line(const int pair[2], bool json, const struct record *r, char *out)
{
    struct log log;

    log_init_fd(&log, pair[1]);
    log.level = LOG_DEBUG;
    log.json = json;
    log_record(&log, r->level, r->message, r->fields, r->n);
    require(log.n_lost == 0);
    return receive(pair[0], out);
}

/* ---- What is expected of them ---- */

/* As it was, but for what is escaped or cut. */
static void check_value(const char *value, const char *given, size_t size)
{
    size_t len = strlen(value);

    require(len < size && utf8_is_valid(value, len));
    for (size_t i = 0; i < len; i++)
        require((uint8_t)value[i] >= ' ' && value[i] != 0x7F);
    for (size_t i = 0; i + 1 < len; i++) /* U+0080 to U+009F */
        require((uint8_t)value[i] != 0xC2 || (uint8_t)value[i + 1] >= 0xA0);
    while (*value && *value == *given)
        value++, given++;
    if (!*given && !*value)
        return;
    require(!strncmp(value, "\\x", 2) || !strcmp(value, "...") || len >= size - 8);
}

/* The value of the next line, which has this name. */
static char *take_line(char **at, const char *name)
{
    size_t n = strlen(name);
    char *value = *at + n + 1, *end = strchr(*at, '\n');

    require(end && !strncmp(*at, name, n) && (*at)[n] == '=' && value <= end);
    *end = '\0';
    *at = end + 1;
    return value;
}

static void check_number(const char *text, int64_t number)
{
    char expected[32];

    snprintf(expected, sizeof expected, "%lld", (long long)number);
    require(!strcmp(text, expected));
}

/* Returns the values in ret. */
static void check_journal(const struct record *r, char *at, size_t len, const char **ret)
{
    require(strlen(at) == len);
    check_number(take_line(&at, "PRIORITY"), r->level);
    require(!strcmp(take_line(&at, "SYSLOG_IDENTIFIER"), "completiond"));
    check_value(ret[0] = take_line(&at, "MESSAGE"), r->message, LOG_TEXT_MAX);
    for (size_t i = 0; i < r->n; i++) {
        const struct log_field *f = &r->fields[i];
        ret[i + 1] = take_line(&at, f->name);
        if (f->text)
            check_value(ret[i + 1], f->text, LOG_VALUE_MAX);
        else
            check_number(ret[i + 1], f->number);
    }
    require(!*at);
}

static void check_member(struct json_reader *reader, const char *name, const char *value,
                         bool is_text)
{
    static char decoded[RECORD_MAX];
    struct json_string s;
    struct json_slice number;

    require(json_next_member(reader, &s) && json_string_equals(&s, name));
    if (!is_text) {
        require(json_read_number(reader, &number));
        require(number.len == strlen(value) && !memcmp(number.data, value, number.len));
        return;
    }
    require(json_read_string(reader, &s));
    size_t len = json_string_decode(&s, decoded);
    require(!value || (len == strlen(value) && !memcmp(decoded, value, len)));
}

static void check_json(const struct record *r, const char *line, size_t len,
                       const char *const *values)
{
    struct json_reader reader;
    struct json_string key;
    char level[16];

    require(strlen(line) == len && strchr(line, '\n') == line + len - 1);
    json_reader_init(&reader, line, len);
    require(json_enter_object(&reader));
    check_member(&reader, "TIMESTAMP", NULL, true);
    snprintf(level, sizeof level, "%d", r->level);
    check_member(&reader, "PRIORITY", level, false);
    check_member(&reader, "SYSLOG_IDENTIFIER", "completiond", true);
    check_member(&reader, "MESSAGE", values[0], true);
    for (size_t i = 0; i < r->n; i++)
        check_member(&reader, r->fields[i].name, values[i + 1], r->fields[i].text);
    require(!json_next_member(&reader, &key) && json_reader_end(&reader));
}

static void check_text(const char *line, size_t len, const char *message)
{
    static const char begin[] = "completiond: ";
    const char *at = strchr(line + sizeof begin - 1, ' ');

    require(strlen(line) == len && strchr(line, '\n') == line + len - 1);
    require(!strncmp(line, begin, sizeof begin - 1) && at && at[-1] == ':');
    require(strlen(at + 1) == strlen(message) + 1 && !strncmp(at + 1, message, strlen(message)));
}

/* ---- Trials ---- */

/* C's: it ends at a NUL. Some bytes stand for whole runs, so that short inputs make long texts. */
static void take_text(struct input *in, char *out, size_t max)
{
    size_t len, n = 0;
    const uint8_t *text = input_text(in, max, &len);

    for (size_t i = 0; i < len && n < max; i++) {
        out[n++] = (char)text[i];
        if (text[i] == 0xF8 && i + 1 < len)
            for (n--, i++; n < max && n % 128 != 127; n++)
                out[n] = (char)text[i];
    }
    out[n] = '\0';
}

static void take_record(struct input *in, struct record *r)
{
    static const char *const names[] = {"MODEL", "USER_UNIT", "UPSTREAM", "STATUS", "OBJECT_UID"};

    r->level = input_byte(in) % 8;
    take_text(in, r->message, TEXT_MAX);
    r->n = input_byte(in) % (LOG_FIELDS_MAX + 1);
    for (size_t i = 0; i < r->n; i++) {
        struct log_field *f = &r->fields[i];
        f->name = names[input_byte(in) % (sizeof names / sizeof *names)];
        f->text = NULL;
        if (input_byte(in) % 4 == 0) {
            for (size_t k = 0; k < sizeof f->number; k++)
                f->number = (int64_t)((uint64_t)f->number << 8 | input_byte(in));
            continue;
        }
        take_text(in, r->texts[i], sizeof r->texts[i] - 1);
        f->text = r->texts[i];
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char journal[RECORD_MAX], line[RECORD_MAX];
    static bool is_known;
    const struct places *p = find_places();
    struct input in = {data, data + size};
    struct record record = {0};
    const char *values[LOG_FIELDS_MAX + 1];

    if (!is_known)
        require(atexit(remove_path) == 0);
    is_known = true;
    take_record(&in, &record);
    size_t len = send_to_journal(p, &record, journal);
    check_journal(&record, journal, len, values);
    len = send_as_line(p->json, true, &record, line);
    check_json(&record, line, len, values);
    len = send_as_line(p->text, false, &record, line);
    check_text(line, len, values[0]);
    return 0;
}

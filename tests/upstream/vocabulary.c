/*
 * Words and ids. Owns the table of words and how a text is cut into them; knows nothing of how
 * likely they are.
 */
#include "vocabulary.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { N_BYTES = 256, FIRST_CAPACITY = 1024 };

/* ---- Lists of ids ---- */

int tokens_add(struct tokens *t, uint32_t id)
{
    if (t->n == t->capacity) {
        size_t capacity = t->capacity ? 2 * t->capacity : 32;
        uint32_t *ids = reallocarray(t->ids, capacity, sizeof *ids);
        if (!ids)
            return -ENOMEM;
        t->ids = ids;
        t->capacity = capacity;
    }
    t->ids[t->n++] = id;
    return 0;
}

void tokens_done(struct tokens *t)
{
    free(t->ids);
    *t = (struct tokens){0};
}

/* ---- The table ---- */

/* The slot of a word, or the free one where it belongs. */
static size_t find_slot(const struct vocabulary *v, const char *bytes, size_t len)
{
    uint64_t hash = 14695981039346656037u; /* FNV-1a */

    for (size_t i = 0; i < len; i++)
        hash = (hash ^ (unsigned char)bytes[i]) * 1099511628211u;
    for (size_t slot = hash & (v->n_slots - 1);; slot = (slot + 1) & (v->n_slots - 1)) {
        if (!v->slots[slot])
            return slot;
        const struct vocabulary_word *word = &v->words[v->slots[slot] - 1];
        if (word->len == len && !memcmp(word->bytes, bytes, len))
            return slot;
    }
}

static int grow(struct vocabulary *v)
{
    size_t capacity = v->capacity ? 2 * v->capacity : FIRST_CAPACITY;
    struct vocabulary_word *words = reallocarray(v->words, capacity, sizeof *words);

    if (!words)
        return -ENOMEM;
    v->words = words;

    uint32_t *slots = calloc(2 * capacity, sizeof *slots);
    if (!slots)
        return -ENOMEM;
    free(v->slots);
    v->slots = slots;
    v->n_slots = 2 * capacity;
    v->capacity = capacity;
    for (size_t i = 0; i < v->n; i++)
        v->slots[find_slot(v, v->words[i].bytes, v->words[i].len)] = (uint32_t)i + 1;
    return 0;
}

int vocabulary_add(struct vocabulary *v, const char *bytes, size_t len)
{
    if (v->n == v->capacity) {
        int r = grow(v);
        if (r < 0)
            return r;
    }
    size_t slot = find_slot(v, bytes, len);
    if (v->slots[slot])
        return 0;

    char *copy = malloc(len);
    if (!copy)
        return -ENOMEM;
    memcpy(copy, bytes, len);
    v->words[v->n] = (struct vocabulary_word){copy, len};
    v->slots[slot] = (uint32_t)++v->n;
    return 0;
}

int vocabulary_init(struct vocabulary *v)
{
    int r;

    *v = (struct vocabulary){0};
    for (int i = 0; i < N_BYTES; i++) {
        char byte = (char)i;
        if ((r = vocabulary_add(v, &byte, 1)) < 0)
            return r;
    }
    return vocabulary_add(v, VOCABULARY_END_TEXT, strlen(VOCABULARY_END_TEXT));
}

void vocabulary_done(struct vocabulary *v)
{
    for (size_t i = 0; i < v->n; i++)
        free(v->words[i].bytes);
    free(v->words);
    free(v->slots);
    *v = (struct vocabulary){0};
}

/* ---- Text to tokens ---- */

/* Whatever the locale; bytes of other scripts count as letters. */
static bool is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (unsigned char)c >= 0x80;
}

size_t vocabulary_piece(const char *text, size_t len)
{
    size_t start = text[0] == ' ' ? 1 : 0, i = start;

    while (i < len && i < VOCABULARY_WORD_MAX && is_letter(text[i]))
        i++;
    return i > start ? i : 1;
}

static uint32_t longest_word(const struct vocabulary *v, const char *piece, size_t len,
                             size_t *ret_len)
{
    for (; len > 1; len--) {
        size_t slot = find_slot(v, piece, len);
        if (v->slots[slot]) {
            *ret_len = len;
            return v->slots[slot] - 1;
        }
    }
    *ret_len = 1;
    return (unsigned char)piece[0];
}

int vocabulary_encode(const struct vocabulary *v, const char *text, size_t len, struct tokens *out)
{
    const size_t end_len = strlen(VOCABULARY_END_TEXT);

    while (len > 0) {
        uint32_t id = VOCABULARY_END;
        size_t used = end_len;
        if (len < end_len || memcmp(text, VOCABULARY_END_TEXT, end_len) != 0)
            id = longest_word(v, text, vocabulary_piece(text, len), &used);
        int r = tokens_add(out, id);
        if (r < 0)
            return r;
        text += used;
        len -= used;
    }
    return 0;
}

const char *vocabulary_bytes(const struct vocabulary *v, uint32_t id, size_t *ret_len)
{
    *ret_len = v->words[id].len;
    return v->words[id].bytes;
}

/*
 * The words of the sandbox's model and their ids: 0 to 255 are the single bytes, 256 is the end of
 * a text, the others are words with or without a space in front, as the training text has them.
 * Since every byte is a token, any text can be written in tokens and read back exactly.
 */
#ifndef VOCABULARY_H
#define VOCABULARY_H

#include <stddef.h>
#include <stdint.h>

enum { VOCABULARY_END = 256, VOCABULARY_WORD_MAX = 64 };

/* How the end of a text is written, in prompts and in echoes. */
#define VOCABULARY_END_TEXT "<|endoftext|>"

/* A list of ids that grows. Zeroed is empty. */
struct tokens {
    uint32_t *ids;
    size_t n, capacity;
};

/* 0 or -ENOMEM, which leaves the list as it was. */
int tokens_add(struct tokens *t, uint32_t id);
void tokens_done(struct tokens *t);

struct vocabulary_word {
    char *bytes; /* owned */
    size_t len;
};

struct vocabulary {
    struct vocabulary_word *words; /* by id */
    size_t n, capacity;
    uint32_t *slots; /* hash table of id + 1; 0 is free */
    size_t n_slots;  /* a power of two */
};

/* 0 or -ENOMEM; vocabulary_done() is due either way. */
int vocabulary_init(struct vocabulary *v);
void vocabulary_done(struct vocabulary *v);

/* The length of the first word of a text that is not empty: a run of letters and digits with the
 * space before it, or else one byte. */
size_t vocabulary_piece(const char *text, size_t len);

/* Adds a word unless it is there. 0 or -ENOMEM. */
int vocabulary_add(struct vocabulary *v, const char *bytes, size_t len);

/* Appends the tokens of a text: of each piece the longest beginning that is a word, again and
 * again. VOCABULARY_END_TEXT is VOCABULARY_END. 0 or -ENOMEM. */
int vocabulary_encode(const struct vocabulary *v, const char *text, size_t len, struct tokens *out);

/* The bytes of a token, valid as long as the vocabulary. id < v->n. */
const char *vocabulary_bytes(const struct vocabulary *v, uint32_t id, size_t *ret_len);

#endif

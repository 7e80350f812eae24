/* What the files of translate.h's responses share. */
#ifndef TRANSLATE_INTERNAL_H
#define TRANSLATE_INTERNAL_H

#include "translate.h"

enum { TRANSLATE_TEXT_FIELD = 4 }; /* CompletionChoice.text */

/* Where the text stands, in the JSON and in out. The last one's, if there are several. */
struct translate_place {
    unsigned n_choices, n_texts;
    bool is_counted;                 /* a finish_reason or usage: the progress depends on it */
    size_t json_text, json_text_len; /* without its quotes */
    size_t choice, choice_len;       /* its fields, behind their length, as if that were one byte */
    size_t text, text_len;           /* the field, with its tag, as if that were so */
};

/* translate_response() of what is valid UTF-8, or else refused. ret is good for COMPLETION only. */
enum translate_kind translate_valid(const uint8_t *json, size_t len, bool whole,
                                    bool keep_obfuscation, struct translate_progress *progress,
                                    struct buffer *out, const char **ret_why,
                                    struct translate_place *ret);

#endif

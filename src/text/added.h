/* Added tokens: those cut out of a text before it is split and merged ("<|im_end|>", a tool's tags, runs of blanks).
 *
 * As HF does: going from the left, the longest token that stands there; matches do not overlap. Two sets: tokens looked for in the text as
 * it came, and "normalized" ones looked for afterwards in what is left, once it has been normalised.
 */
#ifndef TEXT_ADDED_H
#define TEXT_ADDED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum { ADDED_MAX = 1 << 17, ADDED_BYTES_MAX = 1024 };

typedef struct {
    const char *text; /* owned by the set; NUL-terminated */
    size_t n;
    int32_t id;
    bool special, single_word, lstrip, rstrip, normalized;
} added_token_t;

typedef struct {
    added_token_t *token; /* [n], sorted by text */
    int64_t n, cap;
    bool first[256]; /* does a token begin with this byte? */
} added_t;

/* Copies text. added_ready sorts, once all are there: ST_INPUT when a text is there twice. */
status_t added_put(added_t *a, const added_token_t *t, const char *name);
status_t added_ready(added_t *a, const char *name);
void added_free(added_t *a);
const added_token_t *added_find(const added_t *a, const char *text, size_t n); /* NULL when absent */

enum { OWN_WORDS_MAX = 2 };
typedef struct own_words {
    size_t begin, end;
} own_words_t; /* a part of a text that people wrote: special tokens in it, or reaching into it, are ordinary text */

/* Walk over a text. Zero it, set text, n, specials. */
typedef struct {
    const char *text;
    size_t n;
    bool specials;          /* false: special tokens are passed over, to be ordinary text */
    const own_words_t *own; /* so are those that touch one of these ranges; from left to right */
    int n_own;
    size_t done; /* up to here text is dealt with */
    size_t at;   /* the search goes on here */
} added_walk_t;
/* The next token; the plain text before it is [*from, *begin). NULL at the end; the plain text left over is then [*from, n). */
const added_token_t *added_next(const added_t *a, added_walk_t *w, size_t *from, size_t *begin);

#endif

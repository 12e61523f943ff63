/* A BPE vocabulary in memory: what each id stands for in raw bytes, and which neighbours merge into what.
 *
 *     key bytes --find--> id                 open addressing, keyed by the bytes
 *     (left, right) --merge--> rank, id      open addressing, keyed by the two ids; a lower rank goes first
 *
 * Two ways of writing. Byte-level: files write tokens in the alphabet of alphabet.h, and key and piece are the bytes meant. Textual
 * (SentencePiece's way): tokens are text in which U+2581 stands for a blank; the key is that text, the piece what is shown for it, and
 * characters that are no token fall back to tokens for single bytes, "<0x00>" .. "<0xFF>".
 *
 * Filled by a loader, then read by any number of threads.
 */
#ifndef TEXT_VOCABULARY_H
#define TEXT_VOCABULARY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum { VOCABULARY_IDS_MAX = 1 << 22, VOCABULARY_MERGES_MAX = 1 << 23, TOKEN_BYTES_MAX = 1 << 16, VOCABULARY_BYTES_MAX = 1 << 30 };

#define VOCABULARY_BLANK "\xe2\x96\x81" /* U+2581 */
enum { VOCABULARY_BLANK_N = 3 };

typedef struct {
    uint32_t at, n;
} piece_t; /* in the blob */
typedef struct {
    uint32_t tag;
    int32_t id;
} token_slot_t;
typedef struct {
    uint64_t pair;
    int32_t rank, id;
} merge_slot_t;

typedef struct {
    const char *name; /* of the file, for messages while loading; borrowed */
    int64_t n;        /* ids are 0 .. n-1; some may stand for nothing */
    bool textual;     /* else byte-level */
    bool shows_blank; /* textual: a piece has blanks where its key has U+2581 */
    bool shows_bytes; /* textual: the piece of "<0xHH>" is that byte */
    piece_t *piece;   /* [n] what an id shows */
    piece_t *key;     /* [n] what text must be to become it */
    char *blob;
    size_t blob_n, blob_cap;
    token_slot_t *token; /* [token_mask + 1] */
    uint32_t token_mask;
    merge_slot_t *merge; /* [merge_mask + 1] */
    uint64_t merge_mask;
    int32_t byte_id[256];   /* of the token whose key is this byte; -1: the vocabulary lacks it */
    int32_t spare_id[256];  /* textual: of the token "<0xHH>"; -1: none, or there is no byte fallback */
    bool cuts;              /* textual: no merge reaches over the place between another character and U+2581 */
    int32_t unk;            /* id for a byte (textual: a character) that is lacking; -1: it is dropped, as HF does */
    bool fuse_unk;          /* a run of them is one unk */
    size_t longest;         /* bytes of the longest token that text can become */
    _Atomic uint8_t *whole; /* [n] do the merges lead from its bytes to the token itself? 0 not yet asked, 1 yes, 2 no (bpe.c) */
} vocabulary_t;

/* textual: like->textual, shows_blank and shows_bytes are taken over; NULL: byte-level. */
status_t vocabulary_create(vocabulary_t *v, const vocabulary_t *like, int64_t n_id, int64_t n_merge, const char *name);
void vocabulary_free(vocabulary_t *v); /* takes a zeroed one */

/* id is written so in the file. reachable: text may become this token (false for those that only appear by being named). ST_INPUT for a
 * second meaning of an id, a second id of a reachable token, too long a token. */
status_t vocabulary_set(vocabulary_t *v, int64_t id, const char *written, size_t n, bool reachable);
/* id is shown as the token that is written so; text still becomes it as before. */
status_t vocabulary_show_as(vocabulary_t *v, int32_t id, const char *written, size_t n);
/* After all tokens: the rank-th merge joins `left` and `right` (as written). */
status_t vocabulary_merge(vocabulary_t *v, int64_t rank, const char *left, size_t left_n, const char *right, size_t right_n);
/* The same from "left right". */
status_t vocabulary_merge_line(vocabulary_t *v, int64_t rank, const char *line, size_t n);
/* After all tokens. fallback: also those of "<0xHH>". */
void vocabulary_index_bytes(vocabulary_t *v, bool fallback);
/* Instead of merges: neighbours merge into every token that is both in a row, the one of the highest score first. score[v->n]; ids that
 * are not reachable have any. (scored.c) */
status_t vocabulary_merge_scored(vocabulary_t *v, const double *score);
/* After all merges. */
void vocabulary_find_cuts(vocabulary_t *v);

/* Puts the key of a token that is written so into out (room for n bytes); false when text cannot become it. */
bool vocabulary_key(const vocabulary_t *v, const char *written, size_t n, char *out, size_t *out_n);
/* The byte of "<0xHH>", else -1. */
int vocabulary_byte_of(const char *written, size_t n);
/* Room for n merges, none yet. */
status_t vocabulary_reserve_merges(vocabulary_t *v, int64_t n);
/* A pair given twice has its last rank, as in HF. */
void vocabulary_put_merge(vocabulary_t *v, int64_t rank, int32_t left, int32_t right, int32_t to);

int32_t vocabulary_find(const vocabulary_t *v, const void *bytes, size_t n); /* -1 when no reachable token has these bytes */

static inline const merge_slot_t *vocabulary_pair(const vocabulary_t *v, int32_t left, int32_t right) { /* NULL: they do not merge */
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right, h = pair * 0x9e3779b97f4a7c15u;
    for (uint64_t i = (h ^ h >> 32) & v->merge_mask;; i = (i + 1) & v->merge_mask) {
        const merge_slot_t *s = v->merge + i;
        if (s->pair == pair) return s;
        if (s->pair == UINT64_MAX) return NULL;
    }
}

#endif

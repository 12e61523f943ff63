/* A byte-level BPE vocabulary in memory: what each id stands for in raw bytes, and which neighbours merge into what.
 *
 *     piece bytes --find--> id               open addressing, keyed by the bytes
 *     (left, right) --merge--> rank, id      open addressing, keyed by the two ids; a lower rank goes first
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
    piece_t *piece;   /* [n] */
    char *blob;
    size_t blob_n, blob_cap;
    token_slot_t *token; /* [token_mask + 1] */
    uint32_t token_mask;
    merge_slot_t *merge; /* [merge_mask + 1] */
    uint64_t merge_mask;
    int32_t byte_id[256];   /* -1: the vocabulary lacks this byte */
    int32_t unk;            /* id for a byte that is lacking; -1: it is dropped, as HF does */
    bool fuse_unk;          /* a run of lacking bytes is one unk */
    size_t longest;         /* bytes of the longest token that text can become */
    _Atomic uint8_t *whole; /* [n] do the merges lead from its bytes to the token itself? 0 not yet asked, 1 yes, 2 no (bpe.c) */
} vocabulary_t;

status_t vocabulary_create(vocabulary_t *v, int64_t n_id, int64_t n_merge, const char *name);
void vocabulary_free(vocabulary_t *v); /* takes a zeroed one */

/* id is written so in the file. reachable: text may become this token (false for those that only appear by being named). ST_INPUT for a
 * second meaning of an id, a second id of a reachable token, too long a token. */
status_t vocabulary_set(vocabulary_t *v, int64_t id, const char *written, size_t n, bool reachable);
/* After all tokens: the rank-th merge joins `left` and `right` (as written). */
status_t vocabulary_merge(vocabulary_t *v, int64_t rank, const char *left, size_t left_n, const char *right, size_t right_n);
/* The same from "left right". */
status_t vocabulary_merge_line(vocabulary_t *v, int64_t rank, const char *line, size_t n);
/* After all tokens. */
void vocabulary_index_bytes(vocabulary_t *v);

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

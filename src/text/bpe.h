/* Byte-pair merging of one piece of text: the pair of lowest rank first, the leftmost of equals, until nothing merges. */
#ifndef TEXT_BPE_H
#define TEXT_BPE_H

#include "text/tokenizer.h"
#include "text/vocabulary.h"

typedef struct {
    int32_t id, prev, next;
} symbol_t; /* id -1: swallowed by its left neighbour */
typedef struct {
    uint64_t order;
    int32_t id;
} candidate_t; /* rank << 32 | position of the left symbol; what the two become */

typedef struct { /* buffers of one thread, grown as needed; zero it first */
    int32_t *ids;
    size_t ids_cap;
    symbol_t *symbol;
    size_t symbol_cap;
    candidate_t *heap;
    size_t heap_n, heap_cap;
} bpe_work_t;
void bpe_work_free(bpe_work_t *w);

/* Appends the ids of a piece of n bytes. ignore_merges: a piece that is a token is that token, whatever the merges say. */
status_t bpe_encode(const vocabulary_t *v, bool ignore_merges, bpe_work_t *w, const uint8_t *piece, size_t n, ids_t *out);

#endif

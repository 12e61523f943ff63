/* A round: as many documents as fit a budget of tokens, cut into segments. Rank 0 reads and tokenises; all ranks get the round, and each
 * knows its share. The corpus streams through rounds, so memory is flat in its length.
 */
#ifndef ENCODE_ROUND_H
#define ENCODE_ROUND_H

#include "comm/comm.h"
#include "io/corpus.h"
#include "store/store.h"
#include "text/tokenizer.h"

typedef enum {
    SPLIT_TOKENS,
    SPLIT_LINES,
    SPLIT_PARAGRAPHS
} split_t; /* where a document may be cut: anywhere, after line ends, at blank lines */

typedef struct {
    hash_t address;
    int64_t begin, n; /* its tokens: round.tokens.ids[begin .. begin+n) */
    int64_t before;   /* tokens of its document in front of it */
    int32_t slice;    /* full attention: number within its document (it continues slice-1 of the item before); else 0 */
    int32_t todo;     /* to be encoded now (0: in the store already, or the same segment comes earlier in the round) */
} round_item_t;

typedef struct {
    round_item_t *items;
    int64_t n_item, cap_item;
    ids_t tokens;
    bool last; /* the corpus ends with this round */
    /* rank 0 only */
    store_document_t *docs; /* [n_doc]; segments point into `addresses` after round_read */
    int64_t n_doc, cap_doc;
    hash_t *addresses;
} round_t;

typedef struct {
    const tokenizer_t *tokenizer;
    const store_profile_t *profile;
    int64_t segment, budget; /* tokens */
    split_t split;
    bool chained;       /* full attention: segments are slices of one document */
    bool parse_special; /* special tokens written in the text are honoured */
    int64_t max_id;     /* ids must be below (the model's vocabulary) */
} round_spec_t;

/* Rank 0: reads documents until the budget is full or the corpus ends. Items come out with todo = 1. */
status_t round_read(const round_spec_t *spec, corpus_t *corpus, round_t *r);
/* Rank 0's round to all: items, tokens, last. Collective. */
status_t round_share(comm_t *comm, round_t *r);
void round_clear(round_t *r); /* keeps memory */
void round_free(round_t *r);

/* Length of the next segment of tokens[0..n): at most `segment`, cut where `split` allows if there is such a place in its second half. */
int64_t segment_cut(const tokenizer_t *t, split_t split, int64_t segment, const int32_t *tokens, int64_t n);

#endif

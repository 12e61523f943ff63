/* Agreement of a layout with full attention of the same model on the same text: how far its next-token distributions are off, and how often
 * both name the same likeliest token; over all rows, and by a row's place inside its segment. */
#ifndef EVAL_AGREE_H
#define EVAL_AGREE_H

#include "encode/sequence.h"

enum { AGREE_BINS = 16 }; /* of a segment's length */

typedef struct {
    int64_t n;
    double kl, same, nll_full, nll; /* sums: KL(full || layout) in nats, equal likeliest tokens; of rows with a next token: its -log p */
    int64_t n_next;
} agree_sum_t;

typedef struct {
    agree_sum_t all, bin[AGREE_BINS];
} agree_t;

/* What one row adds: logits x under full attention, y under the layout, [n_vocab] each; `next` < 0: it has no next token. */
agree_sum_t agree_row(const float *x, const float *y, int64_t n_vocab, int32_t next);
void agree_add(agree_sum_t *to, const agree_sum_t *s);
void agree_sum(agree_t *to, const agree_t *a);
/* Adds a window of n tokens. Collective over comm; right on its rank 0. */
status_t agree_window(model_t *m, comm_t *comm, const sequence_spec_t *layout, const int32_t *tokens, int64_t n, agree_t *out);

#endif

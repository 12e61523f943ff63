/* SEL, selective attention: which pieces a query keeps (methods.md section 3). Pure arithmetic on the scores that the attention operator
 * gives.
 *
 * The score of piece g for row t and head h is the sum of its 5 largest attention probabilities (or the mean probability over the piece):
 *     s[g][t][h] = exp(score[g][t][h] - L[t][h]),    score = log sum of exp of the 5 largest logits, or lse_g - log n_g
 * Over the aggregated axes the 5 largest values are summed; then the K best pieces stay, ties going to the earlier piece.
 */
#ifndef QUERY_SELECT_H
#define QUERY_SELECT_H

#include <stdint.h>

#include "base/status.h"

typedef enum { AGG_NONE, AGG_HEAD, AGG_TOKEN, AGG_BOTH } aggregate_t;
enum { SELECT_TOP = 5 };

/* log sum exp of n logits; -inf for n = 0 or all -inf. In order, in double, so the same everywhere. */
float select_log_sum(const float *logits, int n);

/* Of pieces 0..n_piece-1 keeps the `k` best for the rows row0 .. row0+n-1 (one query's block of rows), writing 0 or 1 to keep.
 * score and keep: [n_piece][n_row][n_head]; log_total (L): [n_row][n_head]. scratch: 2 * n_piece floats or more. */
void select_pieces(aggregate_t agg, int64_t k, int64_t n_piece, int64_t n_row, int n_head, int64_t row0, int64_t n, const float *score,
                   const float *log_total, uint8_t *keep, float *scratch);

#endif

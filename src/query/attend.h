/* Attention of query rows over a distributed context: the attend hook of a forward pass (model.h).
 *
 * Per layer:  base block (sink and own rows, on every rank)  +  this rank's segments, one block each      [attention operator]
 *             -> SEL: scores of all segments to all ranks, the same choice everywhere                      [select.h]
 *             -> merge inside each group, group results to all ranks, merge of base and groups in order    [merge operator]
 * Every rank ends with the same o. Statistics: attention mass per segment and the entropy of the final weights.
 */
#ifndef QUERY_ATTEND_H
#define QUERY_ATTEND_H

#include "layout/layout.h"
#include "model/model.h"
#include "query/context.h"
#include "query/select.h"

typedef struct {
    int64_t select; /* K of SEL; 0: off */
    aggregate_t aggregate;
    bool by_mean;   /* score = mean over the piece instead of the 5 largest */
    bool fetch_raw; /* two-level answers: pieces are chosen by the rows in their pools (gists), then their raw rows are attended instead */
    /* Neighbours (methods.md section 8). own_log_p: ln P is added to the logits of the query's own rows (P: segments attended to).
     * temperature T > 0: the context's logits are divided by T, and all of it together weighs exp(scale * T * L_C), L_C = log sum exp of
     * those; 0: off. */
    bool own_log_p;
    double temperature, scale;
    /* Edits (edits.h): the context's softmax, at `temperature` and with ctx->zero as one more entry, is its own, and its result is added to
     * the rows' own. Pools begin at model layer first_layer; in those below there is nothing. Entropy is then that of the rows' own. */
    bool apart;
    int first_layer;
    bool want_mass, want_entropy;
    bool by_rule; /* the reference switch of layout/rule.h */
} attend_spec_t;

/* The rows of one query inside a forward pass, and what is summed up for it. */
typedef struct {
    int64_t row, n;  /* its rows in the pass */
    kv_pool_t own;   /* its own K/V rows */
    int64_t index;   /* index of its first row in own */
    double *mass;    /* [n_local], added to: attention mass of each local segment, summed over layers, heads and rows; NULL: not wanted */
    double edits;    /* out: of the edits' softmax, what did not go to entry 0; mean over upper layers, heads and rows of this pass */
    double entropy;  /* out: mean over layers, heads and rows of this pass */
    double *by_head; /* [n_layer][n_head], added to: entropy summed over rows (with want_entropy); NULL: not wanted */
} attend_query_t;

typedef struct attend attend_t;

status_t attend_create(model_t *m, comm_t *comm, const context_kv_t *ctx, const attend_spec_t *spec, int64_t max_row, int max_query,
                       attend_t **out);
void attend_free(attend_t *a);
/* One pass over n queries whose rows lie one after the other from row 0; tokens and positions [n_row]; logits for out_rows as in batch_t.
 * Collective. */
status_t attend_forward(attend_t *a, forward_ws_t *ws, attend_query_t *queries, int n_query, const int32_t *tokens, const double *positions,
                        int64_t n_out, const int64_t *out_rows, float *logits);
/* Bytes of work space for plan. */
size_t attend_bytes(const model_config_t *c, int64_t n_segment, int64_t n_local, const attend_spec_t *spec, int64_t max_row);

#endif

/* Perplexity and attention entropy of parallel context encoding (methods.md section 3).
 *
 * A window of W tokens: the last `score` are scored, one more is kept with the query, the rest is cut into P pieces of ceil((W - score - 1)
 * / P). Every full window of every document counts. Windows are dealt over the ranks; sums run in window order, so figures do not depend on
 * the number of ranks.
 *
 * With a layout of gists the pieces leave gists to the query (or raw rows, as kept says); under blockselect their most important rows.
 */
#ifndef EVAL_PPL_H
#define EVAL_PPL_H

#include "comm/comm.h"
#include "encode/kept.h"
#include "eval/agree.h"
#include "layout/layout.h"
#include "model/model.h"
#include "query/attend.h"

enum { PPL_BINS = 16 };

typedef struct {
    layout_method_t layout;
    kept_t kept;
    const int32_t *repeat; /* [n_repeat] prompt of SCORE_RECONSTRUCT */
    int64_t n_repeat;
    int64_t window, score;
    const int32_t *sink; /* [n_sink] prefix rows: BOS (when asked for) and the sink's text */
    int64_t n_sink;
    align_t align;
    reserve_t reserve;
    attend_spec_t attend;
    int64_t max_row; /* rows per forward pass */
    bool progress;
    bool agree;       /* the scored rows against full attention over the whole window, without a sink */
    bool by_position; /* the loss by place inside a piece, and inside the scored rows */
    bool by_head;     /* the entropy of each layer and head */
    rows_fn rows;     /* takes the logits of the scored rows, counted from the first of a window; NULL: none */
    void *rows_ctx;
} ppl_spec_t;

typedef struct {
    int64_t pieces, n_window, n_token; /* n_token: scored */
    double nll;                        /* sum over scored tokens, nats */
    double ppl;                        /* exp(nll / n_token) */
    double entropy;                    /* nats, mean over query rows and heads, layers, windows; NaN under streaming */
    double seconds;                    /* rank 0's, without what agree and by_position take */
    int64_t kv_bytes;                  /* K/V that a query sees of a window's context, the sink included */
    int64_t move_bytes; /* K/V of other pieces that pieces see while they are encoded: what would cross the wire, were each on a rank of its
                           own */
    agree_sum_t agree;  /* with spec.agree */
    struct {
        int64_t n;
        double nll;
    } context[PPL_BINS], scored[PPL_BINS]; /* with spec.by_position */
    double *by_head;                       /* with spec.by_head, on rank 0: [n_layer][n_head]; mem_free */
} ppl_row_t;

/* tokens: window after window, n_window * window ids, the same on all ranks. Collective; the row is right on rank 0. */
status_t ppl_run(model_t *m, comm_t *comm, const ppl_spec_t *spec, const int32_t *tokens, int64_t n_window, int64_t pieces, ppl_row_t *row);

#endif

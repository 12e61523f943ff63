/* Segments in, K/V out: the part of encoding that knows nothing of corpora, stores or ranks.
 *
 * The sink prefix is encoded once, by rank 0, and handed to the others; segments are then encoded in any batches, each behind the sink and
 * blind to the others. Rows of several segments share a forward pass up to max_row rows; a longer segment goes through in chunks. Neither
 * changes a bit of the result.
 */
#ifndef ENCODE_ENCODER_H
#define ENCODE_ENCODER_H

#include "comm/comm.h"
#include "layout/gist.h"
#include "layout/layout.h"
#include "model/kv.h"
#include "model/model.h"

typedef struct encoder encoder_t;

/* What a gist row's input is without an adapter. */
typedef enum { GIST_MEAN, GIST_UNIT, GIST_TOKEN } gist_init_t; /* mean of all embeddings; of its unit's raw tokens; a token's */

typedef struct {
    const int32_t *sink; /* [n_sink]; copied */
    int64_t n_sink;
    align_t align;
    int64_t reserve;  /* positions that the segments' common range holds (ALIGN_EVEN, ALIGN_RIGHT) */
    int64_t max_row;  /* rows per forward pass */
    gist_spec_t gist; /* ratio 0: no gists. max_row must be at least ratio + 1 */
    gist_init_t gist_init;
    int32_t gist_token; /* GIST_TOKEN */
    bool by_rule;       /* the reference switch of layout/rule.h */
} encoder_spec_t;

typedef struct {
    const int32_t *tokens; /* [n] */
    int64_t n;
    int64_t before; /* raw tokens in earlier pieces (ALIGN_SEQUENTIAL), or of the chain */
    const kv_pool_t
        *chain; /* [n_chain] K/V of the slices that this one continues, all visible (full attention over a sliced document); NULL: none */
    int n_chain;
    kv_pool_t pool;      /* n_row >= n rows of the backend's act type, in backend memory: where K/V of the raw rows go */
    kv_pool_t gist_pool; /* the same for its gist_count(n) gists */
} piece_t;

/* Collective over comm. */
status_t encoder_create(model_t *m, comm_t *comm, const encoder_spec_t *spec, encoder_t **out);
void encoder_free(encoder_t *e);
const kv_pool_t *encoder_sink(const encoder_t *e); /* n_row = n_sink; lives as long as e */
forward_ws_t *encoder_workspace(encoder_t *e);     /* to be used between encodings */
status_t encoder_run(encoder_t *e, const piece_t *pieces, int n_piece);

/* Bytes that encoder_create takes, for plan. */
size_t encoder_bytes(const model_config_t *c, dtype_t act, const encoder_spec_t *spec);

#endif

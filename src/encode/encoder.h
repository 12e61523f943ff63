/* Segments in, K/V out: the part of encoding that knows nothing of corpora, stores or ranks.
 *
 * The sink prefix is encoded once, by rank 0, and handed to the others; segments are then encoded in any batches, each behind the sink and
 * blind to the others. Rows of several segments share a forward pass up to max_row rows; a longer segment goes through in chunks. Neither
 * changes a bit of the result.
 *
 * The sink prefix is `n_blank` rows without text, then the rows of the sink's tokens.
 */
#ifndef ENCODE_ENCODER_H
#define ENCODE_ENCODER_H

#include "comm/comm.h"
#include "layout/gist.h"
#include "layout/layout.h"
#include "model/kv.h"
#include "model/model.h"

typedef struct encoder encoder_t;

/* What a gist row's input is without an adapter: the mean of all embeddings; that of its unit's raw tokens'; a token's. With one: the
 * adapter's. Sink rows without text begin as the adapter's, as the token, else as the mean of all. */
typedef enum { GIST_MEAN, GIST_UNIT, GIST_TOKEN, GIST_ADAPTER } gist_init_t;

/* Takes the logits [n][n_vocab] of rows `at` .. at+n-1 of the whole sequence. Rows come in no particular order. */
typedef status_t (*rows_fn)(void *ctx, int64_t at, int64_t n, const float *logits);

/* A pass has been asked for: K/V of so many raw rows of the piece, and gists, will be there behind it. */
typedef status_t (*piece_fn)(void *ctx, int64_t raw, int64_t gists);

typedef struct {
    const int32_t *sink; /* [n_sink]; copied */
    int64_t n_sink, n_blank;
    align_t align;
    int64_t reserve;  /* positions that the segments' common range holds (ALIGN_EVEN, ALIGN_RIGHT) */
    int64_t max_row;  /* rows per forward pass */
    gist_spec_t gist; /* ratio 0: no gists. max_row must be at least ratio + 1 */
    gist_init_t gist_init;
    int32_t gist_token; /* GIST_TOKEN */
    bool recurrent;     /* the gists' hidden states are kept, for encoder_remember */
    bool compact;       /* every row of a segment, gists too, takes a position of its own behind the gists of the chain */
    int64_t window; /* rows of its segment that a row sees, itself included, in place of the model's own sliding window; 0: the model's */
    bool in_cache;  /* positions are those in a cache of the sink and that window: the sink stays near, however long the text */
    bool evict;     /* raw rows that left the window are freed: pieces bring no pool for them, but may one for the last */
    bool sharded;   /* documents go over all ranks (encode/sharded.h): every rank gives `rows`, rank 0's is called */
    bool by_rule;   /* the reference switch of layout/rule.h */
    rows_fn rows;   /* logits wanted, by rank 0; NULL: none */
    void *rows_ctx;
    bool all_rows; /* of the sink and of gists too; else rows are counted over raw rows alone */
} encoder_spec_t;

typedef struct {
    const int32_t *tokens; /* [n] */
    int64_t n;
    int64_t before; /* raw tokens in earlier pieces (ALIGN_SEQUENTIAL), or of the chain */
    const kv_pool_t
        *chain; /* [n_chain] K/V of the slices that this one continues, all visible (full attention over a sliced document); NULL: none */
    int n_chain;
    kv_pool_t pool;      /* n_row >= n rows of the backend's act type, in backend memory: where K/V of the raw rows go. With evict: of the
                            last encoder_tail rows, or n_row = 0 */
    kv_pool_t gist_pool; /* the same for its gist_count(n) gists */
    int64_t at;          /* its first row's number, for the spec's `rows` */
    int64_t unwanted;    /* so many of its raw rows are not wanted by `rows` */
    piece_fn after;      /* called behind a pass; NULL: nobody */
    void *after_ctx;
} piece_t;

/* Collective over comm. */
status_t encoder_create(model_t *m, comm_t *comm, const encoder_spec_t *spec, encoder_t **out);
void encoder_free(encoder_t *e);
const kv_pool_t *encoder_sink(const encoder_t *e); /* n_row = n_blank + n_sink; lives as long as e */
forward_ws_t *encoder_workspace(encoder_t *e);     /* to be used between encodings */
status_t encoder_run(encoder_t *e, const piece_t *pieces, int n_piece);
/* Goes on with the piece that was run last: it has become longer, and its first `raw` raw rows, and the gists of whole units among them,
 * have gone through. Gists must be spaced. */
status_t encoder_more(encoder_t *e, const piece_t *p, int64_t raw);
/* Coarse-Rec: the hidden states of the gists of the piece that was run last, once more through the model as rows that later segments see:
 * behind the sink and the piece's chain, each seeing those before it. Their K/V take the places of the gists' in the piece's gist pool. */
status_t encoder_remember(encoder_t *e, const piece_t *p);
/* From now on pieces bring pools in host memory (kv_alloc_host), and the device holds two layers of what a pass sees: for K/V that are
 * larger than it. The same bits. Not with in_cache; documents that ranks share have a way of their own (sharded.h). */
status_t encoder_spill(encoder_t *e, bool on);
size_t encoder_spilled(const encoder_t *e); /* bytes of the device that it holds for that */
/* For what is asked of a segment between encodings (score.h): a pass over pools that lie where pieces' pools do, the sink among them, and
 * pools there. */
status_t encoder_forward(encoder_t *e, batch_t b);
const kv_pool_t *encoder_sink_seen(const encoder_t *e);
status_t encoder_pool(encoder_t *e, int64_t n_row, const char *what, kv_pool_t *out);
void encoder_pool_free(encoder_t *e, kv_pool_t *p);
/* Raw rows that a row right behind n raw rows would still see of them. */
static inline int64_t encoder_tail(const gist_spec_t *g, int64_t n) { return n - gist_oldest(g, n); }

/* Pages of raw rows that a pass and its window can touch, with evict. */
enum { PAGE_ROWS = 256 };
int64_t encoder_pages(const encoder_spec_t *spec);
/* Bytes that encoder_create takes, for plan; without the pages. */
size_t encoder_bytes(const model_config_t *c, dtype_t act, const encoder_spec_t *spec);

#endif

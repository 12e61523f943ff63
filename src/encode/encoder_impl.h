/* Inside of encoder_t, for its own files only: encoder.c runs pieces, pass.c puts passes together, inputs.c makes rows without tokens. */
#ifndef ENCODE_ENCODER_IMPL_H
#define ENCODE_ENCODER_IMPL_H

#include "encode/encoder.h"
#include "encode/spill.h"
#include "layout/rule.h"

enum { SINK_POOL = 0, FIRST_POOL = 1 };
/* Raw rows are evicted page by page. The size decides where long ranges are cut, so it changes bits; passes of any size do not. */

struct encoder {
    model_t *model;
    backend_t *be;
    const model_config_t *config;
    encoder_spec_t spec;
    int64_t n_sink;    /* rows of the sink prefix: blank ones, then tokens */
    int64_t shard_row; /* rows of a step of a shared document: the fewest that a rank's pass takes, since the plan must be one */
    int32_t *sink;     /* [spec.n_sink] */
    kv_pool_t sink_pool;
    forward_ws_t *ws;
    /* the pass being put together */
    layout_t layout;
    int32_t *tokens;     /* [max_row] */
    double *positions;   /* [max_row] */
    kv_pool_t *pools;    /* [cap_pool]: the sink's and those of the pass's pieces */
    rule_pool_t *places; /* [cap_pool] where the pools stand, for the reference switch */
    int n_pool, cap_pool;
    int32_t *shared; /* pools and sizes that a segment sees whole: the sink and its chain */
    int64_t *shared_rows;
    int cap_shared;
    /* inputs of rows without tokens */
    float *mean, *unit; /* [d_model] the mean of all embeddings; [][d_model] embeddings to work with */
    float *input;       /* [max_row][d_model] inputs of the pass's gist rows */
    given_t *given;     /* [max_row] stretches of them */
    int n_given;
    gist_rows_t *gists; /* [max_row] stretches of gist rows of the pass */
    int n_gist;
    /* the gists' hidden states, by gist of the piece; those of the pass at hand are rows hidden_rows[0..n_hidden) */
    float *memory;
    int64_t cap_memory, first_hidden, n_hidden;
    int64_t *hidden_rows; /* [max_row] */
    /* logits */
    int64_t *out_rows, *out_at; /* [max_row] rows of the pass whose logits are wanted, and their numbers */
    int64_t n_out;
    float *logits; /* [max_row][n_vocab] */
    /* the sink as each row of the pass finds it (cache.c) */
    kv_pool_t near;
    void *near_host; /* one head's rows of it */
    /* eviction */
    kv_pool_t *pages; /* [n_page] page P of the piece is pages[P % n_page] */
    int32_t *page_pools;
    int64_t n_page;
    /* K/V in host memory, two layers at a time on the device */
    bool spilling;
    spill_t spill;
    kv_pool_t sink_host;         /* the sink's rows, as passes then see them */
    status_t (*mark)(void *ctx); /* NULL: nobody watches */
    void *mark_ctx;
};

/* pass.c: rows join the pass, and it is run. */
status_t pass_add(encoder_t *e, const piece_t *p, int64_t number, int64_t raw, int64_t raw_n, int64_t gist, int64_t gist_n);
status_t pass_run(encoder_t *e);
void pass_begin(encoder_t *e);
status_t pass_add_memory(encoder_t *e, const piece_t *p, int64_t from, int64_t n);
void pass_want(encoder_t *e, int64_t row, int64_t at); /* the logits of a row of the pass, as row `at` of the sequence */
status_t pass_emit(encoder_t *e, const int64_t *at, int64_t n_out, const float *logits); /* to the spec's `rows` */

/* inputs.c */
status_t inputs_setup(encoder_t *e);
status_t inputs_blank(encoder_t *e, int64_t row, int64_t at, int64_t n); /* sink rows at .. of those without text */
/* Inputs of gists from .. from+n-1 of a piece, whose rows in the pass begin at `row`. */
status_t inputs_gist(encoder_t *e, const piece_t *p, int64_t row, int64_t from, int64_t n);

/* cache.c: the sink's rows once for each row of the pass, keys moved to its cache's positions; span_near is what a row sees of them. */
status_t near_setup(encoder_t *e);
status_t near_fill(encoder_t *e, int64_t raw, int64_t raw_n);
span_t near_span(const encoder_t *e, int32_t pool, int64_t raw, int64_t raw_n);
static inline int64_t encoder_window(const encoder_t *e) { return e->spec.window > 0 ? e->spec.window : e->config->window; }

/* pages.c */
status_t pages_setup(encoder_t *e);
void pages_free(encoder_t *e);
/* The last rows of a piece, out of their pages into its pool. */
status_t pages_tail(encoder_t *e, const piece_t *p);

#endif

/* Inside of attend_t, for its own files only: attend.c runs a layer, choose.c selects segments, share.c brings ranks' groups
 * together, reweigh.c changes the weight of whole blocks before they are merged.
 */
#ifndef QUERY_ATTEND_IMPL_H
#define QUERY_ATTEND_IMPL_H

#include "query/attend.h"

enum { SINK_POOL = 0 };

typedef struct {
    float *o, *lse, *m, *top;
} partial_t; /* [B] */

struct attend {
    model_t *model;
    backend_t *be;
    const model_config_t *config;
    comm_t *comm;
    const context_kv_t *ctx;
    attend_spec_t spec;
    int64_t max_row, n_hold;
    int max_query;
    partial_t part, sums;
    uint8_t *keep_dev;              /* [B] [n_local][rows][heads] */
    uint8_t *keep;                  /* [n_segment][rows][heads] */
    float *score, *score_all;       /* [n_local], [n_segment] x [2][rows][heads]: score and lse */
    float *lse_local;               /* [n_local][rows][heads] */
    float *total, *total_m;         /* [rows][heads]: L and m of the merged rows */
    float *total_dev, *total_m_dev; /* [B] */
    float *scratch;                 /* [2 * n_segment] */
    char *wire_send, *wire_recv;
    int64_t *bytes_each;
    layout_t base, segments;
    int n_base;       /* slots of `sums` in front of the groups': 1, or 2 where the query's own rows are apart from the sink */
    float *shift;     /* [rows][heads] what reweighing adds to the groups' logits */
    float *sum[2];    /* [rows][heads][d_head] what apart.c adds up on the host */
    float *slots;     /* [n_group + 2][rows][heads] lse or m of slots on the host */
    kv_pool_t *pools; /* [1 + max_query] for the base, then [n_hold] for segments */
    /* the pass at hand */
    attend_query_t *queries;
    int n_query;
    int64_t n_row;
};

/* Partial results of a block: one for each row and head. */
static inline int64_t plane(const attend_t *a) { return a->n_row * a->config->n_head; }

/* apart.c: how a layer goes where the context has a softmax of its own. */
status_t apart_layer(attend_t *a, int layer, const void *q, void *o);
/* attend.c: sink and own rows into the first slots of `sums`; this rank's segments into their groups' slots. */
status_t base_attention(attend_t *a, int layer, const void *q);
status_t groups_attention(attend_t *a, int layer, const void *q);
attn_args_t attention_args(const attend_t *a, int layer, const void *q);
void sum_entropy(attend_t *a, int layer);
/* choose.c: which segments each row and head keeps, from the partial results of all; of those the raw rows instead, each at its owner. */
status_t choose_segments(attend_t *a);
status_t fetch_raw(attend_t *a, int layer, const void *q);
/* share.c: the groups' slots of all ranks to all. */
status_t share_groups(attend_t *a);
/* reweigh.c, before the last merge: structured prompting's ln P on the own rows (slot 1 of `sums`), APE's scale on all groups together. */
status_t reweigh(attend_t *a);
/* What structured prompting adds to the logits of own rows: ln P, P being the segments that a row attends to. */
float own_shift(const attend_t *a);

#endif

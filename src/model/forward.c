/* The decoder block: rows go in as token ids and positions; their K/V come out in pools, and the logits of some of them.
 *
 *   x = embed(tokens)                                          the residual stream, f32
 *   each layer:  x += o(attention(rotate(qkv(norm(x)))))       K/V of the rows are put into their pools before attention reads them
 *                x += down(silu(gate(norm(x))) * up(norm(x)))
 *   logits = head(norm(x[out_rows]))                           in chunks, so that the work space stays small
 *
 * Everything else about a method (who sees whom, where K/V live) is in the batch's runs and spans; a distributed context takes attention
 * over by `attend`. One work space, made once:   [ x | h | wide | q | gated | cos_sin | logits ]
 */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "model/model_impl.h"
#include "model/rope.h"

enum { LOGIT_ROWS = 64, WS_ALIGN = 256 };

struct forward_ws {
    model_t *m;
    int64_t max_row;
    void *memory;   /* [B] */
    float *x;       /* [B] [max_row][d_model] the residual stream */
    void *h;        /* [B] act [max_row][..]: what feeds the next matrix: a normed row, or attention's result */
    float *wide;    /* [B] [max_row][..]: q, k and v before they are rotated, or gate and up; rows picked for logits */
    void *q;        /* [B] act [max_row][n_head * d_head] */
    void *gated;    /* [B] act [max_row][d_ff] silu(gate) * up */
    float *cos_sin; /* [B] [max_row][d_rot] */
    float *logits;  /* [B] [LOGIT_ROWS][n_vocab] */
    float *low;     /* [B] [max_row][low_rank] between an adapter's factors, NULL: there are none */
    void *low_act;  /* [B] act, the same as activations */
    bool borrows;   /* all but x, q and cos_sin is another's */
};

/* ---- work space ----------------------------------------------------------------------------------------------- */
typedef struct {
    size_t x, h, wide, q, gated, cos_sin, logits, total;
} ws_plan_t; /* offsets, then sizes */

static int64_t qkv_width(const model_config_t *c) { return (c->n_head + 2 * c->n_kv_head) * c->d_head; }

static size_t take(size_t *at, int64_t n, int64_t width, size_t size) {
    size_t here = *at;
    *at += size_round_up((size_t)n * (size_t)width * size, WS_ALIGN);
    return here;
}

static ws_plan_t ws_plan(const model_config_t *c, dtype_t act, int64_t n) {
    ws_plan_t p = {0};
    int64_t d_q = c->n_head * c->d_head;
    p.x = take(&p.total, n, c->d_model, sizeof(float));
    p.h = take(&p.total, n, i64_max(c->d_model, d_q), dtype_bytes(act));
    p.wide = take(&p.total, n, i64_max(i64_max(qkv_width(c), 2 * c->d_ff), c->d_model), sizeof(float));
    p.q = take(&p.total, n, d_q, dtype_bytes(act));
    p.gated = take(&p.total, n, c->d_ff, dtype_bytes(act));
    p.cos_sin = take(&p.total, n, c->d_rot, sizeof(float));
    p.logits = take(&p.total, i64_min(n, LOGIT_ROWS), c->n_vocab, sizeof(float));
    return p;
}

size_t forward_ws_bytes(const model_config_t *c, dtype_t act, int64_t max_row) { return ws_plan(c, act, max_row).total; }

/* Room between an adapter's factors. In f32 the two are one. */
static status_t low_create(forward_ws_t *ws) {
    backend_t *be = ws->m->be;
    size_t n = (size_t)(ws->max_row * ws->m->low_rank);
    if (!n) return ST_OK;
    status_t st = be->ops->alloc(be, n * sizeof(float), "low-rank rows", &ws->low);
    ws->low_act = ws->low;
    if (st || be->act == DT_F32) return st;
    ws->low_act = NULL;
    return be->ops->alloc(be, n * dtype_bytes(be->act), "low-rank rows", &ws->low_act);
}

status_t forward_ws_create(model_t *m, int64_t max_row, forward_ws_t **out) {
    forward_ws_t *ws = NULL;
    ws_plan_t p = ws_plan(&m->config, m->be->act, max_row);
    char *at;
    *out = NULL;
    status_t st = mem_zalloc(&ws, 1, sizeof *ws, "a work space");
    if (st) return st;
    *ws = (forward_ws_t){.m = m, .max_row = max_row};
    if ((st = m->be->ops->alloc(m->be, p.total, "the work space of a forward pass", &ws->memory))) goto out;
    at = ws->memory;
    ws->x = (void *)(at + p.x);
    ws->h = at + p.h;
    ws->wide = (void *)(at + p.wide);
    ws->q = at + p.q;
    ws->gated = at + p.gated;
    ws->cos_sin = (void *)(at + p.cos_sin);
    ws->logits = (void *)(at + p.logits);
    if ((st = low_create(ws))) goto out;
    *out = ws;
out:
    if (st) forward_ws_free(ws);
    return st;
}

size_t forward_ws_rows_bytes(const model_config_t *c, dtype_t act, int64_t n_row) {
    size_t total = 0;
    take(&total, n_row, c->d_model, sizeof(float));
    take(&total, n_row, c->n_head * c->d_head, dtype_bytes(act));
    take(&total, n_row, c->d_rot, sizeof(float));
    return total;
}

status_t forward_ws_rows(forward_ws_t *of, int64_t n_row, forward_ws_t **out) {
    const model_config_t *c = &of->m->config;
    backend_t *be = of->m->be;
    forward_ws_t *ws = NULL;
    size_t at = 0;
    assert(n_row <= of->max_row);
    *out = NULL;
    status_t st = mem_zalloc(&ws, 1, sizeof *ws, "rows under way");
    if (st) return st;
    *ws = *of;
    ws->borrows = true;
    ws->max_row = n_row;
    if ((st = be->ops->alloc(be, forward_ws_rows_bytes(c, be->act, n_row), "rows under way", &ws->memory))) {
        mem_free(ws);
        return st;
    }
    ws->x = (void *)((char *)ws->memory + take(&at, n_row, c->d_model, sizeof(float)));
    ws->q = (char *)ws->memory + take(&at, n_row, c->n_head * c->d_head, dtype_bytes(be->act));
    ws->cos_sin = (void *)((char *)ws->memory + take(&at, n_row, c->d_rot, sizeof(float)));
    *out = ws;
    return ST_OK;
}

void forward_ws_free(forward_ws_t *ws) {
    if (!ws) return;
    ws->m->be->ops->free(ws->m->be, ws->memory);
    if (!ws->borrows) {
        if (ws->low_act != ws->low) ws->m->be->ops->free(ws->m->be, ws->low_act);
        ws->m->be->ops->free(ws->m->be, ws->low);
    }
    mem_free(ws);
}

/* Where a layer's rows are in the pools of the batch. */
static int pool_layer(const batch_t *b, int layer) { return b->layer_ring ? layer % b->layer_ring : layer; }

/* ---- the steps ------------------------------------------------------------------------------------------------- */
static status_t beyond_limit(const model_t *m, int64_t position, int64_t limit) {
    return status_fail(
        ST_INPUT,
        "%s: position %lld, but %s rope scaling was set for positions below %lld, and longer text turns every earlier key by "
        "other frequencies; give --rope-length for the positions that the whole run takes, or use shorter segments and prompts",
        m->file->path, (long long)position, rope_scaling_name(m->config.rope_scaling), (long long)limit);
}

/* Rows that are alike become twice as many with each copy, and the host waits for none. */
static status_t given_in(forward_ws_t *ws, const given_t *g) {
    backend_t *be = ws->m->be;
    size_t row = (size_t)ws->m->config.d_model * sizeof(float);
    float *to = ws->x + g->row * ws->m->config.d_model;
    status_t st = be->ops->copy_in(be, to, g->input, (g->alike ? 1 : (size_t)g->n) * row);
    for (int64_t have = 1, more; g->alike && have < g->n && !st; have += more) {
        more = i64_min(have, g->n - have);
        st = be->ops->copy_rows(be, (char *)to + (size_t)have * row, row, to, row, row, more);
    }
    return st;
}

static status_t rows_in(forward_ws_t *ws, const batch_t *b) {
    const model_t *m = ws->m;
    int64_t d_rot = m->config.d_rot;
    for (int64_t t = 0; t < b->n_row; t++)
        if (b->tokens[t] < 0 || b->tokens[t] >= m->config.n_vocab)
            return status_fail(ST_INPUT,
                               "token id %d of row %lld is outside the model's vocabulary of %lld; use ids of this model's tokenizer",
                               b->tokens[t], (long long)t, (long long)m->config.n_vocab);
    for (int64_t t = 0, limit = rope_limit(&m->config); limit && t < b->n_row; t++)
        if (b->positions[t] >= (double)limit) return beyond_limit(m, (int64_t)b->positions[t], limit);
    status_t st = m->be->ops->rope(m->be, b->n_row, d_rot, b->positions, m->inv_freq, m->config.rope_attention, ws->cos_sin);
    if (!st) st = m->be->ops->embed(m->be, b->n_row, m->config.d_model, b->tokens, m->be->act, m->embed, ws->x);
    for (int i = 0; i < b->n_given && !st; i++) st = given_in(ws, &b->given[i]);
    return st;
}

/* What gist rows have of their own in one of the layer's matrices: x, which the matrix took, adds to y, which it gave, or takes its place.
 */
static status_t gists_own(forward_ws_t *ws, const batch_t *b, int layer, group_t g, const void *x, float *y) {
    backend_t *be = ws->m->be;
    const backend_ops_t *op = be->ops;
    const layer_t *w = &ws->m->layers[layer];
    const linear_t *own = g == GROUP_QKV ? w->gist_qkv : NULL, *low = w->low[g].a;
    status_t st = ST_OK;
    for (int i = 0; i < b->n_gist && !st && (own || low); i++) {
        const gist_rows_t *s = &b->gists[i];
        linear_shape_t in = linear_shape(own ? own : low), out = linear_shape(own ? own : w->low[g].b);
        const char *from = (const char *)x + (size_t)(s->row * in.n_in) * dtype_bytes(be->act);
        float *to = y + s->row * out.n_out;
        if (own) st = op->linear(be, own, s->n, from, to, false);
        if (!low) continue;
        if (!st) st = op->linear(be, low, s->n, from, ws->low, false);
        if (!st && ws->low_act != ws->low)
            st = op->convert(be, (size_t)(s->n * linear_shape(low).n_out), be->act, ws->low_act, DT_F32, ws->low);
        if (!st) st = op->linear(be, w->low[g].b, s->n, ws->low_act, to, true);
    }
    return st;
}

/* h -> q, and K/V into the pools */
static status_t project(forward_ws_t *ws, const batch_t *b, int layer) {
    const model_t *m = ws->m;
    const model_config_t *c = &m->config;
    const layer_t *y = &m->layers[layer];
    qkv_args_t a = {.layer = pool_layer(b, layer),
                    .n_row = b->n_row,
                    .n_head = (int)c->n_head,
                    .n_kv_head = (int)c->n_kv_head,
                    .d_head = (int)c->d_head,
                    .d_rot = (int)c->d_rot,
                    .bias = y->qkv_bias,
                    .q_norm = y->q_norm,
                    .k_norm = y->k_norm,
                    .norm_eps = (float)c->norm_eps,
                    .cos_sin = ws->cos_sin,
                    .q = ws->q,
                    .n_pool = b->n_pool,
                    .n_run = b->n_run,
                    .pools = b->pools,
                    .runs = b->runs};
    if (!y->gist_qkv && !y->low[GROUP_QKV].a) return m->be->ops->linear_qkv(m->be, y->qkv, ws->h, ws->wide, &a);
    status_t st = m->be->ops->linear(m->be, y->qkv, b->n_row, ws->h, ws->wide, false);
    if (!st) st = gists_own(ws, b, layer, GROUP_QKV, ws->h, ws->wide);
    a.qkv = ws->wide;
    return st ? st : m->be->ops->qkv(m->be, &a);
}

status_t forward_attention(model_t *m, const batch_t *b, int layer, const void *q, void *o, float *lse) {
    const model_config_t *c = &m->config;
    attn_args_t a = {.layer = pool_layer(b, layer),
                     .n_head = (int)c->n_head,
                     .n_kv_head = (int)c->n_kv_head,
                     .d_head = (int)c->d_head,
                     .scale = (float)(1 / sqrt((double)c->d_head)),
                     .n_row = b->n_row,
                     .q = q,
                     .n_pool = b->n_pool,
                     .n_run = b->n_run,
                     .n_span = b->n_span,
                     .n_block = 1,
                     .pools = b->pools,
                     .runs = b->runs,
                     .spans = b->spans,
                     .o_type = m->be->act,
                     .o = o,
                     .lse = lse};
    return m->be->ops->attention(m->be, &a);
}

/* q -> h */
static status_t attend(forward_ws_t *ws, const batch_t *b, int layer) {
    if (b->attend) return b->attend(b->attend_ctx, b, layer, ws->q, ws->h);
    return forward_attention(ws->m, b, layer, ws->q, ws->h, NULL);
}

status_t forward_keys(forward_ws_t *ws, const batch_t *b, int layer) {
    const model_t *m = ws->m;
    const backend_ops_t *op = m->be->ops;
    const layer_t *y = &m->layers[layer];
    status_t st;
    if ((st = op->rmsnorm(m->be, b->n_row, m->config.d_model, ws->x, y->attn_norm, (float)m->config.norm_eps, ws->h))) return st;
    return project(ws, b, layer);
}

/* h -> gated */
static status_t feed(forward_ws_t *ws, const batch_t *b, int layer) {
    backend_t *be = ws->m->be;
    const layer_t *y = &ws->m->layers[layer];
    if (!y->low[GROUP_GATE_UP].a) return be->ops->linear_glu(be, y->gate_up, b->n_row, ws->h, ws->wide, ws->gated);
    status_t st = be->ops->linear(be, y->gate_up, b->n_row, ws->h, ws->wide, false);
    if (!st) st = gists_own(ws, b, layer, GROUP_GATE_UP, ws->h, ws->wide);
    return st ? st : be->ops->silu_mul(be, b->n_row, ws->m->config.d_ff, ws->wide, ws->gated);
}

status_t forward_rest(forward_ws_t *ws, const batch_t *b, int layer) {
    const model_t *m = ws->m;
    backend_t *be = m->be;
    const backend_ops_t *op = be->ops;
    const layer_t *y = &m->layers[layer];
    int64_t n = b->n_row, d = m->config.d_model;
    float eps = (float)m->config.norm_eps;
    status_t st;

    /* Rows that are only encoded leave nothing behind but K/V: the rest of the last layer would be thrown away. */
    if (layer == m->config.n_layer - 1 && b->n_out == 0 && b->n_hidden == 0 && !b->attend) return ST_OK;
    if ((st = attend(ws, b, layer))) return st;
    if ((st = op->linear(be, y->o, n, ws->h, ws->x, true))) return st;
    if ((st = gists_own(ws, b, layer, GROUP_O, ws->h, ws->x))) return st;

    if ((st = op->rmsnorm(be, n, d, ws->x, y->ffn_norm, eps, ws->h))) return st;
    if ((st = feed(ws, b, layer))) return st;
    if ((st = op->linear(be, y->down, n, ws->gated, ws->x, true))) return st;
    return gists_own(ws, b, layer, GROUP_DOWN, ws->gated, ws->x);
}

static status_t logits_out(forward_ws_t *ws, const batch_t *b) {
    const model_t *m = ws->m;
    backend_t *be = m->be;
    const backend_ops_t *op = be->ops;
    int64_t d = m->config.d_model, n_vocab = m->config.n_vocab, chunk = i64_min(ws->max_row, LOGIT_ROWS);
    status_t st;
    for (int64_t r = 0; r < b->n_out; r += chunk) {
        int64_t n = i64_min(chunk, b->n_out - r);
        if ((st = op->gather_rows(be, n, d, b->out_rows + r, ws->x, ws->wide))) return st;
        if ((st = op->rmsnorm(be, n, d, ws->wide, m->out_norm, (float)m->config.norm_eps, ws->h))) return st;
        if ((st = op->linear(be, m->head, n, ws->h, ws->logits, false))) return st;
        if ((st = op->copy_out(be, b->logits + r * n_vocab, ws->logits, (size_t)(n * n_vocab) * sizeof(float)))) return st;
    }
    return ST_OK;
}

/* The hidden states after the last norm: what the output rows would be multiplied with, in the type of activations. */
static status_t hidden_out(forward_ws_t *ws, const batch_t *b) {
    const model_t *m = ws->m;
    backend_t *be = m->be;
    int64_t d = m->config.d_model;
    status_t st;
    if (!b->n_hidden) return ST_OK;
    if ((st = be->ops->gather_rows(be, b->n_hidden, d, b->hidden_rows, ws->x, ws->wide))) return st;
    if ((st = be->ops->rmsnorm(be, b->n_hidden, d, ws->wide, m->out_norm, (float)m->config.norm_eps, ws->h))) return st;
    if ((st = be->ops->convert(be, (size_t)(b->n_hidden * d), DT_F32, ws->wide, be->act, ws->h))) return st;
    return be->ops->copy_out(be, b->hidden, ws->wide, (size_t)(b->n_hidden * d) * sizeof(float));
}

status_t forward_begin(forward_ws_t *ws, const batch_t *b) { return rows_in(ws, b); }
float *forward_residual(forward_ws_t *ws) { return ws->x; }
status_t forward_end(forward_ws_t *ws, const batch_t *b) {
    status_t st = hidden_out(ws, b);
    return st ? st : logits_out(ws, b);
}

status_t forward(model_t *m, forward_ws_t *ws, const batch_t *b) {
    assert(ws->m == m && b->n_row >= 0 && b->n_row <= ws->max_row && (b->n_out == 0 || b->logits));
    status_t st = forward_begin(ws, b);
    for (int layer = 0; layer < m->config.n_layer && !st; layer++) {
        st = forward_keys(ws, b, layer);
        if (!st) st = forward_rest(ws, b, layer);
    }
    return st ? st : forward_end(ws, b);
}

/* ---- what it costs ---------------------------------------------------------------------------------------------- */
double model_flops_row(const model_config_t *c) {
    double d = (double)c->d_model, qkv = (double)qkv_width(c) * d, o = (double)(c->n_head * c->d_head) * d, ff = 3.0 * (double)c->d_ff * d;
    return 2 * (double)c->n_layer * (qkv + o + ff);
}

double model_flops_logits(const model_config_t *c) { return 2.0 * (double)c->n_vocab * (double)c->d_model; }

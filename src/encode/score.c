#include "encode/score.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "encode/expect.h"
#include "model/embedding.h"

enum { LAST_ROWS = 64, NEIGHBOURS = 5, KEY_BLOCK = 64, SINK_POOL = 0, SEGMENT_POOL = 1, OWN_POOL = 2, N_POOL = 3 };

struct scorer {
    model_t *model;
    backend_t *be;
    const model_config_t *config;
    score_spec_t spec;
    forward_ws_t *ws;
    int32_t *repeat;
    kv_pool_t pools[N_POOL]; /* the sink, the segment at hand, rows that reconstruct adds */
    layout_t layout;
    int32_t *tokens;
    double *positions;
    float *lse_dev; /* [B] [max_row][n_head] */
    float *lse, *q; /* host: [max_row][n_head], and [..][d_head] */
    void *raw;      /* host: q, or keys of a head, in the backend's type */
    float *keys;    /* host [n][d_head] of one head */
    /* SCORE_EXPECTED */
    expect_t *expect;
    float *turns;   /* [max_row or EXPECT_POSITIONS][d_rot] */
    float *lengths; /* [n] of one head's values */
    /* the segment at hand */
    int64_t n, from, n_row; /* its rows; index of the pass's first row (rows again); rows of the pass */
    float *score;
};

const char score_repeat_text[] = "\n\nRepeat the previous context exactly.";
static const char *const names[] = {"knorm", "snapkv", "observed", "expected", "reconstruct"};

const char *score_name(score_method_t m) { return names[m]; }

bool score_find(const char *name, score_method_t *out) {
    for (int i = 0; i < (int)(sizeof names / sizeof *names); i++)
        if (!strcmp(name, names[i])) {
            *out = (score_method_t)i;
            return true;
        }
    return false;
}

static status_t expect_setup(scorer_t *s, size_t rows) {
    size_t turns = rows > EXPECT_POSITIONS ? rows : EXPECT_POSITIONS;
    status_t st = expect_create(s->config, &s->expect);
    if (!st) st = mem_alloc(&s->turns, turns, (size_t)s->config->d_rot * sizeof *s->turns, "rope angles");
    return st ? st : mem_alloc(&s->lengths, (size_t)s->spec.max_tokens, sizeof *s->lengths, "lengths of values");
}

status_t scorer_create(model_t *m, const kv_pool_t *sink, forward_ws_t *ws, const score_spec_t *spec, scorer_t **out) {
    scorer_t *s = NULL;
    status_t st = mem_zalloc(&s, 1, sizeof *s, "scores");
    *out = NULL;
    if (st) return st;
    const model_config_t *c = s->config = model_config(m);
    size_t rows = (size_t)spec->max_row, cells = rows * (size_t)c->n_head, d = (size_t)c->d_head;
    size_t most = (size_t)i64_max((int64_t)(cells * d), spec->max_tokens * c->d_head);
    s->model = m;
    s->be = model_backend(m);
    s->spec = *spec;
    s->ws = ws;
    s->pools[SINK_POOL] = *sink;
    if (spec->method == SCORE_RECONSTRUCT)
        st = kv_alloc(s->be, c, s->be->act, spec->n_repeat + spec->max_tokens, "K/V of a segment read again", &s->pools[OWN_POOL]);
    if (!st && spec->method == SCORE_EXPECTED) st = expect_setup(s, rows);
    if (!st) st = mem_alloc(&s->repeat, (size_t)spec->n_repeat, sizeof *s->repeat, "a prompt");
    if (!st && spec->n_repeat) memcpy(s->repeat, spec->repeat, (size_t)spec->n_repeat * sizeof *s->repeat);
    if (!st) st = mem_alloc(&s->tokens, rows, sizeof *s->tokens, "tokens of a pass");
    if (!st) st = mem_alloc(&s->positions, rows, sizeof *s->positions, "positions of a pass");
    if (!st) st = s->be->ops->alloc(s->be, cells * sizeof(float), "row totals", &s->lse_dev);
    if (!st) st = mem_alloc(&s->lse, cells, sizeof *s->lse, "row totals");
    if (!st) st = mem_alloc(&s->q, cells * d, sizeof *s->q, "queries of a pass");
    if (!st) st = mem_alloc(&s->raw, most, sizeof(float), "queries and keys");
    if (!st) st = mem_alloc(&s->keys, (size_t)spec->max_tokens * d, sizeof *s->keys, "keys of a head");
    if (st)
        scorer_free(s);
    else
        *out = s;
    return st;
}

void scorer_free(scorer_t *s) {
    if (!s) return;
    kv_free(s->be, &s->pools[OWN_POOL]);
    s->be->ops->free(s->be, s->lse_dev);
    layout_free(&s->layout);
    mem_free(s->repeat);
    mem_free(s->tokens);
    mem_free(s->positions);
    mem_free(s->lse);
    mem_free(s->q);
    mem_free(s->raw);
    mem_free(s->keys);
    mem_free(s->turns);
    mem_free(s->lengths);
    expect_free(s->expect);
    mem_free(s);
}

/* A head's rows of k or v, into s->keys. */
static status_t rows_read(scorer_t *s, const void *rows, int64_t layer, int64_t head) {
    const kv_pool_t *p = &s->pools[SEGMENT_POOL];
    size_t n = (size_t)(s->n * s->config->d_head), at = (size_t)(layer * p->layer_stride + head * p->head_stride) * dtype_bytes(p->type);
    status_t st = s->be->ops->copy_out(s->be, s->raw, (const char *)rows + at, n * dtype_bytes(p->type));
    if (!st) dtype_convert(DT_F32, s->keys, p->type, s->raw, n);
    return st;
}

static status_t keys_read(scorer_t *s, int64_t layer, int64_t head) { return rows_read(s, s->pools[SEGMENT_POOL].k, layer, head); }

static float length(const float *x, int64_t n) {
    float sum = 0;
    for (int64_t e = 0; e < n; e++) sum += x[e] * x[e];
    return sqrtf(sum);
}

/* The pass's queries, less the segment's first rows, to what is expected. */
static void queries_add(scorer_t *s, int64_t layer) {
    const model_config_t *c = s->config;
    int64_t skip = i64_min(s->n_row, i64_max(0, EXPECT_FIRST - s->from));
    if (!layer) model_rope(s->model, s->n_row, s->positions, s->turns);
    expect_add(s->expect, layer, s->n_row - skip, s->q + skip * c->n_head * c->d_head, s->turns + skip * c->d_rot);
}

/* What the pass's rows and the query heads of K/V head `head` give to keys j .. j+n-1. */
static void block_score(const scorer_t *s, int64_t layer, int64_t head, int64_t j, int64_t n) {
    const model_config_t *c = s->config;
    int64_t d = c->d_head, group = c->n_head / c->n_kv_head;
    float kt[MAX_HEAD_DIM][KEY_BLOCK], acc[KEY_BLOCK], scale = 1.0f / sqrtf((float)d),
                                                       *out = s->score + (layer * c->n_kv_head + head) * s->n + j;
    memset(kt, 0, (size_t)d * sizeof *kt);
    for (int64_t i = 0; i < n; i++)
        for (int64_t e = 0; e < d; e++) kt[e][i] = s->keys[(j + i) * d + e];
    for (int64_t t = 0; t < s->n_row; t++) {
        int64_t seen = s->spec.method == SCORE_RECONSTRUCT ? n : i64_min(n, s->from + t - j + 1);
        for (int64_t h = head * group; h < (head + 1) * group && seen > 0; h++) {
            const float *q = s->q + (t * c->n_head + h) * d;
            float lse = s->lse[t * c->n_head + h];
            memset(acc, 0, sizeof acc);
            for (int64_t e = 0; e < d; e++)
                for (int i = 0; i < KEY_BLOCK; i++) acc[i] += q[e] * kt[e][i];
            for (int64_t i = 0; i < seen; i++) {
                float l = acc[i] * scale - lse;
                if (s->spec.method == SCORE_RECONSTRUCT)
                    out[i] = fmaxf(out[i], l); /* the logarithm of the probability */
                else
                    out[i] += expf(l);
            }
        }
    }
}

/* The pass's attention in a layer, and what its queries give to the segment's rows. */
static status_t score_layer(void *self, int layer, const void *q, void *o) {
    scorer_t *s = self;
    const model_config_t *c = s->config;
    size_t cells = (size_t)(s->n_row * c->n_head);
    attn_args_t a = {.layer = layer,
                     .n_head = (int)c->n_head,
                     .n_kv_head = (int)c->n_kv_head,
                     .d_head = (int)c->d_head,
                     .scale = 1.0f / sqrtf((float)c->d_head),
                     .n_row = s->n_row,
                     .q = q,
                     .n_pool = N_POOL,
                     .n_run = s->layout.n_run,
                     .n_span = s->layout.n_span,
                     .n_block = 1,
                     .pools = s->pools,
                     .runs = s->layout.runs,
                     .spans = s->layout.spans,
                     .o_type = s->be->act,
                     .o = o,
                     .lse = s->lse_dev};
    status_t st = s->be->ops->attention(s->be, &a);
    if (!st) st = s->be->ops->copy_out(s->be, s->lse, s->lse_dev, cells * sizeof *s->lse);
    if (!st) st = s->be->ops->copy_out(s->be, s->raw, q, cells * (size_t)c->d_head * dtype_bytes(s->be->act));
    if (!st) dtype_convert(DT_F32, s->q, s->be->act, s->raw, cells * (size_t)c->d_head);
    if (!st && s->expect) queries_add(s, layer);
    for (int64_t head = 0; head < c->n_kv_head && !st && !s->expect; head++) {
        if ((st = keys_read(s, layer, head))) break;
#pragma omp parallel for schedule(dynamic)
        for (int64_t j = 0; j < s->n; j += KEY_BLOCK) block_score(s, layer, head, j, i64_min(KEY_BLOCK, s->n - j));
    }
    return st;
}

static status_t pass_run(scorer_t *s) {
    batch_t b = {.n_row = s->n_row,
                 .tokens = s->tokens,
                 .positions = s->positions,
                 .n_pool = N_POOL,
                 .n_run = s->layout.n_run,
                 .n_span = s->layout.n_span,
                 .pools = s->pools,
                 .runs = s->layout.runs,
                 .spans = s->layout.spans,
                 .attend = score_layer,
                 .attend_ctx = s};
    return forward(s->model, s->ws, &b);
}

/* Rows from .. n-1 of the segment once more; their K/V are there. */
static status_t rows_again(scorer_t *s, const piece_t *p, int64_t from) {
    status_t st = ST_OK;
    int64_t n_sink = s->pools[SINK_POOL].n_row;
    for (s->from = from; s->from < p->n && !st; s->from += s->n_row) {
        s->n_row = i64_min(s->spec.max_row, p->n - s->from);
        for (int64_t i = 0; i < s->n_row; i++) {
            s->tokens[i] = p->tokens[s->from + i];
            s->positions[i] = (double)layout_position(s->spec.align, n_sink, s->from + i, p->n, s->spec.reserve, p->before);
        }
        layout_clear(&s->layout);
        st = layout_segment(&s->layout, SINK_POOL, n_sink, SEGMENT_POOL, s->from, s->n_row, s->config->window);
        s->layout.runs[0].pool = -1;
        if (!st) st = pass_run(s);
    }
    return st;
}

/* The position right behind a segment, where a query would start. */
static int64_t position_behind(const scorer_t *s, const piece_t *p) {
    int64_t taken = s->spec.align == ALIGN_SEQUENTIAL ? p->before + p->n
                    : s->spec.align == ALIGN_LEFT     ? p->n /* what else its store holds is of no matter */
                                                      : i64_max(s->spec.reserve, p->n);
    return s->pools[SINK_POOL].n_row + taken;
}

static status_t expect_finish(scorer_t *s, const piece_t *p) {
    const model_config_t *c = s->config;
    double positions[EXPECT_POSITIONS];
    for (int i = 0; i < EXPECT_POSITIONS; i++) positions[i] = (double)(position_behind(s, p) + i);
    model_rope(s->model, EXPECT_POSITIONS, positions, s->turns);
    for (int64_t x = 0; x < c->n_layer * c->n_kv_head; x++) {
        int64_t layer = x / c->n_kv_head, head = x % c->n_kv_head;
        status_t st = rows_read(s, s->pools[SEGMENT_POOL].v, layer, head);
        for (int64_t i = 0; i < s->n && !st; i++) s->lengths[i] = length(s->keys + i * c->d_head, c->d_head);
        if (!st) st = keys_read(s, layer, head);
        if (!st) st = expect_score(s->expect, layer, head, s->n, s->keys, s->lengths, s->turns, s->score + x * s->n);
        if (st) return st;
    }
    return ST_OK;
}

/* The prompt and the segment's tokens, behind the segment. */
static status_t read_again(scorer_t *s, const piece_t *p) {
    int64_t n = s->spec.n_repeat + p->n, n_sink = s->pools[SINK_POOL].n_row, first = position_behind(s, p);
    status_t st = ST_OK;
    for (int64_t at = 0; at < n && !st; at += s->n_row) {
        s->n_row = i64_min(s->spec.max_row, n - at);
        for (int64_t i = 0; i < s->n_row; i++) {
            int64_t row = at + i;
            s->tokens[i] = row < s->spec.n_repeat ? s->repeat[row] : p->tokens[row - s->spec.n_repeat];
            s->positions[i] = (double)(first + row);
        }
        layout_clear(&s->layout);
        st = layout_segment(&s->layout, SINK_POOL, i64_min(n_sink, SCORE_FIRST), OWN_POOL, at, s->n_row, 0);
        if (!st) st = layout_add_span(&s->layout, span_all(SEGMENT_POOL, 0, p->n));
        if (!st) st = pass_run(s);
    }
    return st;
}

static status_t key_norms(scorer_t *s) {
    const model_config_t *c = s->config;
    for (int64_t x = 0; x < c->n_layer * c->n_kv_head; x++) {
        status_t st = keys_read(s, x / c->n_kv_head, x % c->n_kv_head);
        if (st) return st;
        for (int64_t i = 0; i < s->n; i++) s->score[x * s->n + i] = -length(s->keys + i * c->d_head, c->d_head);
    }
    return ST_OK;
}

/* Mean over NEIGHBOURS rows, with nothing beyond the ends; the last rows stay. */
static void snap_finish(float *score, int64_t n, float *scratch) {
    memcpy(scratch, score, (size_t)n * sizeof *score);
    for (int64_t i = 0; i < n; i++) {
        float sum = 0;
        for (int64_t j = i64_max(0, i - NEIGHBOURS / 2); j <= i64_min(n - 1, i + NEIGHBOURS / 2); j++) sum += scratch[j];
        score[i] = i >= n - LAST_ROWS ? INFINITY : sum;
    }
}

static void finish(scorer_t *s) {
    const model_config_t *c = s->config;
    for (int64_t x = 0; x < c->n_layer * c->n_kv_head; x++) {
        float *score = s->score + x * s->n;
        if (s->spec.method == SCORE_SNAPKV) snap_finish(score, s->n, s->keys);
        for (int64_t i = 0; i < s->n && s->spec.method == SCORE_OBSERVED; i++) score[i] /= (float)(s->n - i);
        if (!s->pools[SINK_POOL].n_row)
            for (int64_t i = 0; i < i64_min(SCORE_FIRST, s->n); i++) score[i] = INFINITY;
    }
}

status_t scorer_run(scorer_t *s, const piece_t *p, float *score) {
    int64_t cells = s->config->n_layer * s->config->n_kv_head * p->n;
    status_t st = ST_OK;
    s->n = p->n;
    s->score = score;
    s->pools[SEGMENT_POOL] = p->pool;
    for (int64_t i = 0; i < cells; i++) score[i] = s->spec.method == SCORE_RECONSTRUCT ? -INFINITY : 0;
    switch (s->spec.method) {
    case SCORE_KNORM:
        st = key_norms(s);
        break;
    case SCORE_SNAPKV:
        st = rows_again(s, p, i64_max(0, p->n - LAST_ROWS));
        break;
    case SCORE_OBSERVED:
        st = rows_again(s, p, 0);
        break;
    case SCORE_EXPECTED:
        expect_begin(s->expect);
        st = rows_again(s, p, 0);
        if (!st) st = expect_finish(s, p);
        break;
    case SCORE_RECONSTRUCT:
        st = read_again(s, p);
        break;
    }
    if (!st) finish(s);
    return st;
}

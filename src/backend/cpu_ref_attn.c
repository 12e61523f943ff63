/* The oracle's attention: for each row, head and block, all visible logits are written down, then softmax in two passes, in double. */
#include <assert.h>
#include <math.h>

#include "backend/cpu.h"
#include "base/mem.h"

/* The most keys that one row sees in one block. */
static int64_t most_keys(const attn_args_t *a) {
    int64_t most = 1;
    for (int r = 0; r < a->n_run; r++)
        for (int64_t i = 0; i < a->runs[r].n; i++)
            for (int b = 0; b < a->n_block; b++) {
                int64_t n = 0;
                for (int s = a->runs[r].span; s < a->runs[r].span + a->runs[r].n_span; s++)
                    if (a->spans[s].block == b)
                        n += i64_max(0, span_hi(&a->spans[s], a->runs[r].index + i) - span_lo(&a->spans[s], a->runs[r].index + i));
                most = i64_max(most, n);
            }
    return most;
}

static void top_insert(float top[ATTN_TOP], float x) {
    int i = ATTN_TOP;
    while (i > 0 && x > top[i - 1]) i--;
    for (int j = ATTN_TOP - 1; j > i; j--) top[j] = top[j - 1];
    if (i < ATTN_TOP) top[i] = x;
}

typedef struct {
    double *logit, *o; /* [most keys], [d_head] */
    int64_t n;
    double max;
    float top[ATTN_TOP];
} row_t;

static int64_t kv_at(const kv_pool_t *p, int layer, int head, int64_t row) {
    assert(row >= 0 && row < p->n_row);
    return layer * p->layer_stride + head * p->head_stride + row * p->row_stride;
}

static void add_logits(const attn_args_t *a, dtype_t act, const span_t *s, int64_t index, int64_t q_at, int kv_head, row_t *w) {
    const kv_pool_t *p = &a->pools[s->pool];
    for (int64_t j = span_lo(s, index); j < span_hi(s, index); j++) {
        int64_t at = kv_at(p, a->layer, kv_head, j);
        double dot = 0;
        for (int i = 0; i < a->d_head; i++) dot += (double)cpu_load(act, a->q, q_at + i) * cpu_load(p->type, p->k, at + i);
        double l = dot * a->scale;
        w->logit[w->n++] = l;
        if (l > w->max) w->max = l;
        top_insert(w->top, (float)l);
    }
}

static void add_values(const attn_args_t *a, const span_t *s, int64_t index, int kv_head, double lse, row_t *w) {
    const kv_pool_t *p = &a->pools[s->pool];
    for (int64_t j = span_lo(s, index); j < span_hi(s, index); j++) {
        int64_t at = kv_at(p, a->layer, kv_head, j);
        double weight = exp(w->logit[w->n++] - lse);
        for (int i = 0; i < a->d_head; i++) w->o[i] += weight * cpu_load(p->type, p->v, at + i);
    }
}

static void row_attend(const attn_args_t *a, dtype_t act, const run_t *run, int64_t i, int head, int block, row_t *w) {
    int64_t row = run->row + i, index = run->index + i;
    int64_t out = (block * a->n_row + row) * a->n_head + head, q_at = (row * a->n_head + head) * a->d_head;
    int kv_head = head / (a->n_head / a->n_kv_head);
    w->n = 0;
    w->max = -INFINITY;
    for (int k = 0; k < ATTN_TOP; k++) w->top[k] = -INFINITY;
    for (int k = 0; k < a->d_head; k++) w->o[k] = 0;
    for (int s = run->span; s < run->span + run->n_span; s++)
        if (a->spans[s].block == block && kv_pool_serves(&a->pools[a->spans[s].pool], kv_head))
            add_logits(a, act, &a->spans[s], index, q_at, kv_head, w);
    double lse = -INFINITY, m = 0;
    if (w->n) {
        double sum = 0;
        for (int64_t j = 0; j < w->n; j++) sum += exp(w->logit[j] - w->max);
        lse = w->max + log(sum);
        for (int64_t j = 0; j < w->n; j++) m += exp(w->logit[j] - lse) * w->logit[j];
        w->n = 0;
        for (int s = run->span; s < run->span + run->n_span; s++)
            if (a->spans[s].block == block && kv_pool_serves(&a->pools[a->spans[s].pool], kv_head))
                add_values(a, &a->spans[s], index, kv_head, lse, w);
    }
    for (int k = 0; k < a->d_head; k++) cpu_store(a->o_type, a->o, out * a->d_head + k, (float)w->o[k]);
    if (a->lse) a->lse[out] = (float)lse;
    if (a->m) a->m[out] = (float)m;
    for (int k = 0; a->top && k < ATTN_TOP; k++) a->top[out * ATTN_TOP + k] = w->top[k];
}

status_t cpu_ref_attention(backend_t *be, const attn_args_t *a) {
    row_t w = {0};
    status_t st = mem_alloc(&w.logit, (size_t)most_keys(a), sizeof *w.logit, "logits of a row");
    if (!st) st = mem_alloc(&w.o, (size_t)a->d_head, sizeof *w.o, "a row of attention");
    for (int r = 0; !st && r < a->n_run; r++)
        for (int64_t i = 0; i < a->runs[r].n; i++)
            for (int h = 0; h < a->n_head; h++)
                for (int b = 0; b < a->n_block; b++) row_attend(a, be->act, &a->runs[r], i, h, b, &w);
    mem_free(w.logit);
    mem_free(w.o);
    return st;
}

/* exp(lse_b - L) of every kept block; the largest lse is taken out first. */
static double merge_lse(const merge_args_t *a, int64_t th) {
    int64_t stride = a->n_row * a->n_head;
    double max = -INFINITY, sum = 0;
    for (int b = 0; b < a->n_block; b++)
        if ((!a->keep || a->keep[b * stride + th]) && a->lse[b * stride + th] > max) max = a->lse[b * stride + th];
    if (max == -INFINITY) return max;
    for (int b = 0; b < a->n_block; b++)
        if (!a->keep || a->keep[b * stride + th]) sum += exp(a->lse[b * stride + th] - max);
    return max + log(sum);
}

status_t cpu_ref_merge(backend_t *be, const merge_args_t *a) {
    (void)be;
    int64_t stride = a->n_row * a->n_head;
    for (int64_t th = 0; th < stride; th++) {
        double lse = merge_lse(a, th), m = 0;
        for (int i = 0; i < a->d_head; i++) {
            double o = 0;
            for (int b = 0; b < a->n_block; b++)
                if ((!a->keep || a->keep[b * stride + th]) && a->lse[b * stride + th] > -INFINITY)
                    o += exp(a->lse[b * stride + th] - lse) * a->o[(b * stride + th) * a->d_head + i];
            cpu_store(a->o_out_type, a->o_out, th * a->d_head + i, (float)o);
        }
        for (int b = 0; a->m && b < a->n_block; b++)
            if ((!a->keep || a->keep[b * stride + th]) && a->lse[b * stride + th] > -INFINITY)
                m += exp(a->lse[b * stride + th] - lse) * a->m[b * stride + th];
        if (a->lse_out) a->lse_out[th] = (float)lse;
        if (a->m_out) a->m_out[th] = (float)m;
    }
    return ST_OK;
}

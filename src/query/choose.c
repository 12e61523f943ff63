/* Selection (SEL) in a layer: every rank learns the scores and log-sum-exps of all segments and makes the same choice of them; of two-level
 * answers the raw rows of what was chosen take the place of the gists.
 */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "query/attend_impl.h"
#include "query/select.h"

/* The base's lse into `total`: where own rows are apart from the sink, of both, own rows with the weight that they will have. */
static status_t base_total(attend_t *a) {
    int64_t cells = plane(a);
    size_t bytes = (size_t)cells * sizeof(float);
    status_t st = a->be->ops->copy_out(a->be, a->total, a->sums.lse, bytes);
    if (st || a->n_base == 1) return st;
    st = a->be->ops->copy_out(a->be, a->slots, a->sums.lse + cells, bytes);
    for (int64_t x = 0; x < cells && !st; x++) {
        float both[2] = {a->total[x], a->slots[x] + own_shift(a)};
        a->total[x] = select_log_sum(both, 2);
    }
    return st ? st : a->be->ops->sync(a->be);
}

/* Scores and lse of all segments on all ranks; the same choice on each. */
status_t choose_segments(attend_t *a) {
    const context_kv_t *ctx = a->ctx;
    int64_t cells = plane(a), P = ctx->n_segment;
    size_t cell_bytes = (size_t)cells * sizeof(float);
    float *top = NULL;
    status_t st = mem_alloc(&top, (size_t)(ctx->n_local * cells), ATTN_TOP * sizeof(float), "largest logits");
    if (!st) st = a->be->ops->copy_out(a->be, top, a->part.top, (size_t)(ctx->n_local * cells) * ATTN_TOP * sizeof(float));
    if (!st) st = base_total(a);
    if (st) goto out;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < ctx->n_local; i++) {
        float *score = a->score + 2 * i * cells, *lse = score + cells;
        double log_n = log((double)i64_max(1, ctx->pools[i].n_row));
        memcpy(lse, a->lse_local + i * cells, cell_bytes);
        for (int64_t x = 0; x < cells; x++)
            score[x] = a->spec.by_mean ? (float)((double)lse[x] - log_n) : select_log_sum(top + (i * cells + x) * ATTN_TOP, ATTN_TOP);
    }
    const float *all = a->score;
    if (a->comm->size > 1) {
        for (int r = 0; r < a->comm->size; r++) {
            int64_t from = i64_min(ctx->first_group[r] * ctx->group, P), to = i64_min(ctx->first_group[r + 1] * ctx->group, P);
            a->bytes_each[r] = (to - from) * 2 * (int64_t)cell_bytes;
        }
        if ((st = a->comm->ops->all_gather(a->comm, a->score, a->score_all, a->bytes_each))) goto out;
        all = a->score_all;
    }
    /* L over everything, base first and then segments in order; scores packed to [P][rows][heads] */
#pragma omp parallel for schedule(static)
    for (int64_t x = 0; x < cells; x++) {
        float max = a->total[x];
        for (int64_t g = 0; g < P; g++) max = fmaxf(max, all[(2 * g + 1) * cells + x]);
        double sum = exp((double)a->total[x] - (double)max);
        for (int64_t g = 0; g < P; g++) sum += exp((double)all[(2 * g + 1) * cells + x] - (double)max);
        a->total[x] = (float)((double)max + log(sum));
    }
    float *packed = NULL;
    if ((st = mem_alloc(&packed, (size_t)(P * cells), sizeof(float), "scores"))) goto out;
    for (int64_t g = 0; g < P; g++) memcpy(packed + g * cells, all + 2 * g * cells, cell_bytes);
    for (int q = 0; q < a->n_query; q++)
        select_pieces(a->spec.aggregate, a->spec.select, P, a->n_row, (int)a->config->n_head, a->queries[q].row, a->queries[q].n, packed,
                      a->total, a->keep, a->scratch);
    mem_free(packed);
    if (ctx->n_local) st = a->be->ops->copy_in(a->be, a->keep_dev, a->keep + ctx->first * cells, (size_t)(ctx->n_local * cells));
out:
    mem_free(top);
    return st;
}

static bool any_kept(const attend_t *a, int64_t i) {
    const uint8_t *keep = a->keep + (a->ctx->first + i) * plane(a);
    for (int64_t x = 0; x < plane(a); x++)
        if (keep[x]) return true;
    return false;
}

/* Two-level answers: of the segments that anyone keeps, the raw rows take the place of the gists. Their owner attends to them; no K/V
 * crosses the wire. */
status_t fetch_raw(attend_t *a, int layer, const void *q) {
    int64_t cells = plane(a);
    for (int64_t i = 0; i < a->ctx->n_local; i++) {
        if (!any_kept(a, i)) continue;
        layout_clear(&a->segments);
        status_t st = layout_add_run(&a->segments, -1, 0, a->n_row);
        if (!st) st = layout_add_span(&a->segments, span_all(0, 0, a->ctx->raw[i].n_row));
        if (st) return st;
        attn_args_t args = attention_args(a, layer, q);
        args.pools = &a->ctx->raw[i];
        args.n_pool = args.n_run = args.n_span = args.n_block = 1;
        args.runs = a->segments.runs;
        args.spans = a->segments.spans;
        args.o = a->part.o + i * cells * a->config->d_head;
        args.lse = a->part.lse + i * cells;
        args.m = a->spec.want_entropy ? a->part.m + i * cells : NULL;
        st = a->be->ops->attention(a->be, &args);
        if (!st) st = a->be->ops->copy_out(a->be, a->lse_local + i * cells, args.lse, (size_t)cells * sizeof(float));
        if (st) return st;
    }
    return ST_OK;
}

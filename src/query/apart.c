/* Two softmaxes side by side (edits): slot 0 of `sums` is what rows see of themselves, slot 1 entry 0, then the groups of edits; the last
 * slot takes the edits' merged result, which is added to slot 0's. */
#include <math.h>

#include "query/attend_impl.h"

/* Entry 0, on every rank: counted once, since groups alone cross the wire. */
static status_t zero_attention(attend_t *a, int layer, const void *q) {
    layout_clear(&a->segments);
    status_t st = layout_add_run(&a->segments, -1, 0, a->n_row);
    if (!st) st = layout_add_span(&a->segments, span_all(0, 0, 1));
    attn_args_t args = attention_args(a, layer, q);
    args.scale /= (float)a->spec.temperature;
    args.pools = &a->ctx->zero;
    args.n_pool = args.n_run = args.n_span = args.n_block = 1;
    args.runs = a->segments.runs;
    args.spans = a->segments.spans;
    args.o = a->sums.o + plane(a) * a->config->d_head;
    args.lse = a->sums.lse + plane(a);
    args.m = a->sums.m + plane(a);
    return st ? st : a->be->ops->attention(a->be, &args);
}

/* o = slot 0 + the last slot, in f32 on the host: a backend has no operation for that, and the rows of queries are few. */
static status_t slots_add(attend_t *a, int64_t last, void *o) {
    backend_t *be = a->be;
    int64_t n = plane(a) * a->config->d_head;
    size_t bytes = (size_t)n * sizeof(float);
    status_t st = be->ops->copy_out(be, a->sum[0], a->sums.o, bytes);
    if (!st) st = be->ops->copy_out(be, a->sum[1], a->sums.o + last * n, bytes);
    for (int64_t i = 0; i < n && !st; i++) a->sum[0][i] += a->sum[1][i];
    if (!st) st = be->ops->copy_in(be, a->sums.o, a->sum[0], bytes);
    if (!st) st = be->ops->sync(be); /* the host's copy is used again */
    return st ? st : be->ops->convert(be, (size_t)n, be->act, o, DT_F32, a->sums.o);
}

/* What each query's rows took from edits: 1 - alpha_0. */
static status_t sum_edits(attend_t *a) {
    backend_t *be = a->be;
    int64_t heads = a->config->n_head;
    size_t bytes = (size_t)plane(a) * sizeof(float);
    status_t st = be->ops->copy_out(be, a->total, a->total_dev, bytes);
    if (!st) st = be->ops->copy_out(be, a->slots, a->sums.lse + plane(a), bytes);
    for (int q = 0; q < a->n_query && !st; q++) {
        attend_query_t *query = &a->queries[q];
        double sum = 0;
        for (int64_t x = query->row * heads; x < (query->row + query->n) * heads; x++)
            sum += 1 - exp((double)a->slots[x] - (double)a->total[x]);
        query->edits += sum / (double)(query->n * heads * (a->config->n_layer - a->spec.first_layer));
    }
    return st;
}

status_t apart_layer(attend_t *a, int layer, const void *q, void *o) {
    int64_t last = a->n_base + a->ctx->n_group, cells = plane(a);
    backend_t *be = a->be;
    int upper = layer - a->spec.first_layer;
    status_t st = base_attention(a, layer, q);
    if (!st && a->spec.want_entropy) st = be->ops->copy_out(be, a->total, a->sums.lse, (size_t)cells * sizeof(float));
    if (!st && a->spec.want_entropy) st = be->ops->copy_out(be, a->total_m, a->sums.m, (size_t)cells * sizeof(float));
    if (!st && a->spec.want_entropy) sum_entropy(a, layer);
    if (!st && upper < 0) return be->ops->convert(be, (size_t)(cells * a->config->d_head), be->act, o, DT_F32, a->sums.o);
    if (!st) st = zero_attention(a, upper, q);
    if (!st) st = groups_attention(a, upper, q);
    if (!st && a->comm->size > 1 && a->ctx->n_group) st = share_groups(a);
    merge_args_t args = {.n_row = a->n_row,
                         .n_head = (int)a->config->n_head,
                         .d_head = (int)a->config->d_head,
                         .n_block = (int)(last - 1),
                         .o = a->sums.o + cells * a->config->d_head,
                         .lse = a->sums.lse + cells,
                         .o_out_type = DT_F32,
                         .o_out = a->sums.o + last * cells * a->config->d_head,
                         .lse_out = a->total_dev};
    if (!st) st = be->ops->merge(be, &args);
    if (!st) st = sum_edits(a);
    return st ? st : slots_add(a, last, o);
}

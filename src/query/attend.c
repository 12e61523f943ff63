/* Partial results live in two places:
 *
 *   part   [n_hold][rows][heads](d)        one block per local segment of the chunk at hand
 *                                          (all local segments under SEL, which chooses before it merges)
 *   sums   [1 + n_group][rows][heads](d)   slot 0: base; slot 1+g: group g
 *
 * A rank fills its own groups, the gather fills the rest, the last merge reads all.
 */
#include "query/attend_impl.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "encode/pick.h"
#include "layout/rule.h"

enum { PART_BUDGET = 192 << 20 }; /* bytes of partial results held at a time without SEL */

static size_t row_floats(const model_config_t *c) { return (size_t)c->n_head * (size_t)(c->d_head + 2 + ATTN_TOP); }

static int64_t hold_count(const model_config_t *c, const context_kv_t *ctx, const attend_spec_t *spec, int64_t n_local, int64_t max_row) {
    if (spec->select > 0) return n_local;
    int64_t fit = (int64_t)(PART_BUDGET / ((size_t)max_row * row_floats(c) * sizeof(float)));
    int64_t groups = i64_max(1, fit / ctx->group);
    return i64_min(n_local, groups * ctx->group);
}

size_t attend_bytes(const model_config_t *c, int64_t n_segment, int64_t n_local, const attend_spec_t *spec, int64_t max_row) {
    context_kv_t ctx = {.group = i64_max(1, i64_ceil_div(n_segment, MAX_GROUPS))};
    int64_t hold = hold_count(c, &ctx, spec, n_local, max_row), groups = i64_min(n_segment, MAX_GROUPS);
    return (size_t)max_row * sizeof(float) * (row_floats(c) * (size_t)(hold + groups + 1) + (size_t)c->n_head * (size_t)(4 * n_segment));
}

static status_t partial_alloc(attend_t *a, partial_t *p, int64_t blocks, bool top) {
    backend_t *be = a->be;
    size_t n = (size_t)(blocks * a->max_row * a->config->n_head) * sizeof(float);
    status_t st = be->ops->alloc(be, n * (size_t)a->config->d_head, "partial results", &p->o);
    if (!st) st = be->ops->alloc(be, n, "partial results", &p->lse);
    if (!st) st = be->ops->alloc(be, n, "partial results", &p->m);
    if (!st && top) st = be->ops->alloc(be, n * ATTN_TOP, "partial results", &p->top);
    return st;
}

static void partial_free(backend_t *be, partial_t *p) {
    be->ops->free(be, p->o);
    be->ops->free(be, p->lse);
    be->ops->free(be, p->m);
    be->ops->free(be, p->top);
}

/* Pools a segment takes in a call: one, or one for each K/V head where heads keep different rows. */
static int64_t pools_each(const attend_t *a) { return a->ctx->counts ? a->config->n_kv_head : 1; }

static status_t attend_setup(attend_t *a) {
    const context_kv_t *ctx = a->ctx;
    status_t st = partial_alloc(a, &a->sums, a->n_base + ctx->n_group + a->spec.apart, false);
    size_t cells = (size_t)(a->max_row * a->config->n_head), P = (size_t)ctx->n_segment, local = (size_t)ctx->n_local;
    if (!st && a->n_hold) st = partial_alloc(a, &a->part, a->n_hold, a->spec.select > 0);
    if (!st) st = a->be->ops->alloc(a->be, cells * sizeof(float), "row totals", &a->total_dev);
    if (!st) st = a->be->ops->alloc(a->be, cells * sizeof(float), "row totals", &a->total_m_dev);
    if (!st) st = mem_alloc(&a->total, cells, sizeof(float), "row totals");
    if (!st) st = mem_zalloc(&a->shift, cells, sizeof(float), "row totals");
    if (!st) st = mem_alloc(&a->slots, (size_t)(2 + ctx->n_group) * cells, sizeof(float), "row totals");
    for (int i = 0; i < 2 && !st && a->spec.apart; i++)
        st = mem_alloc(&a->sum[i], cells * (size_t)a->config->d_head, sizeof(float), "edits' results");
    if (!st) st = mem_alloc(&a->total_m, cells, sizeof(float), "row totals");
    if (!st) st = mem_alloc(&a->lse_local, local * cells, sizeof(float), "segment totals");
    if (!st) st = mem_alloc(&a->bytes_each, (size_t)a->comm->size, sizeof(int64_t), "wire counts");
    if (!st)
        st = mem_alloc(&a->pools, (size_t)(1 + a->max_query) + (size_t)(a->n_hold * pools_each(a)), sizeof(kv_pool_t), "pools of a pass");
    if (!st && a->spec.select > 0) {
        st = a->be->ops->alloc(a->be, i64_max(1, (int64_t)(local * cells)), "selection", &a->keep_dev);
        if (!st) st = mem_alloc(&a->keep, P * cells, 1, "selection");
        if (!st) st = mem_alloc(&a->score, 2 * local * cells, sizeof(float), "scores");
        if (!st) st = mem_alloc(&a->score_all, 2 * P * cells, sizeof(float), "scores");
        if (!st) st = mem_alloc(&a->scratch, 2 * P, sizeof(float), "scores");
    }
    if (!st && a->comm->size > 1) {
        size_t each = cells * (size_t)(a->config->d_head + 2) * sizeof(float);
        int64_t mine = ctx->first_group[a->comm->rank + 1] - ctx->first_group[a->comm->rank];
        st = mem_alloc(&a->wire_send, (size_t)mine * each, 1, "partial results to send");
        if (!st) st = mem_alloc(&a->wire_recv, (size_t)ctx->n_group * each, 1, "partial results to receive");
    }
    return st;
}

status_t attend_create(model_t *m, comm_t *comm, const context_kv_t *ctx, const attend_spec_t *spec, int64_t max_row, int max_query,
                       attend_t **out) {
    attend_t *a;
    status_t st = mem_zalloc(&a, 1, sizeof *a, "the query's attention");
    *out = NULL;
    if (st) return comm_agree(comm, st);
    a->model = m;
    a->be = model_backend(m);
    a->config = model_config(m);
    a->comm = comm;
    a->ctx = ctx;
    a->spec = *spec;
    if (spec->select >= ctx->n_segment) a->spec.select = 0; /* keeping all of them is no selection */
    a->max_row = max_row;
    a->max_query = max_query;
    a->n_base = spec->own_log_p || spec->apart ? 2 : 1;
    a->n_hold = hold_count(a->config, ctx, &a->spec, ctx->n_local, max_row);
    st = comm_agree(comm, attend_setup(a));
    if (st)
        attend_free(a);
    else
        *out = a;
    return st;
}

void attend_free(attend_t *a) {
    if (!a) return;
    partial_free(a->be, &a->part);
    partial_free(a->be, &a->sums);
    a->be->ops->free(a->be, a->keep_dev);
    a->be->ops->free(a->be, a->total_dev);
    a->be->ops->free(a->be, a->total_m_dev);
    mem_free(a->keep);
    mem_free(a->score);
    mem_free(a->score_all);
    mem_free(a->lse_local);
    mem_free(a->total);
    mem_free(a->total_m);
    mem_free(a->shift);
    mem_free(a->slots);
    mem_free(a->sum[0]);
    mem_free(a->sum[1]);
    mem_free(a->scratch);
    mem_free(a->wire_send);
    mem_free(a->wire_recv);
    mem_free(a->bytes_each);
    mem_free(a->pools);
    layout_free(&a->base);
    layout_free(&a->segments);
    mem_free(a);
}

attn_args_t attention_args(const attend_t *a, int layer, const void *q) {
    const model_config_t *c = a->config;
    return (attn_args_t){.layer = layer,
                         .n_head = (int)c->n_head,
                         .n_kv_head = (int)c->n_kv_head,
                         .d_head = (int)c->d_head,
                         .scale = 1.0f / sqrtf((float)c->d_head),
                         .n_row = a->n_row,
                         .q = q,
                         .o_type = DT_F32};
}

status_t base_attention(attend_t *a, int layer, const void *q) {
    attn_args_t args = attention_args(a, layer, q);
    args.pools = a->pools;
    args.n_pool = 1 + a->n_query;
    args.runs = a->base.runs;
    args.spans = a->base.spans;
    args.n_run = a->base.n_run;
    args.n_span = a->base.n_span;
    args.n_block = a->spec.apart ? 1 : a->n_base;
    args.o = a->sums.o;
    args.lse = a->sums.lse;
    args.m = a->spec.want_entropy ? a->sums.m : NULL;
    return a->be->ops->attention(a->be, &args);
}

/* Of local segments first .. first+n-1 what one run sees, segment i as block i: all rows. */
static status_t spans_whole(attend_t *a, int64_t n, const kv_pool_t *pools) {
    int64_t each = pools_each(a);
    status_t st = layout_add_run(&a->segments, -1, 0, a->n_row);
    for (int64_t i = 0; i < n * each && !st; i++)
        st = layout_add_span(&a->segments, span_all((int32_t)i, (int32_t)(i / each), pools[i].n_row));
    return st;
}

/* The same through the model's window: queries stand at other positions, and where a segment's rows are no line, so does every row. A
 * segment that lies outside gives an empty partial result. */
static status_t spans_windowed(attend_t *a, int64_t first, int64_t n, const kv_pool_t *pools) {
    const place_t *theirs = a->ctx->places + first, own = {.align = ALIGN_LEFT, .n_sink = a->ctx->query_position};
    bool line = true;
    status_t st = ST_OK;
    for (int64_t i = 0; i < n; i++) line = line && place_steps(&theirs[i]);
    for (int q = 0; q < a->n_query; q++) {
        const attend_query_t *query = &a->queries[q];
        for (int64_t r = 0, step = line ? query->n : 1; r < query->n && !st; r += step) {
            st = layout_add_run(&a->segments, -1, query->index + r, step);
            for (int64_t i = 0; i < n && !st; i++)
                st = layout_add_span(&a->segments, span_window((int32_t)i, (int32_t)i, pools[i].n_row, &theirs[i], &own, query->index + r,
                                                               a->config->window));
        }
    }
    return st;
}

/* Local segments [first, first+n) as blocks 0..n-1 of `part`. */
static status_t segment_attention(attend_t *a, int layer, const void *q, int64_t first, int64_t n) {
    kv_pool_t *pools = a->pools + 1 + a->max_query; /* behind the base's: the forward pass still reads those */
    int64_t each = pools_each(a);
    for (int64_t i = 0; i < n * each; i++) {
        const kv_pool_t *whole = &a->ctx->pools[first + i / each];
        pools[i] = a->ctx->counts ? pick_part(a->config, whole, a->ctx->counts[first + i / each], layer, i % each) : *whole;
    }
    layout_clear(&a->segments);
    status_t st = a->config->window > 0 && a->ctx->places ? spans_windowed(a, first, n, pools) : spans_whole(a, n, pools);
    if (st) return st;
    attn_args_t args = attention_args(a, layer, q);
    args.pools = pools;
    args.n_pool = (int)(n * each);
    args.runs = a->segments.runs;
    args.spans = a->segments.spans;
    args.n_run = a->segments.n_run;
    args.n_span = a->segments.n_span;
    args.n_block = (int)n;
    if (a->spec.temperature > 0) args.scale /= (float)a->spec.temperature;
    args.o = a->part.o;
    args.lse = a->part.lse;
    args.m = a->spec.want_entropy ? a->part.m : NULL;
    args.top = a->spec.select ? a->part.top : NULL;
    st = a->be->ops->attention(a->be, &args);
    if (!st && (a->spec.want_mass || a->spec.select))
        st = a->be->ops->copy_out(a->be, a->lse_local + first * plane(a), a->part.lse, (size_t)(n * plane(a)) * sizeof(float));
    return st;
}

/* One rank, and every group one segment: base and segments in a single call, each block straight into its slot of `sums`. The bits are
 * those of the longer way, since merging one partial result changes nothing. */
static bool joins(const attend_t *a) {
    const context_kv_t *ctx = a->ctx;
    bool plain = !ctx->counts && !a->spec.select && a->n_base == 1 && a->spec.temperature <= 0 && a->config->window <= 0;
    return plain && a->comm->size == 1 && ctx->n_local && ctx->group == 1 && a->n_hold == ctx->n_local;
}

static status_t joined_layout(attend_t *a) {
    status_t st = ST_OK;
    int64_t first = 1 + a->n_query;
    layout_clear(&a->segments);
    for (int64_t i = 0; i < a->ctx->n_local; i++) a->pools[first + i] = a->ctx->pools[i];
    for (int r = 0; r < a->base.n_run && !st; r++) {
        const run_t *run = &a->base.runs[r];
        st = layout_add_run(&a->segments, run->pool, run->index, run->n);
        for (int s = run->span; s < run->span + run->n_span && !st; s++) st = layout_add_span(&a->segments, a->base.spans[s]);
        for (int64_t i = 0; i < a->ctx->n_local && !st; i++)
            st = layout_add_span(&a->segments, span_all((int32_t)(first + i), (int32_t)(a->n_base + i), a->pools[first + i].n_row));
    }
    return st;
}

static status_t joined_attention(attend_t *a, int layer, const void *q) {
    status_t st = layer ? ST_OK : joined_layout(a); /* the same in every layer */
    attn_args_t args = attention_args(a, layer, q);
    args.pools = a->pools;
    args.n_pool = (int)(1 + a->n_query + a->ctx->n_local);
    args.runs = a->segments.runs;
    args.spans = a->segments.spans;
    args.n_run = a->segments.n_run;
    args.n_span = a->segments.n_span;
    args.n_block = (int)(a->n_base + a->ctx->n_local);
    args.o = a->sums.o;
    args.lse = a->sums.lse;
    args.m = a->spec.want_entropy ? a->sums.m : NULL;
    if (!st) st = a->be->ops->attention(a->be, &args);
    if (!st && a->spec.want_mass)
        st = a->be->ops->copy_out(a->be, a->lse_local, a->sums.lse + a->n_base * plane(a),
                                  (size_t)(a->ctx->n_local * plane(a)) * sizeof(float));
    return st;
}

/* The groups that local segments [first, first+n) make up, each merged into its slot of `sums`. */
static status_t merge_groups(attend_t *a, int64_t first, int64_t n) {
    const context_kv_t *ctx = a->ctx;
    int64_t cells = plane(a), d = a->config->d_head;
    for (int64_t at = first; at < first + n;) {
        int64_t g = (ctx->first + at) / ctx->group, end = i64_min(context_group_end(ctx, g) - ctx->first, first + n), p = at - first,
                slot = a->n_base + g;
        merge_args_t args = {.n_row = a->n_row,
                             .n_head = (int)a->config->n_head,
                             .d_head = (int)d,
                             .n_block = (int)(end - at),
                             .o = a->part.o + p * cells * d,
                             .lse = a->part.lse + p * cells,
                             .m = a->spec.want_entropy ? a->part.m + p * cells : NULL,
                             .keep = a->spec.select ? a->keep_dev + at * cells : NULL,
                             .o_out_type = DT_F32,
                             .o_out = a->sums.o + slot * cells * d,
                             .lse_out = a->sums.lse + slot * cells,
                             .m_out = a->spec.want_entropy ? a->sums.m + slot * cells : NULL};
        status_t st = a->be->ops->merge(a->be, &args);
        if (st) return st;
        at = end;
    }
    return ST_OK;
}

void sum_entropy(attend_t *a, int layer) {
    int64_t heads = a->config->n_head;
    for (int q = 0; q < a->n_query; q++) {
        attend_query_t *query = &a->queries[q];
        double sum = 0;
        for (int64_t x = query->row * heads; x < (query->row + query->n) * heads; x++) sum += (double)a->total[x] - (double)a->total_m[x];
        query->entropy += sum / (double)(query->n * heads * a->config->n_layer);
        for (int64_t x = query->row * heads; query->by_head && x < (query->row + query->n) * heads; x++)
            query->by_head[layer * heads + x % heads] += (double)a->total[x] - (double)a->total_m[x];
    }
}

static void sum_mass(attend_t *a) {
    int64_t heads = a->config->n_head, cells = plane(a);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < a->ctx->n_local; i++)
        for (int q = 0; q < a->n_query; q++) {
            const attend_query_t *query = &a->queries[q];
            const uint8_t *keep = a->spec.select ? a->keep + (a->ctx->first + i) * cells : NULL;
            double sum = 0;
            for (int64_t x = query->row * heads; x < (query->row + query->n) * heads; x++)
                if (!keep || keep[x]) sum += exp((double)a->lse_local[i * cells + x] + (double)a->shift[x] - (double)a->total[x]);
            if (query->mass) query->mass[i] += sum;
        }
}

status_t groups_attention(attend_t *a, int layer, const void *q) {
    status_t st = ST_OK;
    for (int64_t at = 0; !st && at < a->ctx->n_local; at += a->n_hold) {
        int64_t n = i64_min(a->n_hold, a->ctx->n_local - at);
        st = segment_attention(a, layer, q, at, n);
        if (!st) st = merge_groups(a, at, n);
    }
    return st;
}

static status_t attend_layer(void *self, const batch_t *b, int layer, const void *q, void *o) {
    attend_t *a = self;
    (void)b; /* a has its own pools and spans */
    const context_kv_t *ctx = a->ctx;
    size_t cell_bytes = (size_t)plane(a) * sizeof(float);
    bool stats = a->spec.want_entropy || a->spec.want_mass;
    if (a->spec.apart) return apart_layer(a, layer, q, o);
    bool joined = joins(a);
    status_t st = joined ? joined_attention(a, layer, q) : base_attention(a, layer, q);
    if (joined) {
        /* all slots are filled */
    } else if (a->spec.select) {
        if (!st && ctx->n_local) st = segment_attention(a, layer, q, 0, ctx->n_local);
        if (!st) st = choose_segments(a);
        if (!st && a->spec.fetch_raw) st = fetch_raw(a, layer, q);
        if (!st) st = merge_groups(a, 0, ctx->n_local);
    } else if (!st) {
        st = groups_attention(a, layer, q);
    }
    if (!st && a->comm->size > 1 && ctx->n_group) st = share_groups(a);
    if (!st) st = reweigh(a);
    if (st) return st;
    merge_args_t args = {.n_row = a->n_row,
                         .n_head = (int)a->config->n_head,
                         .d_head = (int)a->config->d_head,
                         .n_block = (int)(a->n_base + ctx->n_group),
                         .o = a->sums.o,
                         .lse = a->sums.lse,
                         .m = a->spec.want_entropy ? a->sums.m : NULL,
                         .o_out_type = a->be->act,
                         .o_out = o,
                         .lse_out = stats ? a->total_dev : NULL,
                         .m_out = a->spec.want_entropy ? a->total_m_dev : NULL};
    st = a->be->ops->merge(a->be, &args);
    if (!st && stats) st = a->be->ops->copy_out(a->be, a->total, a->total_dev, cell_bytes);
    if (!st && a->spec.want_entropy) st = a->be->ops->copy_out(a->be, a->total_m, a->total_m_dev, cell_bytes);
    if (!st && a->spec.want_entropy) sum_entropy(a, layer);
    if (!st && a->spec.want_mass) sum_mass(a);
    return st;
}

/* Sink and own rows of query i, which may be blocks apart. */
static status_t base_spans(attend_t *a, int i) {
    const attend_query_t *q = &a->queries[i];
    int64_t n_sink = a->ctx->sink.n_row;
    status_t st = layout_add_run(&a->base, 1 + i, q->index, q->n);
    if (!st && n_sink) st = layout_add_span(&a->base, span_all(SINK_POOL, 0, n_sink));
    return st ? st : layout_add_span(&a->base, span_causal(1 + i, a->spec.apart ? 0 : a->n_base - 1, q->index + q->n, a->config->window));
}

/* Sink and own rows of query i by the rule; other queries are pieces of their own, so it hides them. */
static status_t base_by_rule(attend_t *a, int i) {
    const attend_query_t *q = &a->queries[i];
    int64_t after = a->ctx->query_position; /* any order behind the sink will do */
    rule_pool_t pools[2] = {{.set = SET_PREFIX, .n_row = a->ctx->sink.n_row, .pool = SINK_POOL},
                            {.set = SET_QUERY,
                             .piece = i,
                             .order = after,
                             .n_row = q->index + q->n,
                             .pool = 1 + i,
                             .block = a->spec.apart ? 0 : a->n_base - 1,
                             .place = {ALIGN_LEFT, .n_sink = after}}};
    return layout_by_rule(&a->base, &pools[1], q->index, q->n, pools, 2, a->config->window);
}

status_t attend_forward(attend_t *a, forward_ws_t *ws, attend_query_t *queries, int n_query, const int32_t *tokens, const double *positions,
                        int64_t n_out, const int64_t *out_rows, float *logits) {
    const context_kv_t *ctx = a->ctx;
    kv_pool_t *pools = a->pools;
    status_t st = ST_OK;
    layout_clear(&a->base);
    a->queries = queries;
    a->n_query = n_query;
    pools[SINK_POOL] = ctx->sink;
    for (int i = 0; i < n_query && !st; i++) {
        queries[i].row = a->base.n_row;
        queries[i].entropy = queries[i].edits = 0;
        pools[1 + i] = queries[i].own;
        st = a->spec.by_rule ? base_by_rule(a, i) : base_spans(a, i);
    }
    if (st) return st;
    a->n_row = a->base.n_row;
    batch_t b = {.n_row = a->n_row,
                 .tokens = tokens,
                 .positions = positions,
                 .n_pool = 1 + n_query,
                 .n_run = a->base.n_run,
                 .n_span = a->base.n_span,
                 .pools = pools,
                 .runs = a->base.runs,
                 .spans = a->base.spans,
                 .attend = attend_layer,
                 .attend_ctx = a,
                 .n_out = n_out,
                 .out_rows = out_rows,
                 .logits = logits};
    return forward(a->model, ws, &b);
}

/* A forward pass, put together piece by piece: rows with their tokens, positions and inputs, the pools they see, and what they see. */
#include "base/mem.h"
#include "encode/encoder_impl.h"

void pass_begin(encoder_t *e) {
    layout_clear(&e->layout);
    e->n_pool = FIRST_POOL;
    e->n_given = e->n_gist = 0;
    e->n_input = 0;
    e->n_out = e->n_hidden = 0;
    e->pools[SINK_POOL] = *encoder_sink_seen(e);
}

status_t pass_emit(encoder_t *e, const int64_t *at, int64_t n_out, const float *logits) {
    status_t st = ST_OK;
    for (int64_t i = 0, n; i < n_out && !st; i += n) { /* neighbours go together */
        for (n = 1; i + n < n_out && at[i + n] == at[i] + n;) n++;
        st = e->spec.rows(e->spec.rows_ctx, at[i], n, logits + i * e->config->n_vocab);
    }
    return st;
}

static status_t pass_mark(encoder_t *e) { return e->mark ? e->mark(e->mark_ctx) : ST_OK; }

status_t pass_run(encoder_t *e) {
    batch_t b = {.n_row = e->layout.n_row,
                 .tokens = e->tokens,
                 .positions = e->positions,
                 .n_given = e->n_given,
                 .given = e->given,
                 .n_gist = e->n_gist,
                 .gists = e->gists,
                 .n_pool = e->n_pool,
                 .n_run = e->layout.n_run,
                 .n_span = e->layout.n_span,
                 .pools = e->pools,
                 .runs = e->layout.runs,
                 .spans = e->layout.spans,
                 .n_out = e->n_out,
                 .out_rows = e->out_rows,
                 .logits = e->logits,
                 .n_hidden = e->n_hidden,
                 .hidden_rows = e->hidden_rows,
                 .hidden = e->n_hidden ? e->memory + e->first_hidden * e->config->d_model : NULL};
    status_t st = b.n_row ? pass_mark(e) : ST_OK;
    if (!st && b.n_row) st = e->spilling ? spill_forward(&e->spill, e->model, e->ws, b) : forward(e->model, e->ws, &b);
    if (!st && b.n_row) st = pass_mark(e);
    if (!st) st = pass_emit(e, e->out_at, e->n_out, e->logits);
    pass_begin(e);
    return st;
}

void pass_want(encoder_t *e, int64_t row, int64_t at) {
    e->out_rows[e->n_out] = row;
    e->out_at[e->n_out++] = at;
}

/* Gives the pass one more pool; `n_row` of its rows exist when the pass ends. */
static status_t pass_pool(encoder_t *e, const kv_pool_t *pool, int64_t piece, int64_t order, int64_t n_row, int32_t *index) {
    if (e->n_pool == e->cap_pool) {
        status_t st = mem_grow(&e->pools, 2 * (size_t)e->cap_pool, sizeof *e->pools, "pools of a pass");
        if (!st) st = mem_grow(&e->places, 2 * (size_t)e->cap_pool, sizeof *e->places, "pools of a pass");
        if (st) return st;
        e->cap_pool *= 2;
    }
    e->pools[e->n_pool] = *pool;
    e->places[e->n_pool] = (rule_pool_t){
        .set = SET_PIECES, .piece = piece, .order = order, .n_row = n_row, .pool = e->n_pool, .place = {ALIGN_LEFT, .n_sink = order}};
    *index = e->n_pool++;
    return ST_OK;
}

/* The pools that all rows of a piece see whole: the sink, and those it continues. */
static status_t shared_pools(encoder_t *e, const piece_t *p, int64_t number, shared_t *out, int64_t *order) {
    if (p->n_chain + 1 > e->cap_shared) {
        size_t cap = 2 * (size_t)(p->n_chain + 1);
        status_t st = mem_grow(&e->shared, cap, sizeof *e->shared, "pools of a chain");
        if (!st) st = mem_grow(&e->shared_rows, cap, sizeof *e->shared_rows, "pools of a chain");
        if (st) return st;
        e->cap_shared = (int)cap;
    }
    status_t st = ST_OK;
    e->shared[0] = SINK_POOL;
    e->shared_rows[0] = e->n_sink;
    *order = e->n_sink;
    for (int i = 0; !st && i < p->n_chain; i++) {
        st = pass_pool(e, &p->chain[i], number, *order, p->chain[i].n_row, &e->shared[1 + i]);
        e->shared_rows[1 + i] = p->chain[i].n_row;
        *order += p->chain[i].n_row;
    }
    *out = (shared_t){e->shared, e->shared_rows, 1 + p->n_chain};
    return st;
}

/* The pages that raw rows from .. upto-1 and their gists see or go to; a page that nobody sees any more takes new rows. */
static status_t piece_pages(encoder_t *e, int64_t number, int64_t from, int64_t upto, pages_t *out) {
    int64_t first = gist_oldest(&e->spec.gist, from) / PAGE_ROWS, n = i64_max(i64_ceil_div(upto, PAGE_ROWS) - first, 1);
    status_t st = ST_OK;
    for (int64_t i = 0; i < n && !st; i++)
        st = pass_pool(e, &e->pages[(first + i) % e->n_page], number, e->n_sink + (first + i) * PAGE_ROWS, PAGE_ROWS, &e->page_pools[i]);
    *out = (pages_t){.pools = e->page_pools, .first = first, .n = n, .page = PAGE_ROWS};
    return st;
}

/* Rows of the chain: what a segment remembers. */
static int64_t chain_rows(const piece_t *p) {
    int64_t n = 0;
    for (int c = 0; c < p->n_chain; c++) n += p->chain[c].n_row;
    return n;
}

static double row_position(const encoder_t *e, const piece_t *p, row_kind_t kind, int64_t i) {
    const encoder_spec_t *s = &e->spec;
    int64_t at = kind == KIND_GIST ? gist_position(&s->gist, i, p->n) : i;
    if (!s->compact) return (double)layout_position(s->align, e->n_sink, at, p->n, s->reserve, p->before);
    return (double)(e->n_sink + chain_rows(p) + gist_order(&s->gist, kind, i, p->n));
}

/* Tokens, positions and wishes of the piece's rows, from row `row` of the pass. */
static void rows_fill(encoder_t *e, const piece_t *p, int64_t row, int64_t raw, int64_t raw_n, int64_t gist, int64_t gist_n) {
    const encoder_spec_t *s = &e->spec;
    for (int64_t i = 0; i < raw_n; i++) {
        e->tokens[row + i] = p->tokens[raw + i];
        e->positions[row + i] = row_position(e, p, KIND_RAW, raw + i);
        if (s->rows && raw + i >= p->unwanted)
            pass_want(e, row + i, p->at + (s->all_rows ? gist_order(&s->gist, KIND_RAW, raw + i, p->n) : raw + i));
    }
    for (int64_t i = 0; i < gist_n; i++) {
        e->positions[row + raw_n + i] = row_position(e, p, KIND_GIST, gist + i);
        if (s->rows && s->all_rows) pass_want(e, row + raw_n + i, p->at + gist_order(&s->gist, KIND_GIST, gist + i, p->n));
    }
}

/* The pass must keep the hidden states of the gists from .. from+n-1, its rows from `row` on. */
static status_t want_hidden(encoder_t *e, int64_t row, int64_t from, int64_t n) {
    if (from + n > e->cap_memory) {
        int64_t cap = 2 * (from + n);
        status_t st = mem_grow(&e->memory, (size_t)(cap * e->config->d_model), sizeof *e->memory, "hidden states of gists");
        if (st) return st;
        e->cap_memory = cap;
    }
    if (!e->n_hidden) e->first_hidden = from;
    for (int64_t i = 0; i < n; i++) e->hidden_rows[e->n_hidden++] = row + i;
    return ST_OK;
}

status_t pass_add_memory(encoder_t *e, const piece_t *p, int64_t from, int64_t n) {
    int64_t order, row = e->layout.n_row, d = e->config->d_model;
    int32_t pool;
    shared_t shared;
    status_t st = shared_pools(e, p, 0, &shared, &order);
    if (!st) st = pass_pool(e, &p->gist_pool, 0, order, 0, &pool);
    if (st) return st;
    for (int64_t i = 0; i < n; i++) {
        e->tokens[row + i] = 0;
        e->positions[row + i] = e->spec.compact ? (double)(e->n_sink + chain_rows(p) + from + i) : row_position(e, p, KIND_GIST, from + i);
    }
    e->given[e->n_given++] = (given_t){.row = row, .n = n, .input = e->memory + from * d};
    st = layout_add_run(&e->layout, pool, from, n);
    for (int i = 0; !st && i < shared.n; i++)
        if (shared.rows[i]) st = layout_add_span(&e->layout, span_all(shared.pools[i], 0, shared.rows[i]));
    return st ? st : layout_add_span(&e->layout, span_causal(pool, 0, from + n, 0));
}

/* The model's window, or 0 where it reaches the first row that these see. */
static int64_t window_that_cuts(const encoder_t *e, const place_t *own, int64_t last) {
    int64_t first = i64_min(place_at(own, 0), e->n_sink);
    return place_at(own, last) - first >= e->config->window ? e->config->window : 0;
}

/* Rows that see a window of rows, whatever the model's own (streaming); the sink, or copies of it that stay near, before them. */
static status_t add_streaming(encoder_t *e, int32_t raw_pool, int64_t raw, int64_t raw_n, const shared_t *shared) {
    bool near = e->spec.in_cache && e->n_sink;
    status_t st = near ? near_fill(e, raw, raw_n) : ST_OK;
    int32_t copies;
    if (!st && near) st = pass_pool(e, &e->near, 0, 0, 0, &copies);
    if (!st) st = layout_add_run(&e->layout, raw_pool, raw, raw_n);
    if (!st && near) st = layout_add_span(&e->layout, near_span(e, copies, raw, raw_n));
    for (int i = near; !st && i < shared->n; i++)
        if (shared->rows[i]) st = layout_add_span(&e->layout, span_all(shared->pools[i], 0, shared->rows[i]));
    return st ? st : layout_add_span(&e->layout, span_causal(raw_pool, 0, raw + raw_n, encoder_window(e)));
}

static status_t add_plain(encoder_t *e, int32_t raw_pool, int64_t raw, int64_t raw_n, const shared_t *shared) {
    if (e->spec.window > 0) return add_streaming(e, raw_pool, raw, raw_n, shared);
    const place_t *own = &e->places[raw_pool].place;
    int64_t window = window_that_cuts(e, own, raw + raw_n - 1), step = window && !place_steps(own) ? 1 : raw_n;
    status_t st = ST_OK;
    for (int64_t i = raw; i < raw + raw_n && !st; i += step) {
        st = layout_add_run(&e->layout, raw_pool, i, step);
        if (!st && shared->rows[0]) st = layout_add_span(&e->layout, span_all(shared->pools[0], 0, shared->rows[0]));
        for (int k = 1; !st && k < shared->n; k++) {
            const place_t *theirs = &e->places[shared->pools[k]].place;
            if (shared->rows[k])
                st = layout_add_span(&e->layout, span_window(shared->pools[k], 0, shared->rows[k], theirs, own, i, window));
        }
        span_t s = span_window(raw_pool, 0, raw + raw_n, own, own, i, window);
        s.hi = edge_step(1, 1, 0, 1);
        if (!st) st = layout_add_span(&e->layout, s);
    }
    return st;
}

status_t pass_add(encoder_t *e, const piece_t *p, int64_t number, int64_t raw, int64_t raw_n, int64_t gist, int64_t gist_n) {
    const gist_spec_t *g = &e->spec.gist;
    int64_t row = e->layout.n_row, order;
    int32_t raw_pool, gist_pool = -1;
    shared_t shared;
    rows_fill(e, p, row, raw, raw_n, gist, gist_n);
    status_t st = shared_pools(e, p, number, &shared, &order);
    pages_t pages = {.pools = &raw_pool, .n = 1, .page = INT64_C(1) << 40};
    if (!st && e->spec.evict) st = piece_pages(e, number, raw_n ? raw : gist * g->ratio, raw + raw_n, &pages);
    if (!st && !e->spec.evict) st = pass_pool(e, &p->pool, number, order, raw + raw_n, &raw_pool);
    if (!st && !e->spec.evict) e->places[raw_pool].place = (place_t){e->spec.align, e->n_sink, p->n, e->spec.reserve, p->before};
    if (!st && g->ratio) st = pass_pool(e, &p->gist_pool, number, order, 0, &gist_pool);
    if (!st && gist_n) st = inputs_gist(e, p, row + raw_n, gist, gist_n);
    if (!st && gist_n) e->gists[e->n_gist++] = (gist_rows_t){.row = row + raw_n, .n = gist_n};
    if (!st && gist_n && e->spec.recurrent) st = want_hidden(e, row + raw_n, gist, gist_n);
    if (st) return st;
    if (e->spec.by_rule && g->ratio) {
        int64_t raw_end = raw_n ? raw + raw_n : i64_min((gist + gist_n) * g->ratio, p->n), gist_end = gist + gist_n;
        if (g->at_end && gist_n) raw_end = p->n;
        st = layout_gist_by_rule(&e->layout, g, &pages, gist_pool, KIND_RAW, raw, raw + raw_n, p->n, raw_end, gist_end, &shared);
        return st ? st : layout_gist_by_rule(&e->layout, g, &pages, gist_pool, KIND_GIST, gist, gist_end, p->n, raw_end, gist_end, &shared);
    }
    if (e->spec.by_rule) return layout_by_rule(&e->layout, &e->places[raw_pool], raw, raw_n, e->places, e->n_pool, encoder_window(e));
    if (!g->ratio) return add_plain(e, raw_pool, raw, raw_n, &shared);
    if (raw_n) st = layout_gist_raw_paged(&e->layout, g, &pages, gist_pool, raw, raw_n, gist + gist_n, &shared);
    if (!st && gist_n) st = layout_gist_rows_paged(&e->layout, g, &pages, gist_pool, gist, gist + gist_n, p->n, &shared);
    return st;
}

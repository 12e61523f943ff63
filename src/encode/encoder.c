#include "encode/encoder.h"

#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "encode/encoder_impl.h"

size_t encoder_bytes(const model_config_t *c, dtype_t act, const encoder_spec_t *spec) {
    return forward_ws_bytes(c, act, spec->max_row) + 2 * kv_bytes(c, act, spec->n_blank + spec->n_sink) +
           (size_t)spec->max_row * (sizeof(int32_t) + sizeof(double));
}

/* Sink rows at .. at+n-1 join the pass: blank ones first. */
static status_t sink_rows(encoder_t *e, int64_t at, int64_t n) {
    int64_t blank = i64_max(0, i64_min(n, e->spec.n_blank - at));
    status_t st = blank ? inputs_blank(e, 0, at, blank) : ST_OK;
    for (int64_t i = 0; i < n; i++) {
        if (i >= blank) e->tokens[i] = e->sink[at + i - e->spec.n_blank];
        e->positions[i] = (double)(at + i);
        if (e->spec.rows && e->spec.all_rows) pass_want(e, i, at + i);
    }
    return st ? st : layout_sink(&e->layout, SINK_POOL, at, n);
}

static status_t sink_encode(encoder_t *e) {
    pass_begin(e);
    for (int64_t at = 0; at < e->n_sink;) {
        int64_t n = i64_min(e->spec.max_row, e->n_sink - at);
        status_t st = sink_rows(e, at, n);
        if (!st) st = pass_run(e);
        if (st) return st;
        at += n;
    }
    return ST_OK;
}

/* Rank 0's sink K/V to all ranks, through host memory. */
static status_t sink_share(encoder_t *e, comm_t *comm) {
    size_t bytes = kv_bytes(e->config, e->be->act, e->n_sink);
    char *host = NULL;
    status_t st = mem_alloc(&host, 2 * bytes, 1, "the sink's K/V");
    if (!st && comm->rank == 0) st = e->be->ops->copy_out(e->be, host, e->sink_pool.k, bytes);
    if (!st && comm->rank == 0) st = e->be->ops->copy_out(e->be, host + bytes, e->sink_pool.v, bytes);
    st = comm_agree(comm, st);
    if (!st) st = comm->ops->bcast(comm, 0, host, (int64_t)(2 * bytes));
    if (!st && comm->rank) st = e->be->ops->copy_in(e->be, e->sink_pool.k, host, bytes);
    if (!st && comm->rank) st = e->be->ops->copy_in(e->be, e->sink_pool.v, host + bytes, bytes);
    mem_free(host);
    return st;
}

static status_t logits_setup(encoder_t *e) {
    size_t rows = (size_t)e->spec.max_row;
    status_t st = mem_alloc(&e->out_rows, rows, sizeof *e->out_rows, "rows of a pass");
    if (!st) st = mem_alloc(&e->out_at, rows, sizeof *e->out_at, "rows of a pass");
    return st ? st : mem_alloc(&e->logits, rows, (size_t)e->config->n_vocab * sizeof *e->logits, "logits of a pass");
}

static status_t encoder_setup(encoder_t *e, const encoder_spec_t *spec) {
    status_t st = ST_OK;
    size_t rows = (size_t)spec->max_row;
    if (e->config->window > 0 && e->config->window < spec->max_row + e->n_sink)
        log_debug("the model's sliding window is %lld rows", (long long)e->config->window);
    if ((st = mem_alloc(&e->tokens, rows, sizeof *e->tokens, "tokens of a pass"))) return st;
    if ((st = mem_alloc(&e->positions, rows, sizeof *e->positions, "positions of a pass"))) return st;
    e->cap_pool = 64;
    if ((st = mem_alloc(&e->pools, (size_t)e->cap_pool, sizeof *e->pools, "pools of a pass"))) return st;
    if ((st = mem_alloc(&e->places, (size_t)e->cap_pool, sizeof *e->places, "pools of a pass"))) return st;
    e->places[SINK_POOL] = (rule_pool_t){.set = SET_PREFIX, .n_row = e->n_sink, .pool = SINK_POOL};
    if ((st = forward_ws_create(e->model, spec->max_row, &e->ws))) return st;
    if ((spec->gist.ratio || spec->n_blank) && (st = inputs_setup(e))) return st;
    if (spec->recurrent && (st = mem_alloc(&e->hidden_rows, rows, sizeof *e->hidden_rows, "rows of a pass"))) return st;
    if (spec->evict && (st = pages_setup(e))) return st;
    if (spec->in_cache && e->n_sink && (st = near_setup(e))) return st;
    if (spec->rows && (st = logits_setup(e))) return st;
    if ((st = mem_alloc(&e->sink, (size_t)spec->n_sink, sizeof *e->sink, "the sink's tokens"))) return st;
    if (spec->n_sink) memcpy(e->sink, spec->sink, (size_t)spec->n_sink * sizeof *e->sink);
    return e->n_sink ? kv_alloc(e->be, e->config, e->be->act, e->n_sink, "the sink's K/V", &e->sink_pool) : ST_OK;
}

status_t encoder_create(model_t *m, comm_t *comm, const encoder_spec_t *spec, encoder_t **out) {
    encoder_t *e = NULL;
    status_t st = mem_zalloc(&e, 1, sizeof *e, "an encoder");
    *out = NULL;
    if (!st) {
        e->model = m;
        e->be = model_backend(m);
        e->config = model_config(m);
        e->spec = *spec;
        e->n_sink = spec->n_blank + spec->n_sink;
        if (comm->rank && !spec->sharded) e->spec.rows = NULL;
        st = encoder_setup(e, spec);
        if (!st && comm->rank == 0) st = sink_encode(e);
    }
    st = comm_agree(comm, st);
    if (!st) {
        int64_t fewest = -spec->max_row;
        st = comm->ops->max_i64(comm, &fewest, 1);
        e->shard_row = -fewest;
    }
    if (!st && e->n_sink && comm->size > 1) st = comm_agree(comm, sink_share(e, comm));
    if (st) {
        encoder_free(e);
        return st;
    }
    *out = e;
    return ST_OK;
}

/* The sink's rows where passes look for them. */
static status_t sink_to_host(encoder_t *e) {
    size_t bytes = kv_bytes(e->config, e->be->act, e->n_sink);
    if (!e->n_sink || e->sink_host.n_row) return ST_OK;
    status_t st = kv_alloc_host(e->be, e->config, e->be->act, e->n_sink, "the sink's K/V on the host", &e->sink_host);
    if (!st) st = e->be->ops->copy_out(e->be, e->sink_host.k, e->sink_pool.k, bytes);
    return st ? st : e->be->ops->copy_out(e->be, e->sink_host.v, e->sink_pool.v, bytes);
}

status_t encoder_spill(encoder_t *e, bool on) {
    if (on == e->spilling) return ST_OK;
    status_t st = on ? sink_to_host(e) : ST_OK;
    if (e->spec.evict) pages_free(e);
    if (!on) spill_free(&e->spill);
    e->spilling = on;
    return st || !e->spec.evict ? st : pages_setup(e);
}

size_t encoder_spilled(const encoder_t *e) { return e->spill.bytes; }
const kv_pool_t *encoder_sink_seen(const encoder_t *e) { return e->spilling ? &e->sink_host : &e->sink_pool; }

status_t encoder_pool(encoder_t *e, int64_t n_row, const char *what, kv_pool_t *out) {
    return (e->spilling ? kv_alloc_host : kv_alloc)(e->be, e->config, e->be->act, n_row, what, out);
}

void encoder_pool_free(encoder_t *e, kv_pool_t *p) { (e->spilling ? kv_free_host : kv_free)(e->be, p); }

status_t encoder_forward(encoder_t *e, batch_t b) {
    if (!e->spilling) return forward(e->model, e->ws, &b);
    status_t st = spill_forward(&e->spill, e->model, e->ws, b);
    return st ? st : spill_settle(&e->spill);
}

void encoder_free(encoder_t *e) {
    if (!e) return;
    kv_free_host(e->be, &e->sink_host);
    spill_free(&e->spill);
    kv_free(e->be, &e->sink_pool);
    kv_free(e->be, &e->near);
    mem_free(e->near_host);
    forward_ws_free(e->ws);
    layout_free(&e->layout);
    pages_free(e);
    mem_free(e->sink);
    mem_free(e->tokens);
    mem_free(e->positions);
    mem_free(e->pools);
    mem_free(e->places);
    inputs_free(e);
    mem_free(e->shared);
    mem_free(e->shared_rows);
    mem_free(e->memory);
    mem_free(e->hidden_rows);
    mem_free(e->out_rows);
    mem_free(e->out_at);
    mem_free(e->logits);
    mem_free(e);
}

void encoder_watch(encoder_t *e, status_t (*mark)(void *ctx), void *ctx) {
    e->mark = mark;
    e->mark_ctx = ctx;
}

const kv_pool_t *encoder_sink(const encoder_t *e) { return &e->sink_pool; }
forward_ws_t *encoder_workspace(encoder_t *e) { return e->ws; }

/* A piece from raw row `raw` and gist `gist` on. */
static status_t piece_run(encoder_t *e, const piece_t *p, int64_t number, int64_t raw, int64_t gist) {
    const gist_spec_t *g = &e->spec.gist;
    int64_t raw_n, gist_n;
    status_t st = ST_OK;
    bool alone = e->spec.evict || e->spec.in_cache; /* pages, or copies of the sink, belong to one piece */
    if (e->spec.max_row - e->layout.n_row <= g->ratio || alone) st = pass_run(e);
    while (!st && gist_step(g, p->n, raw, gist, e->spec.max_row - e->layout.n_row, &raw_n, &gist_n)) {
        st = pass_add(e, p, number, raw, raw_n, gist, gist_n);
        raw += raw_n;
        gist += gist_n;
        bool more = raw < p->n || gist < gist_count(g, p->n);
        bool now = more || e->layout.n_row == e->spec.max_row || alone;
        if (!st && now) st = pass_run(e);
        if (!st && now && p->after) st = p->after(p->after_ctx, raw, gist);
    }
    if (!st && e->spilling) st = spill_settle(&e->spill);
    return st || !e->spec.evict || !p->pool.n_row ? st : pages_tail(e, p);
}

/* The last pass of a run, and all of it where it belongs. */
static status_t run_end(encoder_t *e) {
    status_t st = pass_run(e);
    return st || !e->spilling ? st : spill_settle(&e->spill);
}

status_t encoder_run(encoder_t *e, const piece_t *pieces, int n_piece) {
    status_t st = ST_OK;
    pass_begin(e);
    for (int p = 0; p < n_piece && !st; p++) st = piece_run(e, &pieces[p], p, 0, 0);
    return st ? st : run_end(e);
}

status_t encoder_more(encoder_t *e, const piece_t *p, int64_t raw) {
    pass_begin(e);
    status_t st = piece_run(e, p, 0, raw, gist_count(&e->spec.gist, raw));
    return st ? st : run_end(e);
}

status_t encoder_remember(encoder_t *e, const piece_t *p) {
    int64_t all = gist_count(&e->spec.gist, p->n);
    status_t st = ST_OK;
    pass_begin(e);
    for (int64_t at = 0; at < all && !st;) {
        int64_t n = i64_min(all - at, e->spec.max_row);
        st = pass_add_memory(e, p, at, n);
        if (!st) st = pass_run(e);
        at += n;
    }
    return st ? st : run_end(e);
}

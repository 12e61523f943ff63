#include "encode/encoder.h"

#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "layout/rule.h"

enum { SINK_POOL = 0, FIRST_POOL = 1 };

struct encoder {
    model_t *model;
    backend_t *be;
    const model_config_t *config;
    encoder_spec_t spec;
    int32_t *sink;
    kv_pool_t sink_pool;
    forward_ws_t *ws;
    layout_t layout;
    int32_t *tokens;     /* [max_row] of the pass being put together */
    double *positions;   /* [max_row] */
    kv_pool_t *pools;    /* [cap_pool]: the sink's and those of the pass's pieces */
    rule_pool_t *places; /* [cap_pool] where the pools stand, for the reference switch */
    int n_pool, cap_pool;
};

size_t encoder_bytes(const model_config_t *c, dtype_t act, const encoder_spec_t *spec) {
    return forward_ws_bytes(c, act, spec->max_row) + 2 * kv_bytes(c, act, spec->n_sink) +
           (size_t)spec->max_row * (sizeof(int32_t) + sizeof(double));
}

/* One forward pass over the rows put together so far. */
static status_t pass_run(encoder_t *e) {
    batch_t b = {.n_row = e->layout.n_row,
                 .tokens = e->tokens,
                 .positions = e->positions,
                 .n_pool = e->n_pool,
                 .n_run = e->layout.n_run,
                 .n_span = e->layout.n_span,
                 .pools = e->pools,
                 .runs = e->layout.runs,
                 .spans = e->layout.spans};
    status_t st = b.n_row ? forward(e->model, e->ws, &b) : ST_OK;
    layout_clear(&e->layout);
    e->n_pool = FIRST_POOL;
    return st;
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
    e->places[e->n_pool] = (rule_pool_t){.set = SET_PIECES, .piece = piece, .order = order, .n_row = n_row, .pool = e->n_pool};
    *index = e->n_pool++;
    return ST_OK;
}

static status_t sink_encode(encoder_t *e) {
    for (int64_t at = 0; at < e->spec.n_sink;) {
        int64_t n = i64_min(e->spec.max_row, e->spec.n_sink - at);
        for (int64_t i = 0; i < n; i++) {
            e->tokens[i] = e->sink[at + i];
            e->positions[i] = (double)(at + i);
        }
        e->pools[SINK_POOL] = e->sink_pool;
        status_t st = layout_sink(&e->layout, SINK_POOL, at, n);
        if (!st) st = pass_run(e);
        if (st) return st;
        at += n;
    }
    return ST_OK;
}

/* Rank 0's sink K/V to all ranks, through host memory. */
static status_t sink_share(encoder_t *e, comm_t *comm) {
    size_t bytes = kv_bytes(e->config, e->be->act, e->spec.n_sink);
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

static status_t encoder_setup(encoder_t *e, const encoder_spec_t *spec) {
    status_t st = ST_OK;
    size_t rows = (size_t)spec->max_row;
    if (e->config->window > 0 && e->config->window < spec->max_row + spec->n_sink)
        log_debug("the model's sliding window is %lld rows", (long long)e->config->window);
    if ((st = mem_alloc(&e->tokens, rows, sizeof *e->tokens, "tokens of a pass"))) return st;
    if ((st = mem_alloc(&e->positions, rows, sizeof *e->positions, "positions of a pass"))) return st;
    e->cap_pool = 64;
    e->n_pool = FIRST_POOL;
    if ((st = mem_alloc(&e->pools, (size_t)e->cap_pool, sizeof *e->pools, "pools of a pass"))) return st;
    if ((st = mem_alloc(&e->places, (size_t)e->cap_pool, sizeof *e->places, "pools of a pass"))) return st;
    e->places[SINK_POOL] = (rule_pool_t){.set = SET_PREFIX, .n_row = spec->n_sink, .pool = SINK_POOL};
    if ((st = forward_ws_create(e->model, spec->max_row, &e->ws))) return st;
    if (!spec->n_sink) return ST_OK;
    if ((st = mem_alloc(&e->sink, (size_t)spec->n_sink, sizeof *e->sink, "the sink's tokens"))) return st;
    memcpy(e->sink, spec->sink, (size_t)spec->n_sink * sizeof *e->sink);
    return kv_alloc(e->be, e->config, e->be->act, spec->n_sink, "the sink's K/V", &e->sink_pool);
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
        st = encoder_setup(e, spec);
        if (!st && comm->rank == 0) st = sink_encode(e);
    }
    st = comm_agree(comm, st);
    if (!st && spec->n_sink && comm->size > 1) st = comm_agree(comm, sink_share(e, comm));
    if (st) {
        encoder_free(e);
        return st;
    }
    *out = e;
    return ST_OK;
}

void encoder_free(encoder_t *e) {
    if (!e) return;
    kv_free(e->be, &e->sink_pool);
    forward_ws_free(e->ws);
    layout_free(&e->layout);
    mem_free(e->sink);
    mem_free(e->tokens);
    mem_free(e->positions);
    mem_free(e->pools);
    mem_free(e->places);
    mem_free(e);
}

const kv_pool_t *encoder_sink(const encoder_t *e) { return &e->sink_pool; }
forward_ws_t *encoder_workspace(encoder_t *e) { return e->ws; }

/* Rows from .. from+n-1 of piece number p join the pass. */
static status_t pass_add(encoder_t *e, const piece_t *p, int64_t number, int64_t from, int64_t n) {
    const encoder_spec_t *s = &e->spec;
    int64_t row = e->layout.n_row, order = s->n_sink, window = e->config->window;
    int32_t pool, earlier, first = e->n_pool;
    status_t st = ST_OK;
    for (int64_t i = 0; i < n; i++) {
        e->tokens[row + i] = p->tokens[from + i];
        e->positions[row + i] = (double)layout_position(s->align, s->n_sink, from + i, p->n, s->reserve, p->before);
    }
    for (int i = 0; !st && i < p->n_chain; i++) {
        st = pass_pool(e, &p->chain[i], number, order, p->chain[i].n_row, &earlier);
        order += p->chain[i].n_row;
    }
    if (!st) st = pass_pool(e, &p->pool, number, order, from + n, &pool);
    if (st) return st;
    if (s->by_rule) return layout_by_rule(&e->layout, &e->places[pool], from, n, e->places, e->n_pool, window);
    st = layout_add_run(&e->layout, pool, from, n);
    if (!st && s->n_sink) st = layout_add_span(&e->layout, span_all(SINK_POOL, 0, s->n_sink));
    for (int i = 0; !st && i < p->n_chain; i++) st = layout_add_span(&e->layout, span_all(first + i, 0, p->chain[i].n_row));
    return st ? st : layout_add_span(&e->layout, span_causal(pool, 0, from + n, window));
}

status_t encoder_run(encoder_t *e, const piece_t *pieces, int n_piece) {
    status_t st = ST_OK;
    layout_clear(&e->layout);
    e->n_pool = FIRST_POOL;
    e->pools[SINK_POOL] = e->sink_pool;
    for (int p = 0; p < n_piece && !st; p++) {
        for (int64_t from = 0; from < pieces[p].n && !st;) {
            int64_t n = i64_min(pieces[p].n - from, e->spec.max_row - e->layout.n_row);
            st = pass_add(e, &pieces[p], p, from, n);
            from += n;
            if (!st && e->layout.n_row == e->spec.max_row) st = pass_run(e);
        }
    }
    return st ? st : pass_run(e);
}

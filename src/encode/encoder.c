#include "encode/encoder.h"

#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "layout/rule.h"
#include "model/embedding.h"

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
    /* gists */
    float *mean, *unit; /* [d_model] the mean of all embeddings; one embedding */
    float *input;       /* [max_row][d_model] inputs of the pass's gist rows */
    given_t *given;     /* [max_row] stretches of them */
    int n_given;
    int32_t *shared; /* pools and sizes that a segment sees whole: the sink and its chain */
    int64_t *shared_rows;
    int cap_shared;
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
                 .n_given = e->n_given,
                 .given = e->given,
                 .n_pool = e->n_pool,
                 .n_run = e->layout.n_run,
                 .n_span = e->layout.n_span,
                 .pools = e->pools,
                 .runs = e->layout.runs,
                 .spans = e->layout.spans};
    status_t st = b.n_row ? forward(e->model, e->ws, &b) : ST_OK;
    layout_clear(&e->layout);
    e->n_pool = FIRST_POOL;
    e->n_given = 0;
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

static status_t gist_setup(encoder_t *e) {
    size_t rows = (size_t)e->spec.max_row, d = (size_t)e->config->d_model;
    status_t st = mem_alloc(&e->mean, d, sizeof *e->mean, "the mean embedding");
    if (!st) st = mem_alloc(&e->unit, d, sizeof *e->unit, "an embedding");
    if (!st) st = mem_alloc(&e->input, rows * d, sizeof *e->input, "gist inputs");
    if (!st) st = mem_alloc(&e->given, rows, sizeof *e->given, "gist inputs");
    return st || e->spec.gist_init != GIST_MEAN ? st : model_mean_embedding(e->model, e->mean);
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
    if (spec->gist.ratio && (st = gist_setup(e))) return st;
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
    mem_free(e->mean);
    mem_free(e->unit);
    mem_free(e->input);
    mem_free(e->given);
    mem_free(e->shared);
    mem_free(e->shared_rows);
    mem_free(e);
}

const kv_pool_t *encoder_sink(const encoder_t *e) { return &e->sink_pool; }
forward_ws_t *encoder_workspace(encoder_t *e) { return e->ws; }

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
    e->shared_rows[0] = e->spec.n_sink;
    *order = e->spec.n_sink;
    for (int i = 0; !st && i < p->n_chain; i++) {
        st = pass_pool(e, &p->chain[i], number, *order, p->chain[i].n_row, &e->shared[1 + i]);
        e->shared_rows[1 + i] = p->chain[i].n_row;
        *order += p->chain[i].n_row;
    }
    *out = (shared_t){e->shared, e->shared_rows, 1 + p->n_chain};
    return st;
}

/* Inputs of gists from .. from+n-1 of a piece, whose rows in the pass begin at `row`. */
static status_t gist_inputs(encoder_t *e, const piece_t *p, int64_t row, int64_t from, int64_t n) {
    int64_t d = e->config->d_model, r = e->spec.gist.ratio;
    float *to = e->input + row * d;
    if (e->spec.gist_init == GIST_TOKEN) return ST_OK; /* its token is its input */
    for (int64_t g = 0; g < n; g++, to += d) {
        if (e->spec.gist_init == GIST_MEAN) {
            memcpy(to, e->mean, (size_t)d * sizeof *to);
            continue;
        }
        memset(to, 0, (size_t)d * sizeof *to);
        for (int64_t i = 0; i < r; i++) {
            status_t st = model_embedding(e->model, p->tokens[(from + g) * r + i], e->unit);
            if (st) return st;
            for (int64_t c = 0; c < d; c++) to[c] += e->unit[c] / (float)r;
        }
    }
    e->given[e->n_given++] = (given_t){.row = row, .n = n, .input = e->input + row * d};
    return ST_OK;
}

/* Raw rows raw .. raw+raw_n-1 and gists gist .. gist+gist_n-1 of piece number p join the pass. */
static status_t pass_add(encoder_t *e, const piece_t *p, int64_t number, int64_t raw, int64_t raw_n, int64_t gist, int64_t gist_n) {
    const encoder_spec_t *s = &e->spec;
    int64_t row = e->layout.n_row, order;
    int32_t raw_pool, gist_pool = -1;
    shared_t shared;
    for (int64_t i = 0; i < raw_n; i++) {
        e->tokens[row + i] = p->tokens[raw + i];
        e->positions[row + i] = (double)layout_position(s->align, s->n_sink, raw + i, p->n, s->reserve, p->before);
    }
    for (int64_t i = 0; i < gist_n; i++) {
        int64_t at = gist_position(&s->gist, gist + i, p->n);
        e->tokens[row + raw_n + i] = s->gist_init == GIST_TOKEN ? s->gist_token : 0;
        e->positions[row + raw_n + i] = (double)layout_position(s->align, s->n_sink, at, p->n, s->reserve, p->before);
    }
    status_t st = shared_pools(e, p, number, &shared, &order);
    if (!st) st = pass_pool(e, &p->pool, number, order, raw + raw_n, &raw_pool);
    if (!st && s->gist.ratio) st = pass_pool(e, &p->gist_pool, number, order, 0, &gist_pool);
    if (!st && gist_n) st = gist_inputs(e, p, row + raw_n, gist, gist_n);
    if (st) return st;
    if (s->by_rule) return layout_by_rule(&e->layout, &e->places[raw_pool], raw, raw_n, e->places, e->n_pool, e->config->window);
    if (!s->gist.ratio) {
        st = layout_add_run(&e->layout, raw_pool, raw, raw_n);
        for (int i = 0; !st && i < shared.n; i++)
            if (shared.rows[i]) st = layout_add_span(&e->layout, span_all(shared.pools[i], 0, shared.rows[i]));
        return st ? st : layout_add_span(&e->layout, span_causal(raw_pool, 0, raw + raw_n, e->config->window));
    }
    if (raw_n) st = layout_gist_raw(&e->layout, &s->gist, raw_pool, gist_pool, raw, raw_n, gist + gist_n, &shared);
    if (!st && gist_n) st = layout_gist_rows(&e->layout, &s->gist, raw_pool, gist_pool, gist, gist + gist_n, p->n, &shared);
    return st;
}

status_t encoder_run(encoder_t *e, const piece_t *pieces, int n_piece) {
    status_t st = ST_OK;
    layout_clear(&e->layout);
    e->n_pool = FIRST_POOL;
    e->pools[SINK_POOL] = e->sink_pool;
    for (int p = 0; p < n_piece && !st; p++) {
        int64_t raw = 0, gist = 0, raw_n, gist_n;
        if (e->spec.max_row - e->layout.n_row <= e->spec.gist.ratio) st = pass_run(e);
        while (!st && gist_step(&e->spec.gist, pieces[p].n, raw, gist, e->spec.max_row - e->layout.n_row, &raw_n, &gist_n)) {
            st = pass_add(e, &pieces[p], p, raw, raw_n, gist, gist_n);
            raw += raw_n;
            gist += gist_n;
            bool more = raw < pieces[p].n || gist < gist_count(&e->spec.gist, pieces[p].n);
            if (!st && (more || e->layout.n_row == e->spec.max_row)) st = pass_run(e);
        }
    }
    return st ? st : pass_run(e);
}

#include "encode/spill.h"

#include "base/mem.h"

enum { ALIGN = 256 };

static size_t ring_each(const model_config_t *c, dtype_t act, int64_t n_row) {
    return size_round_up(LAYER_RING * kv_bytes(c, act, n_row) / (size_t)c->n_layer, ALIGN);
}

size_t spill_bytes(const model_config_t *c, dtype_t act, int64_t n_row) { return 2 * ring_each(c, act, n_row); }

void spill_free(spill_t *s) {
    if (s->be) s->be->ops->free(s->be, s->memory);
    mem_free(s->rings);
    mem_free(s->seen);
    *s = (spill_t){0};
}

status_t spill_settle(spill_t *s) { return s->be ? s->be->ops->copy_out_wait(s->be, s->ticket) : ST_OK; }

/* Gives every pool of the pass its rows of two layers on the device. */
static status_t rings_fit(spill_t *s, const batch_t *b) {
    size_t bytes = 0, at = 0;
    status_t st = ST_OK;
    if (b->n_pool > s->cap) {
        size_t cap = 2 * (size_t)b->n_pool;
        st = mem_grow(&s->rings, cap, sizeof *s->rings, "pools of a pass");
        if (!st) st = mem_grow(&s->seen, 2 * cap, sizeof *s->seen, "pools of a pass");
        if (st) return st;
        s->cap = (int)cap;
    }
    for (int i = 0; i < b->n_pool; i++) bytes += 2 * ring_each(s->config, s->be->act, b->pools[i].n_row);
    if (bytes > s->bytes) {
        s->be->ops->free(s->be, s->memory);
        s->memory = NULL;
        s->bytes = 0;
        if ((st = s->be->ops->alloc(s->be, bytes, "two layers of K/V", &s->memory))) return st;
        s->bytes = bytes;
    }
    for (int i = 0; i < b->n_pool; i++) {
        size_t each = ring_each(s->config, s->be->act, b->pools[i].n_row);
        s->rings[i] = kv_view(s->config, s->be->act, b->pools[i].n_row, s->memory + at, s->memory + at + each);
        at += 2 * each;
    }
    return ST_OK;
}

/* Of each pool the rows from the first to the last that any row of the pass may see. */
static void find_seen(spill_t *s, const batch_t *b) {
    for (int i = 0; i < b->n_pool; i++) {
        s->seen[2 * i] = b->pools[i].n_row;
        s->seen[2 * i + 1] = 0;
    }
    for (int i = 0; i < b->n_span; i++) {
        const span_t *p = &b->spans[i];
        int64_t *seen = s->seen + 2 * p->pool;
        seen[0] = i64_min(seen[0], i64_max(p->begin, 0));
        seen[1] = i64_max(seen[1], i64_min(p->end, b->pools[p->pool].n_row));
    }
}

/* Whole pools lie head behind head: one copy for all heads. */
status_t ring_copy(backend_t *be, const model_config_t *c, rows_at_t ring, rows_at_t host, int layer, int64_t n, bool in, int64_t *ticket) {
    int64_t each = n * c->d_head, n_head = c->n_kv_head;
    bool whole = host.pool->head_stride == each && ring.pool->head_stride == each;
    size_t bytes = (size_t)(whole ? n_head * each : each) * dtype_bytes(host.pool->type);
    status_t st = ST_OK;
    for (int64_t h = 0; h < n_head && n > 0 && !st; h += whole ? n_head : 1) {
        size_t a = kv_row_at(host.pool, layer, h, host.row), b = kv_row_at(ring.pool, layer % LAYER_RING, h, ring.row);
        char *const there[2] = {(char *)host.pool->k + a, (char *)host.pool->v + a};
        char *const here[2] = {(char *)ring.pool->k + b, (char *)ring.pool->v + b};
        for (int x = 0; x < 2 && !st; x++)
            st = in ? be->ops->copy_in_start(be, here[x], there[x], bytes, ticket)
                    : be->ops->copy_out_start(be, there[x], here[x], bytes, ticket);
    }
    return st;
}

/* The same rows of a pool of the pass and of its ring. */
static status_t rows_move(spill_t *s, const batch_t *b, int pool, int layer, int64_t row, int64_t n, bool in, int64_t *ticket) {
    return ring_copy(s->be, s->config, (rows_at_t){&s->rings[pool], row}, (rows_at_t){&b->pools[pool], row}, layer, n, in, ticket);
}

/* What the layer sees of pools; rows of the pass itself come along as whatever they were, and are made anew before anyone looks. */
static status_t layer_in(spill_t *s, const batch_t *b, int layer, int64_t *ticket) {
    status_t st = ST_OK;
    for (int i = 0; i < b->n_pool && !st; i++) {
        int64_t from = s->seen[2 * i], n = s->seen[2 * i + 1] - from;
        st = rows_move(s, b, i, layer, from, n, true, ticket);
    }
    return st;
}

static status_t layer_out(spill_t *s, const batch_t *b, int layer) {
    status_t st = ST_OK;
    for (int i = 0; i < b->n_run && !st; i++) {
        const run_t *r = &b->runs[i];
        if (r->pool >= 0) st = rows_move(s, b, r->pool, layer, r->index, r->n, false, &s->ticket);
    }
    return st;
}

status_t spill_forward(spill_t *s, model_t *m, forward_ws_t *ws, batch_t b) {
    int64_t came = 0;
    int n_layer = (int)model_config(m)->n_layer;
    s->be = model_backend(m);
    s->config = model_config(m);
    status_t st = rings_fit(s, &b);
    if (st) return st;
    find_seen(s, &b);
    batch_t on = b;
    on.pools = s->rings;
    on.layer_ring = LAYER_RING;
    st = forward_begin(ws, &on);
    if (!st) st = layer_in(s, &b, 0, &came);
    for (int layer = 0; layer < n_layer && !st; layer++) {
        st = s->be->ops->copy_in_wait(s->be, came);
        if (!st) st = forward_keys(ws, &on, layer);
        if (!st) st = layer_out(s, &b, layer);
        if (!st && layer + 1 < n_layer) st = layer_in(s, &b, layer + 1, &came);
        if (!st) st = forward_rest(ws, &on, layer);
    }
    return st ? st : forward_end(ws, &on);
}

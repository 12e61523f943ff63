/* Layer by layer, step by step:
 *
 *     each layer   front:  wait for the fronts' K/V;   each step: attention, feed-forward, next layer's K/V, send them
 *                  back:   wait for all K/V; keep;     each step: the same
 *
 * So what a layer's front needs travels while the layer before works on its back, and the other way round. K/V being worked on lie in pools
 * of two layers, even and odd: while one is read, the next comes in.
 */
#include "encode/sharded.h"

#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "encode/encoder_impl.h"
#include "encode/wire.h"

enum { LOGIT_ROWS = 64 };

/* One of this rank's steps: what a pass is, kept until the last layer. */
typedef struct {
    layout_t layout;
    kv_pool_t *pools; /* [n_pool] */
    int64_t *out;     /* [2][n_out] rows whose logits are wanted, and their numbers */
    forward_ws_t *ws;
    gist_rows_t gists; /* one piece's, so one stretch */
    batch_t batch;
} step_t;

typedef struct {
    encoder_t *e;
    backend_t *be;
    const model_config_t *config;
    comm_t *comm;
    const shard_t *plan;
    sharded_t *doc;
    void *memory;           /* [B] of the pools */
    kv_pool_t sink;         /* pools of two layers */
    kv_pool_t *raw, *gists; /* [n_segment] */
    kv_pool_t *pages;       /* [n_page] in place of raw where rows are evicted */
    int64_t n_page;
    step_t *steps[2]; /* front, back */
    int64_t n_step[2];
    wire_t *wires[2][2]; /* [layer % 2][front, back][most steps] */
    comm_part_t *parts;
    int n_part;
    int64_t cap_part;
    int64_t kept;   /* the last copy to the host of what is kept */
    int64_t ticket; /* a mark behind the layer before: a device's queue may be layers ahead of it */
    void *mark;     /* host */
} flow_t;

status_t encoder_shard(const encoder_t *e, const int64_t *segment, int64_t n_segment, bool raw_kept, int size, shard_t *out) {
    shard_spec_t s = {.gist = e->spec.gist,
                      .raw_chain = !e->spec.gist.ratio,
                      .raw_kept = raw_kept,
                      .segment = segment,
                      .n_segment = n_segment,
                      .size = size,
                      .max_row = e->shard_row};
    return shard_make(&s, out);
}

int64_t encoder_shard_bytes(const encoder_t *e, const shard_t *plan, int rank) {
    return (int64_t)(2 * kv_bytes(e->config, e->be->act, shard_sent_rows(plan, rank)));
}

static int64_t segment_rows(const flow_t *f, int64_t s) { return f->plan->segment[s + 1] - f->plan->segment[s]; }
static int64_t segment_gists(const flow_t *f, int64_t s) { return gist_count(&f->e->spec.gist, segment_rows(f, s)); }

/* ---- pools ------------------------------------------------------------------------------------------------------ */

/* Which raw rows this rank computes or is sent: its pools get memory, by segment or by page. */
static void mark_raw(flow_t *f, const shard_step_t *p, int64_t raw, int64_t n) {
    if (n && f->pages)
        for (int64_t P = raw / PAGE_ROWS; P * PAGE_ROWS < raw + n; P++) f->pages[P].n_row = PAGE_ROWS;
    if (n && !f->pages) f->raw[p->segment].n_row = segment_rows(f, p->segment);
}

static void mark_all(flow_t *f) {
    int64_t raw, raw_n, gist, gist_n, n = f->plan->first[2 * f->plan->spec.size];
    for (int64_t i = 0; i < n; i++) {
        const shard_step_t *p = &f->plan->steps[i];
        if (shard_owner(f->plan, p->chunk) == f->comm->rank)
            mark_raw(f, p, p->raw, p->raw_n);
        else if (shard_need(f->plan, p, f->comm->rank, &raw, &raw_n, &gist, &gist_n))
            mark_raw(f, p, raw, raw_n);
    }
    for (int64_t s = 0; s < f->plan->spec.n_segment; s++) f->gists[s].n_row = segment_gists(f, s);
}

/* Gives a pool its rows' memory from *at on; memory NULL: only counts. */
static void carve(flow_t *f, kv_pool_t *pool, size_t *at) {
    size_t each = size_round_up(LAYER_RING * kv_bytes(f->config, f->be->act, pool->n_row) / (size_t)f->config->n_layer, 256);
    char *base = f->memory;
    if (base && pool->n_row) *pool = kv_view(f->config, f->be->act, pool->n_row, base + *at, base + *at + each);
    *at += 2 * each;
}

static void carve_all(flow_t *f, size_t *total) {
    *total = 0;
    carve(f, &f->sink, total);
    for (int64_t s = 0; s < f->plan->spec.n_segment; s++) {
        carve(f, &f->raw[s], total);
        carve(f, &f->gists[s], total);
    }
    for (int64_t P = 0; P < f->n_page; P++) carve(f, &f->pages[P], total);
}

/* Which pools there are, and bytes for them. */
static status_t pools_count(flow_t *f, size_t *total) {
    size_t n = (size_t)f->plan->spec.n_segment;
    status_t st = mem_zalloc(&f->raw, n, sizeof *f->raw, "segments of a document");
    if (!st) st = mem_zalloc(&f->gists, n, sizeof *f->gists, "segments of a document");
    if (!st && f->e->spec.evict) {
        f->n_page = i64_ceil_div(segment_rows(f, 0), PAGE_ROWS);
        st = mem_zalloc(&f->pages, (size_t)f->n_page, sizeof *f->pages, "pages of a document");
    }
    if (st) return st;
    mark_all(f);
    f->sink.n_row = f->e->n_sink;
    carve_all(f, total);
    return ST_OK;
}

static status_t pools_setup(flow_t *f) {
    size_t total;
    status_t st = pools_count(f, &total);
    spill_free(&f->e->spill); /* passes alone make it again */
    if (!st) st = f->be->ops->alloc(f->be, total, "K/V of the layers at work", &f->memory);
    if (st) return st;
    carve_all(f, &total);
    if (f->doc->part == SHARD_COMPUTE) /* numbers as large as real ones: a GPU is faster on zeros */
        return f->be->ops->fill(f->be, 1, 0, 1, total / dtype_bytes(f->be->act), f->memory);
    return ST_OK;
}

/* n rows of one layer between pools on the device. Whole pools lie head behind head: one copy for all heads. */
static status_t rows_copy(flow_t *f, rows_at_t from, int64_t layer, rows_at_t to, int64_t to_layer, int64_t n) {
    int64_t each = n * f->config->d_head, n_head = f->config->n_kv_head;
    bool whole = from.pool->head_stride == each && to.pool->head_stride == each;
    size_t elements = (size_t)(whole ? n_head * each : each);
    status_t st = ST_OK;
    for (int64_t h = 0; h < n_head && n && !st; h += whole ? n_head : 1) {
        size_t a = kv_row_at(from.pool, layer, h, from.row), b = kv_row_at(to.pool, to_layer, h, to.row);
        dtype_t type = to.pool->type, was = from.pool->type;
        st = f->be->ops->convert(f->be, elements, type, (char *)to.pool->k + b, was, (char *)from.pool->k + a);
        if (!st) st = f->be->ops->convert(f->be, elements, type, (char *)to.pool->v + b, was, (char *)from.pool->v + a);
    }
    return st;
}

/* ---- steps ------------------------------------------------------------------------------------------------------ */

/* The pass of a step, put together as any other and taken out of the encoder; its rows begin. */
static status_t step_setup(flow_t *f, const shard_step_t *p, step_t *out) {
    encoder_t *e = f->e;
    int64_t s = p->segment;
    piece_t piece = {.tokens = f->doc->tokens + f->plan->segment[s],
                     .n = segment_rows(f, s),
                     .before = f->plan->segment[s],
                     .chain = e->spec.gist.ratio ? f->gists : f->raw,
                     .n_chain = (int)s,
                     .pool = f->raw[s],
                     .gist_pool = f->gists[s],
                     .at = f->doc->at ? f->doc->at[s] : 0};
    kv_pool_t *own_pages = e->pages;
    int64_t n_own = e->n_page;
    pass_begin(e);
    e->pages = f->pages;
    e->n_page = f->n_page;
    status_t st = pass_add(e, &piece, 0, p->raw, p->raw_n, p->gist, p->gist_n);
    e->pages = own_pages;
    e->n_page = n_own;
    if (!st) st = mem_alloc(&out->pools, (size_t)e->n_pool, sizeof *out->pools, "pools of a step");
    if (!st) st = mem_alloc(&out->out, 2 * (size_t)e->n_out, sizeof *out->out, "rows of a step");
    if (!st) st = forward_ws_rows(e->ws, e->layout.n_row, &out->ws);
    if (st) return st;
    memcpy(out->pools, e->pools, (size_t)e->n_pool * sizeof *out->pools);
    out->pools[SINK_POOL] = f->sink;
    if (e->n_out) memcpy(out->out, e->out_rows, (size_t)e->n_out * sizeof *out->out);
    if (e->n_out) memcpy(out->out + e->n_out, e->out_at, (size_t)e->n_out * sizeof *out->out);
    if (e->n_gist) out->gists = e->gists[0];
    out->layout = e->layout;
    e->layout = (layout_t){0};
    out->batch = (batch_t){.n_row = out->layout.n_row,
                           .tokens = e->tokens,
                           .positions = e->positions,
                           .n_given = e->n_given,
                           .given = e->given,
                           .n_gist = e->n_gist,
                           .gists = &out->gists,
                           .n_pool = e->n_pool,
                           .n_run = out->layout.n_run,
                           .n_span = out->layout.n_span,
                           .pools = out->pools,
                           .layer_ring = LAYER_RING,
                           .runs = out->layout.runs,
                           .spans = out->layout.spans,
                           .n_out = e->n_out,
                           .out_rows = out->out,
                           .logits = e->logits};
    return forward_begin(out->ws, &out->batch);
}

static status_t steps_setup(flow_t *f) {
    status_t st = ST_OK;
    for (int back = 0; back < 2 && !st; back++) {
        while (shard_step(f->plan, f->comm->rank, back, f->n_step[back])) f->n_step[back]++;
        st = mem_zalloc(&f->steps[back], (size_t)f->n_step[back], sizeof **f->steps, "steps of a document");
        for (int64_t i = 0; i < f->n_step[back] && !st; i++)
            st = step_setup(f, shard_step(f->plan, f->comm->rank, back, i), &f->steps[back][i]);
        for (int odd = 0; odd < 2 && !st; odd++)
            st = mem_zalloc(&f->wires[odd][back], (size_t)f->plan->most[back], sizeof(wire_t), "exchanges of a document");
    }
    return st;
}

static void flow_free(flow_t *f) {
    for (int back = 0; back < 2; back++) {
        for (int64_t i = 0; f->steps[back] && i < f->n_step[back]; i++) {
            step_t *s = &f->steps[back][i];
            layout_free(&s->layout);
            mem_free(s->pools);
            mem_free(s->out);
            forward_ws_free(s->ws);
        }
        mem_free(f->steps[back]);
        for (int odd = 0; odd < 2; odd++) {
            for (int64_t i = 0; f->wires[odd][back] && i < f->plan->most[back]; i++) wire_free(&f->wires[odd][back][i], f->be);
            mem_free(f->wires[odd][back]);
        }
    }
    f->be->ops->free(f->be, f->memory);
    mem_free(f->raw);
    mem_free(f->gists);
    mem_free(f->pages);
    mem_free(f->parts);
    f->be->ops->host_free(f->be, f->mark);
}

/* ---- on the wire ------------------------------------------------------------------------------------------------ */

static status_t part_add(flow_t *f, int peer, const kv_pool_t *pool, int layer, int64_t row, int64_t n) {
    if (!n) return ST_OK;
    status_t st = mem_room(&f->parts, f->n_part + 1, &f->cap_part, sizeof *f->parts, "messages of an exchange"); /* for two */
    if (st) return st;
    size_t at = kv_row_at(pool, layer % LAYER_RING, 0, row), size = dtype_bytes(pool->type);
    comm_part_t part = {.peer = peer,
                        .p = (char *)pool->k + at,
                        .bytes = n * pool->row_stride * (int64_t)size,
                        .stride = pool->head_stride * (int64_t)size,
                        .count = f->config->n_kv_head};
    f->parts[f->n_part++] = part;
    part.p = (char *)pool->v + at;
    f->parts[f->n_part++] = part;
    return ST_OK;
}

/* What of step p rank `to` needs, as messages to or from `peer`. */
static status_t parts_of(flow_t *f, const shard_step_t *p, int to, int peer, int layer) {
    int64_t raw, raw_n, gist, gist_n;
    if (!p || !shard_need(f->plan, p, to, &raw, &raw_n, &gist, &gist_n)) return ST_OK;
    status_t st = part_add(f, peer, &f->gists[p->segment], layer, gist, gist_n);
    if (!f->pages) return st ? st : part_add(f, peer, &f->raw[p->segment], layer, raw, raw_n);
    for (int64_t upto = raw + raw_n; raw < upto && !st;) {
        int64_t P = raw / PAGE_ROWS, n = i64_min(upto, (P + 1) * PAGE_ROWS) - raw;
        st = part_add(f, peer, &f->pages[P], layer, raw % PAGE_ROWS, n);
        raw += n;
    }
    return st;
}

/* Every rank's step i of the fronts or backs has its K/V of the layer: off they go. */
static status_t exchange(flow_t *f, int layer, int back, int64_t i) {
    int rank = f->comm->rank;
    status_t st = ST_OK;
    f->n_part = 0;
    if (f->doc->part == SHARD_COMPUTE) return ST_OK;
    for (int r = 0; r < f->comm->size && !st; r++)
        if (r != rank) st = parts_of(f, shard_step(f->plan, rank, back, i), r, r, layer);
    int n_send = f->n_part;
    for (int r = 0; r < f->comm->size && !st; r++)
        if (r != rank) st = parts_of(f, shard_step(f->plan, r, back, i), rank, r, layer);
    int64_t before = f->comm->sent_bytes;
    wire_t *w = &f->wires[layer % 2][back][i];
    if (!st) st = wire_start(w, f->be, f->comm, f->parts, n_send, f->parts + n_send, f->n_part - n_send);
    f->doc->sent += f->comm->sent_bytes - before;
    return st;
}

static status_t arrivals(flow_t *f, int layer, int back) {
    status_t st = ST_OK;
    for (int64_t i = 0; i < f->plan->most[back] && !st; i++) st = wire_wait(&f->wires[layer % 2][back][i], f->be, f->comm);
    return st;
}

/* ---- layers ----------------------------------------------------------------------------------------------------- */

/* n rows of a layer out of a ring, to where they are kept. To the host they go beside what follows. */
static status_t rows_keep(flow_t *f, rows_at_t ring, rows_at_t to, int layer, int64_t n) {
    if (f->doc->spilled) return ring_copy(f->be, f->config, ring, to, layer, n, false, &f->kept);
    return rows_copy(f, ring, layer % LAYER_RING, to, layer, n);
}

/* A layer of the segments that this rank writes: all of it has come. */
static status_t keep(flow_t *f, int layer) {
    status_t st = ST_OK;
    for (int64_t s = 0; f->doc->raw && s < f->plan->spec.n_segment && !st; s++) {
        if (shard_writer(f->plan, s) != f->comm->rank) continue;
        const kv_pool_t *raw = &f->doc->raw[s], *gists = &f->doc->gists[s];
        int64_t n = segment_rows(f, s), from = n - raw->n_row;
        if (gists->n_row) st = rows_keep(f, (rows_at_t){&f->gists[s], 0}, (rows_at_t){gists, 0}, layer, gists->n_row);
        if (!f->pages && raw->n_row && !st) st = rows_keep(f, (rows_at_t){&f->raw[s], from}, (rows_at_t){raw, 0}, layer, raw->n_row);
        for (int64_t at = from; f->pages && at < n && !st;) {
            int64_t P = at / PAGE_ROWS, rows = i64_min(n, (P + 1) * PAGE_ROWS) - at;
            st = rows_keep(f, (rows_at_t){&f->pages[P], at % PAGE_ROWS}, (rows_at_t){raw, at - from}, layer, rows);
            at += rows;
        }
    }
    return st;
}

static status_t keys(flow_t *f, int layer, int back, int64_t i) {
    step_t *s = i < f->n_step[back] && f->doc->part != SHARD_WIRE ? &f->steps[back][i] : NULL;
    status_t st = s ? forward_keys(s->ws, &s->batch, layer) : ST_OK;
    return st ? st : exchange(f, layer, back, i);
}

static status_t layer_run(flow_t *f, int layer) {
    status_t st = f->be->ops->copy_in_wait(f->be, f->kept); /* the layer before has left: the next one's rows take its ring */
    if (!st) st = rows_copy(f, (rows_at_t){&f->e->sink_pool, 0}, layer, (rows_at_t){&f->sink, 0}, layer % LAYER_RING, f->e->n_sink);
    for (int back = 0; back < 2 && !st; back++) {
        st = arrivals(f, layer, back);
        if (!st && back) st = keep(f, layer);
        if (!st && back && f->doc->after) st = f->doc->after(f->doc->after_ctx, layer);
        for (int64_t i = 0; i < f->plan->most[back] && !st; i++) {
            step_t *s = i < f->n_step[back] && f->doc->part != SHARD_WIRE ? &f->steps[back][i] : NULL;
            if (s) st = forward_rest(s->ws, &s->batch, layer);
            f->comm->ops->exchange_poke(f->comm);
            if (!st && layer + 1 < f->config->n_layer) st = keys(f, layer + 1, back, i);
        }
    }
    return st;
}

/* ---- logits ----------------------------------------------------------------------------------------------------- */

/* Some rows of each rank's step i, to rank 0: numbers, then logits. */
static status_t logits_gather(flow_t *f, int back, int64_t i, int64_t at, char *mine, char *all, int64_t *bytes) {
    int64_t row = (int64_t)sizeof(int64_t) + f->config->n_vocab * (int64_t)sizeof(float);
    step_t *s = i < f->n_step[back] ? &f->steps[back][i] : NULL;
    status_t st = ST_OK;
    for (int r = 0; r < f->comm->size; r++) {
        const shard_step_t *p = shard_step(f->plan, r, back, i);
        int64_t n = p ? p->raw_n + (f->e->spec.all_rows ? p->gist_n : 0) : 0;
        bytes[r] = (i64_max(0, i64_min(n - at, LOGIT_ROWS)) * row + 7) / 8 * 8; /* so that each begins aligned */
    }
    int64_t n = bytes[f->comm->rank] / row;
    if (n) {
        batch_t b = s->batch;
        memcpy(mine, s->out + s->batch.n_out + at, (size_t)n * sizeof(int64_t));
        b.n_out = n;
        b.out_rows = s->out + at;
        b.logits = (void *)(mine + (size_t)n * sizeof(int64_t));
        st = forward_end(s->ws, &b);
    }
    if (!st) st = f->comm->ops->gather(f->comm, 0, mine, all, bytes);
    for (int r = 0; r < f->comm->size && f->comm->rank == 0 && !st; all += bytes[r++]) {
        n = bytes[r] / row;
        if (n) st = pass_emit(f->e, (void *)all, n, (void *)(all + (size_t)n * sizeof(int64_t)));
    }
    return st;
}

static status_t logits_out(flow_t *f) {
    size_t row = sizeof(int64_t) + (size_t)f->config->n_vocab * sizeof(float);
    char *mine = NULL, *all = NULL;
    int64_t *bytes = NULL;
    status_t st = mem_alloc(&mine, LOGIT_ROWS, row + 8, "logits");
    if (!st && f->comm->rank == 0) st = mem_alloc(&all, LOGIT_ROWS * (size_t)f->comm->size, row + 8, "logits of all ranks");
    if (!st) st = mem_alloc(&bytes, (size_t)f->comm->size, sizeof *bytes, "logits of all ranks");
    for (int back = 0; back < 2; back++)
        for (int64_t i = 0; i < f->plan->most[back]; i++)
            for (int64_t at = 0; at < f->e->spec.max_row && !st; at += LOGIT_ROWS) st = logits_gather(f, back, i, at, mine, all, bytes);
    mem_free(mine);
    mem_free(all);
    mem_free(bytes);
    return st;
}

/* Messages and computing share the devices from now on, or no longer. */
static void beside(flow_t *f, bool now) {
    comm_device_t *d = f->comm->device;
    if (!d) return;
    d->beside = now;
    f->be->ops->leave(f->be, now ? d->n_leave : 0);
}

/* ---- stopping and going on --------------------------------------------------------------------------------------- */

/* Layers that a run before this one saved: all ranks' or nobody's. */
static status_t resume(flow_t *f) {
    under_way_t *u = f->doc->under_way;
    file_map_t map = {NULL, 0};
    int layers = 0;
    status_t st = ST_OK;
    if (!u) return ST_OK;
    for (int back = 0; back < 2; back++)
        for (int64_t i = 0; i < f->n_step[back] && !st; i++) {
            step_t *s = &f->steps[back][i];
            st = under_way_add(u, forward_residual(s->ws), (size_t)(s->batch.n_row * f->config->d_model) * sizeof(float), false);
        }
    if (!st) st = under_way_find(u, &layers, &map);
    int64_t ends[2] = {layers, -layers};
    st = comm_agree(f->comm, st);
    if (!st) st = f->comm->ops->max_i64(f->comm, ends, 2);
    if (!st && ends[0] == -ends[1]) f->doc->from = layers;
    if (!st && f->doc->from) st = under_way_read(u, f->be, layers, &map);
    file_unmap(&map);
    return comm_agree(f->comm, st);
}

/* Waits for the device, and for what is kept. */
static status_t all_done(flow_t *f) {
    status_t st = f->be->ops->sync(f->be);
    return st ? st : f->be->ops->copy_out_wait(f->be, f->kept);
}

/* Before a layer: does any rank want to stop? Then what is on its way arrives, and what is done is saved. A device is asked when it has
 * done the layer before the last, or it would have been given all layers by now. */
static status_t stop_between(flow_t *f, int layer) {
    sharded_t *d = f->doc;
    status_t st = ST_OK;
    if (!d->stop) return ST_OK;
    if (!f->be->host_memory) {
        if (!f->mark) st = f->be->ops->host_alloc(f->be, sizeof(float), "a mark", &f->mark);
        if (!st && f->ticket) st = f->be->ops->copy_out_wait(f->be, f->ticket);
        if (!st && f->memory) st = f->be->ops->copy_out_start(f->be, f->mark, f->memory, sizeof(float), &f->ticket);
    }
    int64_t yes = !st && d->stop(d->stop_ctx);
    if (!st) st = f->comm->ops->max_i64(f->comm, &yes, 1);
    if (st || !yes) return st;
    for (int back = 0; back < 2 && !st; back++) st = arrivals(f, layer, back);
    if (!st) st = all_done(f);
    if (st) return st;
    d->stopped = layer ? layer : -1;
    if (d->under_way && layer > d->from && under_way_write(d->under_way, f->be, layer))
        log_warn("what was done of the document is not saved, and the next run begins it anew: %s", status_message());
    return ST_OK;
}

status_t encoder_shard_memory(encoder_t *e, comm_t *comm, const shard_t *plan, size_t *bytes) {
    flow_t f = {.e = e, .be = e->be, .config = e->config, .comm = comm, .plan = plan};
    const shard_step_t *p;
    status_t st = pools_count(&f, bytes);
    for (int back = 0; back < 2 && !st; back++)
        for (int64_t i = 0; (p = shard_step(plan, comm->rank, back, i)); i++)
            *bytes += forward_ws_rows_bytes(e->config, e->be->act, p->raw_n + p->gist_n);
    flow_free(&f);
    return st;
}

status_t encoder_run_sharded(encoder_t *e, comm_t *comm, const shard_t *plan, sharded_t *d) {
    flow_t f = {.e = e, .be = e->be, .config = e->config, .comm = comm, .plan = plan, .doc = d};
    if (comm->size > 1 && model_mixed(e->model)) /* its rows would have unlike bits; all ranks know, so nobody waits */
        return status_fail(ST_USAGE,
                           "one document over all ranks needs the same backend on all of them, but %s; give all the same --backend",
                           model_mixed(e->model));
    status_t st = pools_setup(&f);
    if (!st) st = steps_setup(&f);
    pass_begin(e);
    if ((st = comm_agree(comm, st)) || (st = resume(&f))) goto out;
    beside(&f, true);
    for (int back = 0; back < 2; back++)
        for (int64_t i = 0; i < plan->most[back] && !st; i++) st = keys(&f, d->from, back, i);
    for (int layer = d->from; layer < f.config->n_layer && !st && !d->stopped; layer++) {
        st = stop_between(&f, layer);
        if (!st && !d->stopped) st = layer_run(&f, layer);
    }
    if (!st && !d->stopped && e->spec.rows) st = logits_out(&f);
    if (!st) st = all_done(&f);
    if (st && comm->size > 1) { /* the others are inside the layers and would wait for ever */
        log_error("%s", status_message());
        comm->ops->abort(comm, st);
    }
    beside(&f, false);
out:
    flow_free(&f);
    return st;
}

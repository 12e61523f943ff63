/* Weights from a file into a backend's packing: once per node, never two copies.
 *
 *   file (mapped, quantised)  ->  slab of f32 rows  ->  linear_pack  ->  one block of memory, items one after the other
 *
 *   [ embedding | output rows | out norm | layer 0: norm qkv (bias, norms) o norm gate_up down | layer 1 ... ]
 *
 * On CPUs the block is shared by the ranks of a node: rank r packs the items i with i % node_size == r, and after a barrier all open them.
 * A device's memory is a rank's own, and ranks with unlike backends pack unlike, so there each packs all. Threads take whole items: packing
 * one weight is not thread-safe, and items are many.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "io/file.h"
#include "model/mixed.h"
#include "model/rope.h"
#include "model/weight_plan.h"

enum { BLOCK_ALIGN = 256, SLAB_ROWS = 64 };
static const int64_t RANDOM_SLAB = 1 << 24;                          /* elements */
static const size_t SLAB_BYTES = 1 << 20, MAX_SLAB_BYTES = 64 << 20; /* of f32: for each thread, and in all */
static const size_t AHEAD_BYTES = 8 << 20;
static const double SAY_EVERY_S = 5;

/* ---- reading ------------------------------------------------------------------------------------------------- */
/* Rows row0.. of a weight in the weight's own order. */
static status_t weight_read(const weight_t *w, int64_t row0, int64_t n, float *out) {
    int64_t half = w->pair_half, cols = tensor_cols(w->tensor);
    if (!half) return tensor_read_rows(w->tensor, row0, n, out);
    for (int64_t r = row0; r < row0 + n; r++, out += cols) {
        int64_t head = r / (2 * half), j = r % (2 * half), s = j / half, i = j % half;
        status_t st = tensor_read_rows(w->tensor, head * 2 * half + 2 * i + s, 1, out);
        if (st) return st;
    }
    return ST_OK;
}

/* Adds rows row0.. of b a, in f32 and one order, so that a row's bits do not depend on which rows are read together. */
static void lora_add(const lora_t *l, int64_t row0, int64_t n, int64_t n_in, float *out) {
    for (int64_t r = 0; l && r < n; r++)
        for (int64_t k = 0; k < l->rank; k++)
            for (int64_t c = 0; c < n_in; c++) out[r * n_in + c] += l->fb[(row0 + r) * l->rank + k] * l->fa[k * n_in + c];
}

/* Rows row0.. of a part whose columns begin at `column`; a part without values (parts[i] is another's, for its rows) leaves zeros. */
static status_t diagonal_read(const item_t *it, int i, int64_t column, int64_t row0, int64_t n, float *out) {
    const tensor_t *t = it->parts[i]->tensor;
    memset(out, 0, (size_t)(n * it->shape.n_in) * sizeof *out);
    status_t st = ST_OK;
    for (int64_t r = 0; r < n && !st && column >= 0; r++) st = tensor_read_rows(t, row0 + r, 1, out + r * it->shape.n_in + column);
    return st;
}

/* Rows row0.. of an item, over its parts; rows behind them are zeros. */
static status_t item_read(const item_t *it, int64_t row0, int64_t n, float *out) {
    status_t st = ST_OK;
    int64_t column = 0;
    for (int i = 0; i < it->n_part && n > 0 && !st; i++) {
        if (!it->parts[i]->tensor) continue;
        int64_t rows = tensor_rows(it->parts[i]->tensor), take = i64_min(n, rows - row0), rank = it->diagonal ? it->rank[i] : 0;
        if (take > 0) {
            st = it->diagonal ? diagonal_read(it, i, rank ? column : -1, row0, take, out) : weight_read(it->parts[i], row0, take, out);
            if (!st) lora_add(it->lora[i], row0, take, it->shape.n_in, out);
            out += take * it->shape.n_in;
            n -= take;
            row0 += take;
        }
        row0 -= rows;
        column += rank;
    }
    if (n > 0 && !st) memset(out, 0, (size_t)(n * it->shape.n_in) * sizeof *out);
    return st;
}

/* A bias of q or k has the order of its rows, too. */
static status_t vector_read(const item_t *it, float *out, float *scratch) {
    for (int p = 0; p < it->n_part; p++) {
        const weight_t *w = it->parts[p];
        int64_t n = tensor_cols(w->tensor), half = w->pair_half;
        status_t st = tensor_read_rows(w->tensor, 0, 1, scratch);
        if (st) return st;
        for (int64_t r = 0; r < n; r++) {
            int64_t j = half ? r % (2 * half) : 0;
            out[r] = half ? scratch[r - j + 2 * (j % half) + j / half] : scratch[r];
        }
        out += n;
    }
    return ST_OK;
}

/* ---- packing ------------------------------------------------------------------------------------------------- */
/* Buffers for a slab of rows: as f32, and in the type that the backend multiplies. */
typedef struct {
    float *wide;
    void *same; /* == wide for DT_F32 */
    size_t bytes;
} slab_t;

static int64_t slab_rows(const slab_t *s, const item_t *it) {
    int64_t rows = (int64_t)(s->bytes / ((size_t)it->shape.n_in * sizeof(float))) / SLAB_ROWS * SLAB_ROWS;
    return i64_min(rows, it->shape.n_out);
}

/* Big enough for SLAB_ROWS rows of any item, and for any vector. */
static status_t slab_create(const weight_plan_t *p, int n_threads, slab_t *s) {
    int64_t widest = 1;
    dtype_t act = p->be->act;
    for (int64_t i = 0; i < p->n; i++) widest = i64_max(widest, p->items[i].shape.n_in);
    s->bytes = SLAB_BYTES * (size_t)n_threads;
    if (s->bytes > MAX_SLAB_BYTES) s->bytes = MAX_SLAB_BYTES;
    if (s->bytes < (size_t)widest * SLAB_ROWS * sizeof(float)) s->bytes = (size_t)widest * SLAB_ROWS * sizeof(float);
    status_t st = mem_alloc(&s->wide, s->bytes, 1, "rows of weights");
    s->same = s->wide;
    if (!st && act != DT_F32) st = mem_alloc(&s->same, s->bytes / sizeof(float), dtype_bytes(act), "rows of weights");
    return st;
}

static void slab_free(slab_t *s) {
    if (s->same != s->wide) mem_free(s->same);
    mem_free(s->wide);
}

/* Rows row0.. of an item into dst, of the backend's type, by all threads (by the one that calls, where items are shared out already). */
static status_t rows_read(const backend_t *be, const item_t *it, int64_t row0, int64_t n, float *wide, void *dst) {
    int64_t cols = it->shape.n_in, piece = i64_ceil_div(n, 4 * (int64_t)be->n_threads), n_piece = i64_ceil_div(n, piece);
    size_t size = dtype_bytes(be->act);
    int failed = 0;
    if (be->act == DT_F32) wide = dst;
#pragma omp parallel for schedule(dynamic) num_threads(be->n_threads) reduction(| : failed)
    for (int64_t i = 0; i < n_piece; i++) {
        int64_t r = i * piece, take = i64_min(piece, n - r);
        failed |= item_read(it, row0 + r, take, wide + r * cols) != ST_OK;
        if (be->act != DT_F32)
            dtype_convert(be->act, (char *)dst + (size_t)(r * cols) * size, DT_F32, wide + r * cols, (size_t)(take * cols));
    }
    return failed ? item_read(it, row0, n, wide) : ST_OK; /* once more for the message, which was left with another thread */
}

/* Packing jumps from row to row, which no read-ahead follows: what comes next in the tensor is asked for. */
static void rows_ahead(const tensor_t *t, const char *rows, size_t bytes) {
    size_t done = (size_t)(rows - (const char *)t->data), from = done ? done + AHEAD_BYTES : 0, upto = done + AHEAD_BYTES + bytes;
    if (upto > t->bytes) upto = t->bytes;
    if (from < upto) file_ahead(t->data + from, upto - from);
}

/* Rows row0.. of an item where they lie in the file, when they need no change. */
static const void *rows_in_map(const backend_t *be, const item_t *it, int64_t row0, int64_t n) {
    for (int i = 0; i < it->n_part && !it->diagonal; i++) {
        const tensor_t *t = it->parts[i]->tensor;
        if (!t) continue;
        int64_t rows = tensor_rows(t);
        bool folded = it->lora[i] && it->lora[i]->rank;
        if (row0 + n <= rows) {
            const void *p = it->parts[i]->pair_half || folded ? NULL : tensor_rows_of(t, row0, n, be->act);
            if (p) rows_ahead(t, p, (size_t)n * (size_t)tensor_cols(t) * dtype_bytes(be->act));
            return p;
        }
        if (row0 < rows) return NULL;
        row0 -= rows;
    }
    return NULL;
}

static status_t vector_pack(backend_t *be, const item_t *it, const slab_t *s, char *dst) {
    float *scratch = s->wide + it->shape.n_in;
    status_t st = vector_read(it, s->wide, scratch);
    return st ? st : be->ops->copy_in(be, dst, s->wide, it->bytes);
}

static status_t item_pack(backend_t *be, const item_t *it, const slab_t *s, char *dst) {
    if (it->kind == ITEM_VECTOR) return vector_pack(be, it, s, dst);
    int64_t rows = slab_rows(s, it);
    size_t row_bytes = (size_t)it->shape.n_in * dtype_bytes(be->act);
    for (int64_t r = 0; r < it->shape.n_out; r += rows) {
        int64_t n = i64_min(rows, it->shape.n_out - r);
        char *at = dst + (size_t)r * row_bytes; /* of a table; on the host its rows go straight into place */
        bool in_place = it->kind == ITEM_TABLE && be->host_memory;
        const void *there = be->host_memory ? rows_in_map(be, it, r, n) : NULL;
        status_t st = ST_OK;
        if (!there)
            st = rows_read(be, it, r, n, s->wide, in_place ? at : s->same);
        else if (in_place)
            memcpy(at, there, (size_t)n * row_bytes);
        if (!st && it->kind == ITEM_LINEAR) st = be->ops->linear_pack(be, it->shape, dst, r, n, be->act, there ? there : s->same);
        if (!st && it->kind == ITEM_TABLE && !in_place) st = be->ops->copy_in(be, at, s->same, (size_t)n * row_bytes);
        if (st) return st;
    }
    return ST_OK;
}

/* Weights of a model without a file: rows are made in the backend's own memory. Every matrix keeps the size of its inputs, roughly; norms
 * are near 1. */
static status_t item_random(backend_t *be, const item_t *it, char *dst) {
    int64_t cols = it->shape.n_in, at = 0, step = i64_max(1, RANDOM_SLAB / cols / SLAB_ROWS) * SLAB_ROWS;
    float scale = it->kind == ITEM_TABLE ? 1.0f : (float)(1 / sqrt((double)cols));
    char *rows = NULL;
    float *host = NULL;
    status_t st = ST_OK;
    if (it->kind == ITEM_VECTOR) {
        st = mem_alloc(&host, (size_t)cols, sizeof *host, "a random weight");
        for (int64_t i = 0; i < cols && !st; i++)
            host[i] = 1 + 0.1f * backend_random(hash_bytes(it->parts[0]->tensor->name, strlen(it->parts[0]->tensor->name)).lo, (uint64_t)i);
        if (!st) st = be->ops->copy_in(be, dst, host, (size_t)cols * sizeof *host);
        if (!st) st = be->ops->sync(be);
        mem_free(host);
        return st;
    }
    bool table = it->kind == ITEM_TABLE;
    if (!table) st = be->ops->alloc(be, (size_t)(i64_min(step, it->shape.n_out) * cols) * dtype_bytes(be->act), "random weights", &rows);
    for (int p = 0; p < it->n_part && !st; p++) {
        const tensor_t *t = it->parts[p]->tensor;
        uint64_t seed = hash_bytes(t->name, strlen(t->name)).lo;
        for (int64_t r = 0, n; r < tensor_rows(t) && !st; r += n, at += n) {
            n = i64_min(step, tensor_rows(t) - r);
            void *to = table ? dst + (size_t)(at * cols) * dtype_bytes(be->act) : rows;
            st = be->ops->fill(be, seed, (size_t)(r * cols), scale, (size_t)(n * cols), to);
            if (!st && !table) st = be->ops->linear_pack(be, it->shape, dst, at, n, be->act, rows);
        }
    }
    if (!st) st = be->ops->sync(be);
    be->ops->free(be, rows);
    return st;
}

static char *block_of(const model_t *m) { return (char *)m->memory + m->skip; }

typedef struct {
    size_t done; /* bytes, of all ranks */
    double begin_s, last_s;
    status_t status;
    char message[1024]; /* messages are a thread's own: the first failing thread's is kept here */
} packing_t;

static void item_done(const weight_plan_t *p, const model_t *m, int64_t i, status_t st, packing_t *all) {
    all->done += p->items[i].bytes * (size_t)(m->shared ? m->comm->node_size : 1);
    if (st && !all->status) {
        all->status = st;
        snprintf(all->message, sizeof all->message, "%s", status_message());
    }
    if (clock_s() - all->last_s < SAY_EVERY_S) return;
    all->last_s = clock_s();
    log_info("weights: %.0f of %.0f MB packed in %.0f s", (double)all->done * 1e-6, (double)p->bytes * 1e-6, all->last_s - all->begin_s);
}

/* The items of this rank, one thread an item: threads meet only once, so a busy machine does not hold them up at hundreds of barriers.
 * A device is driven by this thread alone. The largest items come first in the plan. */
static status_t pack_own(const weight_plan_t *p, model_t *m) {
    backend_t *be = m->be;
    bool device = !be->host_memory;
    int share = m->shared ? m->comm->node_size : 1, first = m->shared ? m->comm->node_rank : 0, n_threads = device ? 1 : be->n_threads;
    packing_t all = {.begin_s = clock_s()};
    all.last_s = all.begin_s;
#pragma omp parallel num_threads(n_threads)
    {
        slab_t slab = {0};
        status_t st = slab_create(p, device ? be->n_threads : 1, &slab);
#pragma omp for schedule(dynamic)
        for (int64_t i = first; i < p->n; i += share) {
            char *at = block_of(m) + p->items[i].offset;
            if (!st) st = m->file->random ? item_random(be, &p->items[i], at) : item_pack(be, &p->items[i], &slab, at);
#pragma omp critical
            item_done(p, m, i, st, &all);
        }
        slab_free(&slab);
    }
    return all.status ? status_fail(all.status, "%s", all.message) : ST_OK;
}

/* ---- loading ------------------------------------------------------------------------------------------------- */
static status_t open_items(const weight_plan_t *p, model_t *m) {
    for (int64_t i = 0; i < p->n; i++) {
        const item_t *it = &p->items[i];
        char *at = block_of(m) + it->offset;
        if (it->kind == ITEM_LINEAR) {
            status_t st = m->be->ops->linear_open(m->be, it->shape, at, it->target);
            if (st) return st;
        } else {
            memcpy(it->target, &at, sizeof at);
        }
    }
    return ST_OK;
}

static status_t rope_load(model_t *m) {
    const model_config_t *c = &m->config;
    const tensor_t *t = file_weight(m->file, W_ROPE_FACTORS, 0)->tensor;
    float *factors = NULL;
    status_t st = mem_alloc(&m->inv_freq, (size_t)c->d_rot / 2, sizeof *m->inv_freq, "rope frequencies");
    if (!st && t) st = mem_alloc(&factors, (size_t)c->d_rot / 2, sizeof *factors, "rope factors");
    if (!st && t) st = tensor_read_rows(t, 0, 1, factors);
    for (int64_t j = 0; !st && t && j < c->d_rot / 2; j++)
        if (!(isfinite(factors[j]) && factors[j] > 0))
            st = status_fail(ST_INPUT, "%s: %s[%lld] is %g, must be above 0; the file is damaged", m->file->path, t->name, (long long)j,
                             (double)factors[j]);
    if (!st) rope_inv_freq(c, factors, m->inv_freq);
    mem_free(factors);
    return st;
}

/* All ranks must run the same weights: compared by fingerprint, which also catches a file that differs on one node. */
static status_t check_same(model_t *m) {
    if (m->comm->size == 1) return ST_OK;
    hash_t h = model_file_fingerprint(m->file), ad = m->adapter ? adapter_hash(m->adapter) : (hash_t){0, 0};
    h.lo ^= ad.lo;
    h.hi ^= ad.hi;
    int64_t v[4] = {(int64_t)h.lo, (int64_t)h.hi, ~(int64_t)h.lo, ~(int64_t)h.hi}; /* the largest, and the smallest complemented */
    status_t st = m->comm->ops->max_i64(m->comm, v, 4);
    if (!st && (v[0] != ~v[2] || v[1] != ~v[3]))
        st = status_fail(ST_INPUT,
                         "%s: the ranks see different weights under this name; put the same file, and the same adapter, on every node",
                         m->file->path);
    return st;
}

/* Memory for all items: agreed on, since the shared kind is collective over the node. */
static status_t memory_alloc(model_t *m) {
    if (!m->shared) return m->be->ops->alloc(m->be, m->bytes, "weights", &m->memory);
    status_t st = m->comm->ops->shared_alloc(m->comm, m->bytes + BLOCK_ALIGN, &m->memory);
    /* Shared memory is mapped by pages, so every rank of the node skips the same bytes. */
    if (!st) m->skip = -(uintptr_t)m->memory & (BLOCK_ALIGN - 1);
    return st;
}

static status_t load(model_t *m) {
    weight_plan_t p = {0};
    comm_t *comm = m->comm;
    status_t st = mem_zalloc(&m->layers, (size_t)m->config.n_layer, sizeof *m->layers, "the list of layers");
    if (!st) st = weight_plan_make(m->file, m->be, m, &p);
    if (!st) st = rope_load(m);
    m->bytes = p.bytes;
    if ((st = comm_agree(comm, st)) || (st = check_same(m)) || (st = comm_agree(comm, mixed_find(m))) ||
        (st = comm_agree(comm, memory_alloc(m))))
        goto out;
    st = pack_own(&p, m);
    status_t met = comm->ops->node_barrier(comm);
    if ((st = comm_agree(comm, st ? st : met))) goto out;
    st = comm_agree(comm, open_items(&p, m));
out:
    weight_plan_free(&p);
    return st;
}

status_t model_load(const model_file_t *f, backend_t *be, comm_t *comm, model_t **out) {
    return model_load_adapted(f, NULL, be, comm, out);
}

status_t model_load_adapted(const model_file_t *f, const adapter_t *adapter, backend_t *be, comm_t *comm, model_t **out) {
    model_t *m = NULL;
    double begin = clock_s();
    *out = NULL;
    status_t st = comm_agree(comm, mem_zalloc(&m, 1, sizeof *m, "a model"));
    if (st) {
        mem_free(m);
        return st;
    }
    *m = (model_t){.file = f, .adapter = adapter, .config = f->config, .be = be, .comm = comm};
    if ((st = load(m))) {
        model_free(m);
        return st;
    }
    m->load_s = clock_s() - begin;
    log_info("weights: %.0f MB ready in %.2f s (%s)", (double)m->bytes * 1e-6, m->load_s, be->detail);
    *out = m;
    return ST_OK;
}

void model_free(model_t *m) {
    if (!m) return;
    const backend_ops_t *ops = m->be->ops;
    for (int64_t l = 0; m->layers && l < m->config.n_layer; l++) {
        const layer_t *y = &m->layers[l];
        linear_t *each[] = {y->qkv, y->o, y->gate_up, y->down, y->gist_qkv};
        for (int i = 0; i < 5; i++)
            if (each[i]) ops->linear_close(m->be, each[i]);
        for (int g = 0; g < GROUP_COUNT; g++) {
            if (y->low[g].a) ops->linear_close(m->be, y->low[g].a);
            if (y->low[g].b) ops->linear_close(m->be, y->low[g].b);
        }
    }
    if (m->head) ops->linear_close(m->be, m->head);
    if (m->shared)
        m->comm->ops->shared_free(m->comm, m->memory);
    else
        ops->free(m->be, m->memory);
    mem_free(m->layers);
    mem_free(m->inv_freq);
    mem_free(m);
}

const adapter_t *model_adapter(const model_t *m) { return m->adapter; }
const model_config_t *model_config(const model_t *m) { return &m->config; }
backend_t *model_backend(const model_t *m) { return m->be; }
double model_load_s(const model_t *m) { return m->load_s; }

/* Weights from a file into a backend's packing: once per node, never two copies.
 *
 *   file (mapped, quantised)  ->  slab of f32 rows  ->  linear_pack  ->  one block of memory, items one after the other
 *
 *   [ embedding | output rows | out norm | layer 0: norm qkv (bias, norms) o norm gate_up down | layer 1 ... ]
 *
 * On CPUs the block is shared by the ranks of a node: rank r packs the items i with i % node_size == r, and after a barrier all open them.
 * A device's memory is a rank's own, so there it packs all. Threads take whole items: packing one weight is not thread-safe, and items are
 * many.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "io/file.h"
#include "model/model_impl.h"
#include "model/rope.h"

typedef enum { ITEM_LINEAR, ITEM_TABLE, ITEM_VECTOR } item_kind_t;
enum { MAX_PARTS = 3, PER_LAYER = 9 + 1 + 2 * GROUP_COUNT, PER_MODEL = 3, ITEM_ALIGN = 4096, BLOCK_ALIGN = 256, SLAB_ROWS = 64 };
static const int64_t RANDOM_SLAB = 1 << 24;                          /* elements */
static const size_t SLAB_BYTES = 1 << 20, MAX_SLAB_BYTES = 64 << 20; /* of f32: for each thread, and in all */
static const size_t AHEAD_BYTES = 8 << 20;
static const double SAY_EVERY_S = 5;

typedef struct {
    item_kind_t kind;
    const weight_t *parts[MAX_PARTS]; /* rows one after the other */
    const lora_t *lora[MAX_PARTS];    /* factors whose product is added to a part's rows; NULL: none */
    int n_part;
    int64_t rank[MAX_PARTS]; /* of a diagonal item's parts: their columns; 0: a part of zeros */
    bool diagonal;           /* a part's columns stand behind those of the parts before it, zeros elsewhere */
    linear_shape_t shape;    /* all rows, columns; a vector: 1 x length. May be larger than the parts: then zeros fill it up */
    size_t offset, bytes;    /* in the block */
    void *target;            /* the pointer in model_t to set */
} item_t;

typedef struct {
    item_t *items;
    int64_t n, cap;
    size_t bytes;
    backend_t *be;
    weight_t *own; /* [n_layer][OWN_WEIGHTS] what an adapter's items point to; NULL without one */
} plan_t;

/* ---- what is where ------------------------------------------------------------------------------------------ */
static void plan_add(plan_t *p, item_kind_t kind, int n_part, const weight_t *const *parts, void *target) {
    if (!parts[0]->tensor) return; /* this architecture has none */
    item_t it = {.kind = kind, .n_part = n_part, .target = target, .shape.n_in = tensor_cols(parts[0]->tensor)};
    for (int i = 0; i < n_part; i++) {
        it.parts[i] = parts[i];
        it.shape.n_out += tensor_rows(parts[i]->tensor);
    }
    if (kind == ITEM_VECTOR) {
        it.shape = (linear_shape_t){.n_out = 1};
        for (int i = 0; i < n_part; i++) it.shape.n_in += tensor_cols(parts[i]->tensor);
    }
    size_t elements = (size_t)it.shape.n_out * (size_t)it.shape.n_in; /* below 2^42: config_check */
    it.bytes = kind == ITEM_LINEAR  ? p->be->ops->linear_bytes(p->be, it.shape)
               : kind == ITEM_TABLE ? elements * dtype_bytes(p->be->act)
                                    : elements * sizeof(float);
    it.offset = p->bytes;
    p->bytes += size_round_up(it.bytes, ITEM_ALIGN);
    p->items[p->n++] = it;
}

/* ---- what an adapter adds ---------------------------------------------------------------------------------------- */
enum { LOW_ALIGN = 32 }; /* ranks are filled up to a multiple, as backends like it */

/* Factors of all rows, folded into the item added last. */
static void fold(plan_t *p, const adapter_layer_t *ad, proj_t first) {
    if (!ad) return;
    item_t *it = &p->items[p->n - 1];
    for (int i = 0; i < it->n_part; i++) it->lora[i] = &ad->all[first + (proj_t)i];
}

static item_t *item_add(plan_t *p, linear_shape_t shape, linear_t **target) {
    item_t *it = &p->items[p->n++];
    *it = (item_t){.kind = ITEM_LINEAR, .target = target, .shape = shape, .offset = p->bytes};
    it->bytes = p->be->ops->linear_bytes(p->be, shape);
    p->bytes += size_round_up(it->bytes, ITEM_ALIGN);
    return it;
}

/* q, k and v of gist rows: the adapter's, or the model's where it has none. */
static void plan_gist_qkv(plan_t *p, const adapter_layer_t *ad, weight_t (*own)[3], const weight_t *const *base, layer_t *y) {
    linear_shape_t shape = {.n_in = tensor_cols(base[0]->tensor)};
    for (int i = 0; i < 3; i++) shape.n_out += tensor_rows(base[i]->tensor);
    item_t *it = item_add(p, shape, &y->gist_qkv);
    it->n_part = 3;
    for (int i = 0; i < 3; i++) {
        (*own)[i] = (weight_t){.tensor = ad->gist_weight[i]};
        it->parts[i] = ad->gist_weight[i] ? &(*own)[i] : base[i];
        it->lora[i] = ad->gist_weight[i] ? NULL : &ad->all[i];
    }
}

/* The factors of gist rows, of the n projections that one matrix holds: a's stacked, b's along the diagonal. */
static void plan_low(plan_t *p, const adapter_layer_t *ad, weight_t *own, proj_t first, int n, const weight_t *const *base, layer_t *y,
                     group_t g, int64_t *low_rank) {
    int64_t rank = 0, out = 0;
    for (int i = 0; i < n; i++) {
        rank += ad->gist[first + (proj_t)i].rank;
        out += tensor_rows(base[i]->tensor);
    }
    if (!rank) return;
    rank = (int64_t)size_round_up((size_t)rank, LOW_ALIGN);
    *low_rank = i64_max(*low_rank, rank);
    item_t *a = item_add(p, (linear_shape_t){.n_out = rank, .n_in = tensor_cols(base[0]->tensor)}, &y->low[g].a),
           *b = item_add(p, (linear_shape_t){.n_out = out, .n_in = rank}, &y->low[g].b);
    b->diagonal = true;
    a->n_part = b->n_part = n;
    for (int i = 0; i < n; i++) {
        const lora_t *l = &ad->gist[first + (proj_t)i];
        own[2 * i] = (weight_t){.tensor = l->a};
        own[2 * i + 1] = (weight_t){.tensor = l->b};
        a->parts[i] = &own[2 * i];
        b->rank[i] = l->rank;
        b->parts[i] = l->rank ? &own[2 * i + 1] : base[i]; /* for its rows, which are zeros then */
    }
}

#define PARTS(...)                                                                                                                         \
    (int)(sizeof((const weight_t *[]){__VA_ARGS__}) / sizeof(weight_t *)), (const weight_t *[]) { __VA_ARGS__ }

enum { OWN_WEIGHTS = 3 + 2 * PROJ_COUNT }; /* of a layer, in a plan */

static void plan_adapter(plan_t *p, const model_file_t *f, int64_t l, const adapter_layer_t *ad, layer_t *y, int64_t *low_rank) {
    weight_t *own = p->own + l * OWN_WEIGHTS, *low = own + 3;
    const weight_t *qkv[] = {file_weight(f, W_Q, l), file_weight(f, W_K, l), file_weight(f, W_V, l)};
    const weight_t *o[] = {file_weight(f, W_O, l)}, *down[] = {file_weight(f, W_DOWN, l)};
    const weight_t *gate_up[] = {file_weight(f, W_GATE, l), file_weight(f, W_UP, l)};
    if (ad->gist_weight[0] || ad->gist_weight[1] || ad->gist_weight[2]) plan_gist_qkv(p, ad, (weight_t(*)[3])own, qkv, y);
    plan_low(p, ad, low, PROJ_Q, 3, qkv, y, GROUP_QKV, low_rank);
    plan_low(p, ad, low + 2 * PROJ_O, PROJ_O, 1, o, y, GROUP_O, low_rank);
    plan_low(p, ad, low + 2 * PROJ_GATE, PROJ_GATE, 2, gate_up, y, GROUP_GATE_UP, low_rank);
    plan_low(p, ad, low + 2 * PROJ_DOWN, PROJ_DOWN, 1, down, y, GROUP_DOWN, low_rank);
}

static void plan_layer(plan_t *p, const model_file_t *f, int64_t l, const adapter_layer_t *ad, layer_t *y) {
#define W(id) file_weight(f, id, l)
    plan_add(p, ITEM_VECTOR, PARTS(W(W_ATTN_NORM)), &y->attn_norm);
    plan_add(p, ITEM_LINEAR, PARTS(W(W_Q), W(W_K), W(W_V)), &y->qkv);
    fold(p, ad, PROJ_Q);
    plan_add(p, ITEM_VECTOR, PARTS(W(W_Q_BIAS), W(W_K_BIAS), W(W_V_BIAS)), &y->qkv_bias);
    plan_add(p, ITEM_VECTOR, PARTS(W(W_Q_NORM)), &y->q_norm);
    plan_add(p, ITEM_VECTOR, PARTS(W(W_K_NORM)), &y->k_norm);
    plan_add(p, ITEM_LINEAR, PARTS(W(W_O)), &y->o);
    fold(p, ad, PROJ_O);
    plan_add(p, ITEM_VECTOR, PARTS(W(W_FFN_NORM)), &y->ffn_norm);
    plan_add(p, ITEM_LINEAR, PARTS(W(W_GATE), W(W_UP)), &y->gate_up);
    p->items[p->n - 1].shape.glu =
        !ad || (!ad->gist[PROJ_GATE].rank && !ad->gist[PROJ_UP].rank); /* else gist rows add to what is between */
    fold(p, ad, PROJ_GATE);
    plan_add(p, ITEM_LINEAR, PARTS(W(W_DOWN)), &y->down);
    fold(p, ad, PROJ_DOWN);
#undef W
}

/* m: where the pointers go; a scratch model when only the size is wanted. */
static status_t plan_make(const model_file_t *f, backend_t *be, model_t *m, plan_t *p) {
    *p = (plan_t){.be = be};
    status_t st = mem_alloc(&p->items, (size_t)(PER_MODEL + PER_LAYER * f->config.n_layer), sizeof *p->items, "the list of weights");
    if (st) return st;
    const weight_t *embed = file_weight(f, W_EMBED, 0);
    plan_add(p, ITEM_TABLE, PARTS(embed), &m->embed);
    plan_add(p, ITEM_LINEAR, PARTS(f->config.tied ? embed : file_weight(f, W_HEAD, 0)), &m->head);
    plan_add(p, ITEM_VECTOR, PARTS(file_weight(f, W_OUT_NORM, 0)), &m->out_norm);
    for (int64_t l = 0; l < f->config.n_layer; l++) plan_layer(p, f, l, adapter_layer(m->adapter, l), &m->layers[l]);
    if (m->adapter) st = mem_zalloc(&p->own, (size_t)(OWN_WEIGHTS * f->config.n_layer), sizeof *p->own, "the list of weights");
    for (int64_t l = 0; m->adapter && l < f->config.n_layer && !st; l++)
        plan_adapter(p, f, l, adapter_layer(m->adapter, l), &m->layers[l], &m->low_rank);
    return st;
}

size_t model_file_packed_bytes(const model_file_t *f, backend_t *be) {
    plan_t p = {0};
    model_t scratch = {0};
    status_t st = mem_zalloc(&scratch.layers, (size_t)f->config.n_layer, sizeof *scratch.layers, "the list of layers");
    if (!st) st = plan_make(f, be, &scratch, &p);
    mem_free(p.items);
    mem_free(p.own);
    mem_free(scratch.layers);
    return st ? 0 : p.bytes;
}

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
static status_t slab_create(const plan_t *p, int n_threads, slab_t *s) {
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

static void item_done(const plan_t *p, const model_t *m, int64_t i, status_t st, packing_t *all) {
    all->done += p->items[i].bytes * (size_t)(!m->be->host_memory ? 1 : m->comm->node_size);
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
static status_t pack_own(const plan_t *p, model_t *m) {
    backend_t *be = m->be;
    bool device = !be->host_memory;
    int share = device ? 1 : m->comm->node_size, first = device ? 0 : m->comm->node_rank, n_threads = device ? 1 : be->n_threads;
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
static status_t open_items(const plan_t *p, model_t *m) {
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
    if (!m->be->host_memory) return m->be->ops->alloc(m->be, m->bytes, "weights", &m->memory);
    status_t st = m->comm->ops->shared_alloc(m->comm, m->bytes + BLOCK_ALIGN, &m->memory);
    /* Shared memory is mapped by pages, so every rank of the node skips the same bytes. */
    if (!st) m->skip = -(uintptr_t)m->memory & (BLOCK_ALIGN - 1);
    return st;
}

static status_t load(model_t *m) {
    plan_t p = {0};
    comm_t *comm = m->comm;
    status_t st = mem_zalloc(&m->layers, (size_t)m->config.n_layer, sizeof *m->layers, "the list of layers");
    if (!st) st = plan_make(m->file, m->be, m, &p);
    if (!st) st = rope_load(m);
    m->bytes = p.bytes;
    if ((st = comm_agree(comm, st)) || (st = check_same(m)) || (st = comm_agree(comm, memory_alloc(m)))) goto out;
    st = pack_own(&p, m);
    status_t met = comm->ops->node_barrier(comm);
    if ((st = comm_agree(comm, st ? st : met))) goto out;
    st = comm_agree(comm, open_items(&p, m));
out:
    mem_free(p.items);
    mem_free(p.own);
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
    if (!m->be->host_memory)
        ops->free(m->be, m->memory);
    else
        m->comm->ops->shared_free(m->comm, m->memory);
    mem_free(m->layers);
    mem_free(m->inv_freq);
    mem_free(m);
}

const adapter_t *model_adapter(const model_t *m) { return m->adapter; }
const model_config_t *model_config(const model_t *m) { return &m->config; }
backend_t *model_backend(const model_t *m) { return m->be; }
double model_load_s(const model_t *m) { return m->load_s; }

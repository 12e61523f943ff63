#include "model/weight_plan.h"

#include "base/mem.h"

enum { PER_LAYER = 9 + 1 + 2 * GROUP_COUNT, PER_MODEL = 3, ITEM_ALIGN = 4096 };

static void plan_add(weight_plan_t *p, item_kind_t kind, int n_part, const weight_t *const *parts, void *target) {
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
static void fold(weight_plan_t *p, const adapter_layer_t *ad, proj_t first) {
    if (!ad) return;
    item_t *it = &p->items[p->n - 1];
    for (int i = 0; i < it->n_part; i++) it->lora[i] = &ad->all[first + (proj_t)i];
}

static item_t *item_add(weight_plan_t *p, linear_shape_t shape, linear_t **target) {
    item_t *it = &p->items[p->n++];
    *it = (item_t){.kind = ITEM_LINEAR, .target = target, .shape = shape, .offset = p->bytes};
    it->bytes = p->be->ops->linear_bytes(p->be, shape);
    p->bytes += size_round_up(it->bytes, ITEM_ALIGN);
    return it;
}

/* q, k and v of gist rows: the adapter's, or the model's where it has none. */
static void plan_gist_qkv(weight_plan_t *p, const adapter_layer_t *ad, weight_t (*own)[3], const weight_t *const *base, layer_t *y) {
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
static void plan_low(weight_plan_t *p, const adapter_layer_t *ad, weight_t *own, proj_t first, int n, const weight_t *const *base,
                     layer_t *y, group_t g, int64_t *low_rank) {
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

static void plan_adapter(weight_plan_t *p, const model_file_t *f, int64_t l, const adapter_layer_t *ad, layer_t *y, int64_t *low_rank) {
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

static void plan_layer(weight_plan_t *p, const model_file_t *f, int64_t l, const adapter_layer_t *ad, layer_t *y) {
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

status_t weight_plan_make(const model_file_t *f, backend_t *be, model_t *m, weight_plan_t *p) {
    *p = (weight_plan_t){.be = be};
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

void weight_plan_free(weight_plan_t *p) {
    mem_free(p->items);
    mem_free(p->own);
}

size_t model_file_packed_bytes(const model_file_t *f, backend_t *be) {
    weight_plan_t p = {0};
    model_t scratch = {0};
    status_t st = mem_zalloc(&scratch.layers, (size_t)f->config.n_layer, sizeof *scratch.layers, "the list of layers");
    if (!st) st = weight_plan_make(f, be, &scratch, &p);
    weight_plan_free(&p);
    mem_free(scratch.layers);
    return st ? 0 : p.bytes;
}

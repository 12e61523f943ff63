#include "model/bind.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/arch.h"

typedef enum { ONE, VOCAB, MODEL, Q_ROWS, KV_ROWS, HEAD_DIM, FF, HALF_ROT } size_name_t;
typedef enum { ALWAYS, IF_UNTIED, IF_FACTORS, IF_BIAS, IF_QK_NORM } need_t;

/* A name is  prefix [layer "."] suffix, with the prefix of its kind of file. rows == ONE: a vector. `heads`: rows that a GGUF file may hold
 * in pair order. */
typedef struct {
    const char *gguf, *hf;
    size_name_t rows, cols;
    need_t need;
    bool heads;
} weight_row_t;

static const weight_row_t table[W_COUNT] = {
    [W_EMBED] = {"token_embd.weight", "model.embed_tokens.weight", VOCAB, MODEL, ALWAYS, false},
    [W_OUT_NORM] = {"output_norm.weight", "model.norm.weight", ONE, MODEL, ALWAYS, false},
    [W_HEAD] = {"output.weight", "lm_head.weight", VOCAB, MODEL, IF_UNTIED, false},
    [W_ROPE_FACTORS] = {"rope_freqs.weight", NULL, ONE, HALF_ROT, IF_FACTORS, false},
    [W_ATTN_NORM] = {"attn_norm.weight", "input_layernorm.weight", ONE, MODEL, ALWAYS, false},
    [W_Q] = {"attn_q.weight", "self_attn.q_proj.weight", Q_ROWS, MODEL, ALWAYS, true},
    [W_K] = {"attn_k.weight", "self_attn.k_proj.weight", KV_ROWS, MODEL, ALWAYS, true},
    [W_V] = {"attn_v.weight", "self_attn.v_proj.weight", KV_ROWS, MODEL, ALWAYS, false},
    [W_O] = {"attn_output.weight", "self_attn.o_proj.weight", MODEL, Q_ROWS, ALWAYS, false},
    [W_Q_BIAS] = {"attn_q.bias", "self_attn.q_proj.bias", ONE, Q_ROWS, IF_BIAS, true},
    [W_K_BIAS] = {"attn_k.bias", "self_attn.k_proj.bias", ONE, KV_ROWS, IF_BIAS, true},
    [W_V_BIAS] = {"attn_v.bias", "self_attn.v_proj.bias", ONE, KV_ROWS, IF_BIAS, false},
    [W_Q_NORM] = {"attn_q_norm.weight", "self_attn.q_norm.weight", ONE, HEAD_DIM, IF_QK_NORM, false},
    [W_K_NORM] = {"attn_k_norm.weight", "self_attn.k_norm.weight", ONE, HEAD_DIM, IF_QK_NORM, false},
    [W_FFN_NORM] = {"ffn_norm.weight", "post_attention_layernorm.weight", ONE, MODEL, ALWAYS, false},
    [W_GATE] = {"ffn_gate.weight", "mlp.gate_proj.weight", FF, MODEL, ALWAYS, false},
    [W_UP] = {"ffn_up.weight", "mlp.up_proj.weight", FF, MODEL, ALWAYS, false},
    [W_DOWN] = {"ffn_down.weight", "mlp.down_proj.weight", MODEL, FF, ALWAYS, false},
};

/* Left in files by older programs; what they say follows from the config (longrope's factors are read with it). The output rows of a tied
 * model are the embedding's whatever is stored. */
static const char *const ignored_ends[] = {"rotary_emb.inv_freq", "attn_rot_embd.weight", "lm_head.weight", "rope_factors_long.weight",
                                           "rope_factors_short.weight"};

static int64_t size_of(size_name_t s, const model_config_t *c) {
    switch (s) {
    case ONE:
        return 1;
    case VOCAB:
        return c->n_vocab;
    case MODEL:
        return c->d_model;
    case Q_ROWS:
        return c->n_head * c->d_head;
    case KV_ROWS:
        return c->n_kv_head * c->d_head;
    case HEAD_DIM:
        return c->d_head;
    case FF:
        return c->d_ff;
    case HALF_ROT:
        return c->d_rot / 2;
    }
    return 0;
}

static bool wanted(const weight_row_t *row, const model_config_t *c, bool gguf) {
    switch (row->need) {
    case ALWAYS:
        return true;
    case IF_UNTIED:
        return !c->tied;
    case IF_FACTORS:
        return gguf && c->rope_scaling == ROPE_LLAMA3;
    case IF_BIAS:
        return c->qkv_bias;
    case IF_QK_NORM:
        return c->qk_norm;
    }
    return false;
}

static void weight_name(weight_id_t id, int64_t layer, bool gguf, char *buf, size_t cap) {
    const char *end = gguf ? table[id].gguf : table[id].hf;
    if (id < W_FIRST_OF_LAYER)
        snprintf(buf, cap, "%s", end);
    else
        snprintf(buf, cap, "%s%lld.%s", gguf ? "blk." : "model.layers.", (long long)layer, end);
}

static void shape_text(const int64_t *dims, int n, char *buf, size_t cap) {
    size_t at = 0;
    buf[0] = 0;
    for (int i = 0; i < n && at < cap; i++) at += (size_t)snprintf(buf + at, cap - at, "%s%lld", i ? " x " : "", (long long)dims[i]);
}

static status_t check_tensor(const tensor_t *t, const weight_row_t *row, const model_config_t *c, const char *path, const char *name) {
    int64_t want[2] = {size_of(row->rows, c), size_of(row->cols, c)};
    const int64_t *dims = row->rows == ONE ? want + 1 : want;
    int n = row->rows == ONE ? 1 : 2;
    if (t->n_dim != n || memcmp(t->dims, dims, (size_t)n * sizeof *dims)) {
        char expected[64], found[192];
        shape_text(dims, n, expected, sizeof expected);
        shape_text(t->dims, t->n_dim, found, sizeof found);
        return status_fail(ST_INPUT, "%s: tensor %s is %s, must be %s by the model's own dimensions; the file is damaged", path, name,
                           t->n_dim ? found : "a single number", expected);
    }
    if (enc_row_bytes(t->enc, want[1]) == 0)
        return status_fail(
            ST_INPUT,
            "%s: tensor %s is of type %s, which cannot be read in rows of %lld; use a file of type F32, F16, BF16, Q8_0 or Q4_K_M", path,
            name, t->enc_name, (long long)want[1]);
    return ST_OK;
}

static status_t bind_one(const tensor_source_t *src, const model_config_t *c, const arch_t *arch, weight_id_t id, int64_t layer,
                         weight_t *out) {
    const weight_row_t *row = &table[id];
    char name[128];
    *out = (weight_t){0};
    if (!wanted(row, c, src->gguf)) return ST_OK;
    weight_name(id, layer, src->gguf, name, sizeof name);
    const tensor_t *t = src->find(src->ctx, name);
    if (!t)
        return status_fail(ST_INPUT,
                           "%s: tensor %s is missing, which architecture %s has; the file is damaged or holds only a part of a model",
                           src->path, name, c->arch);
    status_t st = check_tensor(t, row, c, src->path, name);
    if (st) return st;
    out->tensor = t;
    out->pair_half = row->heads && src->gguf && arch->gguf_pairs ? c->d_head / 2 : 0;
    return ST_OK;
}

static bool ends_with(const char *s, const char *end) {
    size_t n = strlen(s), m = strlen(end);
    return n >= m && !strcmp(s + n - m, end);
}

/* Every tensor must be one that was bound: as many as were bound, or a look at each name says which is not. */
static status_t check_unused(const tensor_source_t *src, const model_config_t *c) {
    for (int64_t i = 0; i < src->n; i++) {
        const tensor_t *t = src->at(src->ctx, i);
        const char *p = t->name;
        const char *layers = src->gguf ? "blk." : "model.layers.";
        bool known = false;
        weight_id_t first = 0, end = W_FIRST_OF_LAYER;
        if (!strncmp(p, layers, strlen(layers))) {
            char *rest;
            long long layer = strtoll(p + strlen(layers), &rest, 10);
            if (layer >= 0 && layer < c->n_layer && *rest == '.') {
                p = rest + 1;
                first = W_FIRST_OF_LAYER;
                end = W_COUNT;
            }
        }
        for (weight_id_t id = first; id < end && !known; id++) {
            const char *name = src->gguf ? table[id].gguf : table[id].hf;
            known = name && !strcmp(p, name) && wanted(&table[id], c, src->gguf);
        }
        for (size_t k = 0; k < sizeof ignored_ends / sizeof *ignored_ends && !known; k++) known = ends_with(p, ignored_ends[k]);
        if (!known) {
            char shown[128];
            return status_fail(
                ST_INPUT,
                "%s: tensor %s has no place in a model of architecture %s with %lld layers; use a file of that architecture alone",
                src->path, printable(t->name, strlen(t->name), shown, sizeof shown), c->arch, (long long)c->n_layer);
        }
    }
    return ST_OK;
}

status_t bind_weights(const tensor_source_t *src, const model_config_t *c, weight_t *w) {
    const arch_t *arch;
    status_t st = arch_find(c->arch, strlen(c->arch), src->path, &arch);
    for (weight_id_t id = 0; id < W_COUNT && !st; id++)
        for (int64_t layer = 0; layer < (id < W_FIRST_OF_LAYER ? 1 : c->n_layer) && !st; layer++)
            st = bind_one(src, c, arch, id, layer, &w[bind_index(id, layer)]);
    return st ? st : check_unused(src, c);
}

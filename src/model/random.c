/* A model file without a file: the shapes of all weights that a config asks for, and no bytes. weights.c makes the numbers up where they
 * are used. */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "model/file_impl.h"

enum { NAME_BYTES = 32 };

static void weight_add(model_file_t *f, weight_id_t id, int64_t layer, int64_t rows, int64_t cols) {
    int64_t at = bind_index(id, layer);
    tensor_t *t = &f->made[at];
    char *name = f->names + at * NAME_BYTES;
    snprintf(name, NAME_BYTES, "%02d.%05d", (int)id, (int)layer);
    *t = (tensor_t){.name = name, .enc = ENC_OTHER, .enc_name = "random", .n_dim = rows ? 2 : 1, .dims = {rows ? rows : cols, cols}};
    f->weights[at].tensor = t;
}

static void layer_add(model_file_t *f, int64_t l) {
    const model_config_t *c = &f->config;
    int64_t d = c->d_model, q = c->n_head * c->d_head, kv = c->n_kv_head * c->d_head;
    weight_add(f, W_ATTN_NORM, l, 0, d);
    weight_add(f, W_Q, l, q, d);
    weight_add(f, W_K, l, kv, d);
    weight_add(f, W_V, l, kv, d);
    weight_add(f, W_O, l, d, q);
    if (c->qkv_bias) {
        weight_add(f, W_Q_BIAS, l, 0, q);
        weight_add(f, W_K_BIAS, l, 0, kv);
        weight_add(f, W_V_BIAS, l, 0, kv);
    }
    if (c->qk_norm) {
        weight_add(f, W_Q_NORM, l, 0, c->d_head);
        weight_add(f, W_K_NORM, l, 0, c->d_head);
    }
    weight_add(f, W_FFN_NORM, l, 0, d);
    weight_add(f, W_GATE, l, c->d_ff, d);
    weight_add(f, W_UP, l, c->d_ff, d);
    weight_add(f, W_DOWN, l, d, c->d_ff);
}

status_t model_file_random(const model_config_t *c, model_file_t **out) {
    model_file_t *f = NULL;
    *out = NULL;
    status_t st = config_check(c, c->name);
    if (!st) st = mem_zalloc(&f, 1, sizeof *f, "a model file");
    if (st) return st;
    f->config = *c;
    f->random = true;
    size_t n = (size_t)bind_count(c);
    if (!(f->path = mem_strdup(c->name))) st = ST_FAIL;
    if (!st) st = mem_zalloc(&f->weights, n, sizeof *f->weights, "the table of weights");
    if (!st) st = mem_zalloc(&f->made, n, sizeof *f->made, "the table of weights");
    if (!st) st = mem_zalloc(&f->names, n, NAME_BYTES, "the table of weights");
    if (st) {
        model_file_close(f);
        return st;
    }
    weight_add(f, W_EMBED, 0, c->n_vocab, c->d_model);
    weight_add(f, W_OUT_NORM, 0, 0, c->d_model);
    if (!c->tied) weight_add(f, W_HEAD, 0, c->n_vocab, c->d_model);
    for (int64_t l = 0; l < c->n_layer; l++) layer_add(f, l);
    *out = f;
    return ST_OK;
}

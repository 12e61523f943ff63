/* Which tensor of a file is which weight: one table for GGUF and HF names, with the shape each must have and who needs it. */
#ifndef MODEL_BIND_H
#define MODEL_BIND_H

#include "io/tensor.h"
#include "model/config.h"

/* clang-format off */
typedef enum {
    /* once */
    W_EMBED, W_OUT_NORM, W_HEAD, W_ROPE_FACTORS,
    /* in every layer */
    W_ATTN_NORM, W_Q, W_K, W_V, W_O, W_Q_BIAS, W_K_BIAS, W_V_BIAS, W_Q_NORM, W_K_NORM, W_FFN_NORM, W_GATE, W_UP, W_DOWN,
    W_COUNT,
    W_FIRST_OF_LAYER = W_ATTN_NORM
} weight_id_t;
/* clang-format on */

typedef struct {
    const tensor_t *tensor; /* NULL: this model has none */
    /* Rows of q and k in the file are ordered for rotating adjacent pairs: the weight's row (head, s*half + i) is the file's row (head, 2*i
     * + s). 0 when they are in the weight's order; else half = d_head / 2. */
    int64_t pair_half;
} weight_t;

/* The tensors of a file or folder, by name. */
typedef struct {
    const tensor_t *(*find)(const void *ctx, const char *name);
    const void *ctx;
    int64_t n;
    const tensor_t *(*at)(const void *ctx, int64_t i);
    bool gguf; /* names and row order of GGUF; else those of HF */
    const char *path;
} tensor_source_t;

/* Weight `id` of layer (0 for those that are there once) is w[bind_index(id, layer)] of bind_count(c) in all. */
static inline int64_t bind_index(weight_id_t id, int64_t layer) {
    return id < W_FIRST_OF_LAYER ? (int64_t)id : layer * (W_COUNT - W_FIRST_OF_LAYER) + (int64_t)id;
}
static inline int64_t bind_count(const model_config_t *c) { return bind_index(W_FIRST_OF_LAYER, c->n_layer); }

/* Fills w[bind_count(c)]. ST_INPUT naming the file, the tensor, and the expected and the found shape or type; also when the file holds a
 * tensor that the architecture has no use for (its result would be wrong without it). */
status_t bind_weights(const tensor_source_t *src, const model_config_t *c, weight_t *w);

#endif

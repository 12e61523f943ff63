/* Pools of K/V rows for a model: contiguous [n_layer][n_kv_head][n_row][d_head], K and V apart. The shape in memory, in the store and on
 * the wire is the same. */
#ifndef MODEL_KV_H
#define MODEL_KV_H

#include "backend/backend.h"
#include "model/config.h"

/* Bytes of K (or of V) of n rows. */
size_t kv_bytes(const model_config_t *c, dtype_t type, int64_t n_row);
/* The layers that keep edits: the upper half. */
static inline int64_t kv_upper_layers(const model_config_t *c) { return c->n_layer - c->n_layer / 2; }
/* A pool over memory that the caller owns; k and v hold kv_bytes each. */
kv_pool_t kv_view(const model_config_t *c, dtype_t type, int64_t n_row, void *k, void *v);
/* Bytes from k (or v) to a row. */
static inline size_t kv_row_at(const kv_pool_t *p, int64_t layer, int64_t head, int64_t row) {
    return (size_t)(layer * p->layer_stride + head * p->head_stride + row * p->row_stride) * dtype_bytes(p->type);
}
/* The same in backend memory of its own; kv_free takes a zeroed pool. */
status_t kv_alloc(backend_t *be, const model_config_t *c, dtype_t type, int64_t n_row, const char *what, kv_pool_t *out);
void kv_free(backend_t *be, kv_pool_t *p);
/* The same in host memory that the backend reads where it lies, slower: for what does not fit beside the rest. */
status_t kv_alloc_host(backend_t *be, const model_config_t *c, dtype_t type, int64_t n_row, const char *what, kv_pool_t *out);
void kv_free_host(backend_t *be, kv_pool_t *p);

#endif

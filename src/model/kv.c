#include "model/kv.h"

size_t kv_bytes(const model_config_t *c, dtype_t type, int64_t n_row) {
    return (size_t)c->n_layer * (size_t)c->n_kv_head * (size_t)n_row * (size_t)c->d_head * dtype_bytes(type);
}

kv_pool_t kv_view(const model_config_t *c, dtype_t type, int64_t n_row, void *k, void *v) {
    return (kv_pool_t){.k = k,
                       .v = v,
                       .type = type,
                       .n_row = n_row,
                       .row_stride = c->d_head,
                       .head_stride = n_row * c->d_head,
                       .layer_stride = c->n_kv_head * n_row * c->d_head};
}

status_t kv_alloc(backend_t *be, const model_config_t *c, dtype_t type, int64_t n_row, const char *what, kv_pool_t *out) {
    void *k = NULL, *v = NULL;
    size_t bytes = kv_bytes(c, type, n_row);
    *out = (kv_pool_t){0};
    status_t st = be->ops->alloc(be, bytes, what, &k);
    if (!st && (st = be->ops->alloc(be, bytes, what, &v))) be->ops->free(be, k);
    if (!st) *out = kv_view(c, type, n_row, k, v);
    return st;
}

void kv_free(backend_t *be, kv_pool_t *p) {
    be->ops->free(be, p->k);
    be->ops->free(be, p->v);
    *p = (kv_pool_t){0};
}

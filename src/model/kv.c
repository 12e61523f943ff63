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

typedef status_t (*alloc_fn)(backend_t *, size_t bytes, const char *what, void *out_pp);
typedef void (*free_fn)(backend_t *, void *p);

static status_t pool_alloc(backend_t *be, alloc_fn alloc, free_fn release, const model_config_t *c, dtype_t type, int64_t n_row,
                           const char *what, kv_pool_t *out) {
    void *k = NULL, *v = NULL;
    size_t bytes = kv_bytes(c, type, n_row);
    *out = (kv_pool_t){0};
    status_t st = alloc(be, bytes, what, &k);
    if (!st && (st = alloc(be, bytes, what, &v))) release(be, k);
    if (!st) *out = kv_view(c, type, n_row, k, v);
    return st;
}

static void pool_free(backend_t *be, free_fn release, kv_pool_t *p) {
    release(be, p->k);
    release(be, p->v);
    *p = (kv_pool_t){0};
}

status_t kv_alloc(backend_t *be, const model_config_t *c, dtype_t type, int64_t n_row, const char *what, kv_pool_t *out) {
    return pool_alloc(be, be->ops->alloc, be->ops->free, c, type, n_row, what, out);
}

status_t kv_alloc_host(backend_t *be, const model_config_t *c, dtype_t type, int64_t n_row, const char *what, kv_pool_t *out) {
    return pool_alloc(be, be->ops->host_alloc, be->ops->host_free, c, type, n_row, what, out);
}

void kv_free(backend_t *be, kv_pool_t *p) { pool_free(be, be->ops->free, p); }
void kv_free_host(backend_t *be, kv_pool_t *p) { pool_free(be, be->ops->host_free, p); }

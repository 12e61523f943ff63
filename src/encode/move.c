#include "encode/move.h"

#include "base/mem.h"
#include "model/embedding.h"

static void rows_turn(float *k, int64_t n, int64_t d_head, int64_t d_rot, const float *cos_sin) {
    int64_t half = d_rot / 2;
    for (int64_t i = 0; i < n; i++, k += d_head, cos_sin += d_rot)
        for (int64_t j = 0; j < half; j++) {
            float a = k[j], b = k[j + half], c = cos_sin[j], s = cos_sin[half + j];
            k[j] = a * c - b * s;
            k[j + half] = b * c + a * s;
        }
}

status_t keys_move(model_t *m, kv_pool_t *pool, const double *distance) {
    const model_config_t *c = model_config(m);
    backend_t *be = model_backend(m);
    size_t n = (size_t)(pool->n_row * c->d_head), bytes = n * dtype_bytes(pool->type);
    float *turn = NULL, *k = NULL;
    void *host = NULL;
    status_t st = mem_alloc(&turn, (size_t)(pool->n_row * c->d_rot), sizeof *turn, "rope angles");
    if (!st) st = mem_alloc(&k, n, sizeof *k, "keys");
    if (!st) st = mem_alloc(&host, bytes, 1, "keys");
    if (!st) model_rope(m, pool->n_row, distance, turn);
    for (int64_t x = 0; x < c->n_layer * c->n_kv_head && !st && n; x++) {
        int64_t at = x / c->n_kv_head * pool->layer_stride + x % c->n_kv_head * pool->head_stride;
        char *where = (char *)pool->k + (size_t)at * dtype_bytes(pool->type);
        if ((st = be->ops->copy_out(be, host, where, bytes))) break;
        dtype_convert(DT_F32, k, pool->type, host, n);
        rows_turn(k, pool->n_row, c->d_head, c->d_rot, turn);
        dtype_convert(pool->type, host, DT_F32, k, n);
        st = be->ops->copy_in(be, where, host, bytes);
        if (!st) st = be->ops->sync(be); /* host is used again */
    }
    mem_free(turn);
    mem_free(k);
    mem_free(host);
    return st;
}

status_t keys_move_all(model_t *m, kv_pool_t *pool, int64_t distance) {
    double *each = NULL;
    if (!distance || !pool->n_row) return ST_OK;
    status_t st = mem_alloc(&each, (size_t)pool->n_row, sizeof *each, "distances");
    for (int64_t i = 0; i < pool->n_row && !st; i++) each[i] = (double)distance;
    if (!st) st = keys_move(m, pool, each);
    mem_free(each);
    return st;
}

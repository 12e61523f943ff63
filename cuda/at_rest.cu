// See at_rest.cuh.
#include "at_rest.cuh"

typedef struct {
    uintptr_t from, to;
} bytes_t;

// Where rows row .. row + n of a layer lie, of all K/V heads: from the first byte to the last.
static bytes_t bytes_of(const kv_pool_t *p, const void *base, int layer, int n_kv_head, int d_head, int64_t row, int64_t n) {
    int64_t heads = p->only_head ? 1 : n_kv_head, first = layer * p->layer_stride + row * p->row_stride;
    int64_t past = first + (heads - 1) * p->head_stride + (n - 1) * p->row_stride + d_head;
    uintptr_t at = (uintptr_t)base, each = dtype_bytes(p->type);
    bytes_t r = {at + (uintptr_t)first * each, at + (uintptr_t)past * each};
    return r;
}

void note_fresh(cuda_backend_t *b, const qkv_args_t *x) {
    fresh_t *f = &b->fresh;
    for (int r = 0; r < x->n_run && f->n <= MAX_FRESH; r++) {
        const run_t *run = &x->runs[r];
        if (run->pool < 0 || !run->n) continue;
        const kv_pool_t *p = &x->pools[run->pool];
        for (const void *side : {p->k, p->v}) {
            if (++f->n > MAX_FRESH) return;
            bytes_t w = bytes_of(p, side, x->layer, x->n_kv_head, x->d_head, run->index, run->n);
            f->range[f->n - 1].from = w.from;
            f->range[f->n - 1].to = w.to;
        }
    }
}

void none_at_rest(cuda_backend_t *b) { b->fresh.n = MAX_FRESH + 1; }
void all_at_rest(cuda_backend_t *b) { b->fresh.n = 0; }

uint64_t pools_at_rest(const cuda_backend_t *b, const attn_args_t *x) {
    const fresh_t *f = &b->fresh;
    uint64_t rest = 0;
    if (f->n > MAX_FRESH) return 0;
    for (int i = 0; i < x->n_pool && i < 64; i++) {
        const kv_pool_t *p = &x->pools[i];
        bool quiet = p->n_row > 0;
        for (const void *side : {p->k, p->v}) {
            if (!quiet) break;
            bytes_t w = bytes_of(p, side, x->layer, x->n_kv_head, x->d_head, 0, p->n_row);
            for (int k = 0; k < f->n; k++) quiet = quiet && (f->range[k].to <= w.from || w.to <= f->range[k].from);
        }
        if (quiet) rest |= (uint64_t)1 << i;
    }
    return rest;
}

/* A CPU backend that behaves as a device does, to test without one what must hold on one:
 *
 *   - its memory can be touched by its own operations alone: it is locked (PROT_NONE) whenever none of them runs;
 *   - copies that are started are made as late as their contract allows, so whoever overwrites their source too early is seen, and lead
 *     from its memory to the host's or back, or the program ends;
 *   - it has as much memory as PRECIS_LOCKED_MEMORY says (bytes), and says what is left of it, so plans for small cards can be tested.
 *
 * Its numbers are the fast CPU backend's, bit for bit.
 */
#ifndef TESTS_GOLDEN_LOCKED_H
#define TESTS_GOLDEN_LOCKED_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "backend/backend.h"
#include "base/mem.h"

typedef struct {
    void *p;
    size_t bytes; /* of the mapping */
} locked_region_t;

typedef struct {
    void *dst;
    const void *src;
    size_t bytes;
    int64_t ticket;
} locked_copy_t;

typedef struct {
    backend_t base;
    backend_t *cpu;
    locked_region_t regions[4096];
    int n_region;
    locked_copy_t copies[256];
    int n_copy;
    int64_t ticket;
    size_t used, total;
} locked_t;

static inline void locked_set(locked_t *l, int protection) {
    for (int i = 0; i < l->n_region; i++)
        if (mprotect(l->regions[i].p, l->regions[i].bytes, protection)) abort();
}

/* The copies up to a ticket, in the order in which they were asked for. */
static inline void locked_copies(locked_t *l, int64_t upto) {
    int left = 0;
    locked_set(l, PROT_READ | PROT_WRITE);
    for (int i = 0; i < l->n_copy; i++)
        if (l->copies[i].ticket <= upto)
            memcpy(l->copies[i].dst, l->copies[i].src, l->copies[i].bytes);
        else
            l->copies[left++] = l->copies[i];
    l->n_copy = left;
    locked_set(l, PROT_NONE);
}

static inline status_t locked_alloc(backend_t *be, size_t bytes, const char *what, void *out_pp) {
    locked_t *l = (locked_t *)be;
    size_t whole = size_round_up(bytes, 4096);
    *(void **)out_pp = NULL;
    if (!bytes) return ST_OK;
    if (whole > l->total - l->used || l->n_region == (int)(sizeof l->regions / sizeof *l->regions))
        return status_fail(ST_FAIL, "device: no memory for %s: %zu bytes wanted, %zu of %zu free", what, bytes, l->total - l->used,
                           l->total);
    void *p = mmap(NULL, whole, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return status_fail(ST_FAIL, "out of memory for %s", what);
    l->regions[l->n_region++] = (locked_region_t){p, whole};
    l->used += whole;
    *(void **)out_pp = p;
    return ST_OK;
}
static inline void locked_free(backend_t *be, void *p) {
    locked_t *l = (locked_t *)be;
    int i = 0;
    if (!p) return;
    locked_copies(l, l->ticket);
    while (i < l->n_region && l->regions[i].p != p) i++;
    if (i == l->n_region) abort(); /* not ours, or freed before */
    munmap(p, l->regions[i].bytes);
    l->used -= l->regions[i].bytes;
    l->regions[i] = l->regions[--l->n_region];
}
static inline status_t locked_host_alloc(backend_t *be, size_t bytes, const char *what, void *out_pp) {
    (void)be;
    return mem_alloc(out_pp, bytes, 1, what);
}
static inline void locked_host_free(backend_t *be, void *p) {
    locked_t *l = (locked_t *)be;
    locked_copies(l, l->ticket);
    mem_free(p);
}
static inline bool locked_owns(const locked_t *l, const void *p) {
    for (int i = 0; i < l->n_region; i++)
        if ((const char *)p >= (const char *)l->regions[i].p && (const char *)p < (const char *)l->regions[i].p + l->regions[i].bytes)
            return true;
    return false;
}
static inline status_t locked_copy_start(locked_t *l, void *dst, const void *src, size_t bytes, int64_t *ticket) {
    if (l->n_copy == (int)(sizeof l->copies / sizeof *l->copies)) locked_copies(l, l->ticket);
    *ticket = ++l->ticket;
    l->copies[l->n_copy++] = (locked_copy_t){dst, src, bytes, l->ticket};
    return ST_OK;
}
static inline status_t locked_copy_out_start(backend_t *be, void *dst, const void *src, size_t bytes, int64_t *ticket) {
    locked_t *l = (locked_t *)be;
    if (bytes && (locked_owns(l, dst) || !locked_owns(l, src))) abort();
    return locked_copy_start(l, dst, src, bytes, ticket);
}
static inline status_t locked_copy_out_rows_start(backend_t *be, void *dst, const void *src, size_t bytes, size_t stride, int64_t n,
                                                  int64_t *ticket) {
    status_t st = ST_OK;
    for (int64_t i = 0; i < n && !st; i++)
        st = locked_copy_out_start(be, (char *)dst + (size_t)i * stride, (const char *)src + (size_t)i * stride, bytes, ticket);
    return st;
}
static inline status_t locked_copy_in_start(backend_t *be, void *dst, const void *src, size_t bytes, int64_t *ticket) {
    locked_t *l = (locked_t *)be;
    if (bytes && (!locked_owns(l, dst) || locked_owns(l, src))) abort();
    return locked_copy_start(l, dst, src, bytes, ticket);
}
static inline status_t locked_copy_out_wait(backend_t *be, int64_t ticket) {
    locked_copies((locked_t *)be, ticket);
    return ST_OK;
}
static inline void locked_memory_left(backend_t *be, size_t *left, size_t *total) {
    locked_t *l = (locked_t *)be;
    *total = l->total;
    *left = l->total - l->used;
}
static inline void locked_destroy(backend_t *be) {
    locked_t *l = (locked_t *)be;
    if (!l) return;
    while (l->n_region) locked_free(be, l->regions[0].p);
    l->cpu->ops->destroy(l->cpu);
    free(l);
}

/* Everything else is the CPU's, while the memory is open. */
#define LOCKED_CALL(result, call)                                                                                                          \
    locked_t *l = (locked_t *)be;                                                                                                          \
    locked_set(l, PROT_READ | PROT_WRITE);                                                                                                 \
    result l->cpu->ops->call;                                                                                                              \
    locked_set(l, PROT_NONE)
#define LOCKED_OP(name, parameters, ...)                                                                                                   \
    static inline status_t locked_##name parameters {                                                                                      \
        LOCKED_CALL(status_t st =, name(l->cpu, __VA_ARGS__));                                                                             \
        return st;                                                                                                                         \
    }

LOCKED_OP(copy_in, (backend_t * be, void *dst, const void *src, size_t bytes), dst, src, bytes)
LOCKED_OP(copy_out, (backend_t * be, void *dst, const void *src, size_t bytes), dst, src, bytes)
LOCKED_OP(copy_rows, (backend_t * be, void *dst, size_t dst_stride, const void *src, size_t src_stride, size_t bytes, int64_t n), dst,
          dst_stride, src, src_stride, bytes, n)
LOCKED_OP(linear_pack, (backend_t * be, linear_shape_t s, void *packed, int64_t row0, int64_t n, dtype_t type, const void *w), s, packed,
          row0, n, type, w)
LOCKED_OP(linear_open, (backend_t * be, linear_shape_t s, const void *packed, linear_t **out), s, packed, out)
LOCKED_OP(linear, (backend_t * be, const linear_t *w, int64_t n, const void *x, float *y, bool add), w, n, x, y, add)
LOCKED_OP(linear_glu, (backend_t * be, const linear_t *w, int64_t n, const void *x, float *wide, void *y), w, n, x, wide, y)
LOCKED_OP(linear_qkv, (backend_t * be, const linear_t *w, const void *x, float *wide, const qkv_args_t *a), w, x, wide, a)
LOCKED_OP(embed, (backend_t * be, int64_t n, int64_t d, const int32_t *tokens, dtype_t type, const void *table, float *x), n, d, tokens,
          type, table, x)
LOCKED_OP(rope, (backend_t * be, int64_t n, int64_t d_rot, const double *positions, const double *freq, double scale, float *cos_sin), n,
          d_rot, positions, freq, scale, cos_sin)
LOCKED_OP(rmsnorm, (backend_t * be, int64_t n, int64_t d, const float *x, const float *w, float eps, void *y), n, d, x, w, eps, y)
LOCKED_OP(silu_mul, (backend_t * be, int64_t n, int64_t d, const float *gu, void *y), n, d, gu, y)
LOCKED_OP(qkv, (backend_t * be, const qkv_args_t *a), a)
LOCKED_OP(attention, (backend_t * be, const attn_args_t *a), a)
LOCKED_OP(merge, (backend_t * be, const merge_args_t *a), a)
LOCKED_OP(gather_rows, (backend_t * be, int64_t n, int64_t d, const int64_t *idx, const float *src, float *dst), n, d, idx, src, dst)
LOCKED_OP(convert, (backend_t * be, size_t n, dtype_t dst_type, void *dst, dtype_t src_type, const void *src), n, dst_type, dst, src_type,
          src)
LOCKED_OP(fill, (backend_t * be, uint64_t seed, size_t first, float scale, size_t n, void *dst), seed, first, scale, n, dst)

static inline status_t locked_mark(backend_t *be, int64_t *mark) {
    locked_t *l = (locked_t *)be;
    return l->cpu->ops->mark(l->cpu, mark);
}
static inline status_t locked_mark_seconds(backend_t *be, int64_t from, int64_t to, double *seconds) {
    locked_t *l = (locked_t *)be;
    return l->cpu->ops->mark_seconds(l->cpu, from, to, seconds);
}
static inline size_t locked_linear_bytes(backend_t *be, linear_shape_t s) {
    locked_t *l = (locked_t *)be;
    return l->cpu->ops->linear_bytes(l->cpu, s);
}
static inline void locked_linear_close(backend_t *be, linear_t *w) { LOCKED_CALL(, linear_close(l->cpu, w)); }
static inline status_t locked_sync(backend_t *be) {
    (void)be;
    return ST_OK;
}
static inline void locked_leave(backend_t *be, int n) { (void)be, (void)n; }
static inline status_t locked_ceilings(backend_t *be, double *flops, double *bytes) {
    locked_t *l = (locked_t *)be;
    return l->cpu->ops->ceilings(l->cpu, flops, bytes);
}

static inline status_t locked_create(dtype_t act, int n_threads, backend_t **out) {
    static const backend_ops_t ops = {.name = "locked",
                                      .alloc = locked_alloc,
                                      .free = locked_free,
                                      .copy_in = locked_copy_in,
                                      .copy_out = locked_copy_out,
                                      .sync = locked_sync,
                                      .copy_rows = locked_copy_rows,
                                      .host_alloc = locked_host_alloc,
                                      .host_free = locked_host_free,
                                      .copy_out_start = locked_copy_out_start,
                                      .copy_out_wait = locked_copy_out_wait,
                                      .copy_out_rows_start = locked_copy_out_rows_start,
                                      .copy_in_start = locked_copy_in_start,
                                      .copy_in_wait = locked_copy_out_wait,
                                      .mark = locked_mark,
                                      .mark_seconds = locked_mark_seconds,
                                      .memory_left = locked_memory_left,
                                      .linear_bytes = locked_linear_bytes,
                                      .linear_pack = locked_linear_pack,
                                      .linear_open = locked_linear_open,
                                      .linear_close = locked_linear_close,
                                      .linear = locked_linear,
                                      .linear_glu = locked_linear_glu,
                                      .linear_qkv = locked_linear_qkv,
                                      .embed = locked_embed,
                                      .rope = locked_rope,
                                      .rmsnorm = locked_rmsnorm,
                                      .silu_mul = locked_silu_mul,
                                      .qkv = locked_qkv,
                                      .attention = locked_attention,
                                      .merge = locked_merge,
                                      .gather_rows = locked_gather_rows,
                                      .convert = locked_convert,
                                      .fill = locked_fill,
                                      .leave = locked_leave,
                                      .ceilings = locked_ceilings,
                                      .destroy = locked_destroy};
    const char *memory = getenv("PRECIS_LOCKED_MEMORY");
    locked_t *l = calloc(1, sizeof *l);
    *out = NULL;
    if (!l) return status_fail(ST_FAIL, "out of memory for a backend");
    status_t st = backend_create_cpu(act, n_threads, &l->cpu);
    if (st) {
        free(l);
        return st;
    }
    l->base = *l->cpu;
    l->base.ops = &ops;
    l->base.host_memory = false;
    l->total = memory ? (size_t)strtoull(memory, NULL, 10) : (size_t)1 << 32;
    snprintf(l->base.detail, sizeof l->base.detail, "locked: the CPU backend as a device");
    *out = &l->base;
    return ST_OK;
}

#endif

/* The fast CPU backend: chooses kernels once, at creation. Matrix products are in cpu_linear.c, attention in cpu_attn.c; here are the
 * elementwise operations, cut over threads by rows. */
#include "backend/cpu.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "backend/cpu_dnnl.h"
#include "backend/cpu_kernels.h"
#include "base/mem.h"

/* Rows that one thread takes at a time; fewer than this are not worth waking a second thread. */
enum { CHUNK = 16 };

status_t cpu_scratch(cpu_t *c, size_t bytes, void *out_pp) {
    void **out = out_pp;
    if (bytes > c->scratch_bytes) {
        cpu_free(&c->base, c->scratch);
        c->scratch_bytes = 0;
        status_t st = cpu_alloc(&c->base, bytes, "work space of the CPU backend", &c->scratch);
        if (st) return st;
        c->scratch_bytes = bytes;
    }
    *out = c->scratch;
    return ST_OK;
}

static status_t embed(backend_t *be, int64_t n_row, int64_t d, const int32_t *tokens, dtype_t table_type, const void *table, float *x) {
    cpu_t *c = (cpu_t *)be;
    size_t row_bytes = (size_t)d * dtype_bytes(table_type);
#pragma omp parallel for schedule(static) num_threads(be->n_threads) if (n_row > CHUNK)
    for (int64_t t = 0; t < n_row; t++)
        c->k->convert((size_t)d, DT_F32, x + t * d, table_type, (const char *)table + (size_t)tokens[t] * row_bytes);
    return ST_OK;
}

static status_t rmsnorm(backend_t *be, int64_t n_row, int64_t d, const float *x, const float *w, float eps, void *y) {
    cpu_t *c = (cpu_t *)be;
#pragma omp parallel for schedule(static) num_threads(be->n_threads) if (n_row > CHUNK)
    for (int64_t t = 0; t < n_row; t += CHUNK)
        c->k->rmsnorm(i64_min(CHUNK, n_row - t), d, x + t * d, w, eps, be->act, (char *)y + (size_t)(t * d) * dtype_bytes(be->act));
    return ST_OK;
}

static status_t silu_mul(backend_t *be, int64_t n_row, int64_t d, const float *gu, void *y) {
    cpu_t *c = (cpu_t *)be;
#pragma omp parallel for schedule(static) num_threads(be->n_threads) if (n_row > CHUNK)
    for (int64_t t = 0; t < n_row; t += CHUNK)
        c->k->silu_mul(i64_min(CHUNK, n_row - t), d, gu + t * 2 * d, be->act, (char *)y + (size_t)(t * d) * dtype_bytes(be->act));
    return ST_OK;
}

static status_t qkv(backend_t *be, const qkv_args_t *a) {
    cpu_t *c = (cpu_t *)be;
    float *heads; /* one per piece of work of a run would be waste: one per thread's chunk, on its stack, is not bounded; so one per chunk
                     in flight */
    status_t st = cpu_scratch(c, (size_t)be->n_threads * (size_t)a->d_head * sizeof *heads, &heads);
    if (st) return st;
    for (int r = 0; r < a->n_run; r++) {
        const run_t *run = &a->runs[r];
        int64_t n_chunk = i64_ceil_div(run->n, CHUNK), share = i64_ceil_div(n_chunk, be->n_threads);
#pragma omp parallel for schedule(static, 1) num_threads(be->n_threads) if (n_chunk > 1)
        for (int p = 0; p < be->n_threads; p++) {
            int64_t first = i64_min(run->n, p * share * CHUNK), last = i64_min(run->n, (p + 1) * share * CHUNK);
            if (first < last) c->k->qkv_rows(a, be->act, run, first, last - first, heads + (int64_t)p * a->d_head);
        }
    }
    return ST_OK;
}

static status_t merge(backend_t *be, const merge_args_t *a) {
    cpu_t *c = (cpu_t *)be;
    float *o;
    status_t st = cpu_scratch(c, (size_t)be->n_threads * (size_t)a->d_head * sizeof *o, &o);
    if (st) return st;
    int64_t n = a->n_row * a->n_head, share = i64_ceil_div(n, be->n_threads);
#pragma omp parallel for schedule(static, 1) num_threads(be->n_threads) if (n * a->n_block > 64)
    for (int p = 0; p < be->n_threads; p++) {
        int64_t first = i64_min(n, p * share), last = i64_min(n, (p + 1) * share);
        if (first < last) c->k->merge_heads(a, first, last - first, o + (int64_t)p * a->d_head);
    }
    return ST_OK;
}

static status_t convert(backend_t *be, size_t n, dtype_t dst_type, void *dst, dtype_t src_type, const void *src) {
    cpu_t *c = (cpu_t *)be;
    enum { PIECE = 1 << 14 };
    int64_t n_piece = (int64_t)((n + PIECE - 1) / PIECE);
    bool fast = dst_type != DT_F16 && src_type != DT_F16;
    size_t dst_bytes = dtype_bytes(dst_type), src_bytes = dtype_bytes(src_type);
#pragma omp parallel for schedule(static) num_threads(be->n_threads) if (n_piece > 1)
    for (int64_t p = 0; p < n_piece; p++) {
        size_t at = (size_t)p * PIECE, len = n - at < PIECE ? n - at : PIECE;
        void *to = (char *)dst + at * dst_bytes;
        const void *from = (const char *)src + at * src_bytes;
        if (fast)
            c->k->convert(len, dst_type, to, src_type, from);
        else
            dtype_convert(dst_type, to, src_type, from, len);
    }
    return ST_OK;
}

static void destroy(backend_t *be) {
    cpu_t *c = (cpu_t *)be;
    cpu_dnnl_free(c->dnnl);
    cpu_free(be, c->scratch);
    mem_free(c);
}

static const cpu_kernels_t *kernels_for(cpu_isa_t isa) {
    switch (isa) {
#if defined(__x86_64__)
    case CPU_AVX512BF16:
        return &cpu_kernels_avx512bf16;
    case CPU_AVX512:
        return &cpu_kernels_avx512;
    case CPU_AVX2:
        return &cpu_kernels_avx2;
#endif
    default:
        return &cpu_kernels_plain;
    }
}

static status_t gather_rows(backend_t *be, int64_t n, int64_t d, const int64_t *idx, const float *src, float *dst) {
    (void)be;
    for (int64_t i = 0; i < n; i++) memcpy(dst + i * d, src + idx[i] * d, (size_t)d * sizeof *dst);
    return ST_OK;
}

static const backend_ops_t ops = {
    .name = "cpu",
    CPU_SHARED_OPS,
    .linear_bytes = cpu_linear_bytes,
    .linear_pack = cpu_linear_pack,
    .linear_open = cpu_linear_open,
    .linear_close = cpu_linear_close,
    .linear = cpu_linear,
    .embed = embed,
    .rmsnorm = rmsnorm,
    .silu_mul = silu_mul,
    .qkv = qkv,
    .attention = cpu_attention,
    .merge = merge,
    .gather_rows = gather_rows,
    .convert = convert,
    .destroy = destroy,
};

status_t cpu_create_forced(dtype_t act, int n_threads, cpu_isa_t isa, bool own_gemm, backend_t **out) {
    assert((act == DT_F32 || act == DT_BF16) && n_threads >= 1 && isa <= cpu_isa_best());
    cpu_t *c;
    *out = NULL;
    status_t st = mem_zalloc(&c, 1, sizeof *c, "the CPU backend");
    if (st) return st;
    c->base.ops = &ops;
    c->base.act = act;
    c->base.n_threads = n_threads;
    c->base.host_memory = true;
    c->isa = isa;
    c->k = kernels_for(isa);
    if (!own_gemm) st = cpu_dnnl_create(act, n_threads, &c->dnnl);
    if (st) {
        mem_free(c);
        return st;
    }
    snprintf(c->base.detail, sizeof c->base.detail, "cpu, %s, %s kernels, matrix products by %s", dtype_name(act), cpu_isa_name(isa),
             c->dnnl ? cpu_dnnl_version() : "own code");
    *out = &c->base;
    return ST_OK;
}

status_t backend_create_cpu(dtype_t act, int n_threads, backend_t **out) {
    return cpu_create_forced(act, n_threads, cpu_isa_best(), false, out);
}

bool backend_cpu_has_bf16(void) { return cpu_isa_best() == CPU_AVX512BF16; }

/* Private to the CPU backends: what cpu_ref and cpu share, and the choice of kernels that tests force. */
#ifndef BACKEND_CPU_H
#define BACKEND_CPU_H

#include "backend/backend.h"

typedef enum { CPU_PLAIN, CPU_AVX2, CPU_AVX512, CPU_AVX512BF16, CPU_ISA_COUNT } cpu_isa_t;

/* The best instruction set that this machine and its system allow and that was compiled in. */
cpu_isa_t cpu_isa_best(void);
const char *cpu_isa_name(cpu_isa_t isa);

/* backend_create_cpu with the choice made by the caller: kernels for `isa` (not above cpu_isa_best()), and our own matrix product even
 * where oneDNN could be used. For tests and measurements. */
status_t cpu_create_forced(dtype_t act, int n_threads, cpu_isa_t isa, bool own_gemm, backend_t **out);

/* Backend memory of both CPU backends. */
status_t cpu_alloc(backend_t *be, size_t bytes, const char *what, void *out_pp);
void cpu_free(backend_t *be, void *p);
status_t cpu_copy(backend_t *be, void *dst, const void *src, size_t bytes);
status_t cpu_sync(backend_t *be);
status_t cpu_copy_rows(backend_t *be, void *dst, size_t dst_stride, const void *src, size_t src_stride, size_t bytes, int64_t n);
status_t cpu_copy_start(backend_t *be, void *dst, const void *src, size_t bytes, int64_t *ticket);
status_t cpu_copy_rows_start(backend_t *be, void *dst, const void *src, size_t bytes, size_t stride, int64_t n, int64_t *ticket);
status_t cpu_copy_wait(backend_t *be, int64_t ticket);
void cpu_memory_left(backend_t *be, size_t *left, size_t *total);

/* cpu_steps.c: operations that both make of others */
status_t cpu_linear_glu(backend_t *be, const linear_t *l, int64_t n_row, const void *x, float *wide, void *y);
status_t cpu_linear_qkv(backend_t *be, const linear_t *l, const void *x, float *wide, const qkv_args_t *a);
status_t cpu_rope(backend_t *be, int64_t n_row, int64_t d_rot, const double *positions, const double *inv_freq, double scale,
                  float *cos_sin);
status_t cpu_fill(backend_t *be, uint64_t seed, size_t first, float scale, size_t n, void *dst);
status_t cpu_mark(backend_t *be, int64_t *mark);
status_t cpu_mark_seconds(backend_t *be, int64_t from, int64_t to, double *seconds);
void cpu_leave(backend_t *be, int n);
status_t cpu_ceilings(backend_t *be, double *flops, double *bytes);

/* What stands in the tables of both. */
#define CPU_SHARED_OPS                                                                                                                     \
    .alloc = cpu_alloc, .free = cpu_free, .copy_in = cpu_copy, .copy_out = cpu_copy, .sync = cpu_sync, .copy_rows = cpu_copy_rows,         \
    .host_alloc = cpu_alloc, .host_free = cpu_free, .copy_out_start = cpu_copy_start, .copy_out_wait = cpu_copy_wait,                      \
    .copy_out_rows_start = cpu_copy_rows_start, .copy_in_start = cpu_copy_start, .copy_in_wait = cpu_copy_wait, .mark = cpu_mark,          \
    .mark_seconds = cpu_mark_seconds, .memory_left = cpu_memory_left, .linear_glu = cpu_linear_glu, .linear_qkv = cpu_linear_qkv,          \
    .rope = cpu_rope, .fill = cpu_fill, .leave = cpu_leave, .ceilings = cpu_ceilings

/* The fast backend. */
typedef struct {
    backend_t base;
    cpu_isa_t isa;
    const struct cpu_kernels *k;
    struct cpu_dnnl *dnnl; /* NULL: our own matrix product for every shape */
    void *scratch;         /* of the operation that runs, grown to the largest need */
    size_t scratch_bytes;
} cpu_t;

/* At least `bytes` of work space, contents undefined; valid until the next call. */
status_t cpu_scratch(cpu_t *c, size_t bytes, void *out_pp);

/* cpu_linear.c, cpu_attn.c */
size_t cpu_linear_bytes(backend_t *be, linear_shape_t s);
status_t cpu_linear_pack(backend_t *be, linear_shape_t s, void *packed, int64_t row0, int64_t n_row, dtype_t w_type, const void *w);
status_t cpu_linear_open(backend_t *be, linear_shape_t s, const void *packed, linear_t **out);
void cpu_linear_close(backend_t *be, linear_t *l);
status_t cpu_linear(backend_t *be, const linear_t *l, int64_t n_row, const void *x, float *y, bool add);
status_t cpu_attention(backend_t *be, const attn_args_t *a);

/* The oracle's operations, one by one. */
extern const backend_ops_t cpu_ref_ops;
status_t cpu_ref_attention(backend_t *be, const attn_args_t *a);
status_t cpu_ref_merge(backend_t *be, const merge_args_t *a);

static inline float cpu_load(dtype_t type, const void *p, int64_t i) {
    return type == DT_F32 ? ((const float *)p)[i] : bf16_to_f32(((const uint16_t *)p)[i]);
}
static inline void cpu_store(dtype_t type, void *p, int64_t i, float x) {
    if (type == DT_F32)
        ((float *)p)[i] = x;
    else
        ((uint16_t *)p)[i] = f32_to_bf16(x);
}

#endif

// The plain attention kernel: one warp per (row, head, block), keys one after the other, everything in f32. It is the oracle of the fast
// kernels and serves what they do not: f32 activations, head sizes other than 64 and 128, odd strides.
//
// Two passes over the keys (largest logit first), lanes hold the elements of a head. The five largest logits are kept by every lane alike.
#include "common.cuh"

enum { REF_MAX_D = 256, REF_WARPS = 4 };

template <class A> struct ref_args {
    int layer, n_head, n_kv_head, d;
    float scale;
    int64_t n_row;
    const A *q;
    const kv_pool_t *pools;
    const run_t *runs;
    const span_t *spans;
    int n_block;
    void *o;
    bool o_f32;
    float *lse, *m, *top;
};

__device__ __forceinline__ float pool_at(const void *p, bool f32, int64_t at) {
    return f32 ? ((const float *)p)[at] : __bfloat162float(((const bf16 *)p)[at]);
}

__device__ float ref_logit(const float *q, const kv_pool_t &p, int64_t at, int d, float scale) {
    float s = 0;
    int lane = threadIdx.x & 31;
#pragma unroll
    for (int i = 0; i < REF_MAX_D / 32; i++)
        if (lane + 32 * i < d) s += q[i] * pool_at(p.k, p.type == DT_F32, at + lane + 32 * i);
    return warp_sum(s) * scale;
}

template <class A> __global__ void attention_ref_kernel(ref_args<A> a, int run_at) {
    const run_t run = a.runs[run_at];
    int lane = threadIdx.x & 31;
    int64_t task = (int64_t)blockIdx.x * REF_WARPS + (threadIdx.x >> 5);
    int h = (int)(task % a.n_head), b = (int)(task / a.n_head % a.n_block);
    int64_t t = task / a.n_head / a.n_block;
    if (t >= run.n) return;
    int64_t row = run.row + t, i = run.index + t, out = ((int64_t)b * a.n_row + row) * a.n_head + h;
    float q[REF_MAX_D / 32], o[REF_MAX_D / 32], top[ATTN_TOP], mx = -INFINITY;
    double sum = 0, ml = 0; // thousands of terms one after the other: f32 would show
#pragma unroll
    for (int e = 0; e < REF_MAX_D / 32; e++) {
        q[e] = lane + 32 * e < a.d ? to_f32<A>(a.q[(row * a.n_head + h) * a.d + lane + 32 * e]) : 0.f;
        o[e] = 0;
    }
#pragma unroll
    for (int e = 0; e < ATTN_TOP; e++) top[e] = -INFINITY;
    for (int pass = 0; pass < 2; pass++)
        for (int s = run.span; s < run.span + run.n_span; s++) {
            const span_t sp = a.spans[s];
            if (sp.block != b) continue;
            const kv_pool_t &p = a.pools[sp.pool];
            int kv = h / (a.n_head / a.n_kv_head);
            if (p.only_head && p.only_head != kv + 1) continue;
            int64_t base = a.layer * p.layer_stride + kv * p.head_stride;
            for (int64_t j = span_lo(&sp, i), hi = span_hi(&sp, i); j < hi; j++) {
                float l = ref_logit(q, p, base + j * p.row_stride, a.d, a.scale);
                if (pass == 0) {
                    mx = fmaxf(mx, l);
#pragma unroll
                    for (int e = 0; e < ATTN_TOP; e++)
                        if (l > top[e]) {
                            float x = top[e];
                            top[e] = l;
                            l = x;
                        }
                    continue;
                }
                float w = expf(l - mx);
                sum += w;
                ml += (double)w * l;
#pragma unroll
                for (int e = 0; e < REF_MAX_D / 32; e++)
                    if (lane + 32 * e < a.d) o[e] += w * pool_at(p.v, p.type == DT_F32, base + j * p.row_stride + lane + 32 * e);
            }
        }
    float inv = sum > 0 ? (float)(1 / sum) : 0.f;
#pragma unroll
    for (int e = 0; e < REF_MAX_D / 32; e++)
        if (lane + 32 * e < a.d) {
            if (a.o_f32)
                ((float *)a.o)[out * a.d + lane + 32 * e] = o[e] * inv;
            else
                ((bf16 *)a.o)[out * a.d + lane + 32 * e] = __float2bfloat16_rn(o[e] * inv);
        }
    if (lane) return;
    if (a.lse) a.lse[out] = sum > 0 ? mx + logf((float)sum) : -INFINITY;
    if (a.m) a.m[out] = sum > 0 ? (float)(ml / sum) : 0.f;
    if (a.top)
        for (int e = 0; e < ATTN_TOP; e++) a.top[out * ATTN_TOP + e] = top[e];
}

template <class A> static status_t ref_launch(cuda_backend_t *b, const attn_args_t *x) {
    ref_args<A> a = {x->layer, x->n_head,  x->n_kv_head, x->d_head,           x->scale, x->n_row, (const A *)x->q, 0, 0,
                     0,        x->n_block, x->o,         x->o_type == DT_F32, x->lse,   x->m,     x->top};
    ST_TRY(cuda_upload(b, x->pools, sizeof *x->pools * (size_t)x->n_pool, &a.pools));
    ST_TRY(cuda_upload(b, x->runs, sizeof *x->runs * (size_t)x->n_run, &a.runs));
    ST_TRY(cuda_upload(b, x->spans, sizeof *x->spans * (size_t)x->n_span, &a.spans));
    for (int r = 0; r < x->n_run; r++) {
        int64_t task = x->runs[r].n * x->n_head * x->n_block;
        if (!task) continue;
        attention_ref_kernel<A><<<(unsigned)((task + REF_WARPS - 1) / REF_WARPS), 32 * REF_WARPS, 0, b->stream>>>(a, r);
        CUDA_LAUNCHED("attention (plain)");
    }
    return ST_OK;
}

status_t attention_ref_cuda(cuda_backend_t *b, const attn_args_t *x) {
    if (x->d_head > REF_MAX_D)
        return status_fail(ST_FAIL, "attention: heads of %d elements, the GPU backend takes up to %d; use --backend cpu", x->d_head,
                           REF_MAX_D);
    return b->base.act == DT_F32 ? ref_launch<float>(b, x) : ref_launch<bf16>(b, x);
}

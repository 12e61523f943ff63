// The attention operator on any GPU with bf16 matrix units (sm_80 and up): mma.sync, asynchronous copies in two stages, one block per item
// and K/V head.
//
// 8 warps of 16 rows. Queries stay in registers; key blocks of 64 come through shared memory, their 16-byte chunks swizzled by the row so
// that neither copies nor ldmatrix meet bank conflicts. Rows that no row of the tile sees are filled with zeros by the copy itself, and so
// never read.
#include "attention_tile.cuh"

enum { WARPS = 8, KEYS = 64, NJ = KEYS / 8 };

struct sm80_args {
    const bf16 *q;
    const ditem_t *items;
    const dspan_t *spans;
    const kv_pool_t *pools;
    int n_head, n_kv, group, layer;
    float scale, scale_log2;
    void *o;
    float *lse, *m, *top;
    attn_part_t part;
};

__device__ __forceinline__ void copy_16(uint32_t dst, const void *src, bool real) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(dst), "l"(src), "r"(real ? 16 : 0) : "memory");
}
__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> __device__ __forceinline__ void copy_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }
__device__ __forceinline__ void load_4(uint32_t (&r)[4], uint32_t at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}
__device__ __forceinline__ void load_4t(uint32_t (&r)[4], uint32_t at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}
__device__ __forceinline__ void mma(float *c, const uint32_t *a, uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <int D> struct tile80_t {
    static constexpr int CHUNKS = D / 8, BYTES = KEYS * D * 2;
    // Place of a 16-byte chunk: chunks of 8 neighbouring rows fall on different banks.
    static __device__ __forceinline__ uint32_t at(int row, int chunk) { return (uint32_t)(row * D * 2 + ((chunk ^ (row & 7)) << 4)); }
};

template <int D> __device__ __forceinline__ void copy_tile(uint32_t dst, const bf16 *base, int64_t stride, int kb, int lo, int hi) {
#pragma unroll
    for (int i = 0; i < KEYS * tile80_t<D>::CHUNKS / (32 * WARPS); i++) {
        int at = i * 32 * WARPS + (int)threadIdx.x, r = at / tile80_t<D>::CHUNKS, c = at % tile80_t<D>::CHUNKS;
        bool real = kb + r >= lo && kb + r < hi;
        copy_16(dst + tile80_t<D>::at(r, c), base + (real ? (int64_t)(kb + r) * stride + c * 8 : 0), real);
    }
}

// Copies of the walk's present block, K and V together, as one group.
template <int D> __device__ __forceinline__ void copy_block(const sm80_args &a, const walk_t<KEYS> &w, int head, uint32_t k, uint32_t v) {
    const dspan_t &sp = w.s < w.n_near ? w.near_by[w.s] : w.far[w.s];
    const kv_pool_t &p = a.pools[sp.pool];
    int64_t base = a.layer * p.layer_stride + head * p.head_stride;
    copy_tile<D>(k, (const bf16 *)p.k + base, p.row_stride, w.kb, w.lo, w.hi);
    copy_tile<D>(v, (const bf16 *)p.v + base, p.row_stride, w.kb, w.lo, w.hi);
    copy_commit();
}

template <int D, bool F32, bool STATS> __global__ void __launch_bounds__(32 * WARPS) attention_sm80_kernel(const sm80_args a) {
    using tile = tile80_t<D>;
    extern __shared__ __align__(128) char smem[];
    const uint32_t k0 = (uint32_t)__cvta_generic_to_shared(smem), v0 = k0 + 2 * tile::BYTES;
    const ditem_t it = a.items[blockIdx.x / (unsigned)a.n_kv];
    const int head = (int)(blockIdx.x % (unsigned)a.n_kv), lane = (int)threadIdx.x & 31, m0 = ((int)threadIdx.x / 32) * 16 + lane / 4;
    uint32_t q[D / 16][4];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int m = m0 + 8 * r, t = m / a.group;
        const bf16 *from = a.q + ((int64_t)(it.row + t) * a.n_head + head * a.group + (m - t * a.group)) * D + 2 * (lane & 3);
#pragma unroll
        for (int e = 0; e < D / 16; e++) {
            q[e][r] = t < it.n ? *(const uint32_t *)(from + e * 16) : 0u;
            q[e][2 + r] = t < it.n ? *(const uint32_t *)(from + e * 16 + 8) : 0u;
        }
    }
    float s[4 * NJ], o[D / 2];
    row_t<STATS> row[2];
    row_begin<STATS>(row[0]);
    row_begin<STATS>(row[1]);
#pragma unroll
    for (int j = 0; j < D / 2; j++) o[j] = 0;
    walk_t<KEYS> w, ahead;
    w.near_by = w.far = a.spans + it.span;
    w.n_near = 0;
    w.begin(it, head, m0 / a.group, (m0 + 8) / a.group);
    ahead = w;
    bool more = ahead.next();
    if (more) copy_block<D>(a, ahead, head, k0, v0);
    for (int turn = 0; more; turn ^= 1) {
        w = ahead;
        more = ahead.next();
        if (more) {
            copy_block<D>(a, ahead, head, k0 + (turn ^ 1) * tile::BYTES, v0 + (turn ^ 1) * tile::BYTES);
            copy_wait<1>();
        } else {
            copy_wait<0>();
        }
        __syncthreads();
        const uint32_t k = k0 + turn * tile::BYTES, v = v0 + turn * tile::BYTES;
#pragma unroll
        for (int j = 0; j < 4 * NJ; j++) s[j] = 0;
#pragma unroll
        for (int e = 0; e < D / 16; e++)
#pragma unroll
            for (int j = 0; j < NJ; j += 2) { // matrices: keys j, elements e; keys j, elements e + 8; keys j + 1 likewise
                uint32_t b[4];
                load_4(b, k + tile::at((j + lane / 16) * 8 + lane % 8, 2 * e + lane / 8 % 2));
                mma(s + 4 * j, q[e], b[0], b[1]);
                mma(s + 4 * j + 4, q[e], b[2], b[3]);
            }
        if (w.edge()) mask_block<STATS, NJ>(s, w);
        float alpha0 = softmax_row<0, STATS, NJ>(s, row[0], a.scale_log2), alpha1 = softmax_row<1, STATS, NJ>(s, row[1], a.scale_log2);
#pragma unroll
        for (int j = 0; j < D / 8; j++) o[4 * j] *= alpha0, o[4 * j + 1] *= alpha0, o[4 * j + 2] *= alpha1, o[4 * j + 3] *= alpha1;
#pragma unroll
        for (int e = 0; e < KEYS / 16; e++) {
            uint32_t p[4];
#pragma unroll
            for (int i = 0; i < 4; i++) p[i] = pack_bf16(s[8 * e + 2 * i], s[8 * e + 2 * i + 1]);
#pragma unroll
            for (int j = 0; j < D / 8; j += 2) {
                uint32_t b[4];
                load_4t(b, v + tile::at(e * 16 + lane % 16, j + lane / 16));
                mma(o + 4 * j, p, b[0], b[1]);
                mma(o + 4 * j + 4, p, b[2], b[3]);
            }
        }
        __syncthreads(); // the next copies go where this block was
    }
    bool part = F32 && it.merge >= 0;
    attn_out_t to = {a.scale, a.scale_log2, part ? a.part.lse : a.lse, part ? a.part.m : a.m, part ? a.part.top : a.top};
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int m = m0 + 8 * r, t = m / a.group;
        bool live = t < it.n;
        int64_t at = (it.out + t) * a.n_head + head * a.group + (m - t * a.group);
        float inv = row_out<STATS>(to, row[r], at, live);
        if (!live) continue;
#pragma unroll
        for (int j = 0; j < D / 8; j++) {
            float x = o[4 * j + 2 * r] * inv, y = o[4 * j + 2 * r + 1] * inv;
            int64_t e = at * D + 8 * j + 2 * (lane & 3);
            if (F32)
                *(float2 *)((part ? a.part.o : (float *)a.o) + e) = make_float2(x, y);
            else
                *(uint32_t *)((bf16 *)a.o + e) = pack_bf16(x, y);
        }
    }
}

template <int D, bool F32, bool STATS> static status_t launch(cuda_backend_t *b, const sm80_args &a, int64_t n_work) {
    static bool ready; // per kernel; one device per process
    enum { SMEM = 4 * tile80_t<D>::BYTES };
    if (!ready) CUDA_TRY(cudaFuncSetAttribute(attention_sm80_kernel<D, F32, STATS>, cudaFuncAttributeMaxDynamicSharedMemorySize, SMEM));
    ready = true;
    attention_sm80_kernel<D, F32, STATS><<<(unsigned)n_work, 32 * WARPS, SMEM, b->stream>>>(a);
    CUDA_LAUNCHED("attention (mma.sync)");
    return ST_OK;
}
template <int D> static status_t launch_d(cuda_backend_t *b, const sm80_args &a, int64_t n_work, bool f32, bool stats) {
    if (stats) return f32 ? launch<D, true, true>(b, a, n_work) : launch<D, false, true>(b, a, n_work);
    return f32 ? launch<D, true, false>(b, a, n_work) : launch<D, false, false>(b, a, n_work);
}

static bool suits(const kv_pool_t &p) {
    return p.type == DT_BF16 && p.row_stride % 8 == 0 && p.head_stride % 8 == 0 && p.layer_stride % 8 == 0 && (uintptr_t)p.k % 16 == 0 &&
           (uintptr_t)p.v % 16 == 0;
}

status_t attention_sm80(cuda_backend_t *b, const attn_args_t *x, bool *done) {
    const attn_plan_t *plan;
    bool ok = true;
    int group = x->n_head / x->n_kv_head;
    *done = false;
    for (int p = 0; p < x->n_pool; p++) ok = ok && (!x->pools[p].n_row || suits(x->pools[p]));
    if (!ok || (x->d_head != 64 && x->d_head != 128) || group > 64) return ST_OK;
    ST_TRY(attn_plan(b, x, TILE_M / group, 0, &plan, &ok));
    if (!ok) return ST_OK;
    sm80_args a = {(const bf16 *)x->q,
                   NULL,
                   plan->spans,
                   NULL,
                   x->n_head,
                   x->n_kv_head,
                   group,
                   x->layer,
                   x->scale,
                   x->scale * 1.4426950408889634f,
                   x->o,
                   x->lse,
                   x->m,
                   x->top,
                   {NULL, NULL, NULL, NULL}};
    ST_TRY(cuda_upload(b, x->pools, sizeof *x->pools * (size_t)x->n_pool, &a.pools));
    ST_TRY(attn_part_alloc(b, x, plan, &a.part));
    for (int s = 0; s < plan->n_slab; s++) {
        if (!plan->slab[s].n_item) continue;
        a.items = plan->items + plan->slab[s].item;
        int64_t n_work = (int64_t)plan->slab[s].n_item * x->n_kv_head;
        bool f32 = x->o_type == DT_F32, stats = x->m || x->top;
        ST_TRY(x->d_head == 64 ? launch_d<64>(b, a, n_work, f32, stats) : launch_d<128>(b, a, n_work, f32, stats));
        ST_TRY(attn_merge_parts(b, x, plan, s, a.part));
    }
    *done = true;
    return ST_OK;
}

// The attention operator on Hopper: warpgroup matrix products, bulk tensor copies, a producer warp and two consumer warpgroups, persistent blocks.
//
//   producer (1 thread)   takes the next item, loads its queries, then the key blocks of its spans: K and V in rings of STAGES in shared memory
//   consumer 0, 1         64 rows of the tile each.  S = Q K^T of block n and O += P V of block n-1 are in flight while the other consumer does its
//                         exponentials; they take turns at the tensor cores (named barriers), so that these never idle
//
// Who sees whom comes from the spans alone: an item's rows see [lo, hi) of a span, its key blocks run from lo of the first row to hi of the last, and
// only blocks that reach outside [lo of the last row, hi of the first) of a warp's 16 rows are masked, element by element, in the registers. Rows of V
// that no row of the tile sees are cleared in shared memory before use: they may hold anything, and 0 * NaN is NaN.
#include <cuda.h>

#include "attention_plan.cuh"
#include "hopper.cuh"

enum { CONSUMERS = 2, THREADS = 128 * (CONSUMERS + 1), SHOWN_SPANS = 4 };

struct sm90_args {
    CUtensorMap q_map; // 3D: element, head, row; box 64 x group x rows of a tile
    const ditem_t *items;
    const dspan_t *spans;
    const CUtensorMap *maps;
    int n_work, n_head, n_kv, group, q_bytes, layer;
    float scale, scale_log2;
    void *o;
    float *lse, *m, *top;
    attn_part_t part;
    unsigned *counter;
};

template <int D> struct shape_t {
    static constexpr int HALVES = D / 64, STAGES = D == 128 ? 2 : 4;
    static constexpr int HALF_BYTES = KEY_BLOCK * 128, TILE_BYTES = HALVES * HALF_BYTES; // of K, V and Q alike
    static constexpr int SMEM = (2 + 2 * STAGES) * TILE_BYTES + 1024;                    // and room to align
};
struct shown_t { // what the producer tells the consumers about an item
    ditem_t it;
    int head; // -1: no more work
    dspan_t span[SHOWN_SPANS];
};

// ---- walk over the key blocks of an item ---------------------------------------------------------------------------------------------------------
struct tile_rows_t {
    int a, b; // pool indices of the first and last row
};

// Key blocks that a tile with rows a..b visits in a span: [*first, *end) in keys, first a multiple of KEY_BLOCK.
__device__ __forceinline__ void span_blocks(const dspan_t &s, int a, int b, int *lo, int *hi) {
    *lo = dspan_lo(s, a);
    *hi = dspan_hi(s, b);
}

struct walk_t {
    const shown_t *shown;
    const dspan_t *far; // the item's spans in device memory
    int s, n_span, kb, lo, hi; // present span and key block; what the tile sees of the span
    int a, b, i0, i1;          // first and last row of the tile, this thread's two rows (pool indices)
    int lo0, hi0, lo1, hi1;    // what these two see
    int in_lo, in_hi;          // what every row of the warp sees

    __device__ __forceinline__ bool next() {
        kb += KEY_BLOCK;
        while (kb >= hi) {
            if (++s >= n_span) return false;
            const dspan_t &sp = s < SHOWN_SPANS ? shown->span[s] : far[s];
            lo = dspan_lo(sp, a);
            hi = dspan_hi(sp, b);
            if (lo >= hi) {
                kb = hi = 0;
                continue;
            }
            kb = lo & ~(KEY_BLOCK - 1);
            lo0 = dspan_lo(sp, i0);
            hi0 = dspan_hi(sp, i0);
            lo1 = dspan_lo(sp, i1);
            hi1 = dspan_hi(sp, i1);
            in_lo = __shfl_sync(~0u, lo1, 31);
            in_hi = __shfl_sync(~0u, hi0, 0);
        }
        return true;
    }
    __device__ __forceinline__ bool ragged() const { return kb < lo || kb + KEY_BLOCK > hi; }
    __device__ __forceinline__ bool edge() const { return kb < in_lo || kb + KEY_BLOCK > in_hi; }
};

// ---- softmax of a block, two rows per thread -----------------------------------------------------------------------------------------------------
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
    return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}
__device__ __forceinline__ float quad_sum(float x) {
    x += __shfl_xor_sync(~0u, x, 1);
    return x + __shfl_xor_sync(~0u, x, 2);
}

template <bool STATS> struct row_t {
    float mx, sum;
};
template <> struct row_t<true> {
    float mx, sum, ml, top[ATTN_TOP]; // ml: sum of p * log2(p)
};

__device__ __forceinline__ void top_insert(float (&top)[ATTN_TOP], float v) {
#pragma unroll
    for (int e = 0; e < ATTN_TOP; e++) {
        float hi = fmaxf(top[e], v);
        v = fminf(top[e], v);
        top[e] = hi;
    }
}

// Half R of the accumulators becomes probabilities relative to the row's running maximum; returns the factor for what was summed before.
template <int R, bool STATS> __device__ __forceinline__ float softmax_row(float (&s)[64], row_t<STATS> &row, float scale_log2) {
    float mx = row.mx;
#pragma unroll
    for (int j = 0; j < 16; j++) mx = fmaxf(mx, fmaxf(s[4 * j + 2 * R], s[4 * j + 2 * R + 1]));
    mx = quad_max(mx);
    if constexpr (STATS) {
#pragma unroll
        for (int j = 0; j < 16; j++)
#pragma unroll
            for (int c = 0; c < 2; c++)
                if (s[4 * j + 2 * R + c] > row.top[ATTN_TOP - 1]) top_insert(row.top, s[4 * j + 2 * R + c]);
    }
    float base = mx == -INFINITY ? 0.f : mx * scale_log2;
    float alpha = exp2_fast(row.mx * scale_log2 - base);
    if constexpr (STATS) row.ml = row.sum > 0 ? (row.ml + (row.mx * scale_log2 - base) * row.sum) * alpha : 0.f;
    row.mx = mx;
    float sum = 0;
#pragma unroll
    for (int j = 0; j < 16; j++)
#pragma unroll
        for (int c = 0; c < 2; c++) {
            float x = fmaf(s[4 * j + 2 * R + c], scale_log2, -base), p = exp2_fast(x);
            if constexpr (STATS) row.ml = fmaf(p, fmaxf(x, -1e30f), row.ml);
            s[4 * j + 2 * R + c] = p;
            sum += p;
        }
    row.sum = row.sum * alpha + sum;
    return alpha;
}

__device__ __forceinline__ void mask_block(float (&s)[64], const walk_t &w) {
    int c0 = 2 * (threadIdx.x & 3);
    int lo0 = w.lo0 - w.kb - c0, lo1 = w.lo1 - w.kb - c0, n0 = w.hi0 - w.lo0, n1 = w.hi1 - w.lo1;
    n0 = max(n0, 0);
    n1 = max(n1, 0);
#pragma unroll
    for (int j = 0; j < 16; j++)
#pragma unroll
        for (int c = 0; c < 2; c++) {
            if ((unsigned)(8 * j + c - lo0) >= (unsigned)n0) s[4 * j + c] = -INFINITY;
            if ((unsigned)(8 * j + c - lo1) >= (unsigned)n1) s[4 * j + 2 + c] = -INFINITY;
        }
}

__device__ __forceinline__ uint32_t pack_bf16(float a, float b) {
    __nv_bfloat162 v = __floats2bfloat162_rn(a, b);
    return *(uint32_t *)&v;
}

// ---- matrix products -----------------------------------------------------------------------------------------------------------------------------
template <int D> __device__ __forceinline__ void product_qk(float (&s)[64], uint32_t q, uint32_t k) {
    uint64_t dq = smem_desc(q, 16), dk = smem_desc(k, 16);
#pragma unroll
    for (int e = 0; e < D / 16; e++) {
        uint64_t step = (uint64_t)((e / 4) * (shape_t<D>::HALF_BYTES >> 4) + (e % 4) * 2);
        wgmma_qk(s, dq + step, dk + step, e != 0);
    }
    wgmma_commit();
}
template <int D> __device__ __forceinline__ void product_pv(float (&o)[D / 2], const uint32_t (&p)[32], uint32_t v, bool first) {
    uint64_t dv = smem_desc(v, shape_t<D>::HALF_BYTES);
#pragma unroll
    for (int e = 0; e < KEY_BLOCK / 16; e++) wgmma_pv(o, p + 4 * e, dv + (uint64_t)(e * (2048 >> 4)), e != 0 || !first);
    wgmma_commit();
}

// Clears the rows of a V tile outside [lo, hi). Both consumers may do so: they write the same.
template <int D> __device__ __forceinline__ void clear_rows(uint32_t v, int lo, int hi, int wg) {
    int t = threadIdx.x & 127;
    for (int at = t; at < KEY_BLOCK * 8; at += 128) {
        int r = at >> 3;
        if (r >= lo && r < hi) continue;
#pragma unroll
        for (int h = 0; h < shape_t<D>::HALVES; h++)
            asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(v + h * shape_t<D>::HALF_BYTES + at * 16), "r"(0) : "memory");
    }
    fence_async();
    bar_sync(4 + wg, 128);
}

// ---- roles ---------------------------------------------------------------------------------------------------------------------------------------
struct bars_t {
    uint32_t q_full, q_empty, k_full, k_empty, v_full, v_empty; // arrays of 8-byte barriers
};
template <int STAGES> struct ring_t { // position in a ring of stages
    int at = 0, phase = 0;
    __device__ __forceinline__ void step() {
        if (++at == STAGES) at = 0, phase ^= 1;
    }
};

template <int D> __device__ __forceinline__ void load_tile(uint32_t dst, uint32_t bar, const CUtensorMap *map, int row, int head, int layer) {
    mbar_expect(bar, shape_t<D>::TILE_BYTES);
#pragma unroll
    for (int h = 0; h < shape_t<D>::HALVES; h++) tma_load_4d(dst + h * shape_t<D>::HALF_BYTES, map, bar, h * 64, row, head, layer);
}

template <int D> __device__ __forceinline__ void produce(const sm90_args &a, shown_t *shown, uint32_t q, uint32_t k, uint32_t v, const bars_t &bar) {
    constexpr int STAGES = shape_t<D>::STAGES, TILE = shape_t<D>::TILE_BYTES;
    ring_t<2> qr;
    ring_t<STAGES> kr, vr;
    int last_pool = -1;
    for (;;) {
        unsigned w = atomicInc(a.counter, (unsigned)a.n_work + gridDim.x - 1); // wraps to 0 when every block has seen the end
        mbar_wait(bar.q_empty + 8 * qr.at, qr.phase ^ 1);
        shown_t &sh = shown[qr.at];
        if (w >= (unsigned)a.n_work) {
            sh.head = -1;
            mbar_arrive(bar.q_full + 8 * qr.at);
            return;
        }
        const ditem_t it = a.items[w / (unsigned)a.n_kv];
        int head = (int)(w % (unsigned)a.n_kv);
        sh.it = it;
        sh.head = head;
        for (int s = 0; s < SHOWN_SPANS && s < it.n_span; s++) sh.span[s] = a.spans[it.span + s];
        mbar_expect(bar.q_full + 8 * qr.at, a.q_bytes);
#pragma unroll
        for (int h = 0; h < shape_t<D>::HALVES; h++)
            tma_load_3d(q + qr.at * TILE + h * shape_t<D>::HALF_BYTES, &a.q_map, bar.q_full + 8 * qr.at, h * 64, head * a.group, it.row);
        qr.step();
        const CUtensorMap *vmap = NULL; // V of a block is asked for after K of the next: that is the order of use
        int v_row = 0;
        for (int s = 0; s < it.n_span; s++) {
            const dspan_t sp = a.spans[it.span + s];
            int lo = dspan_lo(sp, it.index), hi = dspan_hi(sp, it.index + it.n - 1);
            if (lo >= hi) continue;
            const CUtensorMap *kmap = a.maps + 2 * sp.pool;
            if (sp.pool != last_pool) {
                tma_map_acquire(kmap);
                tma_map_acquire(kmap + 1);
                last_pool = sp.pool;
            }
            for (int kb = lo & ~(KEY_BLOCK - 1); kb < hi; kb += KEY_BLOCK) {
                mbar_wait(bar.k_empty + 8 * kr.at, kr.phase ^ 1);
                load_tile<D>(k + kr.at * TILE, bar.k_full + 8 * kr.at, kmap, kb, head, a.layer);
                kr.step();
                if (vmap) {
                    mbar_wait(bar.v_empty + 8 * vr.at, vr.phase ^ 1);
                    load_tile<D>(v + vr.at * TILE, bar.v_full + 8 * vr.at, vmap, v_row, head, a.layer);
                    vr.step();
                }
                vmap = kmap + 1;
                v_row = kb;
            }
        }
        if (vmap) {
            mbar_wait(bar.v_empty + 8 * vr.at, vr.phase ^ 1);
            load_tile<D>(v + vr.at * TILE, bar.v_full + 8 * vr.at, vmap, v_row, head, a.layer);
            vr.step();
        }
    }
}

// Results of a consumer's 64 rows. O in bf16 goes through the (now free) query tile, so that global writes are 16 bytes wide and whole.
template <int D, bool F32, bool STATS>
__device__ __forceinline__ void write_out(const sm90_args &a, const ditem_t &it, int head, int wg, uint32_t q, float (&o)[D / 2], row_t<STATS> (&row)[2]) {
    int lane = threadIdx.x & 31, m0 = wg * 64 + (threadIdx.x / 32 % 4) * 16 + lane / 4;
    bool part = F32 && it.partial;
    float *lse = part ? a.part.lse : a.lse;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int m = m0 + 8 * r, t = m / a.group;
        bool live = t < it.n;
        float sum = quad_sum(row[r].sum), inv = sum > 0 ? 1.f / sum : 0.f;
        int64_t at = (it.out + t) * a.n_head + head * a.group + (m - t * a.group);
        if (live && lane % 4 == 0 && lse) lse[at] = sum > 0 ? row[r].mx * a.scale + logf(sum) : -INFINITY;
        if constexpr (STATS) {
            float *mo = part ? a.part.m : a.m, *to = part ? a.part.top : a.top;
            float ml = quad_sum(row[r].ml);
            if (live && lane % 4 == 0 && mo) mo[at] = sum > 0 ? (ml * inv + row[r].mx * a.scale_log2) * 0.6931471805599453f : 0.f;
#pragma unroll
            for (int x = 1; x < 4; x *= 2) {
                float other[ATTN_TOP];
#pragma unroll
                for (int e = 0; e < ATTN_TOP; e++) other[e] = __shfl_xor_sync(~0u, row[r].top[e], x);
#pragma unroll
                for (int e = 0; e < ATTN_TOP; e++) top_insert(row[r].top, other[e]);
            }
            if (live && lane % 4 == 0 && to)
#pragma unroll
                for (int e = 0; e < ATTN_TOP; e++) to[at * ATTN_TOP + e] = row[r].top[e] * a.scale;
        }
        if constexpr (F32) {
            float *out = (part ? a.part.o : (float *)a.o) + at * D + 2 * (lane % 4);
#pragma unroll
            for (int j = 0; j < D / 8; j++)
                if (live) *(float2 *)(out + 8 * j) = make_float2(o[4 * j + 2 * r] * inv, o[4 * j + 2 * r + 1] * inv);
        } else {
#pragma unroll
            for (int j = 0; j < D / 8; j++) {
                uint32_t to = q + (j / 8) * shape_t<D>::HALF_BYTES + m * 128 + (((j % 8) ^ (m & 7)) << 4) + 4 * (lane % 4);
                asm volatile("st.shared.b32 [%0], %1;" ::"r"(to), "r"(pack_bf16(o[4 * j + 2 * r] * inv, o[4 * j + 2 * r + 1] * inv)) : "memory");
            }
        }
    }
    if constexpr (!F32) {
        __syncwarp(); // a warp reads back what it wrote itself: its own 16 rows
        int w16 = wg * 64 + (threadIdx.x / 32 % 4) * 16;
#pragma unroll
        for (int i = 0; i < D / 16; i++) {
            int at = i * 32 + lane, m = w16 + at / (D / 8), c = at % (D / 8), t = m / a.group;
            uint4 x;
            asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                         : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                         : "r"(q + (c / 8) * shape_t<D>::HALF_BYTES + m * 128 + (((c % 8) ^ (m & 7)) << 4))
                         : "memory");
            if (t < it.n) *(uint4 *)((bf16 *)a.o + ((it.out + t) * a.n_head + head * a.group + (m - t * a.group)) * D + c * 8) = x;
        }
        fence_async();
    }
}

template <int D, bool F32, bool STATS>
__device__ __forceinline__ void consume(const sm90_args &a, const shown_t *shown, uint32_t q0, uint32_t k0, uint32_t v0, const bars_t &bar, int wg) {
    constexpr int STAGES = shape_t<D>::STAGES, TILE = shape_t<D>::TILE_BYTES;
    const int lane = threadIdx.x & 31, m0 = wg * 64 + (threadIdx.x / 32 % 4) * 16 + lane / 4;
    ring_t<2> qr;
    ring_t<STAGES> kr, vr;
    float s[64], o[D / 2];
    uint32_t p[32];
    row_t<STATS> row[2];
    if (wg == 1) bar_arrive(2, 256); // consumer 0 begins
    for (;;) {
        mbar_wait(bar.q_full + 8 * qr.at, qr.phase);
        const shown_t &sh = shown[qr.at];
        const int head = sh.head;
        if (head < 0) return;
        const ditem_t it = sh.it;
        walk_t w;
        w.shown = &sh;
        w.far = a.spans + it.span;
        w.s = -1;
        w.n_span = it.n_span;
        w.kb = w.hi = 0;
        w.a = it.index;
        w.b = it.index + it.n - 1;
        w.i0 = min(it.index + m0 / a.group, w.b);
        w.i1 = min(it.index + (m0 + 8) / a.group, w.b);
        uint32_t q = q0 + qr.at * TILE;
#pragma unroll
        for (int r = 0; r < 2; r++) {
            row[r].mx = -INFINITY;
            row[r].sum = 0;
            if constexpr (STATS) {
                row[r].ml = 0;
#pragma unroll
                for (int e = 0; e < ATTN_TOP; e++) row[r].top[e] = -INFINITY;
            }
        }
        if (w.next()) {
            mbar_wait(bar.k_full + 8 * kr.at, kr.phase);
            wgmma_fence();
            product_qk<D>(s, q + wg * 64 * 128, k0 + kr.at * TILE);
            wgmma_wait<0>();
            if (lane == 0) mbar_arrive(bar.k_empty + 8 * kr.at);
            kr.step();
            if (w.edge()) mask_block(s, w);
            softmax_row<0, STATS>(s, row[0], a.scale_log2);
            softmax_row<1, STATS>(s, row[1], a.scale_log2);
#pragma unroll
            for (int e = 0; e < 32; e++) p[e] = pack_bf16(s[2 * e], s[2 * e + 1]);
            bool first = true, ragged = w.ragged();
            int v_lo = w.lo - w.kb, v_hi = w.hi - w.kb;
            while (w.next()) {
                mbar_wait(bar.k_full + 8 * kr.at, kr.phase);
                bar_sync(2 + wg, 256);
                wgmma_fence();
                product_qk<D>(s, q + wg * 64 * 128, k0 + kr.at * TILE);
                mbar_wait(bar.v_full + 8 * vr.at, vr.phase);
                if (ragged) clear_rows<D>(v0 + vr.at * TILE, v_lo, v_hi, wg);
                product_pv<D>(o, p, v0 + vr.at * TILE, first);
                bar_arrive(3 - wg, 256);
                wgmma_wait<1>();
                if (lane == 0) mbar_arrive(bar.k_empty + 8 * kr.at);
                kr.step();
                if (w.edge()) mask_block(s, w);
                float alpha0 = softmax_row<0, STATS>(s, row[0], a.scale_log2), alpha1 = softmax_row<1, STATS>(s, row[1], a.scale_log2);
                wgmma_wait<0>();
                if (lane == 0) mbar_arrive(bar.v_empty + 8 * vr.at);
                vr.step();
#pragma unroll
                for (int j = 0; j < D / 8; j++) o[4 * j] *= alpha0, o[4 * j + 1] *= alpha0, o[4 * j + 2] *= alpha1, o[4 * j + 3] *= alpha1;
#pragma unroll
                for (int e = 0; e < 32; e++) p[e] = pack_bf16(s[2 * e], s[2 * e + 1]);
                first = false;
                ragged = w.ragged();
                v_lo = w.lo - w.kb;
                v_hi = w.hi - w.kb;
            }
            mbar_wait(bar.v_full + 8 * vr.at, vr.phase);
            if (ragged) clear_rows<D>(v0 + vr.at * TILE, v_lo, v_hi, wg);
            wgmma_fence();
            product_pv<D>(o, p, v0 + vr.at * TILE, first);
            wgmma_wait<0>();
            if (lane == 0) mbar_arrive(bar.v_empty + 8 * vr.at);
            vr.step();
        } else {
#pragma unroll
            for (int j = 0; j < D / 2; j++) o[j] = 0;
        }
        write_out<D, F32, STATS>(a, it, head, wg, q, o, row);
        __syncwarp();
        if (lane == 0) mbar_arrive(bar.q_empty + 8 * qr.at);
        qr.step();
    }
}

template <int D, bool F32, bool STATS> __global__ void __launch_bounds__(THREADS, 1) attention_sm90_kernel(const __grid_constant__ sm90_args a) {
    constexpr int STAGES = shape_t<D>::STAGES, TILE = shape_t<D>::TILE_BYTES;
    extern __shared__ char smem[];
    __shared__ __align__(8) uint64_t bars[4 + 4 * STAGES];
    __shared__ shown_t shown[2];
    uint32_t q = (smem_addr(smem) + 1023) & ~1023u, k = q + 2 * TILE, v = k + STAGES * TILE, b0 = smem_addr(bars);
    bars_t bar = {b0, b0 + 16, b0 + 32, b0 + 32 + 8 * STAGES, b0 + 32 + 16 * STAGES, b0 + 32 + 24 * STAGES};
    if (threadIdx.x == 0) {
        for (int i = 0; i < 2; i++) {
            mbar_init(bar.q_full + 8 * i, 1);
            mbar_init(bar.q_empty + 8 * i, 4 * CONSUMERS);
        }
        for (int i = 0; i < STAGES; i++) {
            mbar_init(bar.k_full + 8 * i, 1);
            mbar_init(bar.v_full + 8 * i, 1);
            mbar_init(bar.k_empty + 8 * i, 4 * CONSUMERS); // one arrival per warp
            mbar_init(bar.v_empty + 8 * i, 4 * CONSUMERS);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    int wg = (int)threadIdx.x / 128;
    if (wg == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
        if (threadIdx.x == 0) produce<D>(a, shown, q, k, v, bar);
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
        consume<D, F32, STATS>(a, shown, q, k, v, bar, wg - 1);
    }
}

// ---- host ----------------------------------------------------------------------------------------------------------------------------------------
template <int D, bool F32, bool STATS> static status_t launch(cuda_backend_t *b, const sm90_args &a) {
    static bool ready; // per kernel; one device per process
    if (!ready) CUDA_TRY(cudaFuncSetAttribute(attention_sm90_kernel<D, F32, STATS>, cudaFuncAttributeMaxDynamicSharedMemorySize, shape_t<D>::SMEM));
    ready = true;
    int grid = a.n_work < b->n_sm ? a.n_work : b->n_sm;
    attention_sm90_kernel<D, F32, STATS><<<grid, THREADS, shape_t<D>::SMEM, b->stream>>>(a);
    CUDA_LAUNCHED("attention (wgmma)");
    return ST_OK;
}
template <int D> static status_t launch_d(cuda_backend_t *b, const sm90_args &a, bool f32, bool stats) {
    if (stats) return f32 ? launch<D, true, true>(b, a) : launch<D, false, true>(b, a);
    return f32 ? launch<D, true, false>(b, a) : launch<D, false, false>(b, a);
}

status_t attention_sm90(cuda_backend_t *b, const attn_args_t *x, bool *done) {
    const attn_plan_t *plan;
    int group = x->n_head / x->n_kv_head, rows = TILE_M / group;
    bool ok;
    sm90_args a;
    *done = false;
    if ((x->d_head != 64 && x->d_head != 128) || group > 64 || (uintptr_t)x->q % 16 || (uintptr_t)x->o % 16) return ST_OK;
    ST_TRY(attn_plan(b, x, rows, &plan, &ok));
    if (!ok) return ST_OK;
    ST_TRY(attn_maps(b, x, (const void **)&a.maps, &ok));
    if (!ok) return ST_OK;
    uint64_t dims[3] = {(uint64_t)x->d_head, (uint64_t)x->n_head, (uint64_t)x->n_row};
    uint64_t strides[2] = {(uint64_t)x->d_head * 2, (uint64_t)x->d_head * 2 * (uint64_t)x->n_head};
    uint32_t box[3] = {64, (uint32_t)group, (uint32_t)rows};
    if (!tensor_map_make(&a.q_map, x->q, 3, dims, strides, box)) return ST_OK;
    a.n_head = x->n_head;
    a.n_kv = x->n_kv_head;
    a.group = group;
    a.q_bytes = group * rows * x->d_head * 2;
    a.layer = x->layer;
    a.scale = x->scale;
    a.scale_log2 = x->scale * 1.4426950408889634f;
    a.o = x->o;
    a.lse = x->lse;
    a.m = x->m;
    a.top = x->top;
    a.counter = b->counter;
    a.spans = plan->spans;
    ST_TRY(attn_part_alloc(b, x, plan, &a.part));
    for (int s = 0; s < plan->n_slab; s++) {
        if (!plan->slab[s].n_item) continue;
        a.items = plan->items + plan->slab[s].item;
        a.n_work = plan->slab[s].n_item * x->n_kv_head;
        bool f32 = x->o_type == DT_F32, stats = x->m || x->top;
        ST_TRY(x->d_head == 64 ? launch_d<64>(b, a, f32, stats) : launch_d<128>(b, a, f32, stats));
        ST_TRY(attn_merge_parts(b, x, plan, s, a.part));
    }
    *done = true;
    return ST_OK;
}

// What the tiled attention kernels share: the walk over an item's key blocks, masks, the running softmax of a row, what is written at its
// end.
//
// A warp holds 16 rows. Thread t has rows t/4 and t/4 + 8 of them and, of a block of 8 * J keys, columns 8*j + 2*(t%4) + {0, 1}: s[4*j +
// 2*R + {0, 1}] for its row R. That is how the matrix units of sm_80 and of sm_90 both leave their results.
#ifndef CUDA_ATTENTION_TILE_CUH
#define CUDA_ATTENTION_TILE_CUH

#include "attention_plan.cuh"
#include "top.cuh"

// ---- walk over the key blocks of an item ----------------------------------------------------------------------------
template <int KEYS> struct walk_t {    // KEYS: keys of a block
    const dspan_t *near_by, *far;      // the item's spans; the first n_near of them lie near by as well
    int n_near, s, n_span, kb, lo, hi; // present span and key block; what the tile sees of the span
    int head1;                         // K/V head plus 1
    int a, b, i0, i1;                  // first and last row of the tile, this thread's two rows (pool indices)
    int lo0, hi0, lo1, hi1;            // what these two see
    int in_lo, in_hi;                  // what every row of the warp sees

    // Rows of the tile are t-th of the item's n rows, the first of which has pool index `index`; this thread has rows t0 and t1.
    __device__ __forceinline__ void begin(const ditem_t &it, int head, int t0, int t1) {
        s = -1;
        head1 = head + 1;
        n_span = it.n_span;
        kb = hi = 0;
        a = it.index;
        b = a + it.n - 1;
        i0 = min(a + t0, b);
        i1 = min(a + t1, b);
    }
    __device__ __forceinline__ bool next() {
        kb += KEYS;
        while (kb >= hi) {
            if (++s >= n_span) return false;
            const dspan_t &sp = s < n_near ? near_by[s] : far[s];
            lo = dspan_lo(sp, a);
            hi = dspan_hi(sp, b);
            if (lo >= hi || (sp.only && sp.only != head1)) {
                kb = hi = 0;
                continue;
            }
            kb = lo & ~(KEYS - 1);
            lo0 = dspan_lo(sp, i0);
            hi0 = dspan_hi(sp, i0);
            lo1 = dspan_lo(sp, i1);
            hi1 = dspan_hi(sp, i1);
            in_lo = __shfl_sync(~0u, lo1, 31);
            in_hi = __shfl_sync(~0u, hi0, 0);
        }
        return true;
    }
    __device__ __forceinline__ bool ragged() const { return kb < lo || kb + KEYS > hi; }
    // Halves of the block of which some row of the tile sees something: bit 0 and bit 1. The products of a half that nobody sees are left
    // out.
    __device__ __forceinline__ int halves() const { return (lo < kb + KEYS / 2 ? 1 : 0) | (hi > kb + KEYS / 2 ? 2 : 0); }
    __device__ __forceinline__ bool edge() const { return kb < in_lo || kb + KEYS > in_hi; }
};

// ---- softmax of a block, two rows per thread ------------------------------------------------------------------------
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

template <bool STATS> struct row_t { float mx, sum; };
template <> struct row_t<true> {
    float mx, sum, ml, top[ATTN_TOP]; // ml: sum of p * log2(p)
};

// What masked logits become. With statistics it is finite, so that p * log2(p) needs no care; no real logit is so small.
template <bool STATS> __device__ __forceinline__ float masked() { return STATS ? -1e30f : -INFINITY; }

// Half R of the accumulators becomes probabilities relative to the row's running maximum; returns the factor for what was summed before:
// exactly 1 when the maximum stays, so that a block of which the row sees nothing leaves no trace.
template <int R, bool STATS, int J> __device__ __forceinline__ float softmax_row(float (&s)[4 * J], row_t<STATS> &row, float scale_log2) {
    float mx = -INFINITY, limit = 0;
    if constexpr (STATS) limit = quad_max(row.top[ATTN_TOP - 1]); // below it nothing is among the row's five largest
#pragma unroll
    for (int g = 0; g < J; g += 4) {
        float most = fmaxf(s[4 * g + 2 * R], s[4 * g + 2 * R + 1]);
#pragma unroll
        for (int j = g + 1; j < g + 4; j++) most = fmaxf(most, fmaxf(s[4 * j + 2 * R], s[4 * j + 2 * R + 1]));
        if constexpr (STATS)
            if (__any_sync(~0u, most > limit)) { // one branch for 8 values of the whole warp: branches cost more than insertions
#pragma unroll
                for (int j = g; j < g + 4; j += 2)
                    top_add(row.top, s[4 * j + 2 * R], s[4 * j + 2 * R + 1], s[4 * j + 2 * R + 4], s[4 * j + 2 * R + 5]);
            }
        mx = fmaxf(mx, most);
    }
    mx = fmaxf(row.mx, quad_max(mx));
    float zero = mx <= masked<STATS>() ? 0.f : mx, base = zero * scale_log2, moved = (row.mx - zero) * scale_log2, alpha = exp2_fast(moved);
    if constexpr (STATS) row.ml = row.sum > 0 ? (row.ml + moved * row.sum) * alpha : 0.f;
    row.mx = mx;
    float sum = 0;
#pragma unroll
    for (int j = 0; j < J; j++)
#pragma unroll
        for (int c = 0; c < 2; c++) {
            float x = fmaf(s[4 * j + 2 * R + c], scale_log2, -base), p = exp2_fast(x);
            if constexpr (STATS) row.ml = fmaf(p, x, row.ml);
            s[4 * j + 2 * R + c] = p;
            sum += p;
        }
    row.sum = row.sum * alpha + sum;
    return alpha;
}

// Bit i of the result: does this thread's i-th column of the block (2 of every 8) lie below x?
__device__ __forceinline__ uint32_t columns_below(int x) {
    int n = 2 * (x >> 3) + min(x & 7, 2);
    uint32_t bit;
    asm("shl.b32 %0, 1, %1;" : "=r"(bit) : "r"(x <= 0 ? 0 : n)); // 0 from 32 on
    return bit - 1;
}

template <bool STATS, int J> __device__ __forceinline__ void mask_block(float (&s)[4 * J], const walk_t<8 * J> &w) {
    int c0 = w.kb + 2 * (threadIdx.x & 3);
    uint32_t see0 = columns_below(w.hi0 - c0) & ~columns_below(w.lo0 - c0), see1 = columns_below(w.hi1 - c0) & ~columns_below(w.lo1 - c0);
#pragma unroll
    for (int j = 0; j < J; j++)
#pragma unroll
        for (int c = 0; c < 2; c++) {
            if (!(see0 >> (2 * j + c) & 1)) s[4 * j + c] = masked<STATS>();
            if (!(see1 >> (2 * j + c) & 1)) s[4 * j + 2 + c] = masked<STATS>();
        }
}

__device__ __forceinline__ uint32_t pack_bf16(float a, float b) {
    __nv_bfloat162 v = __floats2bfloat162_rn(a, b);
    return *(uint32_t *)&v;
}

// lse and statistics of a row whose four threads are complete; returns 1 / sum. `at`: its place in the outputs; live: it is a row of the
// item.
struct attn_out_t {
    float scale, scale_log2, *lse, *m, *top;
};
template <bool STATS> __device__ __forceinline__ float row_out(const attn_out_t &to, row_t<STATS> &row, int64_t at, bool live) {
    bool writes = live && (threadIdx.x & 3) == 0;
    float sum = quad_sum(row.sum), inv = sum > 0 ? 1.f / sum : 0.f;
    if (writes && to.lse) to.lse[at] = sum > 0 ? row.mx * to.scale + logf(sum) : -INFINITY;
    if constexpr (STATS) {
        float ml = quad_sum(row.ml);
        if (writes && to.m) to.m[at] = sum > 0 ? (ml * inv + row.mx * to.scale_log2) * 0.6931471805599453f : 0.f;
        top_merge_lanes(row.top, 1);
        top_merge_lanes(row.top, 2);
        if (writes && to.top)
#pragma unroll
            for (int e = 0; e < ATTN_TOP; e++) to.top[at * ATTN_TOP + e] = row.top[e] > masked<true>() ? row.top[e] * to.scale : -INFINITY;
    }
    return inv;
}

template <bool STATS> __device__ __forceinline__ void row_begin(row_t<STATS> &row) {
    row.mx = -INFINITY;
    row.sum = 0;
    if constexpr (STATS) {
        row.ml = 0;
        top_clear(row.top);
    }
}

#endif

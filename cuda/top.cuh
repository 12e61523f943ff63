// The ATTN_TOP largest of values, in descending order. Whatever the order in which values come, the result has the same bits.
#ifndef CUDA_TOP_CUH
#define CUDA_TOP_CUH

#include "common.cuh"

__device__ __forceinline__ void top_clear(float (&top)[ATTN_TOP]) {
#pragma unroll
    for (int e = 0; e < ATTN_TOP; e++) top[e] = -INFINITY;
}

__device__ __forceinline__ void top_order(float &a, float &b) { // the larger first
    float hi = fmaxf(a, b);
    b = fminf(a, b);
    a = hi;
}

// The larger ones of a[i] and b[4 - i] are the five largest of both; they fall and then rise, so five exchanges order them.
__device__ __forceinline__ void top_merge(float (&a)[ATTN_TOP], const float (&b)[ATTN_TOP]) {
    static_assert(ATTN_TOP == 5, "the exchanges are those for five values");
#pragma unroll
    for (int e = 0; e < ATTN_TOP; e++) a[e] = fmaxf(a[e], b[ATTN_TOP - 1 - e]);
    top_order(a[0], a[4]);
    top_order(a[1], a[3]);
    top_order(a[1], a[4]);
    top_order(a[2], a[4]);
    top_order(a[3], a[4]);
}

// Four more values, in any order.
__device__ __forceinline__ void top_add(float (&top)[ATTN_TOP], float a, float b, float c, float d) {
    top_order(a, b);
    top_order(c, d);
    top_order(a, c);
    top_order(b, d);
    top_order(b, c);
    float four[ATTN_TOP] = {a, b, c, d, -INFINITY};
    top_merge(top, four);
}

// With the lane whose number differs in the bits of x; both get the result.
__device__ __forceinline__ void top_merge_lanes(float (&top)[ATTN_TOP], int x) {
    float other[ATTN_TOP];
#pragma unroll
    for (int e = 0; e < ATTN_TOP; e++) other[e] = __shfl_xor_sync(~0u, top[e], x);
    top_merge(top, other);
}

#endif

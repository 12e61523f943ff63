// Ends of tiles of the matrix kernel (gemm_sm90.cu): what a warp does with its 16 rows of a consumer's 64, whose sums lie in registers
// (hopper.cuh says which). Rows go through boxes of shared memory, swizzled so that nothing meets in a bank, and leave from there as whole
// lines: by the copy engine, which also adds them to the residual stream in the L2 cache, so that nobody waits for what is there; K and V
// by 16 bytes a thread, since their rows may go anywhere.
#ifndef CUDA_GEMM_END_CUH
#define CUDA_GEMM_END_CUH

#include <cuda.h>

#include "gemm.cuh"
#include "hopper_wide.cuh"

// Rows of a tile, columns of a step of the sums, blocks of a cluster.
enum { BM = 128, BK = 64, CLUSTER = 2 };
// Boxes on their way out: 16 rows of 32 f32 (SET, ADD), 32 bf16 (GLU) or 64 bf16 (QKV).
enum { BOX_ROWS = 16, BOX_F32 = 2048, BOX_GLU = 1024, BOX_QKV = 2048 };

struct gemm_kernel_args {
    CUtensorMap x_map, w_map, y_map; // boxes of 64 columns: 128 rows of x, half a tile of W; boxes on their way out
    CUtensorMap angle_map;           // QKV: boxes of 32 cosines or sines of a tile's rows
    int n_row, n_out, n_step, n_pair, n_col; // steps of 64 columns; pairs of row tiles; column tiles
    unsigned *counter;                       // tiles taken
    // QKV
    int n_head, n_kv, n_run, layer;
    const float *bias, *cos_sin;
    bf16 *q;
    const kv_pool_t *pools;
    const run_t *runs;
};

// A warp's boxes, N of them in turns. One thread speaks to the copy engine: take() makes sure that the box may be written, send() hands it over.
template <int N, int BYTES> struct outbox_t {
    uint32_t first; // of the warp's boxes
    int turn;
    __device__ __forceinline__ uint32_t take() {
        if ((threadIdx.x & 31) == 0) bulk_wait_read<N - 1>();
        __syncwarp();
        return first + turn * BYTES;
    }
    template <bool ADD> __device__ __forceinline__ void send(const CUtensorMap *map, int col, int row) {
        fence_async();
        __syncwarp();
        if ((threadIdx.x & 31) == 0) {
            if (ADD) tma_add_2d(map, first + turn * BYTES, col, row);
            else tma_store_2d(map, first + turn * BYTES, col, row);
            bulk_commit();
        }
        if (++turn == N) turn = 0;
    }
};
__device__ __forceinline__ uint32_t pack2(float x, float y) {
    __nv_bfloat162 v = __floats2bfloat162_rn(x, y);
    return *(uint32_t *)&v;
}

// row, col: of the warp's first sum. The sums of the residual stream: one addition an element, as y + x in a register would be (but for
// subnormal numbers, which the cache's adders take as 0).
template <int BN, bool ADD, class BOX> __device__ __forceinline__ void end_f32(const gemm_kernel_args &a, float (&c)[BN / 2], int row, int col, BOX &box) {
    int lane = threadIdx.x & 31, r8 = lane / 4;
    bool odd = r8 & 1; // odd rows write their columns in another order: so the 16 threads that write at once meet in no bank
    uint32_t place = r8 * 128 + ((((lane % 4) / 2) ^ r8 ^ (odd ? 4 : 0)) << 4) + 8 * (lane & 1);
#pragma unroll
    for (int q = 0; q < BN / 32; q++) {
        if (col + 32 * q >= a.n_out) break;
        uint32_t to = box.take();
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int r = 0; r < 2; r++) {
                const float *x = c + 16 * q + 4 * j + 2 * r, *z = c + 16 * q + 4 * (j ^ 2) + 2 * r;
                asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(to + r * 1024 + (place ^ (j << 5))), "f"(odd ? z[0] : x[0]),
                             "f"(odd ? z[1] : x[1])
                             : "memory");
            }
        box.template send<ADD>(&a.y_map, col + 32 * q, row);
    }
}

template <int BN, class BOX> __device__ __forceinline__ void end_glu(const gemm_kernel_args &a, float (&c)[BN / 2], int row, int col, BOX &box) {
    int lane = threadIdx.x & 31, r = lane % 16; // the row whose 16 bytes this thread names
    uint32_t place = r * 64 + (((lane / 16) ^ ((r >> 1) & 3)) << 4);
#pragma unroll
    for (int q = 0; q < BN / 64; q++) {
        if (col + 64 * q >= a.n_out) break;
        uint32_t to = box.take();
#pragma unroll
        for (int p = 0; p < 2; p++) {
            uint32_t v[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float *g = c + 32 * q + 16 * p + 8 * (i / 2) + 2 * (i % 2), *u = g + 4;
                v[i] = pack2(silu_times(g[0], u[0]), silu_times(g[1], u[1]));
            }
            stmatrix_4(to + (place ^ (p << 5)), v);
        }
        box.template send<false>(&a.y_map, col / 2 + 32 * q, row);
    }
}

// ---- rows into their pools ------------------------------------------------------------------------------------------
// Where K and V of a row go, at head 0 of the layer; NULL: nowhere.
struct place_t {
    bf16 *k, *v;
    int64_t head_stride;
};
// run: the last that begins at or before the row; -1: none.
__device__ __forceinline__ place_t place_of(const gemm_kernel_args &a, int run, int row) {
    place_t p = {NULL, NULL, 0};
    if (run < 0) return p;
    const run_t r = a.runs[run];
    if ((row >= r.row + r.n) | (r.pool < 0)) return p;
    const kv_pool_t pool = a.pools[r.pool];
    int64_t at = a.layer * pool.layer_stride + (r.index + row - r.row) * pool.row_stride;
    p.k = (bf16 *)pool.k + at;
    p.v = (bf16 *)pool.v + at;
    p.head_stride = pool.head_stride;
    return p;
}
// Places of a tile's rows, by a warp. Runs are sorted by their rows: those that begin at or before the first and the last row are counted 32
// at a time, and mostly both counts are the same, so that three reads in a row are all that is waited for.
__device__ __forceinline__ void places_of(const gemm_kernel_args &a, int row0, place_t *places) {
    int lane = threadIdx.x & 31, first = -1, last = -1;
    for (int r0 = 0; r0 < a.n_run; r0 += 32) {
        int64_t row = r0 + lane < a.n_run ? a.runs[r0 + lane].row : INT64_MAX;
        unsigned before = __ballot_sync(~0u, row <= row0 + BM - 1);
        first += __popc(__ballot_sync(~0u, row <= row0));
        last += __popc(before);
        if (~before) break;
    }
    for (int i = lane; i < BM; i += 32) {
        int run = first;
        while (run < last && a.runs[run + 1].row <= row0 + i) run++;
        places[i] = place_of(a, run, row0 + i);
    }
}

template <int BN, int B> __device__ __forceinline__ void add_bias(const gemm_kernel_args &a, float (&c)[B][BN / 2], int col) {
    constexpr int G = 8; // loads in flight
#pragma unroll
    for (int j0 = 0; j0 < BN / 8; j0 += G) {
        float2 bias[G];
#pragma unroll
        for (int j = 0; j < G; j++) bias[j] = *(const float2 *)(a.bias + min(col + 8 * (j0 + j) + 2 * ((int)threadIdx.x % 4), a.n_out - 2));
#pragma unroll
        for (int i = 0; i < 2 * B * G; i++) {
            float *x = &c[i / 2 % B][4 * (j0 + i / (2 * B)) + 2 * (i % 2)];
            x[0] = __fadd_rn(x[0], bias[i / (2 * B)].x), x[1] = __fadd_rn(x[1], bias[i / (2 * B)].y);
        }
    }
}
// Rotation, in place. angles(r, j): this thread's two of group j of 8 (cosines, then sines) of its row r of two, read once for all heads.
template <int BN, int D, class F> __device__ __forceinline__ void turn_heads(const gemm_kernel_args &a, float (&c)[BN / 2], int col, F angles) {
    constexpr int HALF = D / 16; // groups between the two of a pair
#pragma unroll
    for (int r = 0; r < 2; r++)
#pragma unroll
        for (int j = 0; j < HALF; j++) {
            float2 cosine = angles(r, j), sine = angles(r, j + HALF);
#pragma unroll
            for (int x = 0; x < BN / D; x++) {
                float *lo = c + 4 * (x * (D / 8) + j) + 2 * r, *hi = lo + 4 * HALF, l0 = lo[0], l1 = lo[1], h0 = hi[0], h1 = hi[1];
                if (col / D + x >= a.n_head + a.n_kv) continue; // V
                lo[0] = turn_low(l0, h0, cosine.x, sine.x), lo[1] = turn_low(l1, h1, cosine.y, sine.y);
                hi[0] = turn_high(l0, h0, cosine.x, sine.x), hi[1] = turn_high(l1, h1, cosine.y, sine.y);
            }
        }
}
// Angles of rows from memory, and of a tile's rows in shared memory: a box of 32 cosines and one of 32 sines a row.
struct angles_far {
    const float *at[2];
    __device__ __forceinline__ angles_far(const gemm_kernel_args &a, int row, int d) {
#pragma unroll
        for (int r = 0; r < 2; r++) at[r] = a.cos_sin + (int64_t)min(row + 8 * r, a.n_row - 1) * d + 2 * (threadIdx.x % 4);
    }
    __device__ __forceinline__ float2 operator()(int r, int j) const { return *(const float2 *)(at[r] + 8 * j); }
};
struct angles_near {
    uint32_t at;
    __device__ __forceinline__ angles_near(uint32_t boxes, int row)
        : at(boxes + row * 128 + (((threadIdx.x % 4 / 2) ^ (row & 7)) << 4) + 8 * (threadIdx.x & 1)) {}
    __device__ __forceinline__ float2 operator()(int r, int j) const {
        float2 v;
        asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(v.x), "=f"(v.y) : "r"((at ^ (j % 4 << 5)) + j / 4 * BM * 128 + r * 1024) : "memory");
        return v;
    }
};

__device__ __forceinline__ uint4 out_get(uint32_t at) {
    uint4 v;
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(at) : "memory");
    return v;
}

// `box`: of the warp; `place`: of its rows.
template <int BN, int D>
__device__ __forceinline__ void end_qkv(const gemm_kernel_args &a, float (&c)[BN / 2], int row, int col, uint32_t box, const place_t *place) {
    int lane = threadIdx.x & 31, r16 = lane % 16;
    uint32_t put = box + r16 * 128 + (((lane / 16) ^ (r16 & 7)) << 4);
#pragma unroll
    for (int x = 0; x < BN / 64; x++) {
        int h = (col + 64 * x) / D, part = (64 * x) % D, kv = h - a.n_head;
        bool is_q = kv < 0, is_k = !is_q && kv < a.n_kv;
        if (!is_q && !is_k) kv -= a.n_kv;
        if (h >= a.n_head + 2 * a.n_kv) break;
#pragma unroll
        for (int p = 0; p < 4; p++) {
            uint32_t v[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float *s = c + 32 * x + 8 * p + 4 * (i / 2) + 2 * (i % 2);
                v[i] = pack2(s[0], s[1]);
            }
            stmatrix_4(put ^ (p << 5), v);
        }
        __syncwarp();
#pragma unroll
        for (int i = 0; i < BOX_ROWS / 4; i++) {
            int r = 4 * i + lane / 8, chunk = lane % 8;
            bf16 *to;
            if (is_q) {
                to = row + r < a.n_row ? a.q + ((int64_t)(row + r) * a.n_head + h) * D : NULL;
            } else {
                const place_t &p = place[r];
                to = is_k ? p.k : p.v;
                if (to) to += kv * p.head_stride;
            }
            uint4 v = out_get(box + r * 128 + ((chunk ^ (r & 7)) << 4));
            if (to) *(uint4 *)(to + part + 8 * chunk) = v;
        }
        __syncwarp();
    }
}

#endif

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
__device__ __forceinline__ place_t place_of(const gemm_kernel_args &a, int row) {
    int lo = 0, hi = a.n_run;
    while (lo + 1 < hi) { // runs are sorted by their rows
        int mid = (lo + hi) / 2;
        if (a.runs[mid].row <= row) lo = mid;
        else hi = mid;
    }
    const run_t &r = a.runs[lo];
    place_t p = {NULL, NULL, 0};
    if (!a.n_run || row < r.row || row >= r.row + r.n || r.pool < 0) return p;
    const kv_pool_t &pool = a.pools[r.pool];
    int64_t at = a.layer * pool.layer_stride + (r.index + row - r.row) * pool.row_stride;
    p.k = (bf16 *)pool.k + at;
    p.v = (bf16 *)pool.v + at;
    p.head_stride = pool.head_stride;
    return p;
}

// Bias and rotation, in place. The angles of a row are read once for all heads of the tile.
template <int BN, int D> __device__ __forceinline__ void turn_heads(const gemm_kernel_args &a, float (&c)[BN / 2], int r0, int col) {
    constexpr int HALF = D / 16; // groups of 8 columns between the two of a pair
    int lane = threadIdx.x & 31;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const float *cs = a.cos_sin + (int64_t)min(r0 + 8 * r, a.n_row - 1) * D + 2 * (lane % 4);
        float2 cosine[HALF], sine[HALF];
#pragma unroll
        for (int j = 0; j < HALF; j++) cosine[j] = *(const float2 *)(cs + 8 * j), sine[j] = *(const float2 *)(cs + D / 2 + 8 * j);
#pragma unroll
        for (int x = 0; x < BN / D; x++) {
            int h = col / D + x;
            bool turns = h < a.n_head + a.n_kv;
#pragma unroll
            for (int j = 0; j < HALF; j++) {
                float *lo = c + 4 * (x * (D / 8) + j) + 2 * r, *hi = lo + 4 * HALF;
                if (a.bias && h < a.n_head + 2 * a.n_kv) {
                    const float *b = a.bias + h * D + 8 * j + 2 * (lane % 4);
                    lo[0] = __fadd_rn(lo[0], b[0]), lo[1] = __fadd_rn(lo[1], b[1]);
                    hi[0] = __fadd_rn(hi[0], b[D / 2]), hi[1] = __fadd_rn(hi[1], b[D / 2 + 1]);
                }
                float l0 = lo[0], l1 = lo[1], h0 = hi[0], h1 = hi[1];
                if (turns) {
                    lo[0] = turn_low(l0, h0, cosine[j].x, sine[j].x), lo[1] = turn_low(l1, h1, cosine[j].y, sine[j].y);
                    hi[0] = turn_high(l0, h0, cosine[j].x, sine[j].x), hi[1] = turn_high(l1, h1, cosine[j].y, sine[j].y);
                }
            }
        }
    }
}

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
    turn_heads<BN, D>(a, c, row + lane / 4, col);
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

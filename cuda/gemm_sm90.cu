// Matrix products on Hopper, y = x W^T, with the next step of the decoder block folded into the end of each tile: added to the residual
// stream, gated (silu(gate) * up), or rotated and put into the K/V pools. What would be written and read again as f32 stays in registers.
//
//   clusters of 2 blocks   take tiles that lie one below the other (128 rows each); they load one half each of the weight tile they share.
//                          Tiles come from a counter, so that a cluster which starts late (another kernel holds its multiprocessors) or
//                          runs slowly takes fewer
//   producer (1 thread)    fills a ring of stages of 64 columns of both operands; that of block 0 takes the cluster's next tile while the
//                          last stages of the one before are on their way, and tells both blocks
//   consumers              together: 64 rows of a tile each, for long sums; in turns: whole tiles, so that one ends its tile while the
//                          other multiplies, for short sums, where the end weighs as much as the products
//
// Sums run over the columns 16 at a time, in order, whatever the number of rows: a row's bits do not depend on its neighbours.
#include <cuda.h>

#include "attention_plan.cuh"
#include "gemm.cuh"
#include "hopper_wide.cuh"

enum { BM = 128, BK = 64, CLUSTER = 2, ORDER_N = 8, THREADS = 384, BAR_TURN = 1 };
// Tiles told of that someone may not have read yet: the producer is at most the stages of the ring and two tiles ahead of any consumer.
enum { TOLD = 16 };

struct gemm_kernel_args {
    CUtensorMap x_map, w_map; // boxes of 64 columns: 128 rows of x, half a tile of W
    int n_row, n_out, n_step, n_pair, n_col; // steps of 64 columns; pairs of row tiles; column tiles
    unsigned *counter;                       // tiles taken
    void *y;
    // QKV
    int n_head, n_kv, n_run, layer;
    const float *bias, *cos_sin;
    bf16 *q;
    const kv_pool_t *pools;
    const run_t *runs;
};

// TURNS: consumers take whole tiles in turns.
template <int BN, bool TURNS> struct gemm_shape_t {
    static constexpr int STAGES = 4, BLOCKS = TURNS ? 2 : 1; // blocks of 64 rows that a consumer holds
    static constexpr int X_BYTES = BM * BK * 2, W_BYTES = BN * BK * 2, STAGE = X_BYTES + W_BYTES;
    static constexpr int OUT_BYTES = 64 * 256; // per consumer: 64 rows on their way out
    static constexpr int SMEM = STAGES * STAGE + 2 * OUT_BYTES + 1024;
};

struct tile_t {
    int row, col;
};
// Work item w: bands of ORDER_N column tiles; inside a band, pairs of row tiles one after the other, so that the band's weights stay in the
// L2 cache.
__device__ __forceinline__ tile_t tile_of(const gemm_kernel_args &a, int w, int rank, int bn) {
    int band = w / (a.n_pair * ORDER_N), in = w - band * a.n_pair * ORDER_N, width = min(ORDER_N, a.n_col - band * ORDER_N);
    tile_t t = {(in / width * CLUSTER + rank) * BM, (band * ORDER_N + in % width) * bn};
    return t;
}

struct gemm_bars_t {
    uint32_t full, empty, told; // arrays of 8-byte barriers
    uint32_t tile;              // tiles told of, 4 bytes each
};
struct told_t { // position in the list of tiles told of
    int at = 0, phase = 0;
    // The tile told of; n_pair * n_col or more: there are no more.
    __device__ __forceinline__ int next(const gemm_bars_t &bar) {
        int w;
        mbar_wait(bar.told + 8 * at, phase);
        asm volatile("ld.shared.b32 %0, [%1];" : "=r"(w) : "r"(bar.tile + 4 * at) : "memory");
        if (++at == TOLD) at = 0, phase ^= 1;
        return w;
    }
};
// Every cluster takes tiles until there are none: so many takes set the counter back to 0.
__device__ __forceinline__ unsigned tile_take(const gemm_kernel_args &a) {
    return atomicInc(a.counter, (unsigned)(a.n_pair * a.n_col) + gridDim.x / CLUSTER - 1);
}

template <int BN, bool TURNS>
__device__ __forceinline__ void gemm_produce(const gemm_kernel_args &a, uint32_t smem, const gemm_bars_t &bar, unsigned next) {
    using shape = gemm_shape_t<BN, TURNS>;
    constexpr uint32_t HALF = shape::W_BYTES / CLUSTER;
    int at = 0, phase = 0, take = max(a.n_step - 3, 0); // the answer comes while the last steps are loaded
    uint32_t rank = cluster_rank();
    for (told_t told;;) {
        mbar_expect(bar.told + 8 * told.at, 4);
        if (rank == 0)
            for (uint32_t r = 0; r < CLUSTER; r++) store_async_at(bar.tile + 4 * told.at, next, bar.told + 8 * told.at, r);
        int w = told.next(bar);
        if (w >= a.n_pair * a.n_col) return;
        tile_t t = tile_of(a, w, (int)rank, BN);
        for (int k = 0; k < a.n_step; k++) {
            uint32_t full = bar.full + 8 * at, dst = smem + at * shape::STAGE;
            if (rank == 0 && k == take) next = tile_take(a);
            mbar_wait(bar.empty + 8 * at, phase ^ 1); // free in both blocks: our half of W goes to both
            mbar_expect(full, shape::STAGE);
            tma_load_2d(dst, &a.x_map, full, k * BK, t.row);
            tma_load_2d_all(dst + shape::X_BYTES + rank * HALF, &a.w_map, full, k * BK, t.col + (int)rank * (BN / CLUSTER), 3);
            if (++at == shape::STAGES) at = 0, phase ^= 1;
        }
    }
}

// ---- ends of tiles --------------------------------------------------------------------------------------------------
// Rows of 256 bytes wait in shared memory, 16-byte chunks swizzled by the row, so that they leave 16 bytes a thread. A warp reads back only
// what it wrote.
__device__ __forceinline__ uint32_t out_at(uint32_t out, int row, int byte) {
    return out + row * 256 + ((((uint32_t)byte >> 4) ^ (row & 7)) << 4) + (byte & 15);
}
__device__ __forceinline__ void out_put(uint32_t at, float x, float y) {
    __nv_bfloat162 v = __floats2bfloat162_rn(x, y);
    asm volatile("st.shared.b32 [%0], %1;" ::"r"(at), "r"(*(uint32_t *)&v) : "memory");
}
__device__ __forceinline__ uint4 out_get(uint32_t at) {
    uint4 v;
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(at) : "memory");
    return v;
}

// c: 64 rows of a tile, rows from `row` on; thread: rows lane / 4 and + 8 of its warp's 16, columns 8 j + 2 (lane % 4). 64 columns at a time
// go through shared memory, so that whole lines are read and written.
// G: loads in flight.
template <int BN, bool ADD, int G> __device__ __forceinline__ void end_f32(const gemm_kernel_args &a, float (&c)[BN / 2], int row, int col, uint32_t out) {
    int lane = threadIdx.x & 31, w16 = (threadIdx.x / 32 % 4) * 16;
    auto at = [&](int r, int chunk) { return out + (w16 + r) * 256 + ((chunk ^ ((r & 3) << 1)) << 4); };
#pragma unroll
    for (int q = 0; q < BN / 64; q++) {
        float *y = (float *)a.y + (int64_t)(row + w16 + lane / 16) * a.n_out + col + 64 * q + 4 * (lane % 16);
        bool inside = col + 64 * q + 4 * (lane % 16) < a.n_out;
#pragma unroll
        for (int j = 0; j < 8; j++)
#pragma unroll
            for (int r = 0; r < 2; r++) {
                const float *x = c + 32 * q + 4 * j + 2 * r;
                asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(at(lane / 4 + 8 * r, 2 * j + (lane % 4) / 2) + 8 * (lane & 1)), "f"(x[0]),
                             "f"(x[1])
                             : "memory");
            }
        __syncwarp();
#pragma unroll
        for (int i0 = 0; i0 < 8; i0 += G) {
            float4 v[G];
#pragma unroll
            for (int i = 0; i < G; i++)
                if (ADD && inside && row + w16 + 2 * (i0 + i) + lane / 16 < a.n_row) v[i] = *(const float4 *)(y + (int64_t)(2 * (i0 + i)) * a.n_out);
#pragma unroll
            for (int i = 0; i < G; i++) {
                uint4 bits = out_get(at(2 * (i0 + i) + lane / 16, lane % 16));
                float4 x = *(float4 *)&bits;
                if (ADD) x = make_float4(v[i].x + x.x, v[i].y + x.y, v[i].z + x.z, v[i].w + x.w);
                if (inside && row + w16 + 2 * (i0 + i) + lane / 16 < a.n_row) *(float4 *)(y + (int64_t)(2 * (i0 + i)) * a.n_out) = x;
            }
        }
        __syncwarp();
    }
}
// The residual rows of a tile on their way into the L2 cache while its sums run.
template <int BN, int N_THREAD> __device__ __forceinline__ void fetch_f32(const gemm_kernel_args &a, int row, int col, int thread) {
    constexpr int LINES = BN / 32;
#pragma unroll 4
    for (int i = thread; i < BM * LINES; i += N_THREAD) {
        int r = row + i / LINES, x = col + i % LINES * 32;
        if (r < a.n_row && x < a.n_out) asm volatile("prefetch.global.L2 [%0];" ::"l"((const float *)a.y + (int64_t)r * a.n_out + x));
    }
}

template <int BN> __device__ __forceinline__ void end_glu(const gemm_kernel_args &a, float (&c)[BN / 2], int row, int col, uint32_t out) {
    constexpr int CHUNKS = BN / 16; // 16-byte chunks of a row of the result
    int lane = threadIdx.x & 31, w16 = (threadIdx.x / 32 % 4) * 16;
#pragma unroll
    for (int r = 0; r < 2; r++)
#pragma unroll
        for (int j = 0; j < BN / 16; j++) {
            const float *g = c + 8 * j + 2 * r, *u = g + 4;
            out_put(out_at(out, w16 + lane / 4 + 8 * r, 16 * j + 4 * (lane % 4)), silu_times(g[0], u[0]), silu_times(g[1], u[1]));
        }
    __syncwarp();
    bf16 *y = (bf16 *)a.y;
    int64_t width = a.n_out / 2;
#pragma unroll
    for (int i = 0; i < 16 * CHUNKS / 32; i++) {
        int at = i * 32 + lane, r = w16 + at / CHUNKS, chunk = at % CHUNKS, to = col / 2 + chunk * 8;
        uint4 v = out_get(out_at(out, r, 16 * chunk));
        if (row + r < a.n_row && to < width) *(uint4 *)(y + (row + r) * width + to) = v;
    }
    __syncwarp();
}

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
__device__ __forceinline__ bf16 *lane_pointer(bf16 *p, int from) { return (bf16 *)__shfl_sync(~0u, (unsigned long long)p, from); }

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

template <int BN, int D> __device__ __forceinline__ void end_qkv(const gemm_kernel_args &a, float (&c)[BN / 2], int row, int col, uint32_t out) {
    constexpr int CHUNKS = D / 8;
    int lane = threadIdx.x & 31, w16 = (threadIdx.x / 32 % 4) * 16, r0 = row + w16 + lane / 4;
    turn_heads<BN, D>(a, c, r0, col);
    place_t place[2] = {place_of(a, r0), place_of(a, r0 + 8)};
#pragma unroll
    for (int x = 0; x < BN / D; x++) {
        int h = col / D + x, kv = h - a.n_head;
        bool is_q = kv < 0, is_k = !is_q && kv < a.n_kv;
        if (!is_q && !is_k) kv -= a.n_kv;
        if (h >= a.n_head + 2 * a.n_kv) break;
        bf16 *to[2];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const place_t &p = place[r];
            to[r] = is_q ? a.q + ((int64_t)(r0 + 8 * r) * a.n_head + h) * D : !p.k ? NULL : (is_k ? p.k : p.v) + kv * p.head_stride;
            if (r0 + 8 * r >= a.n_row) to[r] = NULL;
#pragma unroll
            for (int j = 0; j < D / 8; j++) {
                const float *v = c + 4 * (x * (D / 8) + j) + 2 * r;
                out_put(out_at(out, w16 + lane / 4 + 8 * r, 16 * j + 4 * (lane % 4)), v[0], v[1]);
            }
        }
        __syncwarp();
#pragma unroll
        for (int i = 0; i < 16 * CHUNKS / 32; i++) {
            int at = i * 32 + lane, r = at / CHUNKS, chunk = at % CHUNKS;
            bf16 *p0 = lane_pointer(to[0], (r & 7) * 4), *p1 = lane_pointer(to[1], (r & 7) * 4), *p = r < 8 ? p0 : p1;
            uint4 v = out_get(out_at(out, w16 + r, 16 * chunk));
            if (p) *(uint4 *)(p + 8 * chunk) = v;
        }
        __syncwarp();
    }
}

// OUT 0..2: gemm_out_t; 64 and 128: QKV with heads of that size.
template <int BN, int OUT> __device__ __forceinline__ void tile_end(const gemm_kernel_args &a, float (&c)[BN / 2], int row, int col, uint32_t out) {
    if constexpr (OUT == GEMM_SET) end_f32<BN, false, 4>(a, c, row, col, out);
    else if constexpr (OUT == GEMM_ADD) end_f32<BN, true, BN == 256 ? 8 : 4>(a, c, row, col, out);
    else if constexpr (OUT == GEMM_GLU) end_glu<BN>(a, c, row, col, out);
    else end_qkv<BN, OUT>(a, c, row, col, out);
}

// ---- the kernel -----------------------------------------------------------------------------------------------------
template <int BN, bool TURNS, int OUT>
__device__ __forceinline__ void gemm_consume(const gemm_kernel_args &a, uint32_t smem, uint32_t out, const gemm_bars_t &bar, int wg) {
    using shape = gemm_shape_t<BN, TURNS>;
    constexpr int B = shape::BLOCKS;
    float c[B][BN / 2];
    int at = 0, phase = 0, lane = threadIdx.x & 31;
    auto step = [&](int n) {
        at += n;
        phase ^= at / shape::STAGES & 1;
        at %= shape::STAGES;
    };
    auto release = [&](int stage) {
        if (lane < CLUSTER) mbar_arrive_at(bar.empty + 8 * stage, (uint32_t)lane);
    };
    int turn = 0;
    if (TURNS && wg == 1) bar_arrive(BAR_TURN, 256); // consumer 0 begins
    for (told_t told;;) {
        int w = told.next(bar);
        if (w >= a.n_pair * a.n_col) return;
        if (TURNS && (turn ^= 1) == wg) { // the other consumer's tile
            step(a.n_step);
            continue;
        }
        tile_t t = tile_of(a, w, (int)cluster_rank(), BN);
        int before = 0;
        if (OUT == GEMM_ADD) fetch_f32<BN, TURNS ? 128 : 256>(a, t.row, t.col, ((int)threadIdx.x - 128) % (TURNS ? 128 : 256));
        if (TURNS) bar_sync(BAR_TURN + wg, 256); // the other has seen its last stage full: the next phase of each is ours
        for (int k = 0; k < a.n_step; k++) {
            mbar_wait(bar.full + 8 * at, phase);
            uint64_t x = smem_desc(smem + at * shape::STAGE + (TURNS ? 0 : wg * 64 * 128), 16),
                     wd = smem_desc(smem + at * shape::STAGE + shape::X_BYTES, 16);
            wgmma_fence();
#pragma unroll
            for (int e = 0; e < BK / 16; e++)
#pragma unroll
                for (int m = 0; m < B; m++) wgmma_ss(c[m], x + (uint64_t)(m * (8192 >> 4) + 2 * e), wd + (uint64_t)(2 * e), k > 0 || e > 0);
            wgmma_commit();
            wgmma_wait<1>();
            if (k > 0) release(before);
            before = at;
            if (++at == shape::STAGES) at = 0, phase ^= 1;
        }
        if (TURNS) bar_arrive(BAR_TURN + 1 - wg, 256);
        wgmma_wait<0>();
        release(before);
#pragma unroll
        for (int m = 0; m < B; m++) tile_end<BN, OUT>(a, c[m], t.row + (TURNS ? m : wg) * 64, t.col, out);
    }
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define IN_CLUSTERS __cluster_dims__(CLUSTER, 1, 1)
#else
#define IN_CLUSTERS // older cards know no clusters; the kernel is empty there
#endif
template <int BN, bool TURNS, int OUT> __global__ void IN_CLUSTERS __launch_bounds__(THREADS, 1) gemm_sm90_kernel(
    const __grid_constant__ gemm_kernel_args a) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    using shape = gemm_shape_t<BN, TURNS>;
    extern __shared__ char raw[];
    __shared__ __align__(8) uint64_t bars[2 * shape::STAGES + TOLD];
    __shared__ int tiles[TOLD];
    uint32_t smem = (smem_addr(raw) + 1023) & ~1023u, out = smem + shape::STAGES * shape::STAGE, b0 = smem_addr(bars);
    gemm_bars_t bar = {b0, b0 + 8 * shape::STAGES, b0 + 16 * shape::STAGES, smem_addr(tiles)};
    unsigned first = 0;
    if (threadIdx.x == 0) {
        if (cluster_rank() == 0) first = tile_take(a);
        for (int i = 0; i < shape::STAGES; i++) {
            mbar_init(bar.full + 8 * i, 1);
            mbar_init(bar.empty + 8 * i, CLUSTER * 4 * (TURNS ? 1 : 2)); // an arrival per warp that uses the stage, in both blocks
        }
        for (int i = 0; i < TOLD; i++) mbar_init(bar.told + 8 * i, 1);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    cluster_sync();
    int wg = (int)threadIdx.x / 128;
    if (wg == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
        if (threadIdx.x == 0) gemm_produce<BN, TURNS>(a, smem, bar, first);
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
        gemm_consume<BN, TURNS, OUT>(a, smem, out + (wg - 1) * shape::OUT_BYTES, bar, wg - 1);
    }
    __syncwarp();
    cluster_sync(); // a block that ended would leave the other's arrivals without a target
#else
    (void)a;
#endif
}

// ---- host -----------------------------------------------------------------------------------------------------------
bool gemm_sm90_serves(const cuda_backend_t *b, linear_shape_t s) {
    return b->base.act == DT_BF16 && b->gemm_sm90 && s.n_in % 8 == 0 && s.n_out % 8 == 0 && s.n_out < (1 << 30) && s.n_in < (1 << 30);
}

static bool qkv_fits(const qkv_args_t *q) {
    if ((q->d_head != 64 && q->d_head != 128) || q->d_rot != q->d_head || q->q_norm || q->k_norm || (uintptr_t)q->q % 16) return false;
    for (int r = 0; r < q->n_run; r++)
        if (r && q->runs[r].row < q->runs[r - 1].row + q->runs[r - 1].n) return false;
    for (int p = 0; p < q->n_pool; p++) {
        const kv_pool_t *x = &q->pools[p];
        if (x->n_row && (x->type != DT_BF16 || (x->row_stride | x->head_stride | x->layer_stride) % 8 || (uintptr_t)x->k % 16 || (uintptr_t)x->v % 16))
            return false;
    }
    return true;
}

template <int BN, bool TURNS, int OUT> static status_t gemm_launch(cuda_backend_t *b, gemm_kernel_args &a, const gemm_args_t *g) {
    using shape = gemm_shape_t<BN, TURNS>;
    static bool ready; // per kernel; one device per process
    if (!ready) CUDA_TRY(cudaFuncSetAttribute(gemm_sm90_kernel<BN, TURNS, OUT>, cudaFuncAttributeMaxDynamicSharedMemorySize, shape::SMEM));
    ready = true;
    a.n_col = (a.n_out + BN - 1) / BN;
    uint64_t w_dims[2] = {(uint64_t)g->shape.n_in, (uint64_t)g->shape.n_out}, stride = (uint64_t)g->shape.n_in * 2;
    uint32_t w_box[2] = {BK, BN / CLUSTER};
    if (!tensor_map_make(&a.w_map, g->w, 2, w_dims, &stride, w_box)) return status_fail(ST_FAIL, "GPU: no tensor map of a weight; please report this");
    a.counter = b->counter + COUNT_GEMM + (b->gemm_turn ^= 1);
    int64_t work = (int64_t)a.n_pair * a.n_col * CLUSTER, grid = b->n_sm / CLUSTER * CLUSTER;
    gemm_sm90_kernel<BN, TURNS, OUT><<<(unsigned)i64_min(work, grid), THREADS, shape::SMEM, b->stream>>>(a);
    CUDA_LAUNCHED("matrix product (wgmma)");
    return ST_OK;
}
template <int BN, bool TURNS> static status_t gemm_launch_out(cuda_backend_t *b, gemm_kernel_args &a, const gemm_args_t *g) {
    switch (g->out) {
    case GEMM_SET: return gemm_launch<BN, TURNS, GEMM_SET>(b, a, g);
    case GEMM_ADD: return gemm_launch<BN, TURNS, GEMM_ADD>(b, a, g);
    case GEMM_GLU: return gemm_launch<BN, TURNS, GEMM_GLU>(b, a, g);
    default: break;
    }
    if (g->qkv->d_head == 64) return gemm_launch<BN, TURNS, 64>(b, a, g);
    if constexpr (BN % 128 == 0) return gemm_launch<BN, TURNS, 128>(b, a, g);
    return status_fail(ST_FAIL, "GPU: a matrix product without a kernel; please report this");
}

// Short sums: the ends of tiles weigh as much as the products, so consumers take turns; also where tiles of 192 leave much less over.
static bool takes_turns(const gemm_args_t *g) {
    if (g->out == GEMM_QKV && g->qkv->d_head == 128) return false;
    return g->shape.n_in <= 2048;
}

status_t gemm_sm90(cuda_backend_t *b, const gemm_args_t *g, bool *done) {
    *done = false;
    if (!gemm_sm90_serves(b, g->shape) || (uintptr_t)g->x % 16 || (uintptr_t)g->w % 16 || (uintptr_t)g->y % 16 || g->n_row >= (1 << 30))
        return ST_OK;
    if (g->out == GEMM_GLU && g->shape.n_out % (2 * GLU_GROUP)) return ST_OK;
    if (g->out == GEMM_QKV && !qkv_fits(g->qkv)) return ST_OK;
    gemm_kernel_args a;
    memset(&a, 0, sizeof a);
    a.n_row = (int)g->n_row;
    a.n_out = (int)g->shape.n_out;
    a.n_step = (int)i64_ceil_div(g->shape.n_in, BK);
    a.n_pair = (int)i64_ceil_div(g->n_row, BM * CLUSTER);
    a.y = g->y;
    uint64_t x_dims[2] = {(uint64_t)g->shape.n_in, (uint64_t)g->n_row}, stride = (uint64_t)g->shape.n_in * 2;
    uint32_t x_box[2] = {BK, BM};
    if (!tensor_map_make(&a.x_map, g->x, 2, x_dims, &stride, x_box)) return ST_OK;
    if (g->out == GEMM_QKV) {
        const qkv_args_t *q = g->qkv;
        a.n_head = q->n_head, a.n_kv = q->n_kv_head, a.n_run = q->n_run, a.layer = q->layer;
        a.bias = q->bias, a.cos_sin = q->cos_sin, a.q = (bf16 *)q->q;
        ST_TRY(cuda_upload_pass(b, q->pools, q->n_pool, q->runs, q->n_run, &a.pools, &a.runs));
    }
    *done = true;
    if (takes_turns(g)) return gemm_launch_out<192, true>(b, a, g);
    return gemm_launch_out<256, false>(b, a, g);
}

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
#include "gemm_end.cuh"

enum { ORDER_N = 8, THREADS = 384, BAR_TURN = 1 };
// Tiles told of that someone may not have read yet: the producer is at most the stages of the ring and two tiles ahead of any consumer.
enum { TOLD = 16 };

// TURNS: consumers take whole tiles in turns. OUT 0..2: gemm_out_t; 64 and 128: QKV with heads of that size.
template <int BN, bool TURNS, int OUT> struct gemm_shape_t {
    static constexpr bool QKV = OUT >= 64, GLU = OUT == GEMM_GLU;
    static constexpr bool NEAR = QKV && TURNS;   // angles of rotation wait in shared memory: registers are short there
    static constexpr int BLOCKS = TURNS ? 2 : 1; // of 64 rows, that a consumer holds
    static constexpr int STAGES = TURNS && GLU ? 5 : 4, X_BYTES = BM * BK * 2, W_BYTES = BN * BK * 2, STAGE = X_BYTES + W_BYTES;
    static constexpr int BOX = QKV ? BOX_QKV : GLU ? BOX_GLU : BOX_F32, BOXES = QKV ? 1 : GLU ? (TURNS ? 3 : 4) : TURNS ? 4 : 2; // of a warp
    static constexpr int ANGLE_BYTES = NEAR ? 2 * BM * 128 : 0, WARP_BYTES = BOXES * BOX;
    static constexpr int REGS_PRODUCER = QKV ? 40 : 24, REGS_CONSUMER = QKV ? 232 : 240;
    static constexpr int SMEM = STAGES * STAGE + ANGLE_BYTES + 8 * WARP_BYTES + 1024;
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
    uint32_t full, empty, told, place_full, place_empty, angle_full, angle_empty; // arrays of 8-byte barriers
    uint32_t tile;                                                                // tiles told of, 4 bytes each
};
struct told_t { // position in the list of tiles told of
    int at = 0, phase = 0;
    // Of the tile told of last: which of two tables of places is its own, and how often that was full before (the parity).
    __device__ __forceinline__ int side() const { return (at + 1) & 1; }
    __device__ __forceinline__ int side_phase() const { return (at + TOLD - 1) >> 1 & 1; }
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

template <int BN, bool TURNS, int OUT>
__device__ __forceinline__ void gemm_produce(const gemm_kernel_args &a, uint32_t smem, const gemm_bars_t &bar, unsigned next) {
    using shape = gemm_shape_t<BN, TURNS, OUT>;
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

// QKV, a warp of its own: where the rows of the next tiles go, and how they are turned (NEAR), while sums run.
template <int BN, bool NEAR>
__device__ __forceinline__ void gemm_places(const gemm_kernel_args &a, const gemm_bars_t &bar, place_t (*places)[BM], uint32_t angles) {
    bool leader = (threadIdx.x & 31) == 0;
    for (told_t told;;) {
        int w = told.next(bar);
        if (w >= a.n_pair * a.n_col) return;
        int side = told.side(), row = tile_of(a, w, (int)cluster_rank(), BN).row;
        if (NEAR && leader) {
            mbar_wait(bar.angle_empty, side ^ 1);
            mbar_expect(bar.angle_full, 2 * BM * 128);
            tma_load_2d(angles, &a.angle_map, bar.angle_full, 0, row);
            tma_load_2d(angles + BM * 128, &a.angle_map, bar.angle_full, 32, row);
        }
        mbar_wait(bar.place_empty + 8 * side, told.side_phase() ^ 1);
        places_of(a, row, places[side]);
        __syncwarp();
        if (leader) mbar_arrive(bar.place_full + 8 * side);
    }
}

// ---- the kernel -----------------------------------------------------------------------------------------------------
template <int BN, bool TURNS, int OUT>
__device__ __forceinline__ void gemm_consume(const gemm_kernel_args &a, uint32_t smem, uint32_t boxes, const gemm_bars_t &bar, int wg,
                                             const place_t (*places)[BM]) {
    using shape = gemm_shape_t<BN, TURNS, OUT>;
    constexpr int B = shape::BLOCKS;
    outbox_t<shape::BOXES, shape::BOX> box = {boxes + ((int)threadIdx.x / 32 - 4) * shape::WARP_BYTES, 0};
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
        if (w >= a.n_pair * a.n_col) break;
        if (TURNS && (turn ^= 1) == wg) { // the other consumer's tile
            step(a.n_step);
            continue;
        }
        tile_t t = tile_of(a, w, (int)cluster_rank(), BN);
        int before = 0;
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
        auto row_of = [&](int m) { return (TURNS ? m : wg) * 64 + ((int)threadIdx.x / 32 % 4) * 16; }; // of the warp's, in the tile
        if constexpr (shape::QKV) {
            if (a.bias) add_bias<BN, B>(a, c, t.col);
            if (shape::NEAR) mbar_wait(bar.angle_full, told.side());
#pragma unroll
            for (int m = 0; m < B; m++) {
                if constexpr (shape::NEAR) turn_heads<BN, OUT>(a, c[m], t.col, angles_near(smem + shape::STAGES * shape::STAGE, row_of(m) + lane / 4));
                else turn_heads<BN, OUT>(a, c[m], t.col, angles_far(a, t.row + row_of(m) + lane / 4, OUT));
            }
            __syncwarp();
            if (shape::NEAR && lane == 0) mbar_arrive(bar.angle_empty);
            mbar_wait(bar.place_full + 8 * told.side(), told.side_phase());
        }
#pragma unroll
        for (int m = 0; m < B; m++) {
            int row = row_of(m);
            if constexpr (OUT == GEMM_SET || OUT == GEMM_ADD) end_f32<BN, OUT == GEMM_ADD>(a, c[m], t.row + row, t.col, box);
            else if constexpr (OUT == GEMM_GLU) end_glu<BN>(a, c[m], t.row + row, t.col, box);
            else end_qkv<BN, OUT>(a, c[m], t.row + row, t.col, box.first, places[told.side()] + row);
        }
        if (shape::QKV && lane == 0) mbar_arrive(bar.place_empty + 8 * told.side());
    }
    if (!shape::QKV && lane == 0) bulk_wait<0>(); // before the boxes go, and the kernel ends
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define IN_CLUSTERS __cluster_dims__(CLUSTER, 1, 1)
#else
#define IN_CLUSTERS // older cards know no clusters; the kernel is empty there
#endif
template <int BN, bool TURNS, int OUT> __global__ void IN_CLUSTERS __launch_bounds__(THREADS, 1) gemm_sm90_kernel(
    const __grid_constant__ gemm_kernel_args a) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    using shape = gemm_shape_t<BN, TURNS, OUT>;
    constexpr int STAGES = shape::STAGES, READERS = 4 * (TURNS ? 1 : 2); // warps that use a stage or a table of places
    extern __shared__ char raw[];
    __shared__ __align__(8) uint64_t bars[2 * STAGES + TOLD + 6];
    __shared__ int tiles[TOLD];
    __shared__ place_t places[2][shape::QKV ? BM : 1];
    uint32_t smem = (smem_addr(raw) + 1023) & ~1023u, b0 = smem_addr(bars), b1 = b0 + 16 * STAGES + 8 * TOLD;
    gemm_bars_t bar = {b0, b0 + 8 * STAGES, b0 + 16 * STAGES, b1, b1 + 16, b1 + 32, b1 + 40, smem_addr(tiles)};
    unsigned first = 0;
    if (threadIdx.x == 0) {
        if (cluster_rank() == 0) first = tile_take(a); // the product before this one has another counter
        tma_map_prefetch(&a.x_map);
        tma_map_prefetch(&a.w_map);
        for (int i = 0; i < STAGES; i++) {
            mbar_init(bar.full + 8 * i, 1);
            mbar_init(bar.empty + 8 * i, CLUSTER * READERS); // an arrival per warp, in both blocks
        }
        for (int i = 0; i < TOLD; i++) mbar_init(bar.told + 8 * i, 1);
        for (int i = 0; i < 2; i++) {
            mbar_init(bar.place_full + 8 * i, 1);
            mbar_init(bar.place_empty + 8 * i, READERS);
        }
        mbar_init(bar.angle_full, 1);
        mbar_init(bar.angle_empty, READERS);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    cluster_sync();
    pdl_wait();
    pdl_go(); // not earlier: the next product's counter is that of the one before this, which must have ended
    int wg = (int)threadIdx.x / 128;
    if (wg == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(shape::REGS_PRODUCER));
        if (threadIdx.x == 0) gemm_produce<BN, TURNS, OUT>(a, smem, bar, first);
        if constexpr (shape::QKV)
            if (threadIdx.x / 32 == 1) gemm_places<BN, shape::NEAR>(a, bar, places, smem + STAGES * shape::STAGE);
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(shape::REGS_CONSUMER));
        uint32_t boxes = smem + STAGES * shape::STAGE + shape::ANGLE_BYTES;
        if constexpr (shape::QKV) gemm_consume<BN, TURNS, OUT>(a, smem, boxes, bar, wg - 1, places);
        else gemm_consume<BN, TURNS, OUT>(a, smem, boxes, bar, wg - 1, NULL);
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
    if ((q->d_head != 64 && q->d_head != 128) || q->d_rot != q->d_head || q->q_norm || q->k_norm) return false;
    if ((uintptr_t)q->q % 16 || (uintptr_t)q->cos_sin % 16 || (uintptr_t)q->bias % 8) return false;
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
    using shape = gemm_shape_t<BN, TURNS, OUT>;
    static bool ready; // per kernel; one device per process
    if (!ready) CUDA_TRY(cudaFuncSetAttribute(gemm_sm90_kernel<BN, TURNS, OUT>, cudaFuncAttributeMaxDynamicSharedMemorySize, shape::SMEM));
    ready = true;
    a.n_col = (a.n_out + BN - 1) / BN;
    uint64_t w_dims[2] = {(uint64_t)g->shape.n_in, (uint64_t)g->shape.n_out}, stride = (uint64_t)g->shape.n_in * 2;
    uint32_t w_box[2] = {BK, BN / CLUSTER};
    if (!tensor_map_make(&a.w_map, DT_BF16, g->w, 2, w_dims, &stride, w_box)) return status_fail(ST_FAIL, "GPU: no tensor map of a weight; please report this");
    a.counter = b->counter + COUNT_GEMM + (b->gemm_turn ^= 1);
    int64_t work = (int64_t)a.n_pair * a.n_col * CLUSTER, grid = b->n_sm / CLUSTER * CLUSTER;
    return pdl_launch(b, gemm_sm90_kernel<BN, TURNS, OUT>, dim3((unsigned)i64_min(work, grid)), THREADS, shape::SMEM, "matrix product (wgmma)", a);
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
    uint64_t x_dims[2] = {(uint64_t)g->shape.n_in, (uint64_t)g->n_row}, stride = (uint64_t)g->shape.n_in * 2;
    uint32_t x_box[2] = {BK, BM};
    if (!tensor_map_make(&a.x_map, DT_BF16, g->x, 2, x_dims, &stride, x_box)) return ST_OK;
    if (g->out != GEMM_QKV) {
        bool glu = g->out == GEMM_GLU;
        uint64_t y_dims[2] = {(uint64_t)(glu ? a.n_out / 2 : a.n_out), (uint64_t)g->n_row}, y_stride = y_dims[0] * (glu ? 2 : 4);
        uint32_t y_box[2] = {32, BOX_ROWS};
        if (!tensor_map_make(&a.y_map, glu ? DT_BF16 : DT_F32, g->y, 2, y_dims, &y_stride, y_box)) return ST_OK;
    }
    if (g->out == GEMM_QKV) {
        const qkv_args_t *q = g->qkv;
        a.n_head = q->n_head, a.n_kv = q->n_kv_head, a.n_run = q->n_run, a.layer = q->layer;
        a.bias = q->bias, a.cos_sin = q->cos_sin, a.q = (bf16 *)q->q;
        uint64_t dims[2] = {(uint64_t)q->d_rot, (uint64_t)g->n_row}, angle_stride = dims[0] * 4;
        uint32_t box[2] = {32, BM};
        if (!tensor_map_make(&a.angle_map, DT_F32, q->cos_sin, 2, dims, &angle_stride, box)) return ST_OK;
        ST_TRY(cuda_upload_pass(b, q->pools, q->n_pool, q->runs, q->n_run, &a.pools, &a.runs));
    }
    *done = true;
    if (takes_turns(g)) return gemm_launch_out<192, true>(b, a, g);
    return gemm_launch_out<256, false>(b, a, g);
}

// The matrix product of one row: bound by reading W once. A warp takes 8 or 16 rows of W at a time and runs down their columns in order, as
// the kernels for many rows do, so that the sums are the same bit for bit (linear.cu checks that before it uses this).
//
// Every warp has a ring of its own in shared memory that the copy engine fills, several stages ahead. W depends on nothing, so the ring is
// filled before the kernel waits for the one that makes x: the memory never rests between two products.
#include <cuda.h>

#include "attention_plan.cuh"
#include "gemm.cuh"
#include "hopper_wide.cuh"

enum { BOX = 64, BOX_BYTES = 8 * BOX * 2, BOXES = 8, STAGE_BYTES = BOXES * BOX_BYTES, RING_BYTES = 192 << 10, MAX_WARPS = 8, MAX_STAGES = 8 };
enum { X_BYTES = 30 << 10 };

struct thin_args {
    CUtensorMap w_map; // 3D: 64 columns, row, block of 64 columns; a box is a stage
    const bf16 *x;
    void *y;
    int n_out, n_in, n_unit, n_stage, n_slot; // n_slot: stages of a ring
};

__device__ __forceinline__ void ldmatrix_4(uint32_t (&r)[4], uint32_t at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at));
}
__device__ __forceinline__ void mma_16x8(float (&c)[4], uint32_t a0, uint32_t a2, uint32_t b0, uint32_t b1) { // rows 8.. of A are 0
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %5}, {%7, %8}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(0), "r"(a2), "r"(b0), "r"(b1));
}

// Results of a unit: lanes 0..3 hold rows 2 lane and + 1 of each 8 of W.
template <int NU, int OUT> __device__ __forceinline__ void thin_end(const thin_args &a, const float (&c)[NU][4], int unit) {
    int lane = threadIdx.x & 31;
    if (lane >= 4) return;
    if constexpr (OUT == GEMM_GLU) { // 8 gates, then their ups
        *(__nv_bfloat162 *)((bf16 *)a.y + unit * 8 + 2 * lane) =
            __floats2bfloat162_rn(silu_times(c[0][0], c[1][0]), silu_times(c[0][1], c[1][1]));
    } else {
#pragma unroll
        for (int u = 0; u < NU; u++) {
            int o = (unit * NU + u) * 8 + 2 * lane;
            float2 *y = (float2 *)((float *)a.y + o), v = make_float2(c[u][0], c[u][1]);
            if (o >= a.n_out) continue;
            if (OUT == GEMM_ADD) v = make_float2(y->x + v.x, y->y + v.y);
            *y = v;
        }
    }
}

// One box: 64 columns of 8 NU rows. x: the lane's address of the columns' chunk in shared memory; step: bytes to the next chunk (0: zeros).
template <int NU> __device__ __forceinline__ void thin_box(float (&c)[NU][4], uint32_t box, uint32_t x, uint32_t step) {
    int lane = threadIdx.x & 31;
#pragma unroll
    for (int e = 0; e < 4; e += 2) { // 32 columns at a time
        uint32_t w[NU][4], v[4];
        ldmatrix_4(v, x + e / 2 * step);
#pragma unroll
        for (int u = 0; u < NU; u++) ldmatrix_4(w[u], box + u * BOX_BYTES + (lane & 7) * 128 + (((2 * e + lane / 8) ^ (lane & 7)) << 4));
#pragma unroll
        for (int u = 0; u < NU; u++) mma_16x8(c[u], v[0], v[1], w[u][0], w[u][1]);
#pragma unroll
        for (int u = 0; u < NU; u++) mma_16x8(c[u], v[2], v[3], w[u][2], w[u][3]);
    }
}

// NU: groups of 8 rows of W in a unit.
template <int NU, int OUT> __global__ void __launch_bounds__(32 * MAX_WARPS, 1) gemm_thin_kernel(const __grid_constant__ thin_args a) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    constexpr int PER = BOXES / NU, COLS = BOX * PER; // boxes and columns of a stage
    extern __shared__ char raw[];
    __shared__ __align__(8) uint64_t bars[MAX_WARPS * MAX_STAGES];
    int warp = (int)threadIdx.x / 32, lane = threadIdx.x & 31, warps = (int)blockDim.x / 32;
    uint32_t base = (smem_addr(raw) + 1023) & ~1023u, ring = base + warp * a.n_slot * STAGE_BYTES, bar = smem_addr(bars + warp * MAX_STAGES);
    uint32_t x0 = base + RING_BYTES; // 16 bytes of zeros, then x
    // Units blockIdx.x + gridDim.x * (warp + warps * i): what a multiprocessor has is spread over its warps.
    int first = (int)blockIdx.x + (int)gridDim.x * warp, stride = (int)gridDim.x * warps;
    int next_unit = first, next_stage = 0, next_at = 0; // to load
    if (lane == 0) {
        for (int i = 0; i < a.n_slot; i++) mbar_init(bar + 8 * i, 1);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncwarp();
    auto load = [&] { // by one thread; columns beyond the last come as zeros
        if (next_unit >= a.n_unit) return;
        mbar_expect(bar + 8 * next_at, STAGE_BYTES);
        tma_load_3d(ring + next_at * STAGE_BYTES, &a.w_map, bar + 8 * next_at, 0, next_unit * NU * 8, next_stage * PER);
        if (++next_at == a.n_slot) next_at = 0;
        if (++next_stage == a.n_stage) next_stage = 0, next_unit += stride;
    };
    if (lane == 0)
        for (int i = 0; i < a.n_slot; i++) load();
    pdl_wait();
    pdl_go();
    int n_chunk = a.n_stage * COLS / 8 + 1, step = (int)blockDim.x; // to the end of the last stage
    for (int i0 = (int)threadIdx.x; i0 < n_chunk; i0 += 8 * step) {
        uint4 v[8]; // all on their way at once: nothing else goes on until x is here
#pragma unroll
        for (int e = 0; e < 8; e++) {
            int i = i0 + e * step;
            v[e] = i && 8 * (i - 1) < a.n_in ? *(const uint4 *)(a.x + 8 * (i - 1)) : make_uint4(0, 0, 0, 0);
        }
#pragma unroll
        for (int e = 0; e < 8; e++)
            if (i0 + e * step < n_chunk)
                asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(x0 + 16 * (i0 + e * step)), "r"(v[e].x), "r"(v[e].y),
                             "r"(v[e].z), "r"(v[e].w)
                             : "memory");
    }
    __syncthreads();
    bool real = (lane & 7) == 0; // row 0; the others are zeros
    uint32_t x_step = real ? 64 : 0, x_lane = real ? x0 + 16 + 16 * (lane / 8) : x0;
    int at = 0, phase = 0;
    for (int unit = first; unit < a.n_unit; unit += stride) {
        float c[NU][4];
#pragma unroll
        for (int u = 0; u < NU; u++) c[u][0] = c[u][1] = c[u][2] = c[u][3] = 0;
        for (int stage = 0; stage < a.n_stage; stage++) {
            uint32_t box = ring + at * STAGE_BYTES, x = x_lane + stage * PER * 2 * x_step;
            mbar_wait(bar + 8 * at, phase);
#pragma unroll
            for (int i = 0; i < PER; i++) thin_box<NU>(c, box + i * NU * BOX_BYTES, x + i * 2 * x_step, x_step);
            __syncwarp();
            if (lane == 0) load();
            if (++at == a.n_slot) at = 0, phase ^= 1;
        }
        thin_end<NU, OUT>(a, c, unit);
    }
#else
    (void)a;
#endif
}

template <int NU, int OUT> static status_t thin_launch(cuda_backend_t *b, thin_args &a) {
    enum { SMEM = RING_BYTES + X_BYTES + 1024 };
    static bool ready; // per kernel; one device per process
    if (!ready) CUDA_TRY(cudaFuncSetAttribute(gemm_thin_kernel<NU, OUT>, cudaFuncAttributeMaxDynamicSharedMemorySize, SMEM));
    ready = true;
    int grid = a.n_unit < b->n_sm ? a.n_unit : b->n_sm, warps = (int)i64_min(MAX_WARPS, i64_ceil_div(a.n_unit, grid));
    a.n_slot = (int)i64_min(MAX_STAGES, RING_BYTES / (warps * STAGE_BYTES));
    return pdl_launch(b, gemm_thin_kernel<NU, OUT>, dim3((unsigned)grid), 32 * (unsigned)warps, SMEM, "matrix product (one row)", a);
}

status_t gemm_thin(cuda_backend_t *b, const gemm_args_t *g, bool *done) {
    *done = false;
    if (!gemm_sm90_serves(b, g->shape) || g->out == GEMM_QKV || g->n_row != 1 || (uintptr_t)g->x % 16 || (uintptr_t)g->w % 16) return ST_OK;
    if (g->shape.n_in % BOX || (g->out == GEMM_GLU && g->shape.n_out % (2 * GLU_GROUP))) return ST_OK;
    thin_args a;
    memset(&a, 0, sizeof a);
    a.x = (const bf16 *)g->x;
    a.y = g->y;
    a.n_out = (int)g->shape.n_out, a.n_in = (int)g->shape.n_in;
    // Units of 16 rows where there are enough for every warp: gates need their ups, and two sums at once hide each other's latency.
    int nu = g->out == GEMM_GLU || a.n_out >= 16 * MAX_WARPS * b->n_sm ? 2 : 1, cols = BOX * BOXES / nu;
    a.n_unit = (a.n_out + 8 * nu - 1) / (8 * nu);
    a.n_stage = (a.n_in + cols - 1) / cols;
    if (a.n_stage * cols * 2 + 16 > X_BYTES) return ST_OK;
    uint64_t dims[3] = {BOX, (uint64_t)a.n_out, (uint64_t)a.n_in / BOX}, strides[2] = {(uint64_t)a.n_in * 2, BOX * 2};
    uint32_t box[3] = {BOX, (uint32_t)(8 * nu), (uint32_t)(BOXES / nu)};
    if (!tensor_map_make(&a.w_map, DT_BF16, g->w, 3, dims, strides, box)) return ST_OK;
    *done = true;
    if (g->out == GEMM_GLU) return thin_launch<2, GEMM_GLU>(b, a);
    if (g->out == GEMM_SET) return nu == 1 ? thin_launch<1, GEMM_SET>(b, a) : thin_launch<2, GEMM_SET>(b, a);
    return nu == 1 ? thin_launch<1, GEMM_ADD>(b, a) : thin_launch<2, GEMM_ADD>(b, a);
}

// Matrix products of a few rows: bound by reading W once. A warp takes 8 or 16 rows of W at a time and runs down their columns in order, as
// the kernels for many rows do, so that the sums are the same bit for bit (linear.cu checks that before it uses this).
//
// Every warp has a ring of its own in shared memory that the copy engine fills, three stages ahead. W depends on nothing, so the ring is
// filled before the kernel waits for the one that makes x: the memory never rests between two products.
#include <cuda.h>

#include "attention_plan.cuh"
#include "gemm.cuh"
#include "hopper_wide.cuh"

enum { WARPS = 8, STAGES = 3, BOX = 64, BOX_BYTES = 8 * BOX * 2, BOXES = 8, STAGE_BYTES = BOXES * BOX_BYTES };
enum { SMEM = WARPS * STAGES * STAGE_BYTES + 1024 };

struct thin_args {
    CUtensorMap w_map; // boxes of 64 columns x 8 rows
    const bf16 *x;
    void *y;
    int n_row, n_out, n_in, n_unit, n_stage;
};

__device__ __forceinline__ void ldmatrix_4(uint32_t (&r)[4], uint32_t at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at));
}
__device__ __forceinline__ void mma_16x8(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Results of a unit: thread holds rows lane / 4 and + 8 of x, rows 2 (lane % 4) and + 1 of each 8 of W.
template <int NU, int OUT> __device__ __forceinline__ void thin_end(const thin_args &a, const float (&c)[NU][4], int unit) {
    int lane = threadIdx.x & 31;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int t = lane / 4 + 8 * r;
        if (t >= a.n_row) continue;
        if constexpr (OUT == GEMM_GLU) { // 8 gates, then their ups
            __nv_bfloat162 h = __floats2bfloat162_rn(silu_times(c[0][2 * r], c[1][2 * r]), silu_times(c[0][2 * r + 1], c[1][2 * r + 1]));
            *(__nv_bfloat162 *)((bf16 *)a.y + (int64_t)t * (a.n_out / 2) + unit * 8 + 2 * (lane % 4)) = h;
        } else {
#pragma unroll
            for (int u = 0; u < NU; u++) {
                int o = (unit * NU + u) * 8 + 2 * (lane % 4);
                float2 *y = (float2 *)((float *)a.y + (int64_t)t * a.n_out + o), v = make_float2(c[u][2 * r], c[u][2 * r + 1]);
                if (o >= a.n_out) continue;
                if (OUT == GEMM_ADD) {
                    float2 before = *y;
                    v = make_float2(before.x + v.x, before.y + v.y);
                }
                *y = v;
            }
        }
    }
}

// NU: groups of 8 rows of W in a unit; MORE: more than 8 rows of x.
template <int NU, bool MORE, int OUT> __global__ void __launch_bounds__(32 * WARPS, 1) gemm_thin_kernel(const __grid_constant__ thin_args a) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    constexpr int COLS = BOX * BOXES / NU, STEPS = COLS / 16; // of a stage
    extern __shared__ char raw[];
    __shared__ __align__(8) uint64_t bars[WARPS * STAGES];
    int warp = (int)threadIdx.x / 32, lane = threadIdx.x & 31;
    uint32_t ring = ((smem_addr(raw) + 1023) & ~1023u) + warp * STAGES * STAGE_BYTES, bar = smem_addr(bars + warp * STAGES);
    // Units blockIdx.x + gridDim.x * (warp + WARPS * i): what a multiprocessor has is spread over its warps.
    int first = (int)blockIdx.x + (int)gridDim.x * warp, stride = (int)gridDim.x * WARPS;
    int next_unit = first, next_stage = 0, next_at = 0; // to load
    if (lane == 0) {
        for (int i = 0; i < STAGES; i++) mbar_init(bar + 8 * i, 1);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncwarp();
    auto load = [&] { // by one thread
        if (next_unit >= a.n_unit) return;
        int col = next_stage * COLS, n = min(COLS / BOX, (a.n_in - col + BOX - 1) / BOX);
        uint32_t full = bar + 8 * next_at, dst = ring + next_at * STAGE_BYTES;
        mbar_expect(full, n * NU * BOX_BYTES);
        for (int i = 0; i < n; i++, dst += NU * BOX_BYTES) tma_load_2d(dst, &a.w_map, full, col + i * BOX, next_unit * NU * 8);
        if (++next_at == STAGES) next_at = 0;
        if (++next_stage == a.n_stage) next_stage = 0, next_unit += stride;
    };
    if (lane == 0)
        for (int i = 0; i < STAGES; i++) load();
    pdl_wait();
    pdl_go();
    int at = 0, phase = 0;
    const bf16 *x_lane = a.x + (int64_t)(lane / 4) * a.n_in + 2 * (lane % 4);
    bool low = lane / 4 < a.n_row, high = MORE && lane / 4 + 8 < a.n_row;
    for (int unit = first; unit < a.n_unit; unit += stride) {
        float c[NU][4];
#pragma unroll
        for (int u = 0; u < NU; u++) c[u][0] = c[u][1] = c[u][2] = c[u][3] = 0;
        for (int stage = 0; stage < a.n_stage; stage++) {
            int left = a.n_in - stage * COLS; // columns come in eights
            const bf16 *x = x_lane + stage * COLS;
            uint32_t v[STEPS][4];
#pragma unroll
            for (int e = 0; e < STEPS; e++) {
                v[e][0] = low && left > 16 * e ? *(const uint32_t *)(x + 16 * e) : 0u;
                v[e][2] = low && left > 16 * e + 8 ? *(const uint32_t *)(x + 16 * e + 8) : 0u;
                v[e][1] = high && left > 16 * e ? *(const uint32_t *)(x + 8 * (int64_t)a.n_in + 16 * e) : 0u;
                v[e][3] = high && left > 16 * e + 8 ? *(const uint32_t *)(x + 8 * (int64_t)a.n_in + 16 * e + 8) : 0u;
            }
            mbar_wait(bar + 8 * at, phase);
#pragma unroll
            for (int i = 0; i < COLS / BOX; i++) {
                if (i * BOX >= left) break;
                uint32_t box = ring + at * STAGE_BYTES + i * NU * BOX_BYTES;
#pragma unroll
                for (int e = 0; e < 4; e += 2) { // 32 columns of 8 rows at a time
                    uint32_t w[NU][4];
#pragma unroll
                    for (int u = 0; u < NU; u++)
                        ldmatrix_4(w[u], box + u * BOX_BYTES + (lane & 7) * 128 + (((2 * e + lane / 8) ^ (lane & 7)) << 4));
#pragma unroll
                    for (int u = 0; u < NU; u++) mma_16x8(c[u], v[4 * i + e], w[u][0], w[u][1]);
#pragma unroll
                    for (int u = 0; u < NU; u++) mma_16x8(c[u], v[4 * i + e + 1], w[u][2], w[u][3]);
                }
            }
            __syncwarp();
            if (lane == 0) load();
            if (++at == STAGES) at = 0, phase ^= 1;
        }
        thin_end<NU, OUT>(a, c, unit);
    }
#else
    (void)a;
#endif
}

template <int NU, bool MORE, int OUT> static status_t thin_launch(cuda_backend_t *b, const thin_args &a) {
    static bool ready; // per kernel; one device per process
    if (!ready) CUDA_TRY(cudaFuncSetAttribute(gemm_thin_kernel<NU, MORE, OUT>, cudaFuncAttributeMaxDynamicSharedMemorySize, SMEM));
    ready = true;
    return pdl_launch(b, gemm_thin_kernel<NU, MORE, OUT>, dim3((unsigned)(a.n_unit < b->n_sm ? a.n_unit : b->n_sm)), 32 * WARPS, SMEM,
                      "matrix product (few rows)", a);
}
template <int NU, int OUT> static status_t thin_launch_rows(cuda_backend_t *b, const thin_args &a) {
    if (a.n_row > 8) return thin_launch<NU, true, OUT>(b, a);
    return thin_launch<NU, false, OUT>(b, a);
}

status_t gemm_thin(cuda_backend_t *b, const gemm_args_t *g, bool *done) {
    *done = false;
    if (!gemm_sm90_serves(b, g->shape) || g->out == GEMM_QKV || g->n_row > 16 || (uintptr_t)g->x % 4 || (uintptr_t)g->w % 16) return ST_OK;
    if (g->out == GEMM_GLU && g->shape.n_out % (2 * GLU_GROUP)) return ST_OK;
    thin_args a;
    memset(&a, 0, sizeof a);
    a.x = (const bf16 *)g->x;
    a.y = g->y;
    a.n_row = (int)g->n_row, a.n_out = (int)g->shape.n_out, a.n_in = (int)g->shape.n_in;
    // Units of 16 rows where there are enough for every warp: gates need their ups, and two sums at once hide each other's latency.
    int nu = g->out == GEMM_GLU || a.n_out >= 16 * WARPS * b->n_sm ? 2 : 1;
    a.n_unit = (a.n_out + 8 * nu - 1) / (8 * nu);
    a.n_stage = (a.n_in + BOX * BOXES / nu - 1) / (BOX * BOXES / nu);
    uint64_t dims[2] = {(uint64_t)a.n_in, (uint64_t)a.n_out}, stride = (uint64_t)a.n_in * 2;
    uint32_t box[2] = {BOX, (uint32_t)(8 * nu)};
    if (!tensor_map_make(&a.w_map, g->w, 2, dims, &stride, box)) return ST_OK;
    *done = true;
    if (g->out == GEMM_GLU) return thin_launch_rows<2, GEMM_GLU>(b, a);
    if (g->out == GEMM_SET) return nu == 1 ? thin_launch_rows<1, GEMM_SET>(b, a) : thin_launch_rows<2, GEMM_SET>(b, a);
    return nu == 1 ? thin_launch_rows<1, GEMM_ADD>(b, a) : thin_launch_rows<2, GEMM_ADD>(b, a);
}

// Matrix products of a few rows: bound by reading W once. A warp takes 16 rows of W at a time and runs down their columns in order, as the
// kernels for many rows do, so that the sums are the same bit for bit (linear.cu checks that before it uses this).
//
// Every warp has a ring of its own in shared memory that the copy engine fills, three stages of 16 rows x 256 columns ahead. W depends on
// nothing, so the ring is filled before the kernel waits for the one that makes x: the memory never rests between two products.
#include <cuda.h>

#include "attention_plan.cuh"
#include "gemm.cuh"
#include "hopper_wide.cuh"

enum { WARPS = 8, STAGES = 3, BOX = 64, BOXES = 4, BOX_BYTES = 16 * BOX * 2, STAGE_BYTES = BOXES * BOX_BYTES };
enum { SMEM = WARPS * STAGES * STAGE_BYTES + 1024 };

struct thin_args {
    CUtensorMap w_map; // boxes of 64 columns x 16 rows
    const bf16 *x;
    void *y;
    int n_row, n_out, n_in, n_unit, n_stage;
};

__device__ __forceinline__ void ldmatrix_4(uint32_t (&r)[4], uint32_t at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}
__device__ __forceinline__ void mma_16x8(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Results of 16 rows of W: thread holds rows lane / 4 and + 8, rows 2 (lane % 4) and + 1 of x.
template <int OUT> __device__ __forceinline__ void thin_end(const thin_args &a, const float (&c)[4], int unit, int row0) {
    int lane = threadIdx.x & 31;
#pragma unroll
    for (int e = 0; e < 2; e++) {
        int t = row0 + 2 * (lane % 4) + e;
        if (t >= a.n_row) continue;
        if constexpr (OUT == GEMM_GLU) { // 8 gates, then their ups
            ((bf16 *)a.y)[(int64_t)t * (a.n_out / 2) + unit * 8 + lane / 4] = __float2bfloat16_rn(silu_times(c[e], c[2 + e]));
        } else {
#pragma unroll
            for (int r = 0; r < 2; r++) {
                int o = unit * 16 + lane / 4 + 8 * r;
                float *y = (float *)a.y + (int64_t)t * a.n_out + o;
                if (o < a.n_out) *y = OUT == GEMM_ADD ? *y + c[2 * r + e] : c[2 * r + e];
            }
        }
    }
}

// NT: groups of 8 rows of x.
template <int NT, int OUT> __global__ void __launch_bounds__(32 * WARPS, 1) gemm_thin_kernel(const __grid_constant__ thin_args a) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ char raw[];
    __shared__ __align__(8) uint64_t bars[WARPS * STAGES];
    int warp = (int)threadIdx.x / 32, lane = threadIdx.x & 31;
    uint32_t ring = ((smem_addr(raw) + 1023) & ~1023u) + warp * STAGES * STAGE_BYTES, bar = smem_addr(bars + warp * STAGES);
    // Units blockIdx.x + gridDim.x * (warp + WARPS * i): what a multiprocessor has is spread over its warps.
    int first = (int)blockIdx.x + (int)gridDim.x * warp, stride = (int)gridDim.x * WARPS;
    int n_step = first < a.n_unit ? ((a.n_unit - 1 - first) / stride + 1) * a.n_stage : 0;
    if (lane == 0) {
        for (int i = 0; i < STAGES; i++) mbar_init(bar + 8 * i, 1);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncwarp();
    auto load = [&](int step, int at) { // by one thread
        int unit = first + step / a.n_stage * stride, col = step % a.n_stage * (BOX * BOXES);
        int n = min(BOXES, (a.n_in - col + BOX - 1) / BOX);
        mbar_expect(bar + 8 * at, n * BOX_BYTES);
        for (int i = 0; i < n; i++)
            tma_load_2d(ring + at * STAGE_BYTES + i * BOX_BYTES, &a.w_map, bar + 8 * at, col + i * BOX, unit * 16);
    };
    if (lane == 0)
        for (int i = 0; i < STAGES && i < n_step; i++) load(i, i);
    pdl_wait();
    pdl_go();
    int at = 0, phase = 0, stage = 0, unit = first;
    float c[NT][4];
    for (int step = 0; step < n_step; step++) {
        if (stage == 0)
#pragma unroll
            for (int t = 0; t < NT; t++) c[t][0] = c[t][1] = c[t][2] = c[t][3] = 0;
        int col = stage * BOX * BOXES, n = min(BOXES, (a.n_in - col + BOX - 1) / BOX);
        uint32_t b[NT][BOXES * 4][2];
#pragma unroll
        for (int t = 0; t < NT; t++) {
            int row = 8 * t + lane / 4;
            const bf16 *x = a.x + (int64_t)row * a.n_in + col + 2 * (lane % 4);
#pragma unroll
            for (int e = 0; e < BOXES * 4; e++) { // columns come in eights
                int left = a.n_in - col - 16 * e;
                b[t][e][0] = row < a.n_row && left > 0 ? *(const uint32_t *)(x + 16 * e) : 0u;
                b[t][e][1] = row < a.n_row && left > 8 ? *(const uint32_t *)(x + 16 * e + 8) : 0u;
            }
        }
        mbar_wait(bar + 8 * at, phase);
#pragma unroll
        for (int i = 0; i < BOXES; i++) {
            if (i >= n) break;
#pragma unroll
            for (int e = 0; e < 4; e++) {
                uint32_t w[4];
                int r = lane % 16, chunk = 2 * e + lane / 16;
                ldmatrix_4(w, ring + at * STAGE_BYTES + i * BOX_BYTES + r * 128 + ((chunk ^ (r & 7)) << 4));
#pragma unroll
                for (int t = 0; t < NT; t++) mma_16x8(c[t], w, b[t][4 * i + e][0], b[t][4 * i + e][1]);
            }
        }
        __syncwarp();
        if (lane == 0 && step + STAGES < n_step) load(step + STAGES, at);
        if (++at == STAGES) at = 0, phase ^= 1;
        if (++stage < a.n_stage) continue;
#pragma unroll
        for (int t = 0; t < NT; t++) thin_end<OUT>(a, c[t], unit, 8 * t);
        stage = 0;
        unit += stride;
    }
#else
    (void)a;
#endif
}

template <int NT, int OUT> static status_t thin_launch(cuda_backend_t *b, const thin_args &a) {
    static bool ready; // per kernel; one device per process
    if (!ready) CUDA_TRY(cudaFuncSetAttribute(gemm_thin_kernel<NT, OUT>, cudaFuncAttributeMaxDynamicSharedMemorySize, SMEM));
    ready = true;
    return pdl_launch(b, gemm_thin_kernel<NT, OUT>, dim3((unsigned)(a.n_unit < b->n_sm ? a.n_unit : b->n_sm)), 32 * WARPS, SMEM,
                      "matrix product (few rows)", a);
}
template <int NT> static status_t thin_launch_out(cuda_backend_t *b, gemm_out_t out, const thin_args &a) {
    if (out == GEMM_SET) return thin_launch<NT, GEMM_SET>(b, a);
    if (out == GEMM_ADD) return thin_launch<NT, GEMM_ADD>(b, a);
    return thin_launch<NT, GEMM_GLU>(b, a);
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
    a.n_unit = (a.n_out + 15) / 16;
    a.n_stage = (a.n_in + BOX * BOXES - 1) / (BOX * BOXES);
    uint64_t dims[2] = {(uint64_t)a.n_in, (uint64_t)a.n_out}, stride = (uint64_t)a.n_in * 2;
    uint32_t box[2] = {BOX, 16};
    if (!tensor_map_make(&a.w_map, g->w, 2, dims, &stride, box)) return ST_OK;
    *done = true;
    return g->n_row <= 8 ? thin_launch_out<1>(b, g->out, a) : thin_launch_out<2>(b, g->out, a);
}

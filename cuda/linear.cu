// Linear layers through cuBLASLt. The packing is the plain row-major matrix in the type of the activations.
//
// The contract wants a row's bits to be the same however many rows stand beside it, while the fastest kernel differs between 1 row and
// 4096. So each shape has a base algorithm (chosen for many rows, no split of the sum); for fewer rows other algorithms are tried on random
// data with the real weights, and only those whose results equal the base's bit for bit may be used. The trial runs once per shape and
// class of row counts.
#include "common.cuh"

enum { N_CLASS = 5, BASE_CLASS = N_CLASS - 1, N_TRY = 16, N_ALL = 4 * N_TRY };
static const int64_t class_rows[N_CLASS] = {1, 16, 64, 512, 4096};

struct gemm_plan {
    linear_shape_t shape;
    bool plain; // no algorithm serves every row count: our own simple kernel
    bool ready[N_CLASS];
    cublasLtMatmulAlgo_t algo[N_CLASS];
    gemm_plan *next;
};
struct linear {
    linear_shape_t shape;
    const void *packed;
    gemm_plan *plan;
};

static status_t lt_failed(cublasStatus_t s, const char *what) {
    return status_fail(ST_FAIL, "cuBLASLt: %s failed: %s; check that driver and library fit together, or use --backend cpu", what,
                       cublasLtGetStatusString(s));
}
#define LT_TRY(call)                                                                                                                       \
    do {                                                                                                                                   \
        cublasStatus_t lt_try_s = (call);                                                                                                  \
        if (lt_try_s != CUBLAS_STATUS_SUCCESS) return lt_failed(lt_try_s, #call);                                                          \
    } while (0)

size_t linear_bytes_cuda(backend_t *b, linear_shape_t s) { return (size_t)s.n_out * (size_t)s.n_in * dtype_bytes(b->act); }

status_t linear_pack_cuda(backend_t *bb, linear_shape_t s, void *packed, int64_t row0, int64_t n_row, dtype_t w_type, const void *w) {
    cuda_backend_t *b = cuda_of(bb);
    char *to = (char *)packed + (size_t)row0 * (size_t)s.n_in * dtype_bytes(bb->act);
    if (w_type == bb->act) {
        CUDA_TRY(cudaMemcpyAsync(to, w, (size_t)n_row * (size_t)s.n_in * dtype_bytes(w_type), cudaMemcpyHostToDevice, b->stream));
        CUDA_TRY(cudaStreamSynchronize(b->stream)); // the source may be memory that goes away
        return ST_OK;
    }
    int64_t step = (64 << 20) / (s.n_in * (int64_t)dtype_bytes(w_type)) + 1;
    for (int64_t r = 0; r < n_row; r += step) {
        int64_t n = i64_min(step, n_row - r) * s.n_in;
        void *stage;
        ST_TRY(cuda_scratch(b, (size_t)n * dtype_bytes(w_type), &stage));
        CUDA_TRY(cudaMemcpyAsync(stage, (const char *)w + (size_t)(r * s.n_in) * dtype_bytes(w_type), (size_t)n * dtype_bytes(w_type),
                                 cudaMemcpyHostToDevice, b->stream));
        ST_TRY(convert_cuda(bb, (size_t)n, bb->act, to + (size_t)(r * s.n_in) * dtype_bytes(bb->act), w_type, stage));
        CUDA_TRY(cudaStreamSynchronize(b->stream));
    }
    return ST_OK;
}

// ---- one product ----------------------------------------------------------------------------------------------------
// cuBLASLt counts column-major: y^T (n_out x n_row) = W (n_out x n_in, read transposed) x^T (n_in x n_row).
typedef struct {
    cublasLtMatmulDesc_t op;
    cublasLtMatrixLayout_t a, b, c;
} gemm_desc_t;

static void gemm_desc_free(gemm_desc_t *g) {
    if (g->op) cublasLtMatmulDescDestroy(g->op);
    if (g->a) cublasLtMatrixLayoutDestroy(g->a);
    if (g->b) cublasLtMatrixLayoutDestroy(g->b);
    if (g->c) cublasLtMatrixLayoutDestroy(g->c);
    memset(g, 0, sizeof *g);
}

static cublasStatus_t gemm_desc_make(gemm_desc_t *g, dtype_t act, linear_shape_t s, int64_t n_row) {
    cudaDataType_t t = act == DT_F32 ? CUDA_R_32F : CUDA_R_16BF;
    cublasOperation_t trans = CUBLAS_OP_T;
    cublasStatus_t st;
    memset(g, 0, sizeof *g);
    if ((st = cublasLtMatmulDescCreate(&g->op, CUBLAS_COMPUTE_32F, CUDA_R_32F))) return st;
    if ((st = cublasLtMatmulDescSetAttribute(g->op, CUBLASLT_MATMUL_DESC_TRANSA, &trans, sizeof trans))) return st;
    if ((st = cublasLtMatrixLayoutCreate(&g->a, t, (uint64_t)s.n_in, (uint64_t)s.n_out, s.n_in))) return st;
    if ((st = cublasLtMatrixLayoutCreate(&g->b, t, (uint64_t)s.n_in, (uint64_t)n_row, s.n_in))) return st;
    return cublasLtMatrixLayoutCreate(&g->c, CUDA_R_32F, (uint64_t)s.n_out, (uint64_t)n_row, s.n_out);
}

static cublasStatus_t gemm_run(cuda_backend_t *b, const gemm_desc_t *g, const cublasLtMatmulAlgo_t *algo, const void *w, const void *x,
                               float *y, bool add) {
    float alpha = 1, beta = add ? 1.f : 0.f;
    return cublasLtMatmul(b->lt, g->op, &alpha, w, g->a, x, g->b, &beta, y, g->c, y, g->c, algo, b->work, b->work_bytes, b->stream);
}

// ---- choice of the algorithms ---------------------------------------------------------------------------------------
static int algo_config(const cublasLtMatmulAlgo_t *a, cublasLtMatmulAlgoConfigAttributes_t what) {
    int v = 0;
    size_t n;
    return cublasLtMatmulAlgoConfigGetAttribute(a, what, &v, sizeof v, &n) ? 0 : v;
}

// Candidates for n_row rows that do not split the sum, best guess first; there may be none.
static status_t candidates(cuda_backend_t *b, linear_shape_t s, int64_t n_row, cublasLtMatmulHeuristicResult_t *out, int *n_out) {
    gemm_desc_t g;
    cublasLtMatmulPreference_t pref = NULL;
    int n = 0;
    cublasStatus_t st = gemm_desc_make(&g, b->base.act, s, n_row);
    if (!st) st = cublasLtMatmulPreferenceCreate(&pref);
    uint32_t no_split = CUBLASLT_REDUCTION_SCHEME_NONE;
    if (!st)
        st = cublasLtMatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &b->work_bytes, sizeof b->work_bytes);
    if (!st) st = cublasLtMatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &no_split, sizeof no_split);
    if (!st) st = cublasLtMatmulAlgoGetHeuristic(b->lt, g.op, g.a, g.b, g.c, g.c, pref, N_TRY, out, &n);
    if (pref) cublasLtMatmulPreferenceDestroy(pref);
    gemm_desc_free(&g);
    *n_out = 0;
    if (st == CUBLAS_STATUS_NOT_SUPPORTED) return ST_OK;
    if (st) return lt_failed(st, "asking for algorithms");
    for (int i = 0; i < n; i++)
        if (out[i].state == CUBLAS_STATUS_SUCCESS && algo_config(&out[i].algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM) <= 1)
            out[(*n_out)++] = out[i];
    return ST_OK;
}

// Does the algorithm take any number of rows? Odd shapes have some that do not.
static bool serves_all(cuda_backend_t *b, linear_shape_t s, const cublasLtMatmulAlgo_t *algo) {
    static const int64_t rows[] = {1, 2, 3, 4, 8, 16, 17, 64, 97, 129, 144, 192, 512, 640, 4096, 5000};
    bool ok = true;
    for (size_t i = 0; ok && i < sizeof rows / sizeof *rows; i++) {
        gemm_desc_t g;
        cublasLtMatmulHeuristicResult_t r;
        cublasStatus_t st = gemm_desc_make(&g, b->base.act, s, rows[i]);
        if (!st) st = cublasLtMatmulAlgoCheck(b->lt, g.op, g.a, g.b, g.c, g.c, algo, &r);
        ok = !st && r.state == CUBLAS_STATUS_SUCCESS && r.workspaceSize <= b->work_bytes;
        gemm_desc_free(&g);
    }
    return ok;
}

// One warp per element of y, for shapes that cuBLASLt does not serve (dimensions that are no multiples of 16 bytes).
template <class T> __global__ void linear_plain_kernel(int64_t n, linear_shape_t s, const T *w, const T *x, float *y, bool add) {
    int64_t at = (int64_t)blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5);
    if (at >= n) return;
    const T *a = w + at % s.n_out * s.n_in, *c = x + at / s.n_out * s.n_in;
    float sum = 0;
    for (int64_t j = threadIdx.x & 31; j < s.n_in; j += 32) sum = fmaf(to_f32<T>(a[j]), to_f32<T>(c[j]), sum);
    sum = warp_sum(sum);
    if (!(threadIdx.x & 31)) y[at] = add ? y[at] + sum : sum;
}
static status_t linear_plain(cuda_backend_t *b, const linear_t *l, int64_t n_row, const void *x, float *y, bool add) {
    int64_t n = n_row * l->shape.n_out;
    unsigned grid = (unsigned)((n + 7) / 8);
    if (b->base.act == DT_F32)
        linear_plain_kernel<float><<<grid, 256, 0, b->stream>>>(n, l->shape, (const float *)l->packed, (const float *)x, y, add);
    else
        linear_plain_kernel<bf16><<<grid, 256, 0, b->stream>>>(n, l->shape, (const bf16 *)l->packed, (const bf16 *)x, y, add);
    CUDA_LAUNCHED("linear (plain)");
    return ST_OK;
}

__global__ void random_fill_kernel(size_t n, void *x, bool f32) {
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) {
        uint64_t z = (i + 1) * 0x9e3779b97f4a7c15ull;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
        z = (z ^ z >> 27) * 0x94d049bb133111ebull;
        float v = (float)(int32_t)(z >> 32) * 0x1p-31f;
        if (f32)
            ((float *)x)[i] = v;
        else
            ((bf16 *)x)[i] = __float2bfloat16_rn(v);
    }
}
__global__ void differ_kernel(size_t n, const uint32_t *a, const uint32_t *b, unsigned *flag) {
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x)
        if (a[i] != b[i]) *flag = 1;
}

// Sets plan->algo[cls]: the fastest candidate that gives the base algorithm's bits, or the base itself.
static status_t choose(cuda_backend_t *b, const linear_t *l, int cls) {
    gemm_plan *p = l->plan;
    linear_shape_t s = l->shape;
    cublasLtMatmulHeuristicResult_t got[N_ALL];
    int n;
    if (!p->ready[BASE_CLASS]) {
        ST_TRY(candidates(b, s, class_rows[BASE_CLASS], got, &n));
        int k = 0;
        while (k < n && !serves_all(b, s, &got[k].algo)) k++;
        p->plain = k == n;
        if (k < n) p->algo[BASE_CLASS] = got[k].algo;
        p->ready[BASE_CLASS] = true;
    }
    if (cls == BASE_CLASS || p->plain) return ST_OK;
    int64_t rows = class_rows[cls], wide = 128; // the base is run with other rows beside ours, so that its own freedom is tested as well
    size_t x_bytes = size_round_up((size_t)((rows + wide) * s.n_in) * dtype_bytes(b->base.act), 256),
           y_bytes = (size_t)((rows + wide) * s.n_out) * 4;
    y_bytes = size_round_up(y_bytes, 256);
    char *mem;
    ST_TRY(cuda_scratch(b, x_bytes + 2 * y_bytes + 256, &mem));
    float *y0 = (float *)(mem + x_bytes), *y1 = (float *)(mem + x_bytes + y_bytes);
    unsigned *flag = (unsigned *)(mem + x_bytes + 2 * y_bytes), differ;
    random_fill_kernel<<<512, 256, 0, b->stream>>>((size_t)((rows + wide) * s.n_in), mem, b->base.act == DT_F32);
    gemm_desc_t big, own;
    cudaEvent_t t0 = NULL, t1 = NULL;
    cublasStatus_t st = gemm_desc_make(&big, b->base.act, s, rows + wide);
    if (!st) st = gemm_run(b, &big, &p->algo[BASE_CLASS], l->packed, mem, y0, false);
    gemm_desc_free(&big);
    if (st) return lt_failed(st, "the product of a trial");
    n = 0;
    for (int c = cls; c < BASE_CLASS && n < N_ALL - N_TRY; c++) { // what is good for a few rows more is often best for fewer too
        int more;
        ST_TRY(candidates(b, s, class_rows[c], got + n, &more));
        n += more;
    }
    st = gemm_desc_make(&own, b->base.act, s, rows);
    if (st) return lt_failed(st, "describing a product");
    cudaEventCreate(&t0);
    cudaEventCreate(&t1);
    float best = INFINITY;
    p->algo[cls] = p->algo[BASE_CLASS];
    for (int i = -1; i < n; i++) {
        const cublasLtMatmulAlgo_t *algo = i < 0 ? &p->algo[BASE_CLASS] : &got[i].algo;
        float ms = INFINITY, ms1;
        cudaMemsetAsync(y1, 0xff, y_bytes, b->stream);
        cudaMemsetAsync(flag, 0, 4, b->stream);
        if (gemm_run(b, &own, algo, l->packed, mem, y1, false)) continue;
        differ_kernel<<<512, 256, 0, b->stream>>>((size_t)(rows * s.n_out), (uint32_t *)y0, (uint32_t *)y1, flag);
        cudaMemcpyAsync(&differ, flag, 4, cudaMemcpyDeviceToHost, b->stream);
        if (cudaStreamSynchronize(b->stream) != cudaSuccess || differ) continue;
        for (int k = 0; k < 5; k++) {
            cudaEventRecord(t0, b->stream);
            gemm_run(b, &own, algo, l->packed, mem, y1, false);
            cudaEventRecord(t1, b->stream);
            cudaEventSynchronize(t1);
            cudaEventElapsedTime(&ms1, t0, t1);
            ms = ms1 < ms ? ms1 : ms;
        }
        if (ms < best) {
            best = ms;
            p->algo[cls] = *algo;
        }
    }
    cudaEventDestroy(t0);
    cudaEventDestroy(t1);
    gemm_desc_free(&own);
    CUDA_LAUNCHED("trial of matrix products");
    p->ready[cls] = true;
    return ST_OK;
}

// ---- the operations -------------------------------------------------------------------------------------------------
status_t linear_open_cuda(backend_t *bb, linear_shape_t s, const void *packed, linear_t **out) {
    cuda_backend_t *b = cuda_of(bb);
    *out = NULL;
    linear_t *l;
    ST_TRY(mem_zalloc(&l, 1, sizeof *l, "a linear layer"));
    gemm_plan *p = b->plans;
    while (p && (p->shape.n_out != s.n_out || p->shape.n_in != s.n_in)) p = p->next;
    if (!p) {
        status_t st = mem_zalloc(&p, 1, sizeof *p, "a plan of matrix products");
        if (st) {
            mem_free(l);
            return st;
        }
        p->shape = s;
        p->next = b->plans;
        b->plans = p;
    }
    l->shape = s;
    l->packed = packed;
    l->plan = p;
    *out = l;
    return ST_OK;
}
void linear_close_cuda(backend_t *, linear_t *l) { mem_free(l); }
void linear_free_plans(cuda_backend_t *b) {
    while (b->plans) {
        gemm_plan *p = b->plans;
        b->plans = p->next;
        mem_free(p);
    }
}

status_t linear_cuda(backend_t *bb, const linear_t *l, int64_t n_row, const void *x, float *y, bool add) {
    cuda_backend_t *b = cuda_of(bb);
    if (!n_row) return ST_OK;
    int cls = 0;
    while (cls < BASE_CLASS && n_row > class_rows[cls]) cls++;
    if (!l->plan->plain && !l->plan->ready[cls]) ST_TRY(choose(b, l, cls));
    if (l->plan->plain) return linear_plain(b, l, n_row, x, y, add);
    gemm_desc_t g;
    cublasStatus_t st = gemm_desc_make(&g, bb->act, l->shape, n_row);
    if (!st) st = gemm_run(b, &g, &l->plan->algo[cls], l->packed, x, y, add);
    if (st == CUBLAS_STATUS_NOT_SUPPORTED || st == CUBLAS_STATUS_INVALID_VALUE) // the class's choice does not take this very row count
        st = gemm_run(b, &g, &l->plan->algo[BASE_CLASS], l->packed, x, y, add);
    gemm_desc_free(&g);
    return st ? lt_failed(st, "a matrix product") : ST_OK;
}

// Linear layers. The packing is the plain row-major matrix in the type of the activations, gate and up rows interleaved in groups.
//
// The contract wants a row's bits to be the same however many rows stand beside it, while the fastest kernel differs between 1 row and
// 4096. So each shape has a base: on Hopper our own kernel (gemm_sm90.cu), elsewhere an algorithm of cuBLASLt chosen for many rows, without
// splits of the sum. For fewer rows cuBLASLt's other algorithms are tried on random data with the real weights, and only those whose
// results equal the base's bit for bit may be used. The trial runs once per shape and class of row counts. Random weights stand in for
// small ones: an adapter's factors are mostly zeros, over which all orders of summation agree, and others of the shape need not be. For
// many rows cuBLASLt is tried against our own kernel where sums are added to a residual, for there memory is the bound and either may win;
// that trial takes the rows of the call, and is made again when a call has four times as many.
#include "at_rest.cuh"
#include "gemm.cuh"

enum { N_CLASS = 5, BASE_CLASS = N_CLASS - 1, N_TRY = 16, N_ALL = 4 * N_TRY, N_TRY_BASE = 4 };
static const int64_t SMALL_WEIGHT = 1 << 20; // elements
static const int64_t class_rows[N_CLASS] = {1, 16, 64, 512, 4096}, TRIAL_BYTES = 256 << 20; // memory of a trial of many rows

struct gemm_plan {
    cuda_backend_t *b;
    linear_shape_t shape;
    bool based;    // the base is chosen
    int64_t tried; // rows of the call that the latest trial of many was made for
    bool own;      // the base is gemm_sm90
    bool plain;    // no algorithm serves every row count: our own simple kernel
    bool ready[N_CLASS], lt[N_CLASS], thin[N_CLASS]; // lt: by cuBLASLt's algo; thin: by gemm_thin; else by the base
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

static bool interleaved(linear_shape_t s) { return s.glu && s.n_out % (2 * GLU_GROUP) == 0; }

// Rows row0.. of W, in the type of the activations and anywhere, to their places.
static status_t rows_put(cuda_backend_t *b, linear_shape_t s, char *packed, int64_t row0, int64_t n_row, const char *w) {
    size_t row = (size_t)s.n_in * dtype_bytes(b->base.act), group = GLU_GROUP * row;
    int64_t half = s.n_out / 2;
    if (!interleaved(s)) {
        CUDA_TRY(cudaMemcpyAsync(packed + (size_t)row0 * row, w, (size_t)n_row * row, cudaMemcpyDefault, b->stream));
        return ST_OK;
    }
    for (int64_t r = row0, end = row0 + n_row; r < end;) { // gates, then ups
        int64_t in = r % half, n = i64_min(end, r < half ? half : s.n_out) - r;
        if (in % GLU_GROUP || n < GLU_GROUP) n = i64_min(n, GLU_GROUP - in % GLU_GROUP);
        else n = n / GLU_GROUP * GLU_GROUP;
        char *to = packed + (size_t)(in / GLU_GROUP * 2 + (r >= half)) * group + (size_t)(in % GLU_GROUP) * row;
        const char *from = w + (size_t)(r - row0) * row;
        if (n >= GLU_GROUP)
            CUDA_TRY(cudaMemcpy2DAsync(to, 2 * group, from, group, group, (size_t)(n / GLU_GROUP), cudaMemcpyDefault, b->stream));
        else
            CUDA_TRY(cudaMemcpyAsync(to, from, (size_t)n * row, cudaMemcpyDefault, b->stream));
        r += n;
    }
    return ST_OK;
}

status_t linear_pack_cuda(backend_t *bb, linear_shape_t s, void *packed, int64_t row0, int64_t n_row, dtype_t w_type, const void *w) {
    cuda_backend_t *b = cuda_of(bb);
    size_t row = (size_t)s.n_in * dtype_bytes(bb->act), w_row = (size_t)s.n_in * dtype_bytes(w_type);
    if (w_type == bb->act) {
        ST_TRY(rows_put(b, s, (char *)packed, row0, n_row, (const char *)w));
        CUDA_TRY(cudaStreamSynchronize(b->stream)); // the source may be memory that goes away
        return ST_OK;
    }
    int64_t step = i64_max(GLU_GROUP, (int64_t)((64 << 20) / w_row) / GLU_GROUP * GLU_GROUP);
    for (int64_t r = 0; r < n_row; r += step) {
        int64_t n = i64_min(step, n_row - r);
        size_t raw = size_round_up((size_t)n * w_row, 256);
        char *stage;
        ST_TRY(cuda_scratch(b, raw + (size_t)n * row, &stage));
        CUDA_TRY(cudaMemcpyAsync(stage, (const char *)w + (size_t)r * w_row, (size_t)n * w_row, cudaMemcpyDefault, b->stream));
        ST_TRY(convert_cuda(bb, (size_t)(n * s.n_in), bb->act, stage + raw, w_type, stage));
        ST_TRY(rows_put(b, s, (char *)packed, row0 + r, n, stage + raw));
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

static status_t base_run(cuda_backend_t *b, const linear_t *l, int64_t n_row, const void *x, float *y, bool add) {
    if (l->plan->own) {
        bool done;
        gemm_args_t g = {add ? GEMM_ADD : GEMM_SET, l->shape, n_row, x, l->packed, y, NULL};
        ST_TRY(gemm_sm90(b, &g, &done));
        return done ? ST_OK : status_fail(ST_FAIL, "GPU: a matrix product at an odd address; please report this");
    }
    gemm_desc_t d;
    cublasStatus_t st = gemm_desc_make(&d, b->base.act, l->shape, n_row);
    if (!st) st = gemm_run(b, &d, &l->plan->algo[BASE_CLASS], l->packed, x, y, add);
    gemm_desc_free(&d);
    return st ? lt_failed(st, "a matrix product") : ST_OK;
}

static status_t choose_base(cuda_backend_t *b, gemm_plan *p) {
    cublasLtMatmulHeuristicResult_t got[N_TRY];
    int n, k = 0;
    p->own = gemm_sm90_serves(b, p->shape);
    p->based = true;
    if (p->own) return ST_OK;
    ST_TRY(candidates(b, p->shape, class_rows[BASE_CLASS], got, &n));
    while (k < n && !serves_all(b, p->shape, &got[k].algo)) k++;
    p->plain = k == n;
    if (k < n) p->algo[BASE_CLASS] = got[k].algo;
    return ST_OK;
}

// Seconds at best of the base (algo NULL) or of a candidate, INFINITY when it fails or its bits are not those of `want`.
typedef struct {
    cuda_backend_t *b;
    const linear_t *l;
    int64_t rows;
    bool add;
    const char *x;
    float *want, *y;
    size_t y_bytes;
    unsigned *flag;
    gemm_desc_t desc;
    cudaEvent_t t0, t1;
} trial_t;
static const cublasLtMatmulAlgo_t thin_algo = {}; // stands for gemm_thin
static cublasStatus_t trial_run(const trial_t *t, const cublasLtMatmulAlgo_t *algo) {
    bool done = false;
    gemm_args_t g = {GEMM_SET, t->l->shape, t->rows, t->x, t->l->packed, t->y, NULL}; // a single row: gemm_thin takes no other
    if (algo == &thin_algo) return gemm_thin(t->b, &g, &done) || !done ? CUBLAS_STATUS_NOT_SUPPORTED : CUBLAS_STATUS_SUCCESS;
    if (!algo) return base_run(t->b, t->l, t->rows, t->x, t->y, t->add) ? CUBLAS_STATUS_INTERNAL_ERROR : CUBLAS_STATUS_SUCCESS;
    return gemm_run(t->b, &t->desc, algo, t->l->packed, t->x, t->y, t->add);
}
static float trial(const trial_t *t, const cublasLtMatmulAlgo_t *algo) {
    cudaStream_t stream = t->b->stream;
    unsigned differ;
    float best = INFINITY, ms;
    if (t->add) random_fill_kernel<<<512, 256, 0, stream>>>(t->y_bytes / 4, t->y, true);
    else cudaMemsetAsync(t->y, 0xff, t->y_bytes, stream);
    cudaMemsetAsync(t->flag, 0, 4, stream);
    if (trial_run(t, algo)) return INFINITY;
    differ_kernel<<<512, 256, 0, stream>>>((size_t)(t->rows * t->l->shape.n_out), (uint32_t *)t->want, (uint32_t *)t->y, t->flag);
    cudaMemcpyAsync(&differ, t->flag, 4, cudaMemcpyDeviceToHost, stream);
    if (cudaStreamSynchronize(stream) != cudaSuccess || differ) return INFINITY;
    for (int k = 0; k < 5; k++) {
        cudaEventRecord(t->t0, stream);
        trial_run(t, algo);
        cudaEventRecord(t->t1, stream);
        cudaEventSynchronize(t->t1);
        cudaEventElapsedTime(&ms, t->t0, t->t1);
        best = ms < best ? ms : best;
    }
    return best;
}

// Rows of a trial: of many rows those of the call itself, as far as memory goes.
static int64_t trial_rows(const cuda_backend_t *b, linear_shape_t s, int cls, int64_t n_row) {
    int64_t each = s.n_in * (int64_t)dtype_bytes(b->base.act) + s.n_out * 8;
    return cls < BASE_CLASS ? class_rows[cls] : i64_min(n_row, TRIAL_BYTES / each);
}

// Candidates of a trial. Of few rows: those for more rows, too, which are often best for fewer. Of many: the best guesses for the class's
// count and for that of the trial, since each takes long to try.
static status_t trial_candidates(cuda_backend_t *b, linear_shape_t s, int cls, int64_t rows, cublasLtMatmulHeuristicResult_t *got, int *n) {
    int last = cls == BASE_CLASS ? N_CLASS : BASE_CLASS;
    *n = 0;
    for (int c = cls; c <= last && *n <= N_ALL - N_TRY; c++) {
        int more;
        ST_TRY(candidates(b, s, c < N_CLASS ? class_rows[c] : rows, got + *n, &more));
        *n += cls == BASE_CLASS && more > N_TRY_BASE ? N_TRY_BASE : more;
    }
    return ST_OK;
}

// Chooses for a class of row counts: the fastest candidate that gives the base's bits, or the base itself.
static status_t choose(cuda_backend_t *b, const linear_t *l, int cls, int64_t n_row, bool add) {
    gemm_plan *p = l->plan;
    linear_shape_t s = l->shape;
    cublasLtMatmulHeuristicResult_t got[N_ALL];
    int n;
    if (!p->based) ST_TRY(choose_base(b, p));
    if (cls == BASE_CLASS && b->n_sm < b->n_sm_all) return ST_OK; // beside messages the base runs, and a trial would mislead
    p->ready[cls] = true;
    if (cls == BASE_CLASS && add) p->tried = n_row, p->lt[cls] = false;
    if (p->plain || (cls == BASE_CLASS && !(p->own && add))) return ST_OK;
    int64_t rows = trial_rows(b, s, cls, n_row), wide = 128; // the base is run with other rows beside ours, to test its own freedom as well
    bool small = s.n_out * s.n_in <= SMALL_WEIGHT;
    size_t w_bytes = small ? size_round_up(linear_bytes_cuda(&b->base, s), 256) : 0;
    linear_t dense = *l;
    size_t x_bytes = size_round_up((size_t)((rows + wide) * s.n_in) * dtype_bytes(b->base.act), 256);
    size_t y_bytes = size_round_up((size_t)((rows + wide) * s.n_out) * 4, 256);
    trial_t t = {b, &dense, rows, cls == BASE_CLASS, NULL, NULL, NULL, y_bytes, NULL, {0, 0, 0, 0}, NULL, NULL};
    char *mem;
    status_t room = cuda_scratch(b, x_bytes + 2 * t.y_bytes + 256 + w_bytes, &mem);
    if (room) return cls == BASE_CLASS ? ST_OK : room; // many rows go by the base then
    t.x = mem;
    t.want = (float *)(mem + x_bytes);
    t.y = (float *)(mem + x_bytes + t.y_bytes);
    t.flag = (unsigned *)(mem + x_bytes + 2 * t.y_bytes);
    if (small) dense.packed = mem + x_bytes + 2 * t.y_bytes + 256;
    random_fill_kernel<<<512, 256, 0, b->stream>>>((size_t)((rows + wide) * s.n_in), mem, b->base.act == DT_F32);
    if (small) random_fill_kernel<<<512, 256, 0, b->stream>>>((size_t)(s.n_out * s.n_in), (void *)dense.packed, b->base.act == DT_F32);
    if (t.add) random_fill_kernel<<<512, 256, 0, b->stream>>>(t.y_bytes / 4, t.want, true);
    ST_TRY(base_run(b, &dense, rows + wide, t.x, t.want, t.add));
    ST_TRY(trial_candidates(b, s, cls, rows, got, &n));
    cublasStatus_t st = gemm_desc_make(&t.desc, b->base.act, s, rows);
    if (st) return lt_failed(st, "describing a product");
    cudaEventCreate(&t.t0);
    cudaEventCreate(&t.t1);
    float best = trial(&t, NULL), base = best;
    int same = 0;
    for (int i = 0; i < n; i++) {
        float ms = trial(&t, &got[i].algo);
        same += ms < INFINITY;
        if (ms >= best) continue;
        best = ms;
        p->algo[cls] = got[i].algo;
        p->lt[cls] = true;
    }
    float thin = rows == 1 ? trial(&t, &thin_algo) : INFINITY;
    if (thin < best) {
        p->thin[cls] = true;
        p->lt[cls] = false;
    }
    log_debug("products %lld x %lld, %lld rows: %d of %d candidates have the base's bits; %.1f us, base %.1f us, one row %.1f us",
              (long long)s.n_out, (long long)s.n_in, (long long)rows, same, n, 1e3 * (double)best, 1e3 * (double)base, 1e3 * (double)thin);
    cudaEventDestroy(t.t0);
    cudaEventDestroy(t.t1);
    gemm_desc_free(&t.desc);
    CUDA_LAUNCHED("trial of matrix products");
    return ST_OK;
}

// ---- the operations -------------------------------------------------------------------------------------------------
status_t linear_open_cuda(backend_t *bb, linear_shape_t s, const void *packed, linear_t **out) {
    cuda_backend_t *b = cuda_of(bb);
    *out = NULL;
    linear_t *l;
    ST_TRY(mem_zalloc(&l, 1, sizeof *l, "a linear layer"));
    gemm_plan *p = b->plans;
    while (p && (p->shape.n_out != s.n_out || p->shape.n_in != s.n_in || p->shape.glu != s.glu)) p = p->next;
    if (!p) {
        status_t st = mem_zalloc(&p, 1, sizeof *p, "a plan of matrix products");
        if (st) {
            mem_free(l);
            return st;
        }
        p->b = b;
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

// The class of a row count, its choice made; of many rows once more where they are many times those of the trial.
static status_t class_of(cuda_backend_t *b, const linear_t *l, int64_t n_row, bool add, int *out) {
    const gemm_plan *p = l->plan;
    int cls = 0;
    while (cls < BASE_CLASS && n_row > class_rows[cls]) cls++;
    *out = cls;
    bool outgrown = cls == BASE_CLASS && add && n_row / 4 >= p->tried;
    return p->plain || (p->ready[cls] && !outgrown) ? ST_OK : choose(b, l, cls, n_row, add);
}

status_t linear_cuda(backend_t *bb, const linear_t *l, int64_t n_row, const void *x, float *y, bool add) {
    cuda_backend_t *b = cuda_of(bb);
    int cls;
    if (!n_row) return ST_OK;
    ST_TRY(class_of(b, l, n_row, add, &cls));
    if (l->plan->plain) return linear_plain(b, l, n_row, x, y, add);
    if (l->plan->thin[cls]) {
        bool done;
        gemm_args_t thin = {add ? GEMM_ADD : GEMM_SET, l->shape, n_row, x, l->packed, y, NULL};
        ST_TRY(gemm_thin(b, &thin, &done));
        if (done) return ST_OK;
    }
    // Our own kernel shares the GPU with messages, cuBLASLt's want all of it.
    if (!l->plan->lt[cls] || (cls == BASE_CLASS && b->n_sm < b->n_sm_all)) return base_run(b, l, n_row, x, y, add);
    gemm_desc_t g;
    cublasStatus_t st = gemm_desc_make(&g, bb->act, l->shape, n_row);
    if (!st) st = gemm_run(b, &g, &l->plan->algo[cls], l->packed, x, y, add);
    gemm_desc_free(&g);
    if (st == CUBLAS_STATUS_NOT_SUPPORTED || st == CUBLAS_STATUS_INVALID_VALUE) // the class's choice does not take this very row count
        return base_run(b, l, n_row, x, y, add);
    return st ? lt_failed(st, "a matrix product") : ST_OK;
}

// Many rows: the next step is folded into the product. Few rows: two kernels, same bits.
static bool folds(const linear_t *l, int64_t n_row) { return n_row > class_rows[BASE_CLASS - 1] && gemm_sm90_serves(l->plan->b, l->shape); }

status_t linear_glu_cuda(backend_t *bb, const linear_t *l, int64_t n_row, const void *x, float *wide, void *y) {
    bool done = false;
    gemm_args_t g = {GEMM_GLU, l->shape, n_row, x, l->packed, y, NULL};
    int cls;
    if (!n_row) return ST_OK;
    ST_TRY(class_of(cuda_of(bb), l, n_row, false, &cls));
    if (interleaved(l->shape) && l->plan->thin[cls]) ST_TRY(gemm_thin(cuda_of(bb), &g, &done));
    if (interleaved(l->shape) && folds(l, n_row)) ST_TRY(gemm_sm90(cuda_of(bb), &g, &done));
    if (done) return ST_OK;
    ST_TRY(linear_cuda(bb, l, n_row, x, wide, false));
    return gate_cuda(cuda_of(bb), n_row, l->shape.n_out / 2, wide, y, interleaved(l->shape));
}

status_t linear_qkv_cuda(backend_t *bb, const linear_t *l, const void *x, float *wide, const qkv_args_t *a) {
    bool done = false;
    gemm_args_t g = {GEMM_QKV, l->shape, a->n_row, x, l->packed, NULL, a};
    if (folds(l, a->n_row)) ST_TRY(gemm_sm90(cuda_of(bb), &g, &done));
    if (done) note_fresh(cuda_of(bb), a);
    if (done) return ST_OK;
    qkv_args_t after = *a;
    after.qkv = wide;
    ST_TRY(linear_cuda(bb, l, a->n_row, x, wide, false));
    return qkv_cuda(bb, &after);
}

// ---- for measurements -----------------------------------------------------------------------------------------------
__global__ void fill_kernel(uint64_t seed, size_t first, float scale, size_t n, void *x, bool f32) {
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) {
        float v = backend_random(seed, first + i) * scale;
        if (f32)
            ((float *)x)[i] = v;
        else
            ((bf16 *)x)[i] = __float2bfloat16_rn(v);
    }
}
status_t fill_cuda(backend_t *bb, uint64_t seed, size_t first, float scale, size_t n, void *dst) {
    fill_kernel<<<2048, 256, 0, cuda_of(bb)->stream>>>(seed, first, scale, n, dst, bb->act == DT_F32);
    CUDA_LAUNCHED("fill");
    none_at_rest(cuda_of(bb));
    return ST_OK;
}

// The library's own product with results in the type of its inputs, and the driver's own copy: neither is code of ours.
status_t ceilings_cuda(backend_t *bb, double *flops, double *bytes) {
    enum { SIDE = 8192, TRIES = 12, LONG = 600 }; // products for about a second: as long as the card holds that up
    cuda_backend_t *b = cuda_of(bb);
    cudaDataType_t t = bb->act == DT_F32 ? CUDA_R_32F : CUDA_R_16BF;
    size_t side = SIDE, cells = side * side, size = dtype_bytes(bb->act), copy = (size_t)1 << 30;
    char *mem;
    gemm_desc_t g;
    cudaEvent_t t0, t1;
    float ms;
    *flops = *bytes = 0;
    ST_TRY(bb->ops->alloc(bb, size_round_up(3 * cells * size, 2 * copy), "the ceilings", &mem));
    status_t ok = fill_cuda(bb, 1, 0, 1, 2 * cells, mem);
    cublasStatus_t st = gemm_desc_make(&g, bb->act, {SIDE, SIDE, false}, SIDE);
    if (g.c) cublasLtMatrixLayoutDestroy(g.c);
    g.c = NULL;
    if (!st) st = cublasLtMatrixLayoutCreate(&g.c, t, SIDE, SIDE, SIDE);
    cublasLtMatmulPreference_t pref = NULL;
    cublasLtMatmulHeuristicResult_t got[1];
    int n = 0;
    if (!st) st = cublasLtMatmulPreferenceCreate(&pref);
    if (!st) st = cublasLtMatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &b->work_bytes, sizeof b->work_bytes);
    if (!st) st = cublasLtMatmulAlgoGetHeuristic(b->lt, g.op, g.a, g.b, g.c, g.c, pref, 1, got, &n);
    cudaEventCreate(&t0);
    cudaEventCreate(&t1);
    int most = bb->act == DT_F32 ? TRIES : LONG;
    for (int i = 0; i < most && !st && !ok && n; i++) {
        if (i == most / 2) cudaEventRecord(t0, b->stream); // the first half warms it up
        st = gemm_run(b, &g, &got[0].algo, mem, mem + cells * size, (float *)(mem + 2 * cells * size), false);
    }
    cudaEventRecord(t1, b->stream);
    cudaEventSynchronize(t1);
    cudaEventElapsedTime(&ms, t0, t1);
    *flops = 2e3 * (double)(most - most / 2) * (double)cells * SIDE / (double)ms;
    for (int i = 0; i < TRIES; i++) {
        cudaEventRecord(t0, b->stream);
        cudaMemcpyAsync(mem + copy, mem, copy, cudaMemcpyDeviceToDevice, b->stream);
        cudaEventRecord(t1, b->stream);
        cudaEventSynchronize(t1);
        cudaEventElapsedTime(&ms, t0, t1);
        if (i > 1) *bytes = fmax(*bytes, 2e3 * (double)copy / (double)ms);
    }
    cudaEventDestroy(t0);
    cudaEventDestroy(t1);
    if (pref) cublasLtMatmulPreferenceDestroy(pref);
    gemm_desc_free(&g);
    bb->ops->free(bb, mem);
    if (ok) return ok;
    if (st) return lt_failed(st, "measuring the ceiling");
    CUDA_LAUNCHED("ceilings");
    return ST_OK;
}

// Times of the CUDA backend's operations. A rate that the card cannot reach, or a result that is wrong in the rows looked at, counts as a
// failure.
#ifndef BENCH_CUDA_TIMES_CUH
#define BENCH_CUDA_TIMES_CUH

#include "cuda_problem.cuh"

// What the card could do at its highest clocks: rates above are errors of the measurement.
struct peak_t {
    double flops, bytes; // bytes: twice the memory's, since some of what is read may lie in the L2 cache
};
static peak_t peak_of(const cuda_backend_t *b) {
    int mhz = 0, mem_khz = 0, bits = 0;
    CU(cudaDeviceGetAttribute(&mhz, cudaDevAttrClockRate, b->device));
    CU(cudaDeviceGetAttribute(&mem_khz, cudaDevAttrMemoryClockRate, b->device));
    CU(cudaDeviceGetAttribute(&bits, cudaDevAttrGlobalMemoryBusWidth, b->device));
    cudaDeviceProp prop;
    CU(cudaGetDeviceProperties(&prop, b->device));
    peak_t p = {(double)prop.multiProcessorCount * 4096 * mhz * 1e3, 2.0 * 2 * mem_khz * 1e3 * bits / 8};
    return p;
}
static const char *judged(const cuda_backend_t *b, double flops, double bytes, double ms, bool right) {
    peak_t p = peak_of(b);
    bool possible = ms > 0 && flops / ms * 1e3 <= p.flops && bytes / ms * 1e3 <= p.bytes;
    if (!possible || !right) n_wrong++;
    return !right ? "  WRONG RESULT" : !possible ? "  IMPOSSIBLE RATE" : "";
}

// The last rows of the first, the middle and the last run, by the plain kernel, against what p's outputs hold.
static bool rows_right(cuda_backend_t *b, problem &p) {
    attn_args_t a = p.a;
    int family = b->attn_family;
    std::vector<run_t> some;
    for (size_t r : {(size_t)0, p.lay.runs.size() / 2, p.lay.runs.size() - 1}) {
        run_t x = p.lay.runs[r];
        int64_t n = std::min<int64_t>(x.n, 3);
        x.row += x.n - n, x.index += x.n - n, x.n = n;
        if (some.empty() || some.back().row != x.row) some.push_back(x);
    }
    a.runs = some.data();
    a.n_run = (int)some.size();
    size_t width = (size_t)a.n_head * (size_t)a.d_head;
    a.o = poison_dev(p.out_rows * (size_t)a.d_head * dtype_bytes(a.o_type));
    a.lse = a.m = a.top = NULL;
    b->attn_family = 0;
    OK(b->base.ops->attention(&b->base, &a));
    OK(b->base.ops->sync(&b->base));
    b->attn_family = family;
    std::vector<float> got, want;
    for (int block = 0; block < a.n_block; block++)
        for (const run_t &r : some) {
            size_t at = ((size_t)(block * a.n_row + r.row)) * width * dtype_bytes(a.o_type), n = (size_t)r.n * width;
            std::vector<float> x = floats_of((char *)p.a.o + at, a.o_type, n), y = floats_of((char *)a.o + at, a.o_type, n);
            got.insert(got.end(), x.begin(), x.end());
            want.insert(want.end(), y.begin(), y.end());
        }
    cudaFree(a.o);
    return rel_error(got, want) < 6e-3;
}

static void time_layout(cuda_backend_t *b, const char *what, const layout_case &lay, int n_head, int n_kv, int d, int family) {
    problem p;
    problem_make<bf16>(p, lay, n_head, n_kv, d, DT_BF16, false, false, DT_BF16);
    double flop = 4.0 * d * n_head * lay.pairs();
    b->attn_family = family;
    double ms = median_ms(b, flop > 2e13 ? 5 : 20, [&] { OK(b->base.ops->attention(&b->base, &p.a)); });
    printf("%-40s %2d/%d d%-3d sm%d %9.3f ms %7.1f TFLOP/s%s\n", what, n_head, n_kv, d, family, ms, flop / ms * 1e-9,
           judged(b, flop, 0, ms, rows_right(b, p)));
    fflush(stdout);
}

// The step before attention in a layer: rows of q, K and V, into a pool of their own.
struct own_rows {
    kv_pool_t pool;
    run_t run;
    qkv_args_t a;
    std::vector<void *> mem;
    own_rows(const attn_args_t &to) {
        int H = to.n_head, KV = to.n_kv_head, d = to.d_head;
        size_t n = (size_t)to.n_row, row = (size_t)(KV * d);
        float *wide = random_dev<float>(n * (size_t)((H + 2 * KV) * d)), *angles = random_dev<float>(n * (size_t)d);
        bf16 *k = random_dev<bf16>(n * row), *v = random_dev<bf16>(n * row);
        mem = {wide, angles, k, v};
        pool = {k, v, DT_BF16, to.n_row, d, to.n_row * d, 0, 0};
        run = {0, to.n_row, 0, 0, 0, 0};
        a = {0, to.n_row, H, KV, d, d, wide, NULL, NULL, NULL, 0, angles, (void *)to.q, 1, 1, &pool, &run};
    }
    ~own_rows() {
        for (void *p : mem) cudaFree(p);
    }
};

// n rows over one pool of another layer each time, so that no cache holds what is read. Alone: from one event to the next, the launch with
// it. In a row: behind the step that makes the queries, as in a model's layers; the time is that of both.
static void time_query(cuda_backend_t *b, int64_t pool, int64_t n, bool stats, int family) {
    const int H = 32, KV = 8, d = 128, ROW = 32;
    problem p;
    layout_case lay;
    double bytes = 2.0 * 2 * KV * d * (double)pool;
    int layers = (int)std::max(1.0, ceil(256e6 / bytes));
    lay.pool_rows = {pool};
    lay.run(-1, 0, n);
    lay.all(0, 0, pool);
    problem_make<bf16>(p, lay, H, KV, d, DT_F32, stats, false, DT_BF16, layers);
    own_rows own(p.a);
    b->attn_family = family;
    int at = 0;
    auto attend = [&] {
        p.a.layer = at++ % layers;
        OK(b->base.ops->attention(&b->base, &p.a));
    };
    double alone = median_ms(b, 50, attend), flop = 4.0 * d * H * (double)pool * (double)n;
    double both = median_ms(b, pool > 200000 ? 3 : 8,
                            [&] {
                                for (int i = 0; i < ROW; i++) {
                                    OK(b->base.ops->qkv(&b->base, &own.a));
                                    attend();
                                }
                            }) /
                  ROW;
    printf("query %3lld rows over %8lld%s sm%d alone %9.4f ms %5.0f GB/s, in a row %9.4f ms %5.0f GB/s %6.1f TFLOP/s%s\n", (long long)n,
           (long long)pool, stats ? " stats" : "      ", family, alone, bytes / alone * 1e-6, both, bytes / both * 1e-6, flop / both * 1e-9,
           judged(b, flop, bytes, std::min(alone, both), rows_right(b, p)));
    fflush(stdout);
}
static void time_linear(cuda_backend_t *b, int64_t n_out, int64_t n_in, int64_t n) {
    linear_shape_t s = {n_out, n_in};
    bf16 *w = random_dev<bf16>((size_t)(n_out * n_in)), *x = random_dev<bf16>((size_t)(n * n_in));
    float *y = poison_dev((size_t)(n * n_out) * 4);
    linear_t *l;
    OK(b->base.ops->linear_open(&b->base, s, w, &l));
    double ms = median_ms(b, 50, [&] { OK(b->base.ops->linear(&b->base, l, n, x, y, false)); });
    double bytes = 2.0 * (double)n_out * (double)n_in, flop = bytes * (double)n;
    printf("linear %5lld x %5lld, %5lld rows %9.4f ms %7.1f TFLOP/s %7.0f GB/s%s\n", (long long)n_out, (long long)n_in, (long long)n, ms,
           flop / ms * 1e-9, bytes / ms * 1e-6, judged(b, flop, bytes, ms, true));
    fflush(stdout);
    b->base.ops->linear_close(&b->base, l);
    for (void *p : {(void *)w, (void *)x, (void *)y}) cudaFree(p);
}

// Operations bound by memory: bytes that must move over the time.
static void time_small(cuda_backend_t *b) {
    const backend_ops_t *op = b->base.ops;
    const int64_t n = 16384, d = 4096, ff = 14336;
    float *x = random_dev<float>((size_t)(n * 2 * ff)), *w = random_dev<float>((size_t)d);
    bf16 *y = random_dev<bf16>((size_t)(n * ff)), *k = random_dev<bf16>((size_t)(n * 1024)), *v = random_dev<bf16>((size_t)(n * 1024));
    auto show = [&](const char *what, double bytes, double ms) {
        printf("%-12s %6lld rows %9.4f ms %7.0f GB/s%s\n", what, (long long)n, ms, bytes / ms * 1e-6, judged(b, 0, bytes, ms, true));
    };
    show("rmsnorm", (double)(n * d) * 6, median_ms(b, 20, [&] { OK(op->rmsnorm(&b->base, n, d, x, w, 1e-5f, y)); }));
    show("silu_mul", (double)(n * ff) * 10, median_ms(b, 20, [&] { OK(op->silu_mul(&b->base, n, ff, x, y)); }));
    kv_pool_t pool = {k, v, DT_BF16, n, 128, n * 128, n * 1024, 0};
    run_t run = {0, n, 0, 0, 0, 0};
    qkv_args_t a = {0, n, 32, 8, 128, 128, x, NULL, NULL, NULL, 0, x + n * ff, y, 1, 1, &pool, &run};
    show("qkv", (double)n * (6144 * 6 + 512), median_ms(b, 20, [&] { OK(op->qkv(&b->base, &a)); }));
    std::vector<int32_t> tok((size_t)n);
    for (size_t i = 0; i < tok.size(); i++) tok[i] = (int32_t)(i * 7919 % 8192);
    show("embed", (double)(n * d) * 6, median_ms(b, 20, [&] { OK(op->embed(&b->base, n, d, tok.data(), DT_BF16, y, x)); }));
    for (void *p : {(void *)x, (void *)w, (void *)y, (void *)k, (void *)v}) cudaFree(p);
}

static void times_query(cuda_backend_t *b, int family, int64_t longest) {
    for (bool stats : {false, true})
        for (int64_t pool : {512, 8192, 16384, 131072, 1048576})
            for (int64_t n : {1, 8, 64})
                if (pool <= longest && (pool != 512 || !stats)) time_query(b, pool, n, stats, family);
}

static void times_all(cuda_backend_t *b, int family, bool brief) {
    time_layout(b, "full causal 8K", lay_full(8192), 32, 8, 128, family);
    time_layout(b, "full causal 32K", lay_full(32768), 32, 8, 128, family);
    time_layout(b, "segments 8 x 4096 behind 128", lay_pce(128, 4096, 8), 32, 8, 128, family);
    if (brief && family == 90) {
        time_layout(b, "unigist r8 32K", lay_unigist(128, 32768, 8, 128), 32, 8, 128, family);
        time_layout(b, "segment-end gists 16 x 2048+256", lay_coarse(4, 2048, 16, 256), 32, 8, 128, family);
        time_layout(b, "full causal 32K", lay_full(32768), 32, 8, 64, family);
        time_layout(b, "segments 32 x 4096 behind 128", lay_pce(128, 4096, 32), 9, 3, 64, family);
        time_query(b, 131072, 8, false, family);
        time_query(b, 131072, 8, true, family);
    }
    if (brief) return;
    time_layout(b, "full causal 128K", lay_full(131072), 32, 8, 128, family);
    time_layout(b, "segment-end gists 16 x 2048+256", lay_coarse(4, 2048, 16, 256), 32, 8, 128, family);
    time_layout(b, "segment-end gists 64 x 2048+256", lay_coarse(4, 2048, 64, 256), 32, 8, 128, family);
    time_layout(b, "unigist r4 32K", lay_unigist(128, 32768, 4, 128), 32, 8, 128, family);
    time_layout(b, "unigist r8 32K", lay_unigist(128, 32768, 8, 128), 32, 8, 128, family);
    time_layout(b, "unigist r4 128K", lay_unigist(128, 131072, 4, 128), 32, 8, 128, family);
    time_layout(b, "unigist r8 128K", lay_unigist(128, 131072, 8, 128), 32, 8, 128, family);
    time_layout(b, "full causal 32K", lay_full(32768), 9, 3, 64, family);
    time_layout(b, "full causal 32K", lay_full(32768), 32, 8, 64, family);
    time_layout(b, "segments 32 x 4096 behind 128", lay_pce(128, 4096, 32), 9, 3, 64, family);
    times_query(b, family, 1 << 20);
}

#endif

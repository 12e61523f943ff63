// Checks every operation of the CUDA backend against plain references on fresh random data, then times attention and matrix products.
//
//     cuda_attention check [seed]     each line: case, errors, ok or WRONG
//     cuda_attention brief            four attention problems, to compare variants
//     cuda_attention time             useful TFLOP/s (attention) and GB/s (queries); a useful flop is one for a key that the layout shows
//
// Outputs are poisoned before each run, invisible K/V rows hold NaN, strides are padded. See cuda.sh for the baselines of the same machine.
#include "cuda_ops.cuh"
#include "cuda_problem.cuh"

// The reference kernel itself, against sums in double on the host.
static void check_reference(cuda_backend_t *b, bool f32) {
    problem p;
    dtype_t act = f32 ? DT_F32 : DT_BF16;
    layout_case lay = lay_query(5, 7, 9, {33, 1, 70});
    if (f32)
        problem_make<float>(p, lay, 6, 2, 40, DT_F32, true, true, DT_F32);
    else
        problem_make<bf16>(p, lay, 6, 2, 40, DT_F32, true, true, DT_BF16);
    results got = run_family(b, p, 0), want = got;
    const attn_args_t &a = p.a;
    std::vector<float> q = floats_of(a.q, act, (size_t)(a.n_row * a.n_head * a.d_head));
    std::vector<std::vector<float>> k, v;
    for (kv_pool_t &x : p.pools) {
        k.push_back(floats_of(x.k, x.type, (size_t)(2 * x.layer_stride)));
        v.push_back(floats_of(x.v, x.type, (size_t)(2 * x.layer_stride)));
    }
    for (size_t out = 0; out < p.out_rows; out++) {
        int h = (int)(out % a.n_head), block = (int)(out / a.n_head / a.n_row);
        int64_t row = (int64_t)(out / a.n_head) % a.n_row;
        std::vector<double> l, o(a.d_head, 0.0);
        std::vector<const float *> vs;
        for (const span_t &s : p.lay.spans) {
            if (s.block != block) continue;
            const kv_pool_t &x = p.pools[s.pool];
            int64_t i = p.lay.runs[0].index + row;
            for (int64_t j = span_lo(&s, i); j < span_hi(&s, i); j++) {
                int64_t at = a.layer * x.layer_stride + h / (a.n_head / a.n_kv_head) * x.head_stride + j * x.row_stride;
                double sum = 0;
                for (int e = 0; e < a.d_head; e++) sum += (double)q[(row * a.n_head + h) * a.d_head + e] * k[s.pool][at + e];
                l.push_back(sum * a.scale);
                vs.push_back(&v[s.pool][at]);
            }
        }
        double mx = -INFINITY, sum = 0, m = 0;
        for (double x : l) mx = std::max(mx, x);
        for (size_t j = 0; j < l.size(); j++) {
            double w = exp(l[j] - mx);
            sum += w, m += w * l[j];
            for (int e = 0; e < a.d_head; e++) o[e] += w * vs[j][e];
        }
        for (int e = 0; e < a.d_head; e++) want.o[out * a.d_head + e] = l.empty() ? 0.f : (float)(o[e] / sum);
        want.lse[out] = l.empty() ? -INFINITY : (float)(mx + log(sum));
        want.m[out] = l.empty() ? 0.f : (float)(m / sum);
        std::sort(l.rbegin(), l.rend());
        for (int e = 0; e < ATTN_TOP; e++) want.top[out * ATTN_TOP + e] = e < (int)l.size() ? (float)l[e] : -INFINITY;
    }
    std::string name = f32 ? "attention plain f32: " : "attention plain bf16: ";
    verdict((name + "o").c_str(), rel_error(got.o, want.o), 1e-5);
    verdict((name + "lse").c_str(), rel_error(got.lse, want.lse), 1e-5);
    verdict((name + "m").c_str(), rel_error(got.m, want.m), 1e-4);
    verdict((name + "top").c_str(), rel_error(got.top, want.top), 1e-5);
}

static void check_family(cuda_backend_t *b, int family, const char *what, const layout_case &lay, int n_head, int n_kv, int d,
                         dtype_t o_type, bool stats) {
    problem p;
    problem_make<bf16>(p, lay, n_head, n_kv, d, o_type, stats, true, DT_BF16);
    results want = run_family(b, p, 0), got = run_family(b, p, family), again = run_family(b, p, family);
    char name[160];
    double e[4] = {rel_error(got.o, want.o), rel_error(got.lse, want.lse), rel_error(got.m, want.m), rel_error(got.top, want.top)};
    snprintf(name, sizeof name, "sm%d %s %d/%d d%d %s%s", family, what, n_head, n_kv, d, dtype_name(o_type), stats ? " stats" : "");
    bool same = !memcmp(got.o.data(), again.o.data(), got.o.size() * 4);
    bool ok = e[0] < 6e-3 && e[1] < 1e-4 && e[2] < 2e-3 && e[3] < 1e-4 && same;
    printf("%-58s o %8.1e lse %8.1e m %8.1e top %8.1e %s%s\n", name, e[0], e[1], e[2], e[3], same ? "" : "CHANGES ", ok ? "ok" : "WRONG");
    if (!ok) n_wrong++;
    // The same rows, cut into odd runs: the same bits.
    std::vector<run_t> cut;
    for (const run_t &r : p.lay.runs)
        for (int64_t t = 0, n; t < r.n; t += n) {
            n = std::min<int64_t>(r.n - t, 1 + (int64_t)(noise(77, (uint64_t)(r.row + t)) * 20 + 60));
            n = std::max<int64_t>(n, 1);
            run_t c = {r.row + t, n, r.index + t, r.pool, r.span, r.n_span};
            cut.push_back(c);
        }
    p.a.runs = cut.data();
    p.a.n_run = (int)cut.size();
    results other = run_family(b, p, family);
    if (memcmp(got.o.data(), other.o.data(), got.o.size() * 4) || memcmp(got.lse.data(), other.lse.data(), got.lse.size() * 4)) {
        printf("    WRONG: other bits when the rows are cut into %d runs (%.1e)\n", (int)cut.size(), rel_error(other.o, got.o));
        n_wrong++;
    }
}

static void check_attention(cuda_backend_t *b, int family) {
    check_family(b, family, "full 300", lay_full(300), 4, 1, 128, DT_BF16, false);
    check_family(b, family, "full 1", lay_full(1), 8, 8, 128, DT_BF16, false);
    check_family(b, family, "full 1537", lay_full(1537), 9, 3, 64, DT_BF16, false);
    check_family(b, family, "full 1024 stats", lay_full(1024), 7, 1, 64, DT_BF16, true);
    check_family(b, family, "pce 14+3x515", lay_pce(14, 515, 3), 8, 2, 128, DT_BF16, false);
    check_family(b, family, "pce 128+2x1024", lay_pce(128, 1024, 2), 9, 3, 64, DT_BF16, false);
    check_family(b, family, "sliding 1000 w 77", lay_slide(1000, 77), 4, 2, 128, DT_BF16, false);
    check_family(b, family, "coarse 4+3x256+32", lay_coarse(4, 256, 3, 32), 8, 2, 128, DT_BF16, false);
    check_family(b, family, "unigist r8 2048", lay_unigist(128, 2048, 8, 128), 8, 2, 128, DT_BF16, false);
    check_family(b, family, "unigist r4 1236 w 64", lay_unigist(5, 1236, 4, 64), 4, 4, 64, DT_BF16, false);
    check_family(b, family, "unigist r7 1400 w 63", lay_unigist(3, 1400, 7, 63), 6, 2, 128, DT_F32, true);
    check_family(b, family, "query 1", lay_query(14, 3, 1, {700, 33, 2100}), 32, 8, 128, DT_F32, true);
    check_family(b, family, "query 37", lay_query(14, 100, 37, {512, 1333, 1}), 9, 3, 64, DT_F32, true);
    check_family(b, family, "query 100 bf16", lay_query(128, 0, 100, {600, 40}), 5, 1, 128, DT_BF16, true);
    check_family(b, family, "full 2000 f32", lay_full(2000), 8, 2, 128, DT_F32, false);
}

// ---- times ----------------------------------------------------------------------------------------------------------
static void time_layout(cuda_backend_t *b, const char *what, const layout_case &lay, int n_head, int n_kv, int d, int family) {
    problem p;
    problem_make<bf16>(p, lay, n_head, n_kv, d, DT_BF16, false, false, DT_BF16);
    double flop = 4.0 * d * n_head * lay.pairs();
    b->attn_family = family;
    double ms = median_ms(b, flop > 2e13 ? 5 : 20, [&] { OK(b->base.ops->attention(&b->base, &p.a)); });
    printf("%-40s %2d/%d d%-3d sm%d %9.3f ms %7.1f TFLOP/s\n", what, n_head, n_kv, d, family, ms, flop / ms * 1e-9);
    fflush(stdout);
}
static void time_query(cuda_backend_t *b, int64_t pool, int64_t n, bool stats, int family) {
    const int H = 32, KV = 8, d = 128;
    problem p;
    layout_case lay;
    lay.pool_rows = {pool};
    lay.run(-1, 0, n);
    lay.all(0, 0, pool);
    problem_make<bf16>(p, lay, H, KV, d, DT_F32, stats, false, DT_BF16);
    b->attn_family = family;
    double ms = median_ms(b, 50, [&] { OK(b->base.ops->attention(&b->base, &p.a)); });
    double bytes = 2.0 * 2 * KV * d * (double)pool;
    printf("query %3lld rows over %8lld%s sm%d %9.4f ms %7.0f GB/s %7.1f TFLOP/s\n", (long long)n, (long long)pool,
           stats ? " stats" : "      ", family, ms, bytes / ms * 1e-6, 4.0 * d * H * (double)pool * (double)n / ms * 1e-9);
    fflush(stdout);
}
static void time_linear(cuda_backend_t *b, int64_t n_out, int64_t n_in, int64_t n) {
    linear_shape_t s = {n_out, n_in};
    bf16 *w = random_dev<bf16>((size_t)(n_out * n_in)), *x = random_dev<bf16>((size_t)(n * n_in));
    float *y = poison_dev((size_t)(n * n_out) * 4);
    linear_t *l;
    OK(b->base.ops->linear_open(&b->base, s, w, &l));
    double ms = median_ms(b, 50, [&] { OK(b->base.ops->linear(&b->base, l, n, x, y, false)); });
    printf("linear %5lld x %5lld, %5lld rows %9.4f ms %7.1f TFLOP/s %7.0f GB/s\n", (long long)n_out, (long long)n_in, (long long)n, ms,
           2.0 * (double)n_out * (double)n_in * (double)n / ms * 1e-9, 2.0 * (double)n_out * (double)n_in / ms * 1e-6);
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
        printf("%-12s %6lld rows %9.4f ms %7.0f GB/s\n", what, (long long)n, ms, bytes / ms * 1e-6);
    };
    show("rmsnorm", (double)(n * d) * 6, median_ms(b, 20, [&] { OK(op->rmsnorm(&b->base, n, d, x, w, 1e-5f, y)); }));
    show("silu_mul", (double)(n * ff) * 10, median_ms(b, 20, [&] { OK(op->silu_mul(&b->base, n, ff, x, y)); }));
    kv_pool_t pool = {k, v, DT_BF16, n, 128, n * 128, n * 1024};
    run_t run = {0, n, 0, 0, 0, 0};
    qkv_args_t a = {0, n, 32, 8, 128, 128, x, NULL, NULL, NULL, 0, x + n * ff, y, 1, 1, &pool, &run};
    show("qkv", (double)n * (6144 * 6 + 512), median_ms(b, 20, [&] { OK(op->qkv(&b->base, &a)); }));
    std::vector<int32_t> tok((size_t)n);
    for (size_t i = 0; i < tok.size(); i++) tok[i] = (int32_t)(i * 7919 % 8192);
    show("embed", (double)(n * d) * 6, median_ms(b, 20, [&] { OK(op->embed(&b->base, n, d, tok.data(), DT_BF16, y, x)); }));
    for (void *p : {(void *)x, (void *)w, (void *)y, (void *)k, (void *)v}) cudaFree(p);
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
    for (int64_t pool : {8192, 131072, 1048576})
        for (int64_t n : {1, 8, 64}) time_query(b, pool, n, false, family);
    time_query(b, 131072, 8, true, family);
    time_query(b, 1048576, 8, true, family);
    time_query(b, 1048576, 64, true, family);
}

int main(int argc, char **argv) {
    backend_t *b16, *b32;
    OK(backend_create_cuda(DT_BF16, 0, &b16));
    cuda_backend_t *b = cuda_of(b16);
    int best = b->attn_family;
    const char *mode = argc > 1 ? argv[1] : "check";
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("%s\n", b16->detail);
    if (!strcmp(mode, "check")) {
        seed_now = argc > 2 ? strtoull(argv[2], NULL, 10) : (uint64_t)time(NULL);
        printf("seed %llu\n", (unsigned long long)seed_now);
        OK(backend_create_cuda(DT_F32, 0, &b32));
        check_reference(cuda_of(b32), true);
        check_reference(b, false);
        check_small<float>(cuda_of(b32));
        check_small<bf16>(b);
        check_qkv<float>(cuda_of(b32), 64, 64, false);
        check_qkv<bf16>(b, 128, 128, true);
        check_qkv<bf16>(b, 80, 32, true);
        check_merge(b);
        if (best >= 80) check_attention(b, 80);
        if (best == 90) check_attention(b, 90);
        check_linear(b, 6144, 4096);
        check_linear(b, 576, 1536);
        check_linear(b, 960, 576);
        check_linear(b, 4096, 14336);
        b32->ops->destroy(b32);
        printf("%s: %d wrong\n", n_wrong ? "INVALID" : "VALID", n_wrong);
    } else if (!strcmp(mode, "brief")) {
        times_all(b, best, true);
    } else {
        times_all(b, best, false);
        if (best == 90) times_all(b, 80, true);
        time_small(b);
        for (int64_t n : {1, 16, 64, 512, 4096}) time_linear(b, 4096, 4096, n);
        for (int64_t n : {1, 16, 64, 512, 4096, 16384}) time_linear(b, 28672, 4096, n);
        time_linear(b, 4096, 14336, 1);
        time_linear(b, 4096, 14336, 16384);
        time_linear(b, 1536, 576, 16384);
    }
    b16->ops->destroy(b16);
    return n_wrong != 0;
}

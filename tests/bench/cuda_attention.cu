// Checks every operation of the CUDA backend against plain references on fresh random data, then times attention and matrix products.
//
//     cuda_attention check [seed]     each line: case, errors, ok or WRONG
//     cuda_attention tiny             a few small checks, for compute-sanitizer
//     cuda_attention brief            four attention problems, to compare variants
//     cuda_attention query [longest]  queries over pools of 512 rows to a million
//     cuda_attention time             useful TFLOP/s (attention) and GB/s (queries); a useful flop is one for a key that the layout shows
//
// Outputs are poisoned before each run, invisible K/V rows hold NaN, strides are padded. See cuda.sh for the baselines of the same machine.
#include "cuda_ops.cuh"
#include "cuda_problem.cuh"
#include "cuda_times.cuh"

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

// Few rows take another kernel, whose blocks merge what they can: the bits are those of the same rows among many.
static void check_thin(cuda_backend_t *b, int n_head, int n_kv, int d, bool stats) {
    problem p;
    layout_case lay = lay_query(14, 100, 80, {9000, 300, 40000});
    problem_make<bf16>(p, lay, n_head, n_kv, d, DT_F32, stats, true, DT_BF16);
    results all = run_family(b, p, 90);
    std::string bad;
    size_t width = (size_t)n_head * (size_t)d, rows = (size_t)p.a.n_row;
    for (int64_t first : {0, 63})
        for (int64_t n : {1, 2, 5, 8, 16, 17}) {
            run_t few = p.lay.runs[0];
            few.row += first, few.index += first, few.n = n;
            p.a.runs = &few;
            results got = run_family(b, p, 90);
            bool same = true;
            for (size_t block = 0; block < (size_t)p.a.n_block; block++) {
                size_t at = block * rows + (size_t)first, h = (size_t)n_head;
                auto equal = [&](const std::vector<float> &x, const std::vector<float> &y, size_t each) {
                    return x.empty() || !memcmp(&x[at * each], &y[at * each], (size_t)n * each * 4);
                };
                same = same && equal(got.o, all.o, width) && equal(got.lse, all.lse, h) && equal(got.m, all.m, h) &&
                       equal(got.top, all.top, h * ATTN_TOP);
            }
            if (!same) bad += " " + std::to_string(first) + "+" + std::to_string(n);
        }
    printf("sm90 few rows among many %d/%d d%d%s: %s%s\n", n_head, n_kv, d, stats ? " stats" : "",
           bad.empty() ? "ok" : "WRONG:", bad.c_str());
    if (!bad.empty()) n_wrong++;
}

// qkv and attention close behind each other, the queries and one pool other ones each time: nothing may be read too early.
static void check_chain(cuda_backend_t *b, int family) {
    enum { TURNS = 40, H = 32, KV = 8, D = 128 };
    problem p;
    problem_make<bf16>(p, lay_query(14, 0, 1, {9000, 4000}), H, KV, D, DT_F32, false, true, DT_BF16);
    p.pools[1].n_row = 1; // all of the row's own pool is written by qkv
    b->attn_family = family;
    run_t own = {0, 1, 0, 1, 0, 0};
    std::vector<float *> wide;
    float *angles = random_dev<float>(D);
    size_t bytes = p.out_rows * D * 4;
    std::vector<std::vector<float>> want;
    std::vector<float *> kept;
    int bad = 0;
    for (int i = 0; i < 3; i++) wide.push_back(random_dev<float>((H + 2 * KV) * D));
    auto step = [&](int i) {
        qkv_args_t a = {p.a.layer,     1,          H, KV,        D,   D, wide[(size_t)i % 3], NULL, NULL, NULL, 0, angles,
                        (void *)p.a.q, p.a.n_pool, 1, p.a.pools, &own};
        OK(b->base.ops->qkv(&b->base, &a));
        OK(b->base.ops->attention(&b->base, &p.a));
    };
    for (int i = 0; i < 3; i++) {
        step(i);
        OK(b->base.ops->sync(&b->base));
        want.push_back(host_of((float *)p.a.o, p.out_rows * D));
    }
    void *o = p.a.o;
    for (int i = 0; i < TURNS; i++) kept.push_back(poison_dev(bytes));
    for (int i = 0; i < TURNS; i++) {
        p.a.o = kept[(size_t)i];
        step(i);
    }
    OK(b->base.ops->sync(&b->base));
    for (int i = 0; i < TURNS; i++) bad += memcmp(host_of(kept[(size_t)i], p.out_rows * D).data(), want[(size_t)i % 3].data(), bytes) != 0;
    bool differ = want[0] != want[1];
    printf("sm%d behind qkv without a pause, %d turns: %s\n", family, TURNS, bad || !differ ? "WRONG" : "ok");
    if (bad || !differ) n_wrong++;
    p.a.o = o;
    for (float *x : kept) cudaFree(x);
    for (float *x : wide) cudaFree(x);
    cudaFree(angles);
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
    check_family(b, family, "query 2, 16 pools", lay_query(14, 3, 2, {90, 33, 1, 700, 513, 128, 5, 64, 900, 77, 256, 31, 2, 640}), 32, 8,
                 128, DT_F32, true);
    check_family(b, family, "query 3 over 20000", lay_query(14, 3, 3, {20000, 513}), 32, 8, 128, DT_F32, true);
    check_family(b, family, "query 7 over 20000", lay_query(14, 3, 7, {20000, 513}), 9, 3, 64, DT_F32, false);
    check_chain(b, family);
    if (family != 90) return;
    check_thin(b, 32, 8, 128, false);
    check_thin(b, 8, 2, 128, true);
    check_thin(b, 9, 3, 64, false);
    check_thin(b, 4, 4, 64, true);
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
    } else if (!strcmp(mode, "tiny")) {
        for (int family : {80, 90}) {
            if (best < family) continue;
            check_family(b, family, "full 300", lay_full(300), 4, 1, 128, DT_BF16, false);
            check_family(b, family, "unigist r7 280 w 63", lay_unigist(3, 280, 7, 63), 6, 2, 64, DT_BF16, true);
            check_family(b, family, "query 1", lay_query(14, 3, 1, {1100, 33}), 8, 2, 128, DT_F32, true);
            check_family(b, family, "query 3", lay_query(14, 3, 3, {1100, 33}), 9, 3, 64, DT_F32, false);
        }
    } else if (!strcmp(mode, "brief")) {
        times_all(b, best, true);
    } else if (!strcmp(mode, "query")) {
        times_query(b, best, argc > 2 ? atoll(argv[2]) : 1 << 20);
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
    if (n_wrong) printf("INVALID: %d wrong\n", n_wrong);
    b16->ops->destroy(b16);
    return n_wrong != 0;
}

// Checks every operation of the CUDA backend against plain references on fresh random data, then times attention and matrix products.
//
//     cuda_attention check [seed]     each line: case, errors, ok or WRONG
//     cuda_attention brief            four attention problems, to compare variants
//     cuda_attention time             useful TFLOP/s (attention) and GB/s (queries); a useful flop is one for a key that the layout shows
//
// Outputs are poisoned before each run, invisible K/V rows hold NaN, strides are padded. See cuda.sh for the baselines of the same machine.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <string>
#include <vector>

#include "../../cuda/attention_plan.cuh"
#include "../../cuda/common.cuh"
#include "../../cuda/cuda_backend.h"

static uint64_t seed_now = 1;
static int n_wrong;
#define OK(call)                                                                                                                                     \
    do {                                                                                                                                             \
        if (call) {                                                                                                                                  \
            printf("FAILED %s: %s\n", #call, status_message());                                                                                      \
            exit(1);                                                                                                                                 \
        }                                                                                                                                            \
    } while (0)
#define CU(call)                                                                                                                                     \
    do {                                                                                                                                             \
        cudaError_t e_ = (call);                                                                                                                     \
        if (e_) {                                                                                                                                    \
            printf("FAILED %s: %s\n", #call, cudaGetErrorString(e_));                                                                                \
            exit(1);                                                                                                                                 \
        }                                                                                                                                            \
    } while (0)

// ---- random data on the device -------------------------------------------------------------------------------------------------------------------
__device__ __host__ static inline float noise(uint64_t seed, uint64_t i) { // about normal: sum of four uniforms
    uint64_t z = (i + 1) * 0x9e3779b97f4a7c15ull + seed * 0xda942042e4dd58b5ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    z ^= z >> 31;
    return ((float)(z & 0xffff) + (float)(z >> 16 & 0xffff) + (float)(z >> 32 & 0xffff) + (float)(z >> 48) - 131070.f) * (1.f / 37837.f);
}
template <class T> __global__ void fill_kernel(size_t n, T *x, uint64_t seed, float scale) {
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) x[i] = from_f32<T>(noise(seed, i) * scale);
}
template <class T> static T *random_dev(size_t n, float scale = 1) {
    T *p;
    CU(cudaMalloc(&p, n * sizeof(T) + 256));
    fill_kernel<T><<<1024, 256>>>(n, p, ++seed_now, scale);
    CU(cudaDeviceSynchronize());
    return p;
}
static float *poison_dev(size_t bytes) {
    void *p;
    CU(cudaMalloc(&p, bytes + 256));
    CU(cudaMemset(p, 0xff, bytes));
    return (float *)p;
}
template <class T> static std::vector<T> host_of(const T *p, size_t n) {
    std::vector<T> v(n);
    CU(cudaDeviceSynchronize());
    CU(cudaMemcpy(v.data(), p, n * sizeof(T), cudaMemcpyDeviceToHost));
    return v;
}
static std::vector<float> floats_of(const void *p, dtype_t t, size_t n) {
    if (t == DT_F32) return host_of((const float *)p, n);
    std::vector<uint16_t> h = host_of((const uint16_t *)p, n);
    std::vector<float> v(n);
    for (size_t i = 0; i < n; i++) v[i] = bf16_to_f32(h[i]);
    return v;
}
static double rel_error(const std::vector<float> &a, const std::vector<float> &ref) { // inf for NaN where the reference has none
    double d = 0, s = 0;
    for (size_t i = 0; i < a.size(); i++) {
        if (std::isnan(a[i]) || std::isnan(ref[i])) return INFINITY;
        if (std::isinf(a[i]) || std::isinf(ref[i])) {
            if (a[i] != ref[i]) return INFINITY;
            continue;
        }
        d += ((double)a[i] - ref[i]) * ((double)a[i] - ref[i]);
        s += (double)ref[i] * ref[i];
    }
    return s > 0 ? sqrt(d / s) : sqrt(d);
}
static void verdict(const char *name, double e, double limit) {
    bool ok = e <= limit;
    printf("%-58s %9.2e  %s\n", name, e, ok ? "ok" : "WRONG");
    if (!ok) n_wrong++;
}

// ---- layouts -------------------------------------------------------------------------------------------------------------------------------------
struct layout_case {
    std::vector<int64_t> pool_rows;
    std::vector<run_t> runs;
    std::vector<span_t> spans;
    int64_t n_row = 0;
    int n_block = 1;
    void run(int pool, int64_t index, int64_t n) {
        run_t r = {n_row, n, index, pool, (int32_t)spans.size(), 0};
        runs.push_back(r);
        n_row += n;
    }
    void span(int pool, int block, int64_t begin, int64_t end, edge_t lo, edge_t hi) {
        span_t s = {pool, block, begin, end, lo, hi};
        spans.push_back(s);
        runs.back().n_span++;
    }
    void all(int pool, int block, int64_t n) { span(pool, block, 0, n, edge_const(0), edge_const(n)); }
    void causal(int pool, int block, int64_t n) { span(pool, block, 0, n, edge_const(0), edge_step(1, 1, 0, 1)); }
    double pairs() const {
        double s = 0;
        for (const run_t &r : runs)
            for (int k = r.span; k < r.span + r.n_span; k++)
                for (int64_t i = r.index; i < r.index + r.n; i++) s += (double)std::max<int64_t>(0, span_hi(&spans[k], i) - span_lo(&spans[k], i));
        return s;
    }
};
static layout_case lay_full(int64_t n) {
    layout_case c;
    c.pool_rows = {n};
    c.run(0, 0, n);
    c.causal(0, 0, n);
    return c;
}
static layout_case lay_pce(int64_t sink, int64_t seg, int n_seg) {
    layout_case c;
    c.pool_rows.push_back(sink);
    for (int s = 0; s < n_seg; s++) {
        c.pool_rows.push_back(seg);
        c.run(s + 1, 0, seg);
        c.all(0, 0, sink);
        c.causal(s + 1, 0, seg);
    }
    return c;
}
static layout_case lay_slide(int64_t n, int64_t w) {
    layout_case c;
    c.pool_rows = {n};
    c.run(0, 0, n);
    c.span(0, 0, 0, n, edge_step(1, 1, 0, 1 - w), edge_step(1, 1, 0, 1));
    return c;
}
// Segments of seg raw rows and t gists at their end; all gists in one pool, raw rows in one pool.
static layout_case lay_coarse(int64_t sink, int64_t seg, int n_seg, int64_t t) {
    layout_case c;
    c.pool_rows = {sink, seg * n_seg, t * n_seg};
    for (int64_t s = 0; s < n_seg; s++) {
        c.run(1, s * seg, seg);
        c.all(0, 0, sink);
        c.all(2, 0, s * t);
        c.span(1, 0, s * seg, (s + 1) * seg, edge_const(s * seg), edge_step(1, 1, 0, 1));
        c.run(2, s * t, t);
        c.all(0, 0, sink);
        c.span(1, 0, s * seg, (s + 1) * seg, edge_const(s * seg), edge_const((s + 1) * seg));
        c.span(2, 0, 0, (s + 1) * t, edge_const(0), edge_step(1, 1, 0, 1));
    }
    return c;
}
static layout_case lay_unigist(int64_t sink, int64_t n, int64_t r, int64_t window) {
    layout_case c;
    int64_t k = window / r, u = n / r;
    c.pool_rows = {sink, n, u};
    c.run(1, 0, n);
    c.all(0, 0, sink);
    c.span(1, 0, 0, n, edge_step(r, r, 0, -k * r), edge_step(1, 1, 0, 1));
    c.span(2, 0, 0, u, edge_const(0), edge_step(r, 1, 0, 0));
    c.run(2, 0, u);
    c.all(0, 0, sink);
    c.span(1, 0, 0, n, edge_step(1, r, -k, 0), edge_step(1, r, 1, 0));
    c.span(2, 0, 0, u, edge_const(0), edge_step(1, 1, 0, 1));
    return c;
}
// Block 0: sink and own rows; blocks 1..: segments; one block more that nothing names.
static layout_case lay_query(int64_t sink, int64_t own0, int64_t n, const std::vector<int64_t> &segs) {
    layout_case c;
    c.pool_rows = {sink, own0 + n + 5}; // 5 rows that are not there yet
    c.n_block = (int)segs.size() + 2;
    c.run(1, own0, n);
    c.all(0, 0, sink);
    c.causal(1, 0, own0 + n);
    for (size_t s = 0; s < segs.size(); s++) {
        c.pool_rows.push_back(segs[s]);
        c.all((int)s + 2, (int)s + 1, segs[s]);
    }
    return c;
}

// ---- a problem on the device ---------------------------------------------------------------------------------------------------------------------
template <class T> __global__ void nan_rows_kernel(T *p, int64_t row0, int64_t row1, kv_pool_t pool, int n_kv, int d, int layer) {
    int64_t row = row0 + blockIdx.x;
    if (row >= row1) return;
    for (int h = 0; h < n_kv; h++)
        for (int j = threadIdx.x; j < d; j += blockDim.x) p[layer * pool.layer_stride + h * pool.head_stride + row * pool.row_stride + j] = from_f32<T>(NAN);
}
struct problem {
    attn_args_t a;
    layout_case lay;
    std::vector<kv_pool_t> pools;
    std::vector<void *> mem;
    size_t out_rows;
    ~problem() {
        for (void *p : mem) cudaFree(p);
    }
};
template <class T> static void *keep_random(problem &p, size_t n, float scale) {
    p.mem.push_back(random_dev<T>(n, scale));
    return p.mem.back();
}
template <class T>
static void problem_make(problem &p, const layout_case &lay, int n_head, int n_kv, int d, dtype_t o_type, bool stats, bool hostile, dtype_t pool_type) {
    enum { LAYERS = 2 };
    int pad = hostile ? 8 : 0, layers = hostile ? LAYERS : 1;
    p.lay = lay;
    for (int64_t n : lay.pool_rows) {
        kv_pool_t q;
        int64_t cap = n + (hostile ? 3 : 0); // rows >= n_row exist in memory and must not matter
        q.type = pool_type;
        q.n_row = n;
        q.row_stride = d + pad;
        q.head_stride = cap * q.row_stride;
        q.layer_stride = q.head_stride * n_kv;
        size_t count = (size_t)(q.layer_stride * layers);
        q.k = pool_type == DT_F32 ? keep_random<float>(p, count, 1) : keep_random<bf16>(p, count, 1);
        q.v = pool_type == DT_F32 ? keep_random<float>(p, count, 1) : keep_random<bf16>(p, count, 1);
        p.pools.push_back(q);
    }
    if (hostile && pool_type == DT_BF16) // what no row sees becomes NaN
        for (size_t k = 0; k < p.pools.size(); k++) {
            int64_t top = 0, cap = p.pools[k].n_row + 3;
            for (const run_t &r : lay.runs)
                for (int s = r.span; s < r.span + r.n_span; s++)
                    if (lay.spans[s].pool == (int)k) top = std::max(top, span_hi(&lay.spans[s], r.index + r.n - 1));
            for (void *x : {p.pools[k].k, p.pools[k].v})
                nan_rows_kernel<bf16><<<(unsigned)(cap - top), 32>>>((bf16 *)x, top, cap, p.pools[k], n_kv, d, layers - 1);
        }
    attn_args_t &a = p.a;
    memset(&a, 0, sizeof a);
    a.layer = layers - 1;
    a.n_head = n_head;
    a.n_kv_head = n_kv;
    a.d_head = d;
    a.scale = 1.f / sqrtf((float)d);
    a.n_row = lay.n_row;
    a.q = keep_random<T>(p, (size_t)(lay.n_row * n_head * d), hostile ? 2.f : 1.f);
    a.n_pool = (int)p.pools.size();
    a.n_run = (int)lay.runs.size();
    a.n_span = (int)lay.spans.size();
    a.n_block = lay.n_block;
    a.pools = p.pools.data();
    a.runs = p.lay.runs.data();
    a.spans = p.lay.spans.data();
    a.o_type = o_type;
    p.out_rows = (size_t)a.n_block * (size_t)a.n_row * (size_t)n_head;
    auto out = [&](size_t n) {
        p.mem.push_back(poison_dev(n * 4));
        return (float *)p.mem.back();
    };
    a.o = out(p.out_rows * (size_t)d);
    a.lse = out(p.out_rows);
    if (stats) a.m = out(p.out_rows), a.top = out(p.out_rows * ATTN_TOP);
    CU(cudaDeviceSynchronize());
}
struct results {
    std::vector<float> o, lse, m, top;
};
static results run_family(cuda_backend_t *b, problem &p, int family) {
    attn_args_t &a = p.a;
    CU(cudaMemset(a.o, 0xff, p.out_rows * (size_t)a.d_head * dtype_bytes(a.o_type)));
    CU(cudaMemset(a.lse, 0xff, p.out_rows * 4));
    if (a.m) CU(cudaMemset(a.m, 0xff, p.out_rows * 4));
    if (a.top) CU(cudaMemset(a.top, 0xff, p.out_rows * 4 * ATTN_TOP));
    CU(cudaDeviceSynchronize());
    b->attn_family = family;
    OK(b->base.ops->attention(&b->base, &a));
    OK(b->base.ops->sync(&b->base));
    results r;
    r.o = floats_of(a.o, a.o_type, p.out_rows * (size_t)a.d_head);
    r.lse = host_of(a.lse, p.out_rows);
    if (a.m) r.m = host_of(a.m, p.out_rows);
    if (a.top) r.top = host_of(a.top, p.out_rows * ATTN_TOP);
    return r;
}

// The reference kernel itself, against sums in double on the host.
static void check_reference(cuda_backend_t *b, bool f32) {
    problem p;
    dtype_t act = f32 ? DT_F32 : DT_BF16;
    layout_case lay = lay_query(5, 7, 9, {33, 1, 70});
    if (f32) problem_make<float>(p, lay, 6, 2, 40, DT_F32, true, true, DT_F32);
    else problem_make<bf16>(p, lay, 6, 2, 40, DT_F32, true, true, DT_BF16);
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

static void check_family(cuda_backend_t *b, int family, const char *what, const layout_case &lay, int n_head, int n_kv, int d, dtype_t o_type, bool stats) {
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

// ---- the other operations ------------------------------------------------------------------------------------------------------------------------
template <class T> static std::vector<float> rounded(std::vector<float> v) {
    if (sizeof(T) == 2)
        for (float &x : v) x = bf16_to_f32(f32_to_bf16(x));
    return v;
}
template <class T> static void check_small(cuda_backend_t *b) {
    const backend_ops_t *op = b->base.ops;
    const dtype_t act = b->base.act;
    const double tol = act == DT_F32 ? 2e-6 : 4e-3;
    const char *t = dtype_name(act);
    char name[80];
    for (int64_t d : {576, 131, 4096}) {
        int64_t n = 37;
        float *x = random_dev<float>((size_t)(n * d)), *w = random_dev<float>((size_t)d), *y = poison_dev((size_t)(n * d) * 4);
        float *gu = random_dev<float>((size_t)(2 * n * d), 3);
        std::vector<float> hx = host_of(x, (size_t)(n * d)), hw = host_of(w, (size_t)d), hg = host_of(gu, (size_t)(2 * n * d)), want(hx.size());
        OK(op->rmsnorm(&b->base, n, d, x, w, 1e-5f, y));
        for (int64_t r = 0; r < n; r++) {
            double s = 0;
            for (int64_t j = 0; j < d; j++) s += (double)hx[r * d + j] * hx[r * d + j];
            for (int64_t j = 0; j < d; j++) want[r * d + j] = (float)(hw[j] * hx[r * d + j] / sqrt(s / (double)d + 1e-5));
        }
        snprintf(name, sizeof name, "rmsnorm %s %lld", t, (long long)d);
        verdict(name, rel_error(floats_of(y, act, want.size()), want), tol);
        CU(cudaMemset(y, 0xff, (size_t)(n * d) * 4));
        OK(op->silu_mul(&b->base, n, d, gu, y));
        for (int64_t r = 0; r < n; r++)
            for (int64_t j = 0; j < d; j++) {
                double g = hg[r * 2 * d + j], u = hg[r * 2 * d + d + j];
                want[r * d + j] = (float)(g / (1 + exp(-g)) * u);
            }
        snprintf(name, sizeof name, "silu_mul %s %lld", t, (long long)d);
        verdict(name, rel_error(floats_of(y, act, want.size()), want), tol);
        std::vector<int64_t> idx = {36, 0, 7, 7};
        OK(op->gather_rows(&b->base, 4, d, idx.data(), x, y));
        std::vector<float> pick;
        for (int64_t i : idx) pick.insert(pick.end(), hx.begin() + i * d, hx.begin() + (i + 1) * d);
        snprintf(name, sizeof name, "gather_rows %lld", (long long)d);
        verdict(name, rel_error(host_of(y, pick.size()), pick), 0);
        T *table = random_dev<T>((size_t)(50 * d));
        std::vector<int32_t> tok = {49, 3, 0};
        OK(op->embed(&b->base, 3, d, tok.data(), act, table, y));
        std::vector<float> ht = floats_of(table, act, (size_t)(50 * d)), emb;
        for (int i : tok) emb.insert(emb.end(), ht.begin() + i * d, ht.begin() + (i + 1) * d);
        snprintf(name, sizeof name, "embed %s %lld", t, (long long)d);
        verdict(name, rel_error(host_of(y, emb.size()), emb), 0);
        for (dtype_t to : {DT_F32, DT_BF16, DT_F16}) {
            OK(op->convert(&b->base, (size_t)d, to, y, DT_F32, x));
            std::vector<float> c((size_t)d), h(hx.begin(), hx.begin() + d);
            std::vector<uint16_t> raw = host_of((uint16_t *)y, (size_t)d * 2);
            for (int64_t j = 0; j < d; j++) {
                if (to == DT_F32) memcpy(&c[j], &raw[2 * j], 4);
                else c[j] = to == DT_BF16 ? bf16_to_f32(raw[j]) : f16_to_f32(raw[j]);
                h[j] = to == DT_F32 ? h[j] : to == DT_BF16 ? bf16_to_f32(f32_to_bf16(h[j])) : f16_to_f32(f32_to_f16(h[j]));
            }
            snprintf(name, sizeof name, "convert f32 to %s %lld", dtype_name(to), (long long)d);
            verdict(name, rel_error(c, h), 0);
        }
        for (void *p : {(void *)x, (void *)w, (void *)y, (void *)gu, (void *)table}) cudaFree(p);
    }
}

template <class T> static void check_qkv(cuda_backend_t *b, int d, int d_rot, bool norms) {
    const dtype_t act = b->base.act;
    const int H = 6, KV = 2, all = H + 2 * KV, n = 23;
    float *qkv = random_dev<float>((size_t)(n * all * d)), *bias = random_dev<float>((size_t)(all * d)), *cs = random_dev<float>((size_t)(n * d_rot));
    float *qn = random_dev<float>((size_t)d), *kn = random_dev<float>((size_t)d), *q = poison_dev((size_t)(n * H * d) * 4);
    std::vector<kv_pool_t> pools(2);
    for (kv_pool_t &p : pools) {
        p.type = act;
        p.n_row = 40;
        p.row_stride = d + 8;
        p.head_stride = 40 * p.row_stride;
        p.layer_stride = KV * p.head_stride;
        size_t bytes = (size_t)(2 * p.layer_stride) * 4;
        p.k = poison_dev(bytes);
        p.v = poison_dev(bytes);
    }
    std::vector<run_t> runs = {{0, 10, 5, 1, 0, 0}, {10, 3, 0, -1, 0, 0}, {13, 10, 30, 0, 0, 0}};
    qkv_args_t a = {1, n, H, KV, d, d_rot, qkv, bias, norms ? qn : NULL, norms ? kn : NULL, 1e-6f, cs, q, 2, 3, pools.data(), runs.data()};
    OK(b->base.ops->qkv(&b->base, &a));
    std::vector<float> x = host_of(qkv, (size_t)(n * all * d)), hb = host_of(bias, (size_t)(all * d)), hc = host_of(cs, (size_t)(n * d_rot));
    std::vector<float> hq = host_of(qn, (size_t)d), hk = host_of(kn, (size_t)d), gq = floats_of(q, act, (size_t)(n * H * d)), got, want;
    std::vector<std::vector<float>> gk, gv;
    for (kv_pool_t &p : pools) {
        gk.push_back(floats_of(p.k, act, (size_t)(2 * p.layer_stride)));
        gv.push_back(floats_of(p.v, act, (size_t)(2 * p.layer_stride)));
    }
    for (int r = 0; r < n; r++)
        for (int h = 0; h < all; h++) {
            std::vector<double> y((size_t)d), z((size_t)d);
            double s = 0;
            for (int j = 0; j < d; j++) y[j] = (double)x[(r * all + h) * d + j] + hb[h * d + j], s += y[j] * y[j];
            bool is_q = h < H, is_k = !is_q && h < H + KV;
            if (norms && (is_q || is_k))
                for (int j = 0; j < d; j++) y[j] = y[j] / sqrt(s / d + 1e-6) * (is_q ? hq[j] : hk[j]);
            z = y;
            int half = d_rot / 2;
            if (is_q || is_k)
                for (int j = 0; j < half; j++) {
                    z[j] = y[j] * hc[r * d_rot + j] - y[j + half] * hc[r * d_rot + half + j];
                    z[j + half] = y[j + half] * hc[r * d_rot + j] + y[j] * hc[r * d_rot + half + j];
                }
            int run = r < 10 ? 0 : r < 13 ? 1 : 2;
            if (!is_q && run == 1) continue;
            for (int j = 0; j < d; j++) {
                want.push_back((float)z[j]);
                if (is_q) got.push_back(gq[(r * H + h) * d + j]);
                else {
                    const kv_pool_t &p = pools[runs[run].pool];
                    int kv = is_k ? h - H : h - H - KV;
                    int64_t at = p.layer_stride + kv * p.head_stride + (runs[run].index + r - runs[run].row) * p.row_stride + j;
                    got.push_back(is_k ? gk[runs[run].pool][at] : gv[runs[run].pool][at]);
                }
            }
        }
    char name[80];
    snprintf(name, sizeof name, "qkv %s d %d rot %d%s", dtype_name(act), d, d_rot, norms ? " norms" : "");
    verdict(name, rel_error(got, want), act == DT_F32 ? 2e-6 : 4e-3);
}

static void check_merge(cuda_backend_t *b) {
    const int n = 11, H = 3, d = 40, B = 5;
    size_t rows = (size_t)(n * H);
    float *o = random_dev<float>(B * rows * d), *lse = random_dev<float>(B * rows, 3), *m = random_dev<float>(B * rows);
    float *oo = poison_dev(rows * d * 4), *lo = poison_dev(rows * 4), *mo = poison_dev(rows * 4);
    std::vector<float> hl = host_of(lse, B * rows), ho = host_of(o, B * rows * d), hm = host_of(m, B * rows), wo(rows * d), wl(rows), wm(rows);
    std::vector<uint8_t> keep(B * rows);
    for (size_t i = 0; i < keep.size(); i++) keep[i] = noise(5, i) > -0.5f;
    for (int k = 0; k < B; k++) hl[k * rows + 4] = -INFINITY, keep[k * rows + 6] = 0;
    hl[9] = -INFINITY;
    for (int e = 0; e < d; e++) ho[9 * d + e] = NAN; // an empty block's values must not matter
    CU(cudaMemcpy(lse, hl.data(), hl.size() * 4, cudaMemcpyHostToDevice));
    CU(cudaMemcpy(o, ho.data(), ho.size() * 4, cudaMemcpyHostToDevice));
    uint8_t *dk;
    CU(cudaMalloc(&dk, keep.size()));
    CU(cudaMemcpy(dk, keep.data(), keep.size(), cudaMemcpyHostToDevice));
    merge_args_t a = {n, H, d, B, o, lse, m, dk, DT_F32, oo, lo, mo};
    OK(b->base.ops->merge(&b->base, &a));
    for (size_t r = 0; r < rows; r++) {
        double sum = 0, mm = 0;
        std::vector<double> acc(d, 0.0);
        for (int k = 0; k < B; k++) {
            if (!keep[k * rows + r] || hl[k * rows + r] == -INFINITY) continue;
            double w = exp((double)hl[k * rows + r]);
            sum += w;
            mm += w * hm[k * rows + r];
            for (int e = 0; e < d; e++) acc[e] += w * ho[(k * rows + r) * d + e];
        }
        wl[r] = sum > 0 ? (float)log(sum) : -INFINITY;
        wm[r] = sum > 0 ? (float)(mm / sum) : 0;
        for (int e = 0; e < d; e++) wo[r * d + e] = sum > 0 ? (float)(acc[e] / sum) : 0;
    }
    verdict("merge: o", rel_error(host_of(oo, rows * d), wo), 1e-5);
    verdict("merge: lse", rel_error(host_of(lo, rows), wl), 1e-5);
    verdict("merge: m", rel_error(host_of(mo, rows), wm), 1e-5);
}

__global__ void gemm_ref_kernel(int64_t n_out, int64_t n_in, const bf16 *w, const bf16 *x, float *y) { // one output per thread, double
    int64_t o = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, r = blockIdx.y;
    if (o >= n_out) return;
    double s = 0;
    for (int64_t j = 0; j < n_in; j++) s += (double)__bfloat162float(w[o * n_in + j]) * (double)__bfloat162float(x[r * n_in + j]);
    y[r * n_out + o] += (float)s;
}
static void check_linear(cuda_backend_t *b, int64_t n_out, int64_t n_in) {
    linear_shape_t s = {n_out, n_in};
    std::vector<float> w((size_t)(n_out * n_in));
    for (size_t i = 0; i < w.size(); i++) w[i] = noise(31, i) * 0.05f;
    void *packed;
    linear_t *l;
    OK(b->base.ops->alloc(&b->base, b->base.ops->linear_bytes(&b->base, s), "weights", &packed));
    int64_t cut = std::min<int64_t>(64, n_out);
    OK(b->base.ops->linear_pack(&b->base, s, packed, 0, cut, DT_F32, w.data()));
    if (n_out > cut) OK(b->base.ops->linear_pack(&b->base, s, packed, cut, n_out - cut, DT_F32, w.data() + cut * n_in));
    OK(b->base.ops->linear_open(&b->base, s, packed, &l));
    const int64_t top = 5000;
    bf16 *x = random_dev<bf16>((size_t)(top * n_in));
    float *y = poison_dev((size_t)(top * n_out) * 4), *ref = poison_dev((size_t)(40 * n_out) * 4);
    CU(cudaMemset(ref, 0, (size_t)(40 * n_out) * 4));
    gemm_ref_kernel<<<dim3((unsigned)((n_out + 127) / 128), 40), 128>>>(n_out, n_in, (bf16 *)packed, x, ref);
    CU(cudaDeviceSynchronize());
    OK(b->base.ops->linear(&b->base, l, top, x, y, false));
    std::vector<float> base = host_of(y, (size_t)(40 * n_out)), want = host_of(ref, base.size());
    char name[100];
    snprintf(name, sizeof name, "linear %lld x %lld", (long long)n_out, (long long)n_in);
    verdict(name, rel_error(base, want), 1e-4);
    std::string bad;
    for (int64_t n : {1, 2, 7, 16, 33, 64, 100, 512, 700, 4096}) { // the rows' bits must be the same in every company
        CU(cudaMemset(y, 0xff, (size_t)(top * n_out) * 4));
        OK(b->base.ops->linear(&b->base, l, n, x, y, false));
        std::vector<float> got = host_of(y, (size_t)(std::min<int64_t>(n, 40) * n_out));
        if (memcmp(got.data(), base.data(), got.size() * 4)) bad += " " + std::to_string(n);
    }
    if (!bad.empty()) {
        printf("    WRONG: other bits in calls of%s rows\n", bad.c_str());
        n_wrong++;
    }
    OK(b->base.ops->linear(&b->base, l, 4, x, y, false));
    OK(b->base.ops->linear(&b->base, l, 4, x, y, true));
    std::vector<float> twice = host_of(y, (size_t)(4 * n_out)), w2(want.begin(), want.begin() + 4 * n_out);
    for (float &v : w2) v *= 2;
    snprintf(name, sizeof name, "linear add %lld x %lld", (long long)n_out, (long long)n_in);
    verdict(name, rel_error(twice, w2), 1e-4);
    b->base.ops->linear_close(&b->base, l);
    for (void *p : {packed, (void *)x, (void *)y, (void *)ref}) cudaFree(p);
}

// ---- times ---------------------------------------------------------------------------------------------------------------------------------------
// Median time of f on the device: everything is queued first, so that the host's part stays hidden.
template <class F> static double median_ms(cuda_backend_t *b, int reps, F f) {
    std::vector<cudaEvent_t> at((size_t)reps + 1);
    std::vector<float> ms((size_t)reps);
    for (cudaEvent_t &e : at) CU(cudaEventCreate(&e));
    f();
    f();
    for (int i = 0; i <= reps; i++) {
        CU(cudaEventRecord(at[(size_t)i], b->stream));
        if (i < reps) f();
    }
    CU(cudaEventSynchronize(at.back()));
    for (int i = 0; i < reps; i++) CU(cudaEventElapsedTime(&ms[(size_t)i], at[(size_t)i], at[(size_t)i + 1]));
    for (cudaEvent_t &e : at) CU(cudaEventDestroy(e));
    std::sort(ms.begin(), ms.end());
    return ms[ms.size() / 2];
}
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
    printf("query %3lld rows over %8lld%s sm%d %9.4f ms %7.0f GB/s %7.1f TFLOP/s\n", (long long)n, (long long)pool, stats ? " stats" : "      ", family, ms,
           bytes / ms * 1e-6, 4.0 * d * H * (double)pool * (double)n / ms * 1e-9);
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
        for (int64_t n : {1, 16, 64, 512, 4096}) time_linear(b, 4096, 4096, n);
        for (int64_t n : {1, 16, 64, 512, 4096, 16384}) time_linear(b, 28672, 4096, n);
        time_linear(b, 4096, 14336, 1);
        time_linear(b, 4096, 14336, 16384);
        time_linear(b, 1536, 576, 16384);
    }
    b16->ops->destroy(b16);
    return n_wrong != 0;
}

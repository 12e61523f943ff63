// Shared by the checks and timings of the CUDA backend: random data on the device, layouts, attention problems with hostile surroundings.
#ifndef BENCH_CUDA_PROBLEM_CUH
#define BENCH_CUDA_PROBLEM_CUH

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
#define OK(call)                                                                                                                           \
    do {                                                                                                                                   \
        if (call) {                                                                                                                        \
            printf("FAILED %s: %s\n", #call, status_message());                                                                            \
            exit(1);                                                                                                                       \
        }                                                                                                                                  \
    } while (0)
#define CU(call)                                                                                                                           \
    do {                                                                                                                                   \
        cudaError_t e_ = (call);                                                                                                           \
        if (e_) {                                                                                                                          \
            printf("FAILED %s: %s\n", #call, cudaGetErrorString(e_));                                                                      \
            exit(1);                                                                                                                       \
        }                                                                                                                                  \
    } while (0)

// ---- random data on the device --------------------------------------------------------------------------------------
__device__ __host__ static inline float noise(uint64_t seed, uint64_t i) { // about normal: sum of four uniforms
    uint64_t z = (i + 1) * 0x9e3779b97f4a7c15ull + seed * 0xda942042e4dd58b5ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    z ^= z >> 31;
    return ((float)(z & 0xffff) + (float)(z >> 16 & 0xffff) + (float)(z >> 32 & 0xffff) + (float)(z >> 48) - 131070.f) * (1.f / 37837.f);
}
template <class T> __global__ void fill_kernel(size_t n, T *x, uint64_t seed, float scale) {
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x)
        x[i] = from_f32<T>(noise(seed, i) * scale);
}
template <class T> static T *random_dev(size_t n, float scale = 1) {
    T *p;
    CU(cudaMalloc(&p, n * sizeof(T) + 256));
    fill_kernel<T><<<1024, 256>>>(n, p, ++seed_now, scale);
    CU(cudaDeviceSynchronize());
    return p;
}
static void fill_dev(void *p, int byte, size_t bytes) { // the backend's stream does not wait for others: this one has ended
    CU(cudaMemset(p, byte, bytes));
    CU(cudaDeviceSynchronize());
}
static float *poison_dev(size_t bytes) {
    void *p;
    CU(cudaMalloc(&p, bytes + 256));
    fill_dev(p, 0xff, bytes);
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

static __global__ void hold_kernel(unsigned long long ns) {
    unsigned long long from, now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(from));
    do asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    while (now - from < ns);
}
// Median time of f on the device: everything is queued first, behind a kernel that holds the stream, so that the host's part stays hidden.
template <class F> static double median_ms(cuda_backend_t *b, int reps, F f) {
    std::vector<cudaEvent_t> at((size_t)reps + 1);
    std::vector<float> ms((size_t)reps);
    for (cudaEvent_t &e : at) CU(cudaEventCreate(&e));
    f();
    f();
    hold_kernel<<<1, 1, 0, b->stream>>>(5000000);
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

// ---- layouts --------------------------------------------------------------------------------------------------------
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
                for (int64_t i = r.index; i < r.index + r.n; i++)
                    s += (double)std::max<int64_t>(0, span_hi(&spans[k], i) - span_lo(&spans[k], i));
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

// ---- a problem on the device ----------------------------------------------------------------------------------------
template <class T> __global__ void nan_rows_kernel(T *p, int64_t row0, int64_t row1, kv_pool_t pool, int n_kv, int d, int layer) {
    int64_t row = row0 + blockIdx.x;
    if (row >= row1) return;
    for (int h = 0; h < n_kv; h++)
        for (int j = threadIdx.x; j < d; j += blockDim.x)
            p[layer * pool.layer_stride + h * pool.head_stride + row * pool.row_stride + j] = from_f32<T>(NAN);
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
static void problem_make(problem &p, const layout_case &lay, int n_head, int n_kv, int d, dtype_t o_type, bool stats, bool hostile,
                         dtype_t pool_type, int n_layer = 1) {
    int pad = hostile ? 8 : 0, layers = hostile ? 2 : n_layer;
    p.lay = lay;
    for (int64_t n : lay.pool_rows) {
        kv_pool_t q;
        int64_t cap = n + (hostile ? 3 : 0); // rows >= n_row exist in memory and must not matter
        q.type = pool_type;
        q.only_head = 0;
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
    fill_dev(a.o, 0xff, p.out_rows * (size_t)a.d_head * dtype_bytes(a.o_type));
    fill_dev(a.lse, 0xff, p.out_rows * 4);
    if (a.m) fill_dev(a.m, 0xff, p.out_rows * 4);
    if (a.top) fill_dev(a.top, 0xff, p.out_rows * 4 * ATTN_TOP);
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

#endif

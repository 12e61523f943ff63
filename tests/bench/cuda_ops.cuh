// Checks of every operation but attention, against plain loops in double on the host.
#ifndef BENCH_CUDA_OPS_CUH
#define BENCH_CUDA_OPS_CUH

#include "cuda_problem.cuh"

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
        std::vector<float> hx = host_of(x, (size_t)(n * d)), hw = host_of(w, (size_t)d), hg = host_of(gu, (size_t)(2 * n * d)),
                           want(hx.size());
        OK(op->rmsnorm(&b->base, n, d, x, w, 1e-5f, y));
        for (int64_t r = 0; r < n; r++) {
            double s = 0;
            for (int64_t j = 0; j < d; j++) s += (double)hx[r * d + j] * hx[r * d + j];
            for (int64_t j = 0; j < d; j++) want[r * d + j] = (float)(hw[j] * hx[r * d + j] / sqrt(s / (double)d + 1e-5));
        }
        snprintf(name, sizeof name, "rmsnorm %s %lld", t, (long long)d);
        verdict(name, rel_error(floats_of(y, act, want.size()), want), tol);
        fill_dev(y, 0xff, (size_t)(n * d) * 4);
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
                if (to == DT_F32)
                    memcpy(&c[j], &raw[2 * j], 4);
                else
                    c[j] = to == DT_BF16 ? bf16_to_f32(raw[j]) : f16_to_f32(raw[j]);
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
    float *qkv = random_dev<float>((size_t)(n * all * d)), *bias = random_dev<float>((size_t)(all * d)),
          *cs = random_dev<float>((size_t)(n * d_rot));
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
    std::vector<float> x = host_of(qkv, (size_t)(n * all * d)), hb = host_of(bias, (size_t)(all * d)),
                       hc = host_of(cs, (size_t)(n * d_rot));
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
                if (is_q)
                    got.push_back(gq[(r * H + h) * d + j]);
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
    std::vector<float> hl = host_of(lse, B * rows), ho = host_of(o, B * rows * d), hm = host_of(m, B * rows), wo(rows * d), wl(rows),
                       wm(rows);
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
    fill_dev(ref, 0, (size_t)(40 * n_out) * 4);
    gemm_ref_kernel<<<dim3((unsigned)((n_out + 127) / 128), 40), 128>>>(n_out, n_in, (bf16 *)packed, x, ref);
    CU(cudaDeviceSynchronize());
    OK(b->base.ops->linear(&b->base, l, top, x, y, false));
    std::vector<float> base = host_of(y, (size_t)(40 * n_out)), want = host_of(ref, base.size());
    char name[100];
    snprintf(name, sizeof name, "linear %lld x %lld", (long long)n_out, (long long)n_in);
    verdict(name, rel_error(base, want), 1e-4);
    std::string bad;
    for (int64_t n : {1, 2, 7, 16, 33, 64, 100, 512, 700, 4096}) { // the rows' bits must be the same in every company
        fill_dev(y, 0xff, (size_t)(top * n_out) * 4);
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

#endif

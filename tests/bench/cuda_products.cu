// The matrix products of a decoder block on Hopper, with what is folded into them: bits against the separate kernels, rates beside
// cuBLASLt, and what is left of the rates while another kernel holds multiprocessors, as NCCL's do.
//
//     cuda_products check [seed]     each line: case, what differs, ok or WRONG
//     cuda_products products         TFLOP/s; cuBLASLt's product alone (f32 results; added where ours adds) beside it
//     cuda_products held             time with 4, 8 and 16 multiprocessors held, over the time with none
//     cuda_products once             each product of the SmolLM2 shape once, for a profiler
#include "../../cuda/gemm.cuh"
#include "cuda_problem.cuh"

typedef struct {
    const char *name;
    gemm_out_t out;
    int64_t n_out, n_in;
    int n_head, n_kv, d; // QKV
    bool bias;
} product_t;
static const product_t products_8b[] = {{"qkv", GEMM_QKV, 6144, 4096, 32, 8, 128},
                                        {"o", GEMM_ADD, 4096, 4096, 0, 0, 0},
                                        {"gate, up", GEMM_GLU, 28672, 4096, 0, 0, 0},
                                        {"down", GEMM_ADD, 4096, 14336, 0, 0, 0}};
static const product_t products_smollm2[] = {{"qkv", GEMM_QKV, 960, 576, 9, 3, 64},
                                             {"o", GEMM_ADD, 576, 576, 0, 0, 0},
                                             {"gate, up", GEMM_GLU, 3072, 576, 0, 0, 0},
                                             {"down", GEMM_ADD, 576, 1536, 0, 0, 0}};

__global__ void differ_kernel(size_t n, const uint16_t *x, const uint16_t *y, int *flag) {
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x)
        if (x[i] != y[i]) *flag = 1;
}
static bool same_bits(const void *x, const void *y, size_t bytes) {
    int *flag = (int *)poison_dev(sizeof *flag);
    CU(cudaMemset(flag, 0, sizeof *flag));
    differ_kernel<<<1024, 256>>>(bytes / 2, (const uint16_t *)x, (const uint16_t *)y, flag);
    int differ = host_of(flag, 1)[0];
    cudaFree(flag);
    return !differ;
}

// ---- one product ----------------------------------------------------------------------------------------------------
// Its operands, and two sets of results: 0 by the folded kernel, 1 by separate ones.
struct product_case {
    cuda_backend_t *b;
    product_t p;
    int64_t n, seg; // rows; rows of a pool
    linear_t *l;
    bf16 *w, *x, *q[2], *k[2], *v[2];
    float *wide, *y[2], *cos_sin, *bias = NULL;
    void *half[2];
    std::vector<kv_pool_t> pools[2];
    std::vector<run_t> runs;
    std::vector<void *> mem;
    qkv_args_t qkv[2];
    template <class T> T *keep(T *m) {
        mem.push_back((void *)m);
        return m;
    }
    product_case(cuda_backend_t *backend, const product_t &product, int64_t rows, int64_t segment) : b(backend), p(product), n(rows), seg(segment) {
        linear_shape_t s = {p.n_out, p.n_in, p.out == GEMM_GLU};
        size_t cells = (size_t)(n * p.n_out);
        w = keep(random_dev<bf16>((size_t)(p.n_out * p.n_in), 0.05f));
        x = keep(random_dev<bf16>((size_t)(n * p.n_in)));
        wide = keep(poison_dev(cells * 4));
        OK(b->base.ops->linear_open(&b->base, s, w, &l));
        for (int i = 0; i < 2; i++) {
            if (p.out == GEMM_ADD) y[i] = keep(random_dev<float>(cells));
            if (p.out == GEMM_GLU) half[i] = keep(poison_dev(cells));
            if (p.out == GEMM_QKV) make_qkv(i);
        }
        if (p.out == GEMM_ADD) CU(cudaMemcpy(y[1], y[0], cells * 4, cudaMemcpyDeviceToDevice));
    }
    void make_qkv(int i) {
        size_t kv = (size_t)(n * p.n_kv * p.d);
        if (!i) cos_sin = keep(random_dev<float>((size_t)(n * p.d)));
        if (!i && p.bias) bias = keep(random_dev<float>((size_t)p.n_out));
        q[i] = keep((bf16 *)poison_dev((size_t)(n * p.n_head * p.d) * 2));
        k[i] = keep((bf16 *)poison_dev(kv * 2));
        v[i] = keep((bf16 *)poison_dev(kv * 2));
        for (int64_t r = 0; r < n; r += seg) {
            kv_pool_t pool = {k[i] + r * p.n_kv * p.d, v[i] + r * p.n_kv * p.d, DT_BF16, std::min(seg, n - r), p.d, 0, 0, 0};
            pool.head_stride = pool.n_row * p.d;
            pool.layer_stride = p.n_kv * pool.head_stride;
            run_t run = {r, pool.n_row, 0, (int32_t)pools[i].size(), 0, 0};
            pools[i].push_back(pool);
            if (!i) runs.push_back(run);
        }
        qkv_args_t a = {0, n, p.n_head, p.n_kv, p.d, p.d, wide, bias, NULL, NULL, 0, cos_sin, q[i], (int)pools[i].size(), (int)runs.size(), pools[i].data(), runs.data()};
        qkv[i] = a;
    }
    ~product_case() {
        b->base.ops->linear_close(&b->base, l);
        for (void *m : mem) cudaFree(m);
    }
    double flops() const { return 2.0 * (double)n * (double)p.n_out * (double)p.n_in; }
    void folded() {
        const backend_ops_t *op = b->base.ops;
        if (p.out == GEMM_QKV) OK(op->linear_qkv(&b->base, l, x, wide, &qkv[0]));
        else if (p.out == GEMM_GLU) OK(op->linear_glu(&b->base, l, n, x, wide, half[0]));
        else OK(op->linear(&b->base, l, n, x, y[0], true));
    }
    // Into `wide` alone, then what follows as a kernel of its own; what of the product is not as cuBLASLt has it.
    std::string apart(cuda_backend_t *library);
    // What of the two sets differs.
    std::string differs() const {
        std::string bad;
        auto same = [&](const char *what, const void *s, const void *t, size_t bytes) {
            if (!same_bits(s, t, bytes)) bad += std::string(" ") + what;
        };
        size_t rows = (size_t)n;
        if (p.out == GEMM_QKV) {
            same("q", q[0], q[1], rows * (size_t)(p.n_head * p.d) * 2);
            same("k", k[0], k[1], rows * (size_t)(p.n_kv * p.d) * 2);
            same("v", v[0], v[1], rows * (size_t)(p.n_kv * p.d) * 2);
        } else if (p.out == GEMM_GLU) {
            same("y", half[0], half[1], rows * (size_t)p.n_out);
        } else {
            same("y", y[0], y[1], rows * (size_t)p.n_out * 4);
        }
        return bad;
    }
};
__global__ void add_kernel(size_t n, const float *x, float *y) {
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) y[i] = __fadd_rn(y[i], x[i]);
}
static void linear_alone(cuda_backend_t *b, const product_case &c, float *y, bool add) {
    linear_shape_t s = {c.p.n_out, c.p.n_in, false};
    linear_t *l;
    OK(b->base.ops->linear_open(&b->base, s, c.w, &l));
    OK(b->base.ops->linear(&b->base, l, c.n, c.x, y, add));
    b->base.ops->linear_close(&b->base, l);
}
std::string product_case::apart(cuda_backend_t *library) {
    size_t cells = (size_t)(n * p.n_out);
    float *other = keep(poison_dev(cells * 4));
    linear_alone(library, *this, other, false);
    OK(library->base.ops->sync(&library->base));
    linear_alone(b, *this, wide, false);
    if (p.out == GEMM_QKV) OK(qkv_cuda(&b->base, &qkv[1]));
    else if (p.out == GEMM_GLU) OK(gate_cuda(b, n, p.n_out / 2, wide, half[1], true));
    else add_kernel<<<1024, 256, 0, b->stream>>>(cells, wide, y[1]);
    OK(b->base.ops->sync(&b->base));
    if (same_bits(wide, other, cells * 4)) return "";
    double e = rel_error(host_of(wide, cells), host_of(other, cells));
    return e < 1e-5 ? " (cuBLASLt has other bits)" : " WRONG: the product itself, " + std::to_string(e);
}

// ---- multiprocessors held by another kernel ---------------------------------------------------------------------------
__global__ void occupy_kernel(volatile int *stop, volatile int *begun) {
    begun[blockIdx.x] = 1;
    while (!*stop) {}
}
struct holder {
    cudaStream_t stream, other;
    int *stop;  // on the device: what is polled must not cross PCIe
    int *begun; // of each block, on the host
    explicit holder(int n) {
        enum { BYTES = 200 << 10 }; // nothing else finds room beside it
        int least, greatest;
        CU(cudaFuncSetAttribute(occupy_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, BYTES));
        CU(cudaDeviceGetStreamPriorityRange(&least, &greatest));
        CU(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, greatest));
        CU(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
        CU(cudaMalloc(&stop, sizeof *stop));
        CU(cudaMemset(stop, 0, sizeof *stop));
        CU(cudaHostAlloc(&begun, (size_t)(n + 1) * sizeof *begun, cudaHostAllocMapped));
        memset(begun, 0, (size_t)(n + 1) * sizeof *begun);
        CU(cudaDeviceSynchronize());
        if (n) occupy_kernel<<<(unsigned)n, 32, BYTES, stream>>>(stop, begun);
        CU(cudaGetLastError());
        for (int i = 0; i < n; i++)
            while (!((volatile int *)begun)[i]) {}
    }
    ~holder() {
        cudaMemsetAsync(stop, 0xff, sizeof *stop, other);
        cudaStreamSynchronize(other);
        cudaStreamSynchronize(stream);
        cudaStreamDestroy(stream);
        cudaStreamDestroy(other);
        cudaFree(stop);
        cudaFreeHost(begun);
    }
};

// ---- the three modes --------------------------------------------------------------------------------------------------
static void check(cuda_backend_t *b, cuda_backend_t *library, const product_t &p, int64_t n, int64_t seg, int held) {
    product_case c(b, p, n, seg);
    if (p.out == GEMM_ADD) OK(b->base.ops->linear(&b->base, c.l, n, c.x, c.wide, true)); // chooses, which waits for the whole GPU
    {
        holder h(held);
        c.folded();
        OK(b->base.ops->sync(&b->base));
    }
    std::string product = c.apart(library), bad = c.differs();
    if (!bad.empty()) bad = " WRONG: other bits than separate kernels in" + bad;
    bad = product + bad;
    if (bad.find("WRONG") != std::string::npos) n_wrong++;
    printf("%-8s %6lld x %5lld, %6lld rows, %2d held:%s\n", p.name, (long long)p.n_out, (long long)p.n_in, (long long)n, held,
           bad.empty() ? " ok" : bad.c_str());
}
static void check_all(cuda_backend_t *b, cuda_backend_t *library) {
    static const product_t odd[] = {{"add", GEMM_ADD, 264, 2112, 0, 0, 0},      {"add", GEMM_ADD, 200, 64, 0, 0, 0},
                                    {"glu", GEMM_GLU, 272, 2112, 0, 0, 0},      {"glu", GEMM_GLU, 4016, 72, 0, 0, 0},
                                    {"qkv", GEMM_QKV, 256, 2112, 2, 1, 64, true},     {"qkv", GEMM_QKV, 1024, 192, 4, 2, 128, true},
                                    {"qkv", GEMM_QKV, 1152, 896, 14, 2, 64, true}};
    for (const product_t &p : products_smollm2)
        for (int64_t n : {600, 5001, 20000}) check(b, library, p, n, 1000, n == 5001 ? 12 : 0);
    for (const product_t &p : products_8b) check(b, library, p, 3001, 1000, 12);
    for (const product_t &p : odd)
        for (int64_t n : {513, 2500}) check(b, library, p, n, 130, 0);
}

static void time_products(cuda_backend_t *b, cuda_backend_t *library, const char *shape, const product_t *p, int64_t n) {
    for (int i = 0; i < 4; i++) {
        product_case c(b, p[i], n, 4096);
        int reps = c.flops() > 1e12 ? 30 : 100;
        bool add = p[i].out == GEMM_ADD;
        double lib = median_ms(library, reps, [&] { linear_alone(library, c, add ? c.y[1] : c.wide, add); });
        double ms = median_ms(b, reps, [&] { c.folded(); });
        printf("%-8s %-8s %6lld x %5lld, %6lld rows %8.4f ms %6.1f TFLOP/s   cuBLASLt %8.4f ms %6.1f\n", shape, p[i].name, (long long)p[i].n_out,
               (long long)p[i].n_in, (long long)n, ms, c.flops() / ms * 1e-9, lib, c.flops() / lib * 1e-9);
    }
}
static void time_held(cuda_backend_t *b, const char *shape, const product_t *p, int64_t n) {
    for (int i = 0; i < 4; i++) {
        product_case c(b, p[i], n, 4096);
        double alone = 0;
        printf("%-8s %-8s %6lld x %5lld, %6lld rows", shape, p[i].name, (long long)p[i].n_out, (long long)p[i].n_in, (long long)n);
        for (int held : {0, 4, 8, 16}) {
            holder h(held);
            double ms = median_ms(b, c.flops() > 1e12 ? 12 : 40, [&] { c.folded(); });
            if (!held) printf(" %8.4f ms; held", alone = ms);
            else printf(" %d: %.2f", held, ms / alone);
        }
        printf("\n");
    }
}

static void run_once(cuda_backend_t *b, const product_t *p, int64_t n) {
    for (int i = 0; i < 4; i++) {
        product_case c(b, p[i], n, 4096);
        c.folded();
        OK(b->base.ops->sync(&b->base));
    }
}

int main(int argc, char **argv) {
    backend_t *own, *lt;
    const char *mode = argc > 1 ? argv[1] : "check";
    setvbuf(stdout, NULL, _IOLBF, 0);
    setenv("CUDA_MODULE_LOADING", "EAGER", 1); // a kernel first loaded beside one that holds multiprocessors would wait for its end
    OK(backend_create_cuda(DT_BF16, 0, &own));
    setenv("PRECIS_CUDA_LIBRARY_GEMM", "1", 1);
    OK(backend_create_cuda(DT_BF16, 0, &lt));
    cuda_backend_t *b = cuda_of(own), *library = cuda_of(lt);
    printf("%s\n", own->detail);
    if (!strcmp(mode, "check")) {
        seed_now = argc > 2 ? strtoull(argv[2], NULL, 10) : (uint64_t)time(NULL);
        printf("seed %llu\n", (unsigned long long)seed_now);
        check_all(b, library);
        printf("%s: %d wrong\n", n_wrong ? "INVALID" : "VALID", n_wrong);
    } else if (!strcmp(mode, "products")) {
        log_setup(0, 1, LOG_DEBUG); // what was chosen, and why
        time_products(b, library, "8b", products_8b, 16384);
        time_products(b, library, "smollm2", products_smollm2, 65536);
    } else if (!strcmp(mode, "held")) {
        time_held(b, "8b", products_8b, 16384);
        time_held(b, "smollm2", products_smollm2, 65536);
    } else {
        run_once(b, products_smollm2, 65536);
    }
    own->ops->destroy(own);
    lt->ops->destroy(lt);
    return n_wrong != 0;
}

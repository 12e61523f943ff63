/* Every operation of the CUDA backend against cpu_ref: the same list as the CPU backends. Skipped where there is no GPU, or no CUDA. */
#include "ops/ops_attn.h"
#include "ops/ops_bits.h"
#include "ops/ops_fused.h"
#include "ops/ops_rows.h"

#ifdef HAVE_CUDA
#include "cuda/cuda_backend.h"

static backend_t *remake(const ops_t *o, int n_threads) {
    backend_t *be;
    (void)n_threads;
    OPS_OK(backend_create_cuda(o->be->act, 0, &be));
    return be;
}

/* Calls `run` for each act and each kernel family that the card has. */
static void each_backend(void (*run)(ops_t *)) {
    static const char *const family[] = {"ref", "sm80", "sm90"};
    for (int act = 0; act < 2; act++)
        for (int f = 0; f < (act ? 3 : 1); f++) {
            dtype_t type = act ? DT_BF16 : DT_F32;
            ops_t o = {.rng = {(uint64_t)(act * 100 + f)}};
            setenv("PRECIS_CUDA_ATTENTION", family[f], 1);
            if (backend_create_cuda(type, 0, &o.be)) {
                fprintf(stderr, "skipped: %s\n", status_message());
                continue;
            }
            OPS_OK(backend_create_cpu_ref(type, 1, &o.ref));
            o.label = o.be->detail;
            run(&o);
            o.be->ops->destroy(o.be);
            o.ref->ops->destroy(o.ref);
        }
    unsetenv("PRECIS_CUDA_ATTENTION");
}

/* The best kernels in bf16 alone: for cases that cost the oracle seconds. */
static void best_backend(void (*run)(ops_t *)) {
    ops_t o = {.rng = {7}};
    if (backend_create_cuda(DT_BF16, 0, &o.be)) {
        fprintf(stderr, "skipped: %s\n", status_message());
        return;
    }
    OPS_OK(backend_create_cpu_ref(DT_BF16, 1, &o.ref));
    o.label = o.be->detail;
    run(&o);
    o.be->ops->destroy(o.be);
    o.ref->ops->destroy(o.ref);
}

static bool gpu_there(void) { return backend_cuda_devices() > 0; }
static void linear_bits(ops_t *o) { ops_linear_bits(o, remake); }
static void attention_bits(ops_t *o) {
    ops_attention_bits(o, remake);
    ops_attention_near_nan(o, strstr(o->label, "attention plain") ? 1 : ATTN_NEAR);
}
#else
static void each_backend(void (*run)(ops_t *)) { (void)run; }
static void best_backend(void (*run)(ops_t *)) { (void)run; }
static bool gpu_there(void) { return false; }
static void linear_bits(ops_t *o) { (void)o; }
static void attention_bits(ops_t *o) { (void)o; }
#endif

static void test_linear(void) { each_backend(ops_linears); }
static void test_rows(void) { each_backend(ops_rows); }
static void test_attention(void) { each_backend(ops_attention); }
static void test_heads(void) { each_backend(ops_attention_heads); }
static void test_far(void) { best_backend(ops_attention_far); }
static void test_spans(void) { each_backend(ops_attention_random); }
static void test_fused(void) { each_backend(ops_fused); }
static void test_many(void) { best_backend(ops_fused_many); }
static void test_many_bits(void) { best_backend(ops_many_bits); }
static void test_linear_bits(void) { each_backend(linear_bits); }
static void test_attention_bits(void) { each_backend(attention_bits); }
static void test_company(void) { each_backend(ops_attention_company); }
static void test_merge(void) { each_backend(ops_merge); }
static void test_qkv(void) { each_backend(ops_qkvs); }

UNIT_MAIN_IF("cuda ops", gpu_there(), "GPU, or a build without CUDA", {"linear", test_linear}, {"rows", test_rows}, {"qkv", test_qkv},
             {"fused", test_fused}, {"many rows", test_many}, {"many bits", test_many_bits}, {"attention", test_attention},
             {"heads", test_heads}, {"far", test_far}, {"spans", test_spans}, {"linear_bits", test_linear_bits},
             {"attention_bits", test_attention_bits}, {"company", test_company}, {"merge", test_merge})

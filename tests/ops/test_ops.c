/* Every operation on every CPU backend that this machine can run, against cpu_ref. */
#include "backend/cpu.h"
#include "ops/ops_attn.h"
#include "ops/ops_bits.h"
#include "ops/ops_fused.h"
#include "ops/ops_rows.h"

/* Calls `run` for each act, instruction set and choice of matrix product. */
static void each_backend(void (*run)(ops_t *)) {
    for (int act = 0; act < 2; act++)
        for (int isa = CPU_PLAIN; isa <= (int)cpu_isa_best(); isa++)
            for (int own = 0; own < 2; own++) {
                dtype_t type = act ? DT_BF16 : DT_F32;
                if (!own && isa < (int)cpu_isa_best()) continue;
                ops_t o = {.rng = {(uint64_t)(act * 100 + isa * 10 + own)}};
                OPS_OK(cpu_create_forced(type, 2, (cpu_isa_t)isa, own, &o.be));
                OPS_OK(backend_create_cpu_ref(type, 1, &o.ref));
                o.label = o.be->detail;
                run(&o);
                o.be->ops->destroy(o.be);
                o.ref->ops->destroy(o.ref);
            }
}

static backend_t *remake(const ops_t *o, int n_threads) {
    const cpu_t *c = (const cpu_t *)o->be;
    backend_t *be;
    OPS_OK(cpu_create_forced(o->be->act, n_threads, c->isa, c->dnnl == NULL, &be));
    return be;
}
static void linear_bits(ops_t *o) { ops_linear_bits(o, remake); }
static void attention_bits(ops_t *o) {
    ops_attention_bits(o, remake);
    ops_attention_company(o);
    ops_attention_near_nan(o, 1);
}

static void test_linear(void) { each_backend(ops_linears); }
static void test_rows(void) { each_backend(ops_rows); }
static void test_attention(void) { each_backend(ops_attention); }
static void test_heads(void) { each_backend(ops_attention_heads); }
static void test_spans(void) { each_backend(ops_attention_random); }
static void test_fused(void) { each_backend(ops_fused); }
static void test_linear_bits(void) { each_backend(linear_bits); }
static void test_attention_bits(void) { each_backend(attention_bits); }
static void test_merge(void) { each_backend(ops_merge); }
static void test_qkv(void) { each_backend(ops_qkvs); }

UNIT_MAIN("ops", {"linear", test_linear}, {"rows", test_rows}, {"qkv", test_qkv}, {"fused", test_fused}, {"attention", test_attention},
          {"heads", test_heads}, {"spans", test_spans}, {"linear_bits", test_linear_bits}, {"attention_bits", test_attention_bits},
          {"merge", test_merge})

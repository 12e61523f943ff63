/* Every operation on every CPU backend that this machine can run, against cpu_ref. */
#include "backend/cpu.h"
#include "ops/ops_attn.h"
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

static void test_linear(void) { each_backend(ops_linears); }
static void test_rows(void) { each_backend(ops_rows); }
static void test_attention(void) { each_backend(ops_attention); }
static void test_spans(void) { each_backend(ops_attention_random); }
static void test_qkv(void) { each_backend(ops_qkvs); }

UNIT_MAIN("ops", {"linear", test_linear}, {"rows", test_rows}, {"qkv", test_qkv}, {"attention", test_attention}, {"spans", test_spans})

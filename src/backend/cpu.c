/* The fast CPU backend: chooses kernels once, at creation. */
#include <assert.h>
#include <stdio.h>

#include "backend/cpu.h"
#include "base/mem.h"

static void destroy(backend_t *be) { mem_free(be); }

status_t cpu_create_forced(dtype_t act, int n_threads, cpu_isa_t isa, bool own_gemm, backend_t **out) {
    (void)own_gemm;
    static backend_ops_t ops;
    ops = cpu_ref_ops;
    ops.name = "cpu";
    ops.destroy = destroy;
    status_t st = mem_zalloc(out, 1, sizeof **out, "the CPU backend");
    if (st) return st;
    (*out)->ops = &ops;
    (*out)->act = act;
    (*out)->n_threads = n_threads;
    snprintf((*out)->detail, sizeof(*out)->detail, "cpu, %s, %s kernels", dtype_name(act), cpu_isa_name(isa));
    return ST_OK;
}

status_t backend_create_cpu(dtype_t act, int n_threads, backend_t **out) {
    return cpu_create_forced(act, n_threads, cpu_isa_best(), false, out);
}

bool backend_cpu_has_bf16(void) { return cpu_isa_best() == CPU_AVX512BF16; }

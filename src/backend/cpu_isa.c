/* Which kernels may run here: what the CPU has, what the system saves across switches (asked by the compiler's cpuid support), what was
 * compiled. */
#include "backend/cpu.h"

const char *cpu_isa_name(cpu_isa_t isa) {
    static const char *const name[CPU_ISA_COUNT] = {"plain C", "AVX2", "AVX-512", "AVX-512 BF16"};
    return name[isa];
}

cpu_isa_t cpu_isa_best(void) {
#if defined(__x86_64__) && defined(__GNUC__)
    __builtin_cpu_init();
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                  __builtin_cpu_supports("avx512dq");
    if (avx512 && __builtin_cpu_supports("avx512bf16")) return CPU_AVX512BF16;
    if (avx512) return CPU_AVX512;
    if (avx2) return CPU_AVX2;
#endif
    return CPU_PLAIN;
}

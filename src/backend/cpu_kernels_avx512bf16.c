/* The kernels for AVX-512 with bf16 dot products. */
#if defined(__x86_64__)
#define CPU_TABLE cpu_kernels_avx512bf16
#include "backend/cpu_table.h"
#else
typedef int cpu_kernels_avx512bf16_unused; /* a file must declare something */
#endif

/* The kernels for AVX-512. */
#if defined(__x86_64__)
#define CPU_TABLE cpu_kernels_avx512
#include "backend/cpu_table.h"
#else
typedef int cpu_kernels_avx512_unused; /* a file must declare something */
#endif

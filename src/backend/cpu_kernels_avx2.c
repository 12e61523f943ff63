/* The kernels for AVX2 with FMA. */
#if defined(__x86_64__)
#define CPU_TABLE cpu_kernels_avx2
#include "backend/cpu_table.h"
#else
typedef int cpu_kernels_avx2_unused; /* a file must declare something */
#endif

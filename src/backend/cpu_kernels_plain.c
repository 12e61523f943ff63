/* The kernels for any CPU. */
#define CPU_TABLE cpu_kernels_plain
#include "backend/cpu_table.h"

/* Matrix products by oneDNN, where it gives a row the same bits in any batch: its "brgemm" kernels on AVX-512. Private to the CPU backend.
 */
#ifndef BACKEND_CPU_DNNL_H
#define BACKEND_CPU_DNNL_H

#include "backend/backend.h"

typedef struct cpu_dnnl cpu_dnnl_t;

/* *out = NULL (and ST_OK) where it was not compiled in or this CPU does not qualify for `act`. */
status_t cpu_dnnl_create(dtype_t act, int n_threads, cpu_dnnl_t **out);
void cpu_dnnl_free(cpu_dnnl_t *d);
const char *cpu_dnnl_version(void); /* "oneDNN 2.6.3", or "no oneDNN" */

/* Bytes of a packed weight; 0 when this shape is better left to our own kernel (every rank of a machine decides the same). */
size_t cpu_dnnl_bytes(cpu_dnnl_t *d, linear_shape_t s);
/* `w` holds rows row0.. in the type of the activations. */
status_t cpu_dnnl_pack(cpu_dnnl_t *d, linear_shape_t s, void *packed, int64_t row0, int64_t n_row, const void *w);
status_t cpu_dnnl_linear(cpu_dnnl_t *d, linear_shape_t s, const void *packed, int64_t n_row, const void *x, float *y, bool add);

#endif

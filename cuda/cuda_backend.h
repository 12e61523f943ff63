/* The CUDA backend: the operations of src/backend/backend.h on one GPU. Plain C: nothing of CUDA shows here. */
#ifndef CUDA_CUDA_BACKEND_H
#define CUDA_CUDA_BACKEND_H

#include "backend/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* act: DT_F32 or DT_BF16. device: index as CUDA counts them. One backend is used from one thread. The environment variable
 * PRECIS_CUDA_ATTENTION (ref, sm80, sm90) forces a kernel family; empty: the best the card has. */
status_t backend_create_cuda(dtype_t act, int device, backend_t **out);
/* Of a backend made so, for what moves its memory beside it: its stream (cudaStream_t), its GPU's index, and what the GPU is known by
 * everywhere (16 bytes). */
void *backend_cuda_stream(backend_t *be);
int backend_cuda_device(const backend_t *be);
status_t backend_cuda_identity(backend_t *be, unsigned char out[16]);
/* GPUs that can be used; 0 when there is no driver. */
int backend_cuda_devices(void);

#ifdef __cplusplus
}
#endif
#endif

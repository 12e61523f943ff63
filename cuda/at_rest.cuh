// Which pools a kernel may read before the kernels before it have ended.
//
// A kernel launched by pdl_launch begins when every block of the kernel before has said pdl_go. Kernels that write pools wait first and go
// then: when the next one begins, all that is older is complete, and only what that one kernel writes is in doubt. The rows it writes are
// noted on the host. Launches of other kinds and copies wait for everything before them, so they leave nothing in doubt.
#ifndef CUDA_AT_REST_CUH
#define CUDA_AT_REST_CUH

#include "common.cuh"

// To be called right after the launch of the kernel that does x; after one that may have written any pool.
void note_fresh(cuda_backend_t *b, const qkv_args_t *x);
void none_at_rest(cuda_backend_t *b);
// Bit p: pool p, of the first 64, holds nothing that a kernel under way may be writing. None unless qkv was the last launch.
uint64_t pools_at_rest(const cuda_backend_t *b, const attn_args_t *x);

#endif

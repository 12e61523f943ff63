// Which pools a kernel may read before the kernels before it have ended.
//
// A kernel launched by pdl_launch begins when every block of the kernel before has said pdl_go. Attention (attention_sm90.cu; the others
// are launched plainly) waits first and says it then: when the kernel behind it begins, all that is older than attention is complete. So an
// attention call need doubt no more than what was launched since the attention call before, and of that, only what writes pools: qkv, alone
// or as a product's end, whose rows are noted on the host; and operations that write any memory. Copies leave nothing in doubt: a launch
// behind one overlaps with nothing (pdl_launch), so kernels may read what copies brought before they wait.
#ifndef CUDA_AT_REST_CUH
#define CUDA_AT_REST_CUH

#include "common.cuh"

// To be called after a launch that does x; after one that may have written any pool.
void note_fresh(cuda_backend_t *b, const qkv_args_t *x);
void none_at_rest(cuda_backend_t *b);
// To be called after the launch of a kernel that waits before it goes.
void all_at_rest(cuda_backend_t *b);
// Bit p: pool p, of the first 64, holds nothing that a kernel under way may be writing.
uint64_t pools_at_rest(const cuda_backend_t *b, const attn_args_t *x);

#endif

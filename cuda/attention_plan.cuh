// The work list of an attention call, made on the host from runs and spans, and kept for the next layer.
//
//   item = up to `tile_rows` consecutive rows of a run, one block, a slice of that block's spans; every item is done once per K/V head
//
// The query heads that share a K/V head stand side by side in a tile: row m of a tile of 128 is (row m / group, head m % group). Key blocks
// are aligned to multiples of KEY_BLOCK in the pool, never to the tile, so that the sums of a row run in the same order whichever tile the
// row is in.
//
// Results in f32 (queries, partial results) come from split sums: the keys of a span are cut at fixed places of the pool, every chunk gives
// a partial result, and these are merged in order. Results in the type of activations (encoding) are summed in one go.
#ifndef CUDA_ATTENTION_PLAN_CUH
#define CUDA_ATTENTION_PLAN_CUH

#include "common.cuh"

enum { TILE_M = 128, TILE_M_MAX = 192, KEY_BLOCK = 128, CHUNK_MIN = 512, CHUNK_ROWS = 32768, MAX_SLAB = 64 };

typedef struct { // an edge in 32 bits: i + add is in [0, 2^30), and n / div = umulhi(2 n, magic) >> shift there
    unsigned magic;
    int shift, mul, add, off;
} dedge_t;
typedef struct {
    int pool, begin, end, only; // only: 0, or the one K/V head that sees it, plus 1
    dedge_t lo, hi;
} dspan_t;
typedef struct { // rows row.. of block `block`: n_part partial results of n rows each, from partial row `part` on
    int64_t out, part;
    int n, n_part;
    int inside; // 1: whoever finishes the last part merges them; 0: a launch of its own does
} dmerge_t;
struct alignas(16) ditem_t { // with its merge and its first span, so that one read tells all that most items need
    int row, n, index;       // rows of q, and the pool index of the first
    int span, n_span;
    int merge;   // -1: results are final; otherwise they are partial, and one of this merge's parts
    int64_t out; // row of the output arrays for the item's first row ([..][n_head])
    dmerge_t parts;
    int pad[2];
    dspan_t first; // last: an array may go on behind it
};
static_assert(sizeof(ditem_t) == 128, "a line of the cache");
typedef struct {
    int item, n_item, merge, n_merge, n_apart; // n_apart: merges that want a launch of their own
    int64_t part_rows;
} dslab_t;
typedef struct {
    const ditem_t *items; // device
    const dspan_t *spans;
    const dmerge_t *merges;
    unsigned *counts; // [merge][K/V head]: parts finished so far; 0 between calls
    int n_slab;
    dslab_t slab[MAX_SLAB]; // steps, so that partial results fit in a bounded scratch
} attn_plan_t;

// *ok = false: the call does not fit the fast kernels (sizes beyond 32 bits). Merges of up to `inside` partial rows of a K/V head (rows x
// query heads x parts) are left to the kernel that makes the parts.
status_t attn_plan(cuda_backend_t *b, const attn_args_t *x, int tile_rows, int64_t inside, const attn_plan_t **out, bool *ok);
// Tensor maps of the pools (K of pool p at 2p, V at 2p + 1) on the device, and the same on the host until the next call; *ok = false when a
// pool does not suit the copy engine.
status_t attn_maps(cuda_backend_t *b, const attn_args_t *x, const void **out, const void **host, bool *ok);
// Boxes whose rows are 128 bytes (or 64), swizzled over as many. rank - 1 strides, in bytes.
bool tensor_map_make(void *map, dtype_t type, const void *base, int rank, const uint64_t *dims, const uint64_t *strides,
                     const uint32_t *box);

typedef struct { // partial results, as the outputs are laid out
    float *o, *lse, *m, *top;
} attn_part_t;
status_t attn_part_alloc(cuda_backend_t *b, const attn_args_t *x, const attn_plan_t *p, attn_part_t *out);
status_t attn_merge_parts(cuda_backend_t *b, const attn_args_t *x, const attn_plan_t *p, int slab, attn_part_t part);
status_t attention_sm90(cuda_backend_t *b, const attn_args_t *x, bool *done);
status_t attention_sm80(cuda_backend_t *b, const attn_args_t *x, bool *done);

#ifdef __CUDACC__
__device__ __forceinline__ int dedge_at(const dedge_t &e, int i) {
    return (int)(__umulhi((unsigned)(i + e.add) * 2u, e.magic) >> e.shift) * e.mul + e.off;
}
__device__ __forceinline__ int dspan_lo(const dspan_t &s, int i) { return min(max(dedge_at(s.lo, i), s.begin), s.end); }
__device__ __forceinline__ int dspan_hi(const dspan_t &s, int i) { return min(max(dedge_at(s.hi, i), s.begin), s.end); }
#endif
#endif

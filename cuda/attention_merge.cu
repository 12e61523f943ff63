// Scratch of split sums, and the launch that merges those which the attention kernel itself does not (see attention_merge.cuh).
#include "attention_merge.cuh"

status_t attn_part_alloc(cuda_backend_t *b, const attn_args_t *x, const attn_plan_t *p, attn_part_t *out) {
    int64_t rows = 0;
    for (int s = 0; s < p->n_slab; s++) rows = i64_max(rows, p->slab[s].part_rows);
    size_t n = (size_t)rows * (size_t)x->n_head;
    float *f = NULL;
    memset(out, 0, sizeof *out);
    if (!n) return ST_OK;
    ST_TRY(cuda_scratch(b, n * sizeof(float) * (size_t)(x->d_head + 2 + ATTN_TOP), &f));
    out->o = f;
    out->lse = f + n * (size_t)x->d_head;
    out->m = out->lse + n;
    out->top = out->m + n;
    return ST_OK;
}

// One warp per (row, head) of a merge; grid.x over merges, grid.y over groups of warps: small ones, which find room beside an attention
// kernel of few rows and wait there.
enum { MERGE_WARPS = 4 };
template <int D>
__global__ void __launch_bounds__(32 * MERGE_WARPS) merge_parts_kernel(const dmerge_t *merges, int n_head, attn_part_t part, merged_t out) {
    pdl_go();
    const dmerge_t g = merges[blockIdx.x]; // part of the work list
    pdl_wait();
    int at = (int)(blockIdx.y * (blockDim.x >> 5) + (threadIdx.x >> 5));
    if (g.inside || at >= g.n * n_head) return;
    float v[MERGE_AHEAD * D / 32];
    merge_pair<D>(part, g.part * n_head + at, (int64_t)g.n * n_head, g.n_part, g.out * n_head + at, out, v);
}

status_t attn_merge_parts(cuda_backend_t *b, const attn_args_t *x, const attn_plan_t *p, int slab, attn_part_t part) {
    const dslab_t &s = p->slab[slab];
    if (!s.n_apart) return ST_OK;
    dim3 grid((unsigned)s.n_merge,
              (unsigned)i64_ceil_div(TILE_M_MAX * x->n_head, MERGE_WARPS)); // a tile never holds more than TILE_M_MAX rows
    int64_t rows = 0;
    for (int r = 0; r < x->n_run; r++) rows = i64_max(rows, x->runs[r].n);
    grid.y = (unsigned)i64_min(grid.y, i64_ceil_div(rows * x->n_head, MERGE_WARPS));
    merged_t out = {(float *)x->o, x->lse, x->m, x->top};
    return pdl_launch(b, x->d_head == 64 ? merge_parts_kernel<64> : merge_parts_kernel<128>, grid, 32 * MERGE_WARPS, 0,
                      "merge of split sums", p->merges + s.merge, x->n_head, part, out);
}

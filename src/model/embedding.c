#include "model/embedding.h"

#include "base/mem.h"
#include "model/model_impl.h"
#include "model/rope.h"

enum { SLAB_ROWS = 256 };

static const tensor_t *table(const model_t *m) { return file_weight(m->file, W_EMBED, 0)->tensor; }

status_t model_embedding(const model_t *m, int32_t token, float *out) { return tensor_read_rows(table(m), token, 1, out); }

status_t model_mean_embedding(const model_t *m, float *out) {
    int64_t d = m->config.d_model, n = m->config.n_vocab;
    double *sum = NULL;
    float *slab = NULL;
    status_t st = mem_zalloc(&sum, (size_t)d, sizeof *sum, "the mean embedding");
    if (!st) st = mem_alloc(&slab, (size_t)(SLAB_ROWS * d), sizeof *slab, "the mean embedding");
    for (int64_t at = 0; at < n && !st; at += SLAB_ROWS) {
        int64_t rows = i64_min(SLAB_ROWS, n - at);
        st = tensor_read_rows(table(m), at, rows, slab);
        for (int64_t i = 0; i < rows * d && !st; i++) sum[i % d] += (double)slab[i];
    }
    for (int64_t i = 0; i < d && !st; i++) out[i] = (float)(sum[i] / (double)n);
    mem_free(sum);
    mem_free(slab);
    return st;
}

void model_rope(const model_t *m, int64_t n, const double *distances, float *cos_sin) {
    rope_cos_sin(m->inv_freq, m->config.d_rot, 1, n, distances, cos_sin);
}

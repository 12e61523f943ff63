/* The oracle: every operation written as its definition reads, one row and one element at a time, sums in double. Slow on purpose.
 *
 * A packed weight is simply W in the type of the activations, row major.
 */
#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "backend/cpu.h"
#include "base/mem.h"

struct linear {
    linear_shape_t shape;
    const void *w; /* act [n_out][n_in] */
};

static size_t linear_bytes(backend_t *be, linear_shape_t s) { return (size_t)s.n_out * (size_t)s.n_in * dtype_bytes(be->act); }

static status_t linear_pack(backend_t *be, linear_shape_t s, void *packed, int64_t row0, int64_t n_row, dtype_t w_type, const void *w) {
    assert(row0 >= 0 && row0 + n_row <= s.n_out);
    char *dst = (char *)packed + (size_t)row0 * (size_t)s.n_in * dtype_bytes(be->act);
    dtype_convert(be->act, dst, w_type, w, (size_t)n_row * (size_t)s.n_in);
    return ST_OK;
}

static status_t linear_open(backend_t *be, linear_shape_t s, const void *packed, linear_t **out) {
    (void)be;
    status_t st = mem_alloc(out, 1, sizeof **out, "a linear layer");
    if (!st) **out = (linear_t){s, packed};
    return st;
}

static void linear_close(backend_t *be, linear_t *l) {
    (void)be;
    mem_free(l);
}

static status_t linear(backend_t *be, const linear_t *l, int64_t n_row, const void *x, float *y, bool add) {
    int64_t n_in = l->shape.n_in, n_out = l->shape.n_out;
    for (int64_t t = 0; t < n_row; t++)
        for (int64_t o = 0; o < n_out; o++) {
            double sum = 0;
            for (int64_t i = 0; i < n_in; i++) sum += (double)cpu_load(be->act, x, t * n_in + i) * cpu_load(be->act, l->w, o * n_in + i);
            y[t * n_out + o] = (float)(add ? y[t * n_out + o] + sum : sum);
        }
    return ST_OK;
}

static status_t embed(backend_t *be, int64_t n_row, int64_t d, const int32_t *tokens, dtype_t table_type, const void *table, float *x) {
    (void)be;
    for (int64_t t = 0; t < n_row; t++)
        for (int64_t i = 0; i < d; i++) x[t * d + i] = cpu_load(table_type, table, tokens[t] * d + i);
    return ST_OK;
}

/* 1 / sqrt(mean(x^2) + eps) */
static double rms_factor(const float *x, int64_t d, float eps) {
    double sum = 0;
    for (int64_t i = 0; i < d; i++) sum += (double)x[i] * x[i];
    return 1.0 / sqrt(sum / (double)d + eps);
}

static status_t rmsnorm(backend_t *be, int64_t n_row, int64_t d, const float *x, const float *w, float eps, void *y) {
    for (int64_t t = 0; t < n_row; t++) {
        double r = rms_factor(x + t * d, d, eps);
        for (int64_t i = 0; i < d; i++) cpu_store(be->act, y, t * d + i, (float)(w[i] * r * x[t * d + i]));
    }
    return ST_OK;
}

static status_t silu_mul(backend_t *be, int64_t n_row, int64_t d, const float *gu, void *y) {
    for (int64_t t = 0; t < n_row; t++)
        for (int64_t i = 0; i < d; i++) {
            double g = gu[t * 2 * d + i], u = gu[t * 2 * d + d + i];
            cpu_store(be->act, y, t * d + i, (float)(g / (1.0 + exp(-g)) * u));
        }
    return ST_OK;
}

/* One head of one row: bias, norm, rotation. Result in out[d]. */
static void head_finish(const qkv_args_t *a, const float *x, const float *bias, const float *norm, const float *cos_sin, float *out) {
    int d = a->d_head, half = a->d_rot / 2;
    for (int i = 0; i < d; i++) out[i] = x[i] + (bias ? bias[i] : 0);
    if (norm) {
        double r = rms_factor(out, d, a->norm_eps);
        for (int i = 0; i < d; i++) out[i] = (float)(out[i] * r * norm[i]);
    }
    for (int j = 0; cos_sin && j < half; j++) {
        double c = cos_sin[j], s = cos_sin[half + j], u = out[j], v = out[j + half];
        out[j] = (float)(u * c - v * s);
        out[j + half] = (float)(v * c + u * s);
    }
}

static void kv_store(const kv_pool_t *p, void *side, int layer, int head, int64_t row, const float *x, int d) {
    assert(row >= 0 && row < p->n_row);
    int64_t at = layer * p->layer_stride + head * p->head_stride + row * p->row_stride;
    for (int i = 0; i < d; i++) cpu_store(p->type, side, at + i, x[i]);
}

static status_t qkv(backend_t *be, const qkv_args_t *a) {
    int d = a->d_head, heads = a->n_head + 2 * a->n_kv_head;
    float *out;
    status_t st = mem_alloc(&out, (size_t)d, sizeof *out, "a head");
    if (st) return st;
    for (int r = 0; r < a->n_run; r++)
        for (int64_t i = 0; i < a->runs[r].n; i++) {
            const run_t *run = &a->runs[r];
            int64_t t = run->row + i;
            const kv_pool_t *p = run->pool >= 0 ? &a->pools[run->pool] : NULL;
            for (int h = 0; h < heads; h++) {
                bool is_q = h < a->n_head, is_v = h >= a->n_head + a->n_kv_head;
                head_finish(a, a->qkv + (t * heads + h) * d, a->bias ? a->bias + (int64_t)h * d : NULL,
                            is_q   ? a->q_norm
                            : is_v ? NULL
                                   : a->k_norm,
                            is_v ? NULL : a->cos_sin + t * a->d_rot, out);
                if (is_q)
                    for (int j = 0; j < d; j++) cpu_store(be->act, a->q, (t * a->n_head + h) * d + j, out[j]);
                else if (p)
                    kv_store(p, is_v ? p->v : p->k, a->layer, is_v ? h - a->n_head - a->n_kv_head : h - a->n_head, run->index + i, out, d);
            }
        }
    mem_free(out);
    return ST_OK;
}

static status_t gather_rows(backend_t *be, int64_t n, int64_t d, const int64_t *idx, const float *src, float *dst) {
    (void)be;
    for (int64_t i = 0; i < n; i++) memcpy(dst + i * d, src + idx[i] * d, (size_t)d * sizeof *dst);
    return ST_OK;
}

static status_t convert(backend_t *be, size_t n, dtype_t dst_type, void *dst, dtype_t src_type, const void *src) {
    (void)be;
    dtype_convert(dst_type, dst, src_type, src, n);
    return ST_OK;
}

static void destroy(backend_t *be) { mem_free(be); }

const backend_ops_t cpu_ref_ops = {
    .name = "cpu_ref",
    CPU_SHARED_OPS,
    .linear_bytes = linear_bytes,
    .linear_pack = linear_pack,
    .linear_open = linear_open,
    .linear_close = linear_close,
    .linear = linear,
    .embed = embed,
    .rmsnorm = rmsnorm,
    .silu_mul = silu_mul,
    .qkv = qkv,
    .attention = cpu_ref_attention,
    .merge = cpu_ref_merge,
    .gather_rows = gather_rows,
    .convert = convert,
    .destroy = destroy,
};

status_t backend_create_cpu_ref(dtype_t act, int n_threads, backend_t **out) {
    assert(act == DT_F32 || act == DT_BF16);
    status_t st = mem_zalloc(out, 1, sizeof **out, "the reference backend");
    if (st) return st;
    (*out)->ops = &cpu_ref_ops;
    (*out)->act = act;
    (*out)->n_threads = n_threads;
    (*out)->host_memory = true;
    snprintf((*out)->detail, sizeof(*out)->detail, "cpu_ref, %s, plain reference code", dtype_name(act));
    return ST_OK;
}

/* Template: the elementwise operations over rows. Included once by each cpu_kernels_*.c.
 *
 * Every row is one thread's work and its sums have one order: whole vectors first, then the tail, so bits depend on the row alone.
 */
#ifndef BACKEND_CPU_ROWS_H
#define BACKEND_CPU_ROWS_H

#include "backend/cpu_kernels.h"
#include "backend/cpu_vec.h"

V_FN void store_act(dtype_t act, void *p, int64_t i, vf x) {
    if (act == DT_F32)
        v_store((float *)p + i, x);
    else
        v_store_bf16((uint16_t *)p + i, x);
}

/* 1 / sqrt(mean(x^2) + eps) */
static float rms_factor(const float *x, int64_t d, float eps) {
    vf s[4] = {v_set(0), v_set(0), v_set(0), v_set(0)};
    int64_t i = 0;
    for (; i + 4 * VW <= d; i += 4 * VW)
        for (int k = 0; k < 4; k++) {
            vf v = v_load(x + i + k * VW);
            s[k] = v_fma(v, v, s[k]);
        }
    for (; i + VW <= d; i += VW) {
        vf v = v_load(x + i);
        s[0] = v_fma(v, v, s[0]);
    }
    float sum = v_sum((s[0] + s[1]) + (s[2] + s[3]));
    for (; i < d; i++) sum += x[i] * x[i];
    return 1.0f / sqrtf(sum / (float)d + eps);
}

static void rows_rmsnorm(int64_t n_row, int64_t d, const float *x, const float *w, float eps, dtype_t act, void *y) {
    for (int64_t t = 0; t < n_row; t++, x += d) {
        float r = rms_factor(x, d, eps);
        int64_t i = 0, at = t * d;
        for (; i + VW <= d; i += VW) store_act(act, y, at + i, v_load(x + i) * v_set(r) * v_load(w + i));
        for (; i < d; i++) cpu_store(act, y, at + i, x[i] * r * w[i]);
    }
}

V_FN vf silu_v(vf g, vf u) { return g * u / (v_set(1.0f) + v_exp2(g * v_set(-0x1.715476p+0f))); }

static void rows_silu_mul(int64_t n_row, int64_t d, const float *gu, dtype_t act, void *y) {
    for (int64_t t = 0; t < n_row; t++, gu += 2 * d) {
        int64_t i = 0, at = t * d;
        for (; i + VW <= d; i += VW) store_act(act, y, at + i, silu_v(v_load(gu + i), v_load(gu + d + i)));
        for (; i < d; i++) {
            float r[VW];
            v_store(r, silu_v(v_set(gu[i]), v_set(gu[d + i])));
            cpu_store(act, y, at + i, r[0]);
        }
    }
}

static void rows_convert(size_t n, dtype_t dst_type, void *dst, dtype_t src_type, const void *src) {
    size_t i = 0;
    if (src_type == DT_BF16 && dst_type == DT_F32) {
        for (; i + VW <= n; i += VW) v_store((float *)dst + i, v_load_bf16((const uint16_t *)src + i));
    } else if (src_type == DT_F32 && dst_type == DT_BF16) {
        for (; i + VW <= n; i += VW) v_store_bf16((uint16_t *)dst + i, v_load((const float *)src + i));
    } else if (src_type == dst_type) {
        memcpy(dst, src, n * dtype_bytes(src_type));
        return;
    }
    for (; i < n; i++) cpu_store(dst_type, dst, (int64_t)i, cpu_load(src_type, src, (int64_t)i));
}

/* x [d] += bias, then the head's norm; in place. */
static void head_norm(float *x, int d, const float *bias, const float *norm, float eps) {
    if (bias)
        for (int i = 0; i < d; i++) x[i] += bias[i];
    if (!norm) return;
    float r = rms_factor(x, d, eps);
    for (int i = 0; i < d; i++) x[i] *= r * norm[i];
}

/* Rotates the pairs (j, j + half) of x by angles whose cosines and sines are cs[0..half), cs[half..2 half), into out. */
static void head_rotate(const float *x, int d, int half, const float *cs, dtype_t type, void *out) {
    int j = 0;
    for (; j + VW <= half; j += VW) {
        vf c = v_load(cs + j), s = v_load(cs + half + j), u = v_load(x + j), v = v_load(x + half + j);
        store_act(type, out, j, v_fma(u, c, v_set(0) - v * s));
        store_act(type, out, half + j, v_fma(v, c, u * s));
    }
    for (; j < half; j++) {
        float c = cs[j], s = cs[half + j], u = x[j], v = x[half + j];
        cpu_store(type, out, j, u * c - v * s);
        cpu_store(type, out, half + j, v * c + u * s);
    }
    rows_convert((size_t)(d - 2 * half), type, (char *)out + (size_t)(2 * half) * dtype_bytes(type), DT_F32, x + 2 * half);
}

static void head_finish(const qkv_args_t *a, int64_t t, int h, const float *norm, bool rotate, dtype_t type, void *out, float *head) {
    int d = a->d_head, heads = a->n_head + 2 * a->n_kv_head;
    const float *x = a->qkv + (t * heads + h) * d;
    if (a->bias || norm) {
        memcpy(head, x, (size_t)d * sizeof *x);
        head_norm(head, d, a->bias ? a->bias + (int64_t)h * d : NULL, norm, a->norm_eps);
        x = head;
    }
    head_rotate(x, d, rotate ? a->d_rot / 2 : 0, a->cos_sin + t * a->d_rot, type, out);
}

static void rows_qkv(const qkv_args_t *a, dtype_t act, const run_t *run, int64_t first, int64_t n, float *head) {
    const kv_pool_t *p = run->pool >= 0 ? &a->pools[run->pool] : NULL;
    size_t act_bytes = dtype_bytes(act), kv_bytes = p ? dtype_bytes(p->type) : 0;
    for (int64_t i = first; i < first + n; i++) {
        int64_t t = run->row + i;
        for (int h = 0; h < a->n_head; h++)
            head_finish(a, t, h, a->q_norm, true, act, (char *)a->q + (size_t)((t * a->n_head + h) * a->d_head) * act_bytes, head);
        for (int h = 0; p && h < a->n_kv_head; h++) {
            int64_t at = (a->layer * p->layer_stride + h * p->head_stride + (run->index + i) * p->row_stride) * (int64_t)kv_bytes;
            head_finish(a, t, a->n_head + h, a->k_norm, true, p->type, (char *)p->k + at, head);
            head_finish(a, t, a->n_head + a->n_kv_head + h, NULL, false, p->type, (char *)p->v + at, head);
        }
    }
}

/* Does block b of a head take part? A NaN lse does: it must show in the result. */
V_FN bool block_kept(const merge_args_t *a, int64_t at) { return a->lse[at] != -INFINITY && (!a->keep || a->keep[at]); }

/* Heads first .. first+n of the flattened [row][head]. */
static void rows_merge(const merge_args_t *a, int64_t first, int64_t n, float *o) {
    int64_t stride = a->n_row * a->n_head, d = a->d_head;
    for (int64_t th = first; th < first + n; th++) {
        float max = -INFINITY, sum = 0, m = 0;
        bool any = false;
        for (int64_t at = th; at < th + a->n_block * stride; at += stride)
            if (block_kept(a, at)) {
                any = true;
                max = a->lse[at] > max ? a->lse[at] : max;
            }
        for (int64_t at = th; at < th + a->n_block * stride; at += stride)
            if (block_kept(a, at)) sum += expf(a->lse[at] - max);
        for (int64_t i = 0; i < d; i++) o[i] = 0;
        for (int64_t at = th; at < th + a->n_block * stride; at += stride) {
            if (!block_kept(a, at)) continue;
            float w = expf(a->lse[at] - max) / sum;
            const float *from = a->o + at * d;
            int64_t i = 0;
            for (; i + VW <= d; i += VW) v_store(o + i, v_fma(v_set(w), v_load(from + i), v_load(o + i)));
            for (; i < d; i++) o[i] += w * from[i];
            if (a->m) m += w * a->m[at];
        }
        rows_convert((size_t)d, a->o_out_type, (char *)a->o_out + (size_t)(th * d) * dtype_bytes(a->o_out_type), DT_F32, o);
        if (a->lse_out) a->lse_out[th] = any ? max + logf(sum) : -INFINITY;
        if (a->m_out) a->m_out[th] = m;
    }
}

#endif

/* Template: attention of one tile of query lines over one range of keys. Included once by each cpu_kernels_*.c; the driver is cpu_attn.c.
 *
 *            keys, 64 at a time, aligned to multiples of 64 of the pool's index
 *          +--------+--------+--------+----
 *   strip  | S = Q K'  (6 lines x 64 in registers) -> masks in edge blocks -> running softmax -> P -> O += P V
 *   strip  |        |        |        |
 *          +--------+--------+--------+----
 *
 * Why a line's bits never depend on its tile: every element of S and O is one chain of multiply-adds in the order of d or of the keys;
 * blocks and the sums over 16 (8, 4) lanes are tied to the key's index; a key that a line does not see enters with probability exactly 0,
 * which changes neither a finite sum nor the running maximum, so skipping keys (a strip that sees none, the rest of a block) and computing
 * them are the same. Values that are not finite would break that (0 * inf), so an edge block that holds one is done row by row, with the
 * keys the row does not see put to zero. Denormals would too, since the dot product instruction flushes them: the driver turns on flushing
 * for the whole task.
 */
#ifndef BACKEND_CPU_ATTN_H
#define BACKEND_CPU_ATTN_H

#include <float.h>

#include "backend/cpu_kernels.h"
#include "backend/cpu_rows.h"
#include "backend/cpu_vec.h"
#include "base/mem.h"

#if defined(__AVX512F__)
enum { ATTN_NV = 4 };
#else
enum { ATTN_NV = 2 };
#endif

enum { FEW_LINES = 24 }; /* up to here a tile spends its time waiting for K and V */

V_FN int attn_cells(const attn_job_t *j) { return j->d_pad >> j->dot; } /* cells of a head */

/* c[mr][nv vectors] (+)= a[mr][steps] b[steps][..]; lda, ldb, ldc in cells. Constants dot, keep, mr, nv keep c in registers. */
V_FN void attn_mm(int dot, int keep, int mr, int nv, int steps, const float *a, int lda, const float *b, int ldb, float *c, int ldc) {
    vf acc[ATTN_MR][ATTN_NV];
#pragma GCC unroll 6
    for (int r = 0; r < mr; r++)
#pragma GCC unroll 4
        for (int v = 0; v < nv; v++) acc[r][v] = keep ? v_load(c + r * ldc + v * VW) : v_set(0);
    for (int i = 0; i < steps; i++) {
        vf bv[ATTN_NV];
#pragma GCC unroll 4
        for (int v = 0; v < nv; v++) bv[v] = v_load(b + i * ldb + v * VW);
#pragma GCC unroll 6
        for (int r = 0; r < mr; r++) {
            vf av = v_set(a[r * lda + i]);
#pragma GCC unroll 4
            for (int v = 0; v < nv; v++) acc[r][v] = dot ? v_dot(acc[r][v], av, bv[v]) : v_fma(av, bv[v], acc[r][v]);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < mr; r++)
#pragma GCC unroll 4
        for (int v = 0; v < nv; v++) v_store(c + r * ldc + v * VW, acc[r][v]);
}

V_FN void attn_mm_nv(int dot, int keep, int mr, int nv, int steps, const float *a, int lda, const float *b, int ldb, float *c, int ldc) {
    switch (nv) {
#if defined(__AVX512F__)
    case 1:
        attn_mm(dot, keep, mr, 1, steps, a, lda, b, ldb, c, ldc);
        break;
    case 2:
        attn_mm(dot, keep, mr, 2, steps, a, lda, b, ldb, c, ldc);
        break;
    case 3:
        attn_mm(dot, keep, mr, 3, steps, a, lda, b, ldb, c, ldc);
        break;
#endif
    default:
        attn_mm(dot, keep, mr, ATTN_NV, steps, a, lda, b, ldb, c, ldc);
    }
}

/* Any mr <= ATTN_MR, any number of columns that is a multiple of 16. */
V_FN void attn_mm_any(int dot, int keep, int mr, int columns, int steps, const float *a, int lda, const float *b, int ldb, float *c,
                      int ldc) {
    for (int col = 0; col < columns; col += ATTN_NV * VW) {
        int left = (columns - col) / VW, nv = left < ATTN_NV ? left : ATTN_NV;
        switch (mr) {
        case 1:
            attn_mm_nv(dot, keep, 1, nv, steps, a, lda, b + col, ldb, c + col, ldc);
            break;
        case 2:
            attn_mm_nv(dot, keep, 2, nv, steps, a, lda, b + col, ldb, c + col, ldc);
            break;
        case 3:
            attn_mm_nv(dot, keep, 3, nv, steps, a, lda, b + col, ldb, c + col, ldc);
            break;
        case 4:
            attn_mm_nv(dot, keep, 4, nv, steps, a, lda, b + col, ldb, c + col, ldc);
            break;
        case 5:
            attn_mm_nv(dot, keep, 5, nv, steps, a, lda, b + col, ldb, c + col, ldc);
            break;
        default:
            attn_mm_nv(dot, keep, ATTN_MR, nv, steps, a, lda, b + col, ldb, c + col, ldc);
        }
    }
}

#define ATTN_MM(name, dot, keep)                                                                                                           \
    static __attribute__((noinline)) void name(int mr, int columns, int steps, const float *a, int lda, const float *b, int ldb, float *c, \
                                               int ldc) {                                                                                  \
        attn_mm_any(dot, keep, mr, columns, steps, a, lda, b, ldb, c, ldc);                                                                \
    }
ATTN_MM(attn_logits_f32, 0, 0)
ATTN_MM(attn_values_f32, 0, 1)
#if defined(__AVX512BF16__)
ATTN_MM(attn_logits_dot, 1, 0)
ATTN_MM(attn_values_dot, 1, 1)
#else
#define attn_logits_dot attn_logits_f32
#define attn_values_dot attn_values_f32
#endif

/* ---- packing ---------------------------------------------------------------------------------------------------- */

/* VW cells of a row of d elements, from element i on; zeros behind the end. */
V_FN vf row_cells(int dot, dtype_t type, const void *row, int i, int d) {
    int want = dot ? 2 * VW : VW;
    uint32_t tail[VW]; /* enough for either type */
    if (i + want > d) {
        memset(tail, 0, sizeof tail);
        if (i < d) memcpy(tail, (const char *)row + (size_t)i * dtype_bytes(type), (size_t)(d - i) * dtype_bytes(type));
        row = tail;
        i = 0;
    }
    if (dot || type == DT_F32) return v_load((const float *)((const char *)row + (size_t)i * dtype_bytes(type)));
    return v_load_bf16((const uint16_t *)row + i);
}

static void attn_query(const attn_job_t *j, const attn_tile_t *t, attn_work_t *w) {
    const attn_args_t *a = j->a;
    int cells = attn_cells(j), d = a->d_head, line = 0;
    size_t bytes = dtype_bytes(j->act);
    float edge[VW];
    for (int r = 0; r < t->rows; r++)
        for (int h = t->head; h < t->head + t->heads; h++, line++) {
            const char *q = (const char *)a->q + (size_t)(((t->run->row + t->first + r) * a->n_head + h) * d) * bytes;
            for (int c = 0; c < cells; c += VW) {
                vf x = row_cells(V_DOT && j->dot, j->act, q, c << j->dot, d);
                v_store(edge, x);
                memcpy(w->q + line * cells + c, edge, (size_t)(cells - c < VW ? cells - c : VW) * sizeof *edge);
            }
        }
}

/* The rows of one side of a pool that a block packs: row i is at first + i * stride bytes; rows outside [from, to) are zeros. */
typedef struct {
    const char *first;
    int64_t stride;
    int from, to;
    dtype_t type;
} block_rows_t;

V_FN block_rows_t block_rows(const kv_pool_t *p, const void *side, int64_t base, int64_t k0, int64_t from, int64_t to) {
    int64_t bytes = (int64_t)dtype_bytes(p->type);
    return (block_rows_t){(const char *)side + (base + k0 * p->row_stride) * bytes, p->row_stride * bytes, (int)(from - k0), (int)(to - k0),
                          p->type};
}

/* VW rows from row `g` and VW cells from cell c on, transposed. `whole`: all VW rows are there, and all cells. */
V_FN void pack_square(int dot, bool whole, const block_rows_t *b, int g, int c, int cells, int d, float *out) {
    vf x[VW];
    const char *row = b->first + g * b->stride;
#pragma GCC unroll 16
    for (int i = 0; i < VW; i++, row += b->stride) {
        if (whole)
            x[i] = dot || b->type == DT_F32 ? v_load((const float *)row + c) : v_load_bf16((const uint16_t *)row + c);
        else
            x[i] = g + i >= b->from && g + i < b->to ? row_cells(dot, b->type, row, c << dot, d) : v_set(0);
    }
    v_transpose(x);
#pragma GCC unroll 16
    for (int i = 0; i < VW; i++)
        if (whole || c + i < cells) v_store(out + (c + i) * ATTN_KEYS + g, x[i]);
}

/* K rows as [cells][64]. */
V_FN void pack_keys(int dot, block_rows_t b, int cells, int d, float *out) {
    for (int g = 0; g < ATTN_KEYS; g += VW)
        for (int c = 0; c < cells; c += VW) {
            bool whole = g >= b.from && g + VW <= b.to && ((c + VW) << dot) <= d;
            if (whole)
                pack_square(dot, true, &b, g, c, cells, d, out);
            else
                pack_square(dot, false, &b, g, c, cells, d, out);
        }
}

/* Asks for the rows of the next block, whose stride the hardware's own prefetching does not follow. */
V_FN void prefetch_rows(const block_rows_t *b, int n, int bytes) {
    const char *row = b->first + ATTN_KEYS * b->stride;
    for (int i = 0; i < n; i++, row += b->stride)
        for (int at = 0; at < bytes; at += 64) __builtin_prefetch(row + at, 0, 2);
}

/* V rows as [64][d_pad] f32. Is every value finite? */
V_FN bool pack_values_f32(block_rows_t b, int d, int d_pad, float *out) {
    vf check = v_set(0); /* stays 0 unless something is not finite */
    const char *row = b.first;
    for (int i = 0; i < ATTN_KEYS; i++, row += b.stride, out += d_pad)
        for (int c = 0; c < d_pad; c += VW) {
            vf x = i >= b.from && i < b.to ? row_cells(0, b.type, row, c, d) : v_set(0);
            check = v_fma(x, v_set(0), check);
            v_store(out + c, x);
        }
    return v_sum(check) == 0;
}

/* V rows as [32][d_pad] pairs. */
V_FN bool pack_values_dot(block_rows_t b, int d, int d_pad, float *out) {
    static const uint16_t zeros[VW] = {0};
    v_bits_t seen = v_bits_none();
    const char *row = b.first;
    for (int i = 0; i < ATTN_KEYS; i += 2, row += 2 * b.stride, out += d_pad) {
        const uint16_t *x = i >= b.from && i < b.to ? (const uint16_t *)row : NULL;
        const uint16_t *y = i + 1 >= b.from && i + 1 < b.to ? (const uint16_t *)(row + b.stride) : NULL;
        int c = 0;
        for (; x && y && c + 2 * VW <= d; c += 2 * VW) {
            vf pairs[2];
            v_interleave2(x + c, y + c, pairs, &seen);
            v_store(out + c, pairs[0]);
            v_store(out + c + VW, pairs[1]);
        }
        for (; c + VW <= d; c += VW) v_store(out + c, v_interleave(x ? x + c : zeros, y ? y + c : zeros, &seen));
        if (c == d_pad) continue;
        uint16_t tail[2][VW] = {{0}};
        if (x) memcpy(tail[0], x + c, (size_t)(d - c) * sizeof *x);
        if (y) memcpy(tail[1], y + c, (size_t)(d - c) * sizeof *y);
        v_store(out + c, v_interleave(tail[0], tail[1], &seen));
    }
    return v_bits_finite(seen);
}

V_FN bool pack_values(int dot, block_rows_t b, int d, int d_pad, float *out) {
    return dot ? pack_values_dot(b, d, d_pad, out) : pack_values_f32(b, d, d_pad, out);
}

/* ---- softmax ---------------------------------------------------------------------------------------------------- */

static void top_insert(float *top, float x) {
    if (!(x > top[ATTN_TOP - 1])) return;
    int k = ATTN_TOP - 1;
    for (; k > 0 && x > top[k - 1]; k--) top[k] = top[k - 1];
    top[k] = x;
}

V_FN void top_update(float *top, const float *s, int n) {
    for (int i = 0; i < n; i += VW)
        for (unsigned more = v_above(v_load(s + i), v_set(top[ATTN_TOP - 1])); more; more &= more - 1)
            top_insert(top, s[i + __builtin_ctz(more)]);
}

/* Is it that the line sees nothing yet, or are its logits NaN? */
static __attribute__((noinline)) bool any_nan(const float *s, int n) {
    for (int i = 0; i < n; i++)
        if (s[i] != s[i]) return true;
    return false;
}

typedef struct {
    float c; /* scale * log2(e) */
    bool u, top;
} softmax_t;

V_FN float lane_factor(float t) { /* 2^t for one number, the same code as for vectors */
    float x[VW];
    v_store(x, v_exp2(v_set(t)));
    return x[0];
}

/* Probabilities of n keys to p (pairs when dot); sums of p into *l and, when wanted, of p s into *u. */
V_FN void line_weights(int dot, int want_u, const float *s, int n, vf m, vf c, float *p, vf *l, vf *u) {
    vf before = v_set(0);
    for (int i = 0; i < n; i += VW) {
        vf x = v_load(s + i), e = v_exp2_neg((x - m) * c, dot);
        *l = *l + e;
        if (want_u) *u = v_fma(e, v_max(v_set(-FLT_MAX), x), *u);
        if (!dot)
            v_store(p + i, e);
        else if (i / VW % 2)
            v_store_pairs(p + (i - VW) / 2, before, e);
        else if (i + VW == n)
            v_store_half(p + i / 2, e);
        before = e;
    }
}

/* One line over n keys (a multiple of 16): probabilities to p, statistics updated; returns what older sums were multiplied by. */
V_FN float line_softmax(int dot, const softmax_t *f, const float *s, int n, float *p, float *stat, float *lv, float *uv) {
    float factor = 1, mx = stat[STAT_MAX];
    vf top = v_load(s), l = v_load(lv), u = v_load(uv);
    for (int i = VW; i < n; i += VW) top = v_max(top, v_load(s + i));
    if (v_above(top, v_set(mx))) {
        float old = mx;
        mx = stat[STAT_MAX] = v_top(top);
        factor = old == -INFINITY ? 0 : lane_factor((old - mx) * f->c);
        l = l * v_set(factor);
        u = u * v_set(factor);
    } else if (mx == -INFINITY) {
        if (any_nan(s, n))
            mx = stat[STAT_MAX] = NAN;
        else
            mx = 0; /* no key seen so far: every probability below is 0 */
    }
    vf m = v_set(mx), c = v_set(f->c);
    if (f->u) {
        line_weights(dot, 1, s, n, m, c, p, &l, &u);
        v_store(uv, u);
    } else if (n == ATTN_KEYS) {
        line_weights(dot, 0, s, ATTN_KEYS, m, c, p, &l, &u);
    } else {
        line_weights(dot, 0, s, n, m, c, p, &l, &u);
    }
    v_store(lv, l);
    if (f->top && v_above(top, v_set(stat[STAT_TOP + ATTN_TOP - 1]))) top_update(stat + STAT_TOP, s, n);
    return factor;
}

/* ---- a tile over a part ------------------------------------------------------------------------------------------ */

static void attn_clear(const attn_job_t *j, const attn_tile_t *t, float *state) {
    int lines = t->rows * t->heads;
    float *stat = attn_stat(j, t, state);
    memset(state, 0, (size_t)lines * (size_t)j->d_pad * sizeof *state);
    for (int i = 0; i < lines; i++, stat += ATTN_STAT) {
        stat[STAT_MAX] = -INFINITY;
        stat[STAT_L] = stat[STAT_U] = 0;
        for (int k = 0; k < ATTN_TOP; k++) stat[STAT_TOP + k] = -INFINITY;
    }
}

/* Lines line .. line+mr over the packed block at k0. */
V_FN void strip_block(int dot, const attn_job_t *j, const attn_tile_t *t, attn_work_t *w, const softmax_t *f, int64_t k0, int line, int mr,
                      float *state) {
    int r0 = line / t->heads, r1 = (line + mr - 1) / t->heads, cells = attn_cells(j), d_pad = j->d_pad;
    int64_t from = i64_max(w->lo[r0], k0), to = i64_min(w->hi[r1], k0 + ATTN_KEYS);
    if (from >= to) return;
    int z = (int)(from - k0) & ~15, n = (((int)(to - k0) + 15) & ~15) - z; /* keys z .. z+n of the block */
    (dot ? attn_logits_dot : attn_logits_f32)(mr, n, cells, w->q + line * cells, cells, w->k + z, ATTN_KEYS, w->s, ATTN_KEYS);
    bool edge = w->lo[r1] > k0 + z || w->hi[r0] < k0 + z + n;
    float *stat = attn_stat(j, t, state) + line * ATTN_STAT;
    for (int i = 0; i < mr; i++) {
        float *s = w->s + i * ATTN_KEYS, *o = state + (size_t)((line + i) * d_pad);
        if (edge) {
            int r = (line + i) / t->heads;
            int64_t lo = w->lo[r] - k0 - z, hi = w->hi[r] - k0 - z;
            for (int x = 0; x < n && x < lo; x++) s[x] = -INFINITY;
            for (int x = hi > 0 ? (int)i64_min(hi, n) : 0; x < n; x++) s[x] = -INFINITY;
        }
        float factor =
            line_softmax(dot, f, s, n, w->p + i * ATTN_KEYS, stat + i * ATTN_STAT, w->l + (line + i) * 16, w->u + (line + i) * 16);
        if (factor != 1)
            for (int x = 0; x < d_pad; x += VW) v_store(o + x, v_load(o + x) * v_set(factor));
    }
    (dot ? attn_values_dot : attn_values_f32)(mr, d_pad, n >> dot, w->p, ATTN_KEYS, w->v + (z >> dot) * d_pad, d_pad,
                                              state + (size_t)(line * d_pad), d_pad);
}

V_FN int64_t edge_fast(edge_t e, int64_t i) { return e.div == 1 ? (i + e.add) * e.mul + e.off : edge_at(e, i); }

V_FN void part_run(int dot, const attn_job_t *j, const attn_tile_t *t, attn_work_t *w, const span_t *span, int64_t begin, int64_t end,
                   float *state) {
    const attn_args_t *a = j->a;
    const kv_pool_t *p = &a->pools[span->pool];
    softmax_t f = {a->scale * 0x1.715476p+0f, a->m != NULL, a->top != NULL};
    int64_t base = a->layer * p->layer_stride + t->kv_head * p->head_stride, index = t->run->index + t->first;
    int lines = t->rows * t->heads;
    for (int r = 0; r < t->rows; r++) {
        w->lo[r] = i64_max(begin, span_clip(span, edge_fast(span->lo, index + r)));
        w->hi[r] = i64_min(end, span_clip(span, edge_fast(span->hi, index + r)));
    }
    attn_clear(j, t, state);
    memset(w->l, 0, (size_t)lines * 16 * sizeof *w->l);
    memset(w->u, 0, (size_t)lines * 16 * sizeof *w->u);
    for (int64_t k0 = begin / ATTN_KEYS * ATTN_KEYS; k0 < end; k0 += ATTN_KEYS) {
        int64_t from = i64_max(begin, k0), to = i64_min(end, k0 + ATTN_KEYS);
        block_rows_t keys = block_rows(p, p->k, base, k0, from, to), values = block_rows(p, p->v, base, k0, from, to);
        if (lines <= FEW_LINES) {
            int next = (int)i64_min(ATTN_KEYS, end - k0 - ATTN_KEYS), row_bytes = a->d_head * (int)dtype_bytes(p->type);
            prefetch_rows(&keys, next, row_bytes);
            prefetch_rows(&values, next, row_bytes);
        }
        pack_keys(dot, keys, attn_cells(j), a->d_head, w->k);
        bool finite = pack_values(dot, values, a->d_head, j->d_pad, w->v);
        bool whole = w->lo[t->rows - 1] <= from && w->hi[0] >= to; /* every row sees all of it */
        if (finite || whole) {
            for (int line = 0; line < lines; line += ATTN_MR)
                strip_block(dot, j, t, w, &f, k0, line, (int)i64_min(ATTN_MR, lines - line), state);
            continue;
        }
        for (int r = 0; r < t->rows; r++) {
            int64_t lo = i64_max(from, w->lo[r]), hi = i64_min(to, w->hi[r]);
            if (lo >= hi) continue;
            pack_values(dot, block_rows(p, p->v, base, k0, lo, hi), a->d_head, j->d_pad, w->v);
            for (int h = 0; h < t->heads; h += ATTN_MR)
                strip_block(dot, j, t, w, &f, k0, r * t->heads + h, (int)i64_min(ATTN_MR, t->heads - h), state);
        }
    }
    float *stat = attn_stat(j, t, state);
    for (int i = 0; i < lines; i++) {
        stat[i * ATTN_STAT + STAT_L] = v_sum(v_load(w->l + i * 16));
        stat[i * ATTN_STAT + STAT_U] = v_sum(v_load(w->u + i * 16));
    }
}

static void attn_part(const attn_job_t *j, const attn_tile_t *t, attn_work_t *w, const span_t *span, int64_t begin, int64_t end,
                      float *state) {
    if (V_DOT && j->dot)
        part_run(V_DOT, j, t, w, span, begin, end, state);
    else
        part_run(0, j, t, w, span, begin, end, state);
}

/* ---- states ------------------------------------------------------------------------------------------------------ */

static void attn_fold(const attn_job_t *j, const attn_tile_t *t, float *acc, float *part) {
    int lines = t->rows * t->heads, d_pad = j->d_pad;
    float *x = attn_stat(j, t, acc), *y = attn_stat(j, t, part), c = j->a->scale * 0x1.715476p+0f;
    for (int i = 0; i < lines; i++, x += ATTN_STAT, y += ATTN_STAT, acc += d_pad, part += d_pad) {
        if (y[STAT_MAX] == -INFINITY) continue;
        float mx = x[STAT_MAX] >= y[STAT_MAX] ? x[STAT_MAX] : y[STAT_MAX]; /* a NaN on either side ends in l and o */
        float fx = x[STAT_MAX] == -INFINITY ? 0 : lane_factor((x[STAT_MAX] - mx) * c), fy = lane_factor((y[STAT_MAX] - mx) * c);
        x[STAT_MAX] = mx;
        x[STAT_L] = x[STAT_L] * fx + y[STAT_L] * fy;
        x[STAT_U] = x[STAT_U] * fx + y[STAT_U] * fy;
        for (int e = 0; e < d_pad; e += VW) v_store(acc + e, v_fma(v_load(part + e), v_set(fy), v_load(acc + e) * v_set(fx)));
        for (int k = 0; j->a->top && k < ATTN_TOP; k++) top_insert(x + STAT_TOP, y[STAT_TOP + k]);
    }
}

static void attn_finish(const attn_job_t *j, const attn_tile_t *t, int block, float *acc) {
    const attn_args_t *a = j->a;
    float *stat = attn_stat(j, t, acc);
    for (int i = 0; i < t->rows * t->heads; i++, stat += ATTN_STAT, acc += j->d_pad) {
        int64_t row = t->run->row + t->first + i / t->heads, at = (block * a->n_row + row) * a->n_head + t->head + i % t->heads;
        bool none = stat[STAT_MAX] == -INFINITY;
        float over = none ? 0 : 1.0f / stat[STAT_L];
        for (int e = 0; e < j->d_pad; e += VW) v_store(acc + e, v_fma(v_load(acc + e), v_set(over), v_set(0))); /* + 0: no negative zeros */
        rows_convert((size_t)a->d_head, a->o_type, (char *)a->o + (size_t)(at * a->d_head) * dtype_bytes(a->o_type), DT_F32, acc);
        if (a->lse) a->lse[at] = none ? -INFINITY : stat[STAT_MAX] * a->scale + logf(stat[STAT_L]);
        if (a->m) a->m[at] = none ? 0 : stat[STAT_U] * over * a->scale + 0.0f;
        for (int k = 0; a->top && k < ATTN_TOP; k++) a->top[at * ATTN_TOP + k] = stat[STAT_TOP + k] * a->scale + 0.0f;
    }
}

#endif

/* Whole blocks get other weights: a shift of all of a block's logits is a shift of its lse, and of its m, while its o stays. So what sets
 * structured prompting and APE apart from parallel context encoding is arithmetic on partial results, a few numbers a row. */
#include <math.h>

#include "query/attend_impl.h"

/* Adds shift[row][head] to lse and m of slots first .. first+n-1 of `sums`. */
static status_t slots_shift(attend_t *a, int64_t first, int64_t n, const float *shift) {
    backend_t *be = a->be;
    int64_t cells = plane(a);
    size_t bytes = (size_t)(n * cells) * sizeof(float);
    float *at[2] = {a->sums.lse + first * cells, a->sums.m + first * cells};
    status_t st = ST_OK;
    for (int i = 0; i < 1 + a->spec.want_entropy && !st && n; i++) { /* m counts for entropy alone */
        st = be->ops->copy_out(be, a->slots, at[i], bytes);
        for (int64_t x = 0; !st && x < n * cells; x++) a->slots[x] += shift[x % cells]; /* a block without keys stays at -inf */
        if (!st) st = be->ops->copy_in(be, at[i], a->slots, bytes);
        if (!st) st = be->ops->sync(be); /* the host's copy is used again */
    }
    return st;
}

/* w_C = exp(S T L_C) / (exp(S T L_C) + exp(L_O)): every group's logits, which are divided by T already, move by (S T - 1) L_C. */
static status_t context_shift(attend_t *a) {
    int64_t cells = plane(a), n = a->ctx->n_group;
    double by = a->spec.scale * a->spec.temperature - 1;
    status_t st = a->be->ops->copy_out(a->be, a->slots, a->sums.lse + a->n_base * cells, (size_t)(n * cells) * sizeof(float));
    for (int64_t x = 0; !st && x < cells; x++) {
        float max = -INFINITY;
        double sum = 0;
        for (int64_t g = 0; g < n; g++) max = fmaxf(max, a->slots[g * cells + x]);
        for (int64_t g = 0; g < n && max > -INFINITY; g++) sum += exp((double)a->slots[g * cells + x] - (double)max);
        a->shift[x] = sum > 0 ? (float)(by * ((double)max + log(sum))) : 0;
    }
    return st ? st : slots_shift(a, a->n_base, n, a->shift);
}

float own_shift(const attend_t *a) { return (float)log((double)(a->spec.select ? a->spec.select : a->ctx->n_segment)); }

status_t reweigh(attend_t *a) {
    int64_t cells = plane(a);
    if (!a->ctx->n_segment) return ST_OK;
    if (a->spec.temperature > 0) return context_shift(a);
    if (!a->spec.own_log_p) return ST_OK;
    float *log_p = a->total; /* written again by the last merge */
    for (int64_t x = 0; x < cells; x++) log_p[x] = own_shift(a);
    return slots_shift(a, 1, 1, log_p);
}

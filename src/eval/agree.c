#include "eval/agree.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"

typedef struct {
    const sequence_spec_t *layout;
    const int32_t *tokens;
    int64_t n, n_vocab;
    float *full;      /* [n][n_vocab] logits under full attention */
    agree_sum_t *row; /* [n] what each row adds */
} compare_t;

static status_t keep_rows(void *ctx, int64_t at, int64_t n, const float *logits) {
    compare_t *c = ctx;
    memcpy(c->full + at * c->n_vocab, logits, (size_t)(n * c->n_vocab) * sizeof *logits);
    return ST_OK;
}

static double log_sum(const float *x, int64_t n, int64_t *best) {
    double sum = 0;
    *best = 0;
    for (int64_t i = 1; i < n; i++)
        if (x[i] > x[*best]) *best = i;
    for (int64_t i = 0; i < n; i++) sum += exp((double)x[i] - (double)x[*best]);
    return (double)x[*best] + log(sum);
}

agree_sum_t agree_row(const float *x, const float *y, int64_t n_vocab, int32_t next) {
    int64_t a, b;
    double lx = log_sum(x, n_vocab, &a), ly = log_sum(y, n_vocab, &b);
    agree_sum_t s = {.n = 1, .same = a == b, .n_next = next >= 0};
    for (int64_t i = 0; i < n_vocab; i++) {
        double p = (double)x[i] - lx;
        s.kl += exp(p) * (p - ((double)y[i] - ly));
    }
    if (s.n_next) s.nll_full = lx - (double)x[next];
    if (s.n_next) s.nll = ly - (double)y[next];
    return s;
}

static status_t compare_rows(void *ctx, int64_t at, int64_t n, const float *logits) {
    compare_t *c = ctx;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++)
        c->row[at + i] =
            agree_row(c->full + (at + i) * c->n_vocab, logits + i * c->n_vocab, c->n_vocab, at + i + 1 < c->n ? c->tokens[at + i + 1] : -1);
    return ST_OK;
}

void agree_add(agree_sum_t *to, const agree_sum_t *s) {
    to->n += s->n;
    to->kl += s->kl;
    to->same += s->same;
    to->nll += s->nll;
    to->nll_full += s->nll_full;
    to->n_next += s->n_next;
}

void agree_sum(agree_t *to, const agree_t *a) {
    agree_add(&to->all, &a->all);
    for (int b = 0; b < AGREE_BINS; b++) agree_add(&to->bin[b], &a->bin[b]);
}

status_t agree_window(model_t *m, comm_t *comm, const sequence_spec_t *layout, const int32_t *tokens, int64_t n, agree_t *out) {
    compare_t c = {.layout = layout, .tokens = tokens, .n = n, .n_vocab = model_config(m)->n_vocab};
    sequence_spec_t full = {.layout = LAYOUT_FULL, .kept = {.gist = {.window = -1}}, .segment = n, .max_row = layout->max_row},
                    other = *layout;
    int64_t segment = layout_info(layout->layout)->whole ? n : layout->segment;
    other.all_rows = false;
    status_t st = mem_alloc(&c.full, (size_t)n, (size_t)c.n_vocab * sizeof *c.full, "logits of a window; use a smaller --window");
    if (!st) st = mem_zalloc(&c.row, (size_t)n, sizeof *c.row, "rows of a window");
    if (!st) st = sequence_logits(m, comm, &full, tokens, n, keep_rows, &c);
    if (!st) st = sequence_logits(m, comm, &other, tokens, n, compare_rows, &c);
    for (int64_t i = 0; i < n && !st; i++) { /* in the order of the text, so sums do not depend on passes */
        agree_add(&out->all, &c.row[i]);
        agree_add(&out->bin[i % segment * AGREE_BINS / segment], &c.row[i]);
    }
    mem_free(c.full);
    mem_free(c.row);
    return st;
}

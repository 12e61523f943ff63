/* Plans of a document over ranks, against the rule row by row: every row is computed once, a rank has every row that its rows see, is sent
 * none that they do not, and the work is even. */
#include "unit.h"

#include <math.h>

#include "base/mem.h"
#include "base/rng.h"
#include "layout/shard.h"

enum { MAX_ROWS = 400, MAX_SEGMENTS = 12, MAX_RANKS = 7 };

/* All rows of a document: raw ones and gists, each with its segment and its index in it. */
typedef struct {
    row_kind_t kind;
    int64_t segment, i;
} row_t;

typedef struct {
    shard_spec_t spec;
    int64_t segment[MAX_SEGMENTS + 1];
    row_t rows[MAX_ROWS];
    int n_row;
    int owner[MAX_ROWS];           /* who computes a row */
    bool has[MAX_RANKS][MAX_ROWS]; /* computed or received */
    bool received[MAX_RANKS][MAX_ROWS];
} doc_t;

static int64_t length(const doc_t *d, int64_t s) { return d->segment[s + 1] - d->segment[s]; }

static void doc_make(doc_t *d, rng_t *rnd) {
    int64_t r = 1 + rng_below(rnd, 5), n_segment = 1 + rng_below(rnd, MAX_SEGMENTS);
    *d = (doc_t){0};
    d->spec = (shard_spec_t){.n_segment = n_segment, .size = 1 + (int)rng_below(rnd, MAX_RANKS), .max_row = r + 1 + rng_below(rnd, 12)};
    switch (rng_below(rnd, 4)) {
    case 0: /* full attention in slices */
        d->spec.raw_chain = true;
        d->spec.gist = (gist_spec_t){.window = -1};
        break;
    case 1: /* UniGist: one segment */
        d->spec.n_segment = n_segment = 1;
        d->spec.gist = (gist_spec_t){.ratio = r, .window = rng_below(rnd, 4) * r};
        break;
    case 2: /* Fine-KV, sometimes with a window */
        d->spec.gist = (gist_spec_t){.ratio = r, .window = rng_below(rnd, 2) ? -1 : 2 * r};
        d->spec.raw_kept = rng_below(rnd, 2);
        break;
    default: /* Coarse-KV */
        d->spec.gist = (gist_spec_t){.ratio = r, .window = -1, .at_end = true};
    }
    for (int64_t s = 0; s < n_segment; s++) d->segment[s + 1] = d->segment[s] + 1 + rng_below(rnd, n_segment == 1 ? 150 : 25);
    d->spec.segment = d->segment;
    for (int64_t s = 0; s < n_segment; s++) {
        for (int64_t i = 0; i < length(d, s); i++) d->rows[d->n_row++] = (row_t){KIND_RAW, s, i};
        for (int64_t i = 0; i < gist_count(&d->spec.gist, length(d, s)); i++) d->rows[d->n_row++] = (row_t){KIND_GIST, s, i};
    }
}

static int row_find(const doc_t *d, row_kind_t kind, int64_t segment, int64_t i) {
    for (int k = 0; k < d->n_row; k++)
        if (d->rows[k].kind == kind && d->rows[k].segment == segment && d->rows[k].i == i) return k;
    return -1;
}

static bool sees(const doc_t *d, int q, int c) {
    const row_t *a = &d->rows[q], *b = &d->rows[c];
    if (b->segment > a->segment) return false;
    if (b->segment < a->segment) return b->kind == (d->spec.raw_chain ? KIND_RAW : KIND_GIST);
    if (!d->spec.gist.ratio) return b->i <= a->i;
    return gist_sees(&d->spec.gist, a->kind, a->i, b->kind, b->i, length(d, a->segment));
}

static void mark(doc_t *d, int rank, row_kind_t kind, int64_t segment, int64_t from, int64_t n, bool received) {
    for (int64_t i = from; i < from + n; i++) {
        int k = row_find(d, kind, segment, i);
        CU_ASSERT(k >= 0);
        if (k < 0) return;
        CU_ASSERT_FALSE(d->has[rank][k]); /* nothing twice */
        d->has[rank][k] = true;
        if (received) d->received[rank][k] = true;
        if (!received) d->owner[k] = rank + 1;
    }
}

static void plan_play(doc_t *d, const shard_t *s) {
    int64_t raw, raw_n, gist, gist_n, sent[MAX_RANKS] = {0};
    for (int64_t i = 0; i < s->first[2 * s->spec.size]; i++) {
        const shard_step_t *p = &s->steps[i];
        int owner = shard_owner(s, p->chunk);
        CU_ASSERT(p->raw_n + p->gist_n > 0 && p->raw_n + p->gist_n <= s->spec.max_row);
        mark(d, owner, KIND_RAW, p->segment, p->raw, p->raw_n, false);
        mark(d, owner, KIND_GIST, p->segment, p->gist, p->gist_n, false);
        for (int to = 0; to < s->spec.size; to++)
            if (shard_need(s, p, to, &raw, &raw_n, &gist, &gist_n)) {
                mark(d, to, KIND_RAW, p->segment, raw, raw_n, true);
                mark(d, to, KIND_GIST, p->segment, gist, gist_n, true);
                sent[owner] += raw_n + gist_n;
            }
    }
    for (int r = 0; r < s->spec.size; r++) CU_ASSERT_EQUAL(sent[r], shard_sent_rows(s, r));
}

static void check_plan(doc_t *d) {
    shard_t s;
    assign_cost_t cost = {.row = 3, .key = 2, .n_sink = 5};
    double load[MAX_RANKS] = {0};
    CU_ASSERT_EQUAL(shard_make(&d->spec, &s), ST_OK);
    plan_play(d, &s);
    for (int q = 0; q < d->n_row; q++) CU_ASSERT(d->owner[q] > 0);
    for (int q = 0; q < d->n_row; q++) {
        int rank = d->owner[q] - 1;
        load[rank] += cost.row + cost.key * (double)cost.n_sink;
        for (int c = 0; c < d->n_row; c++)
            if (sees(d, q, c)) {
                CU_ASSERT(d->has[rank][c]);
                load[rank] += cost.key;
            }
    }
    for (int r = 0; r < d->spec.size; r++) {
        CU_ASSERT(fabs(shard_load(&s, &cost, r) - load[r]) < 1e-6);
        for (int c = 0; c < d->n_row; c++) { /* what was sent is seen */
            bool used = !d->received[r][c];
            for (int q = 0; q < d->n_row && !used; q++) used = d->owner[q] == r + 1 && sees(d, q, c);
            used |= d->spec.raw_kept && d->rows[c].kind == KIND_RAW && shard_writer(&s, d->rows[c].segment) == r;
            CU_ASSERT(used);
        }
    }
    for (int64_t g = 0; g < d->spec.n_segment; g++) { /* who writes a segment has it */
        int w = shard_writer(&s, g);
        int64_t n = length(d, g),
                tail = d->spec.gist.ratio && !d->spec.gist.at_end && !d->spec.raw_kept ? gist_oldest(&d->spec.gist, n) : 0;
        for (int64_t i = tail; i < n; i++) CU_ASSERT(d->has[w][row_find(d, KIND_RAW, g, i)]);
        for (int64_t i = 0; i < gist_count(&d->spec.gist, n); i++) CU_ASSERT(d->has[w][row_find(d, KIND_GIST, g, i)]);
    }
    shard_free(&s);
}

static void test_against_rule(void) {
    rng_t rnd = {7};
    static doc_t d;
    for (int k = 0; k < 300; k++) {
        doc_make(&d, &rnd);
        check_plan(&d);
    }
}

/* Long documents: the heaviest rank is near the mean, and UniGist sends a ratio-th of what ring attention does, and less. */
static void test_balance(void) {
    for (int size = 2; size <= 8; size *= 2)
        for (int full = 0; full < 2; full++) {
            int64_t segment[2] = {0, 100003};
            shard_spec_t spec = {.segment = segment, .n_segment = 1, .size = size, .max_row = 512, .raw_chain = full};
            spec.gist = full ? (gist_spec_t){.window = -1} : (gist_spec_t){.ratio = 8, .window = 128};
            assign_cost_t cost = {.row = full ? 0 : 1000, .key = 1, .n_sink = 128};
            shard_t s;
            double most = 0, sum = 0, sent = 0, ring = 0;
            CU_ASSERT_EQUAL(shard_make(&spec, &s), ST_OK);
            for (int r = 0; r < size; r++) {
                double load = shard_load(&s, &cost, r);
                most = fmax(most, load);
                sum += load;
                sent += (double)shard_sent_rows(&s, r);
                ring += (double)shard_ring_rows(&s, r);
            }
            CU_ASSERT(most < 1.005 * sum / size);
            CU_ASSERT(sent < ring * (full ? 0.76 : 0.76 / 8) + (full ? 0 : 128.0 * 2 * size));
            shard_free(&s);
        }
}

/* More ranks than units: some have nothing, and nothing is lost. */
static void test_tiny(void) {
    int64_t segment[2] = {0, 3};
    shard_spec_t spec = {.segment = segment, .n_segment = 1, .size = 7, .max_row = 9, .gist = {.ratio = 8, .window = 8}};
    shard_t s;
    int64_t rows = 0;
    CU_ASSERT_EQUAL(shard_make(&spec, &s), ST_OK);
    for (int64_t i = 0; i < s.first[14]; i++) rows += s.steps[i].raw_n + s.steps[i].gist_n;
    CU_ASSERT_EQUAL(rows, 3);
    for (int r = 0; r < 7; r++) CU_ASSERT_EQUAL(shard_sent_rows(&s, r), 0);
    shard_free(&s);
}

UNIT_MAIN("shard", {"against the rule", test_against_rule}, {"balance", test_balance}, {"tiny", test_tiny})

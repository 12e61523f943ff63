/* Builders: each method's rows as runs and spans. The oracle for them is the row-by-row predicate in tests/unit/test_layout.c. */
#include "layout/layout.h"

#include <string.h>

#include "base/mem.h"

static const layout_info_t methods[LAYOUT_COUNT] = {
    [LAYOUT_FULL] = {.name = "full", .chained = true},                      /* section 2, and section 3 with one piece */
    [LAYOUT_PCE] = {.name = "pce"},                                         /* section 3 */
    [LAYOUT_BLOCKGIST] = {.name = "blockgist", .gists = true},              /* section 7 */
    [LAYOUT_FINE_KV] = {.name = "fine-kv", .chained = true, .gists = true}, /* section 4 */
    [LAYOUT_COARSE_KV] = {.name = "coarse-kv", .chained = true, .gists = true, .gists_at_end = true},                      /* section 4 */
    [LAYOUT_COARSE_REC] = {.name = "coarse-rec", .chained = true, .gists = true, .gists_at_end = true, .recurrent = true}, /* section 4 */
    [LAYOUT_UNIGIST] = {.name = "unigist", .gists = true, .whole = true},                                                  /* section 5 */
    [LAYOUT_BLOCKSELECT] = {.name = "blockselect", .selects = true}, /* section 7, its end */
    [LAYOUT_INCOMES] = {.name = "incomes", .gists = true, .gists_at_end = true, .whole = true, .bos = true, .edits = true}, /* section 6 */
    /* section 8 */
    [LAYOUT_PCW] = {.name = "pcw", .bos = true, .left = true},
    [LAYOUT_STRUCTURED] = {.name = "structured", .right = true, .own_log_p = true},
    [LAYOUT_APE] = {.name = "ape", .reweighs = true},
    [LAYOUT_BLOCK] = {.name = "block", .left = true, .joined = true},
    [LAYOUT_STAR] = {.name = "star", .chained = true, .anchored = true},
    [LAYOUT_STREAMING] = {.name = "streaming", .whole = true, .streams = true},
};

const layout_info_t *layout_info(layout_method_t m) { return &methods[m]; }

bool layout_find(const char *name, layout_method_t *out) {
    for (int m = 0; m < LAYOUT_COUNT; m++)
        if (!strcmp(methods[m].name, name)) {
            *out = (layout_method_t)m;
            return true;
        }
    return false;
}

int64_t layout_position(align_t align, int64_t n_sink, int64_t i, int64_t length, int64_t reserve, int64_t before) {
    switch (align) {
    case ALIGN_EVEN:
        return (int64_t)((double)n_sink + (double)i * (double)reserve / (double)length); /* truncated, as the authors do */
    case ALIGN_RIGHT:
        return n_sink + reserve - length + i;
    case ALIGN_SEQUENTIAL:
        return n_sink + before + i;
    case ALIGN_LEFT:
        break;
    }
    return n_sink + i;
}

int64_t layout_reserve(reserve_t how, const int64_t *lengths, int64_t n) {
    int64_t most = 0, sum = 0, counted = 0;
    double inverse = 0;
    for (int64_t i = 0; i < n; i++) {
        if (lengths[i] <= 0) continue;
        most = i64_max(most, lengths[i]);
        sum += lengths[i];
        inverse += 1.0 / (double)lengths[i];
        counted++;
    }
    if (!counted) return 0;
    if (how == RESERVE_MEAN) return sum / counted;
    if (how == RESERVE_HARMONIC) return (int64_t)((double)counted / inverse + 1e-9);
    return most;
}

void layout_clear(layout_t *l) {
    l->n_run = l->n_span = 0;
    l->n_row = 0;
}

void layout_free(layout_t *l) {
    mem_free(l->runs);
    mem_free(l->spans);
    *l = (layout_t){0};
}

status_t layout_add_run(layout_t *l, int32_t pool, int64_t index, int64_t n) {
    status_t st = mem_room(&l->runs, l->n_run, &l->cap_run, sizeof *l->runs, "runs of a layout");
    if (st) return st;
    l->runs[l->n_run++] = (run_t){.row = l->n_row, .n = n, .index = index, .pool = pool, .span = l->n_span, .n_span = 0};
    l->n_row += n;
    return ST_OK;
}

status_t layout_add_span(layout_t *l, span_t s) {
    status_t st = mem_room(&l->spans, l->n_span, &l->cap_span, sizeof *l->spans, "spans of a layout");
    if (st) return st;
    l->spans[l->n_span++] = s;
    l->runs[l->n_run - 1].n_span++;
    return ST_OK;
}

span_t span_all(int32_t pool, int32_t block, int64_t n) {
    return (span_t){.pool = pool, .block = block, .begin = 0, .end = n, .lo = edge_const(0), .hi = edge_const(n)};
}

span_t span_causal(int32_t pool, int32_t block, int64_t end, int64_t window) {
    span_t s = {.pool = pool, .block = block, .begin = 0, .end = end, .lo = edge_const(0), .hi = edge_step(1, 1, 0, 1)};
    if (window > 0) s.lo = edge_step(1, 1, 0, 1 - window);
    return s;
}

status_t layout_sink(layout_t *l, int32_t sink_pool, int64_t index, int64_t n) {
    status_t st = layout_add_run(l, sink_pool, index, n);
    return st ? st : layout_add_span(l, span_causal(sink_pool, 0, index + n, 0));
}

status_t layout_segment(layout_t *l, int32_t sink_pool, int64_t n_sink, int32_t raw_pool, int64_t index, int64_t n, int64_t window) {
    status_t st = layout_add_run(l, raw_pool, index, n);
    if (!st && n_sink) st = layout_add_span(l, span_all(sink_pool, 0, n_sink));
    return st ? st : layout_add_span(l, span_causal(raw_pool, 0, index + n, window));
}

status_t layout_query(layout_t *l, int32_t sink_pool, int64_t n_sink, int32_t own_pool, int64_t index, int64_t n, int32_t first_pool,
                      const int64_t *segment_rows, int n_segment) {
    status_t st = layout_segment(l, sink_pool, n_sink, own_pool, index, n, 0);
    for (int g = 0; !st && g < n_segment; g++)
        if (segment_rows[g]) st = layout_add_span(l, span_all(first_pool + g, 1 + g, segment_rows[g]));
    return st;
}

void split_even(int64_t n, int64_t pieces, int64_t p, int64_t *begin, int64_t *end) {
    int64_t each = i64_ceil_div(n, pieces);
    *begin = i64_min(p * each, n);
    *end = i64_min(*begin + each, n);
}

void split_items(int64_t n, int64_t pieces, int64_t p, int64_t *begin, int64_t *end) {
    int64_t each = n / pieces, more = n % pieces;
    *begin = p * each + i64_min(p, more);
    *end = *begin + each + (p < more);
}

/* Positions inside a cache (StreamingLLM, methods.md section 8): a row sees S sink rows and the last W of its segment, and positions count
 * what is there. So the distance to rows of the window is the real one, while the sink stays as near as when the window first was full:
 *
 *     text       s s s s . . . . . . . . w w w w q        sink row s seen from raw row i:
 *     cache      0 1 2 3                 4 5 6 7 8        its key turned by max(0, i - (W - 1))
 *
 * That differs from row to row, so each row has its own copy of the sink's keys: rows (i - base) * E .. + S of a pool, E the power of two
 * that holds S. base is a multiple of 64: copies then stand at the same places of the key blocks whatever passes the text is cut into,
 * so the bits do not depend on that.
 */
#include <string.h>

#include "base/mem.h"
#include "encode/encoder_impl.h"
#include "encode/kept.h"
#include "encode/move.h"

enum { BASE_ROWS = 64 };

static int64_t copies_stride(const encoder_t *e) {
    int64_t E = 1;
    while (E < e->n_sink) E *= 2;
    return E;
}

static int64_t base_of(int64_t raw) { return raw / BASE_ROWS * BASE_ROWS; }

status_t near_setup(encoder_t *e) {
    int64_t rows = (BASE_ROWS + e->spec.max_row) * copies_stride(e);
    status_t st = kv_alloc(e->be, e->config, e->be->act, rows, "the sink as each row finds it", &e->near);
    size_t bytes = (size_t)((e->spec.max_row + 1) * copies_stride(e) * e->config->d_head) * dtype_bytes(e->be->act);
    return st ? st : mem_zalloc(&e->near_host, bytes, 1, "the sink as each row finds it");
}

/* Copies of one layer and head's rows: n times S of E. */
static status_t copies_make(encoder_t *e, const void *from, void *to, int64_t n) {
    size_t row = (size_t)e->config->d_head * dtype_bytes(e->be->act), each = (size_t)copies_stride(e) * row;
    char *host = e->near_host;
    status_t st = e->be->ops->copy_out(e->be, host, from, (size_t)e->n_sink * row);
    for (int64_t i = 1; i < n && !st; i++) memcpy(host + (size_t)i * each, host, (size_t)e->n_sink * row);
    if (!st) st = e->be->ops->copy_in(e->be, to, host, (size_t)n * each);
    return st ? st : e->be->ops->sync(e->be); /* host is used again */
}

status_t near_fill(encoder_t *e, int64_t raw, int64_t raw_n) {
    const kv_pool_t *sink = &e->sink_pool;
    int64_t E = copies_stride(e), W = encoder_window(e);
    kv_pool_t part = kept_part(&e->near, (raw - base_of(raw)) * E, raw_n * E);
    size_t size = dtype_bytes(e->be->act);
    double *distance = NULL;
    status_t st = ST_OK;
    for (int64_t x = 0; x < e->config->n_layer * e->config->n_kv_head && !st; x++) {
        int64_t layer = x / e->config->n_kv_head, head = x % e->config->n_kv_head;
        size_t from = (size_t)(layer * sink->layer_stride + head * sink->head_stride) * size;
        size_t to = (size_t)(layer * part.layer_stride + head * part.head_stride) * size;
        st = copies_make(e, (char *)sink->k + from, (char *)part.k + to, raw_n);
        if (!st) st = copies_make(e, (char *)sink->v + from, (char *)part.v + to, raw_n);
    }
    if (!st) st = mem_alloc(&distance, (size_t)(raw_n * E), sizeof *distance, "distances");
    for (int64_t i = 0; i < raw_n * E && !st; i++) distance[i] = (double)i64_max(0, raw + i / E - (W - 1));
    if (!st) st = keys_move(e->model, &part, distance);
    mem_free(distance);
    return st;
}

span_t near_span(const encoder_t *e, int32_t pool, int64_t raw, int64_t raw_n) {
    int64_t E = copies_stride(e), base = base_of(raw);
    return (
        span_t){.pool = pool, .end = (raw + raw_n - base) * E, .lo = edge_step(1, E, -base, 0), .hi = edge_step(1, E, -base, e->n_sink)};
}

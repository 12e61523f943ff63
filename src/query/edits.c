#include "query/edits.h"

#include <stdlib.h>
#include <string.h>

#include "model/adapter.h"

enum { MANY_ENTRIES = 10 };

/* ---- which ---------------------------------------------------------------------------------------------------------- */
typedef struct {
    const store_segment_t *segment;
    int64_t at;
} place_in_list_t;

static int by_address(const void *x, const void *y) {
    const place_in_list_t *a = x, *b = y;
    int c = hash_compare(a->segment->address, b->segment->address);
    return c ? c : a->at < b->at ? -1 : 1;
}

status_t edits_unique(const store_segment_t **segments, int64_t *count) {
    place_in_list_t *list = NULL;
    int64_t n = *count, left = 0;
    status_t st = mem_alloc(&list, (size_t)n, sizeof *list, "edits");
    if (st) return st;
    for (int64_t i = 0; i < n; i++) list[i] = (place_in_list_t){segments[i], i};
    qsort(list, (size_t)n, sizeof *list, by_address);
    for (int64_t i = 1; i < n; i++)
        if (hash_equal(list[i].segment->address, list[i - 1].segment->address)) segments[list[i].at] = NULL;
    for (int64_t i = 0; i < n; i++)
        if (segments[i]) segments[left++] = segments[i];
    mem_free(list);
    *count = left;
    return ST_OK;
}

/* ---- the pool -------------------------------------------------------------------------------------------------------- */
/* Group g's edits, one row each. */
static status_t group_fill(backend_t *be, const model_config_t *upper, store_t *store, const store_segment_t *const *edits, int64_t n,
                           kv_pool_t *out) {
    dtype_t type = store_profile(store)->kv_type;
    size_t d = (size_t)upper->d_head, size = dtype_bytes(be->act), bytes = kv_bytes(upper, be->act, n);
    int64_t heads = upper->n_layer * upper->n_kv_head;
    char *host = NULL;
    status_t st = kv_alloc(be, upper, be->act, n, "edits", out);
    if (!st) st = mem_alloc(&host, 2 * bytes, 1, "edits");
    for (int64_t i = 0; i < n && !st; i++) {
        const int32_t *tokens;
        const void *from[2];
        st = store_map(store, edits[i], &tokens, &from[0], &from[1]);
        for (int x = 0; x < 2 && !st; x++)
            for (int64_t h = 0; h < heads; h++)
                dtype_convert(be->act, host + (size_t)x * bytes + (size_t)(h * n + i) * d * size, type,
                              (const char *)from[x] + (size_t)h * d * dtype_bytes(type), d);
    }
    if (!st) st = be->ops->copy_in(be, out->k, host, bytes);
    if (!st) st = be->ops->copy_in(be, out->v, host + bytes, bytes);
    if (!st) st = be->ops->sync(be);
    mem_free(host);
    return st;
}

static status_t zero_entry(model_t *m, const model_config_t *upper, context_kv_t *out) {
    backend_t *be = model_backend(m);
    const float *key = adapter_zero_key(model_adapter(m));
    size_t n = (size_t)(upper->n_layer * upper->n_kv_head * upper->d_head), bytes = n * dtype_bytes(be->act);
    size_t below = (size_t)((model_config(m)->n_layer - upper->n_layer) * upper->n_kv_head * upper->d_head);
    char *host = NULL;
    status_t st = kv_alloc(be, upper, be->act, 1, "entry 0 of the edits", &out->zero);
    if (!st) st = mem_zalloc(&host, bytes, 1, "entry 0 of the edits");
    if (!st) st = be->ops->copy_in(be, out->zero.v, host, bytes);
    if (!st) st = be->ops->sync(be);
    if (!st && key) dtype_convert(be->act, host, DT_F32, key + below, n);
    if (!st) st = be->ops->copy_in(be, out->zero.k, host, bytes);
    if (!st) st = be->ops->sync(be);
    mem_free(host);
    return st;
}

/* An edit is one row of the upper layers. */
static status_t shape_check(const model_config_t *upper, const store_t *store, const store_segment_t *const *edits, int64_t n) {
    const store_profile_t *p = store_profile(store);
    bool fits = p->n_layer == upper->n_layer && p->n_kv_head == upper->n_kv_head && p->d_head == upper->d_head;
    for (int64_t i = 0; i < n && fits; i++) fits = edits[i]->n_row == 1;
    return fits ? ST_OK
                : status_fail(ST_INPUT, "the store's edits are not one row in each of %lld upper layers of this model; encode them again",
                              (long long)upper->n_layer);
}

status_t edits_open(model_t *m, comm_t *comm, store_t *store, const store_segment_t *const *segments, int64_t n, bool verify,
                    context_kv_t *out) {
    backend_t *be = model_backend(m);
    model_config_t upper = *model_config(m);
    int64_t each = i64_max(1, i64_ceil_div(n, MAX_GROUPS)), n_group = i64_ceil_div(n, each), rows[MAX_GROUPS];
    upper.n_layer = kv_upper_layers(&upper);
    for (int64_t g = 0; g < n_group; g++) rows[g] = i64_min(each, n - g * each);
    status_t st = shape_check(&upper, store, segments, n);
    if (!st) st = context_deal(be, comm, rows, n_group, out);
    if (!st) {
        int64_t first = out->first * each, upto = i64_min(n, (out->first + out->n_local) * each);
        out->owns_pools = true;
        if (verify && upto > first) st = context_verify(store, segments + first, upto - first);
    }
    for (int64_t g = 0; !st && g < out->n_local; g++)
        st = group_fill(be, &upper, store, segments + (out->first + g) * each, rows[out->first + g], &out->pools[g]);
    if (!st) st = zero_entry(m, &upper, out);
    st = comm_agree(comm, st);
    if (st) context_free(out);
    return st;
}

attend_spec_t edits_attend(const model_config_t *c, int64_t n, double temperature) {
    return (attend_spec_t){.apart = true,
                           .first_layer = (int)(c->n_layer - kv_upper_layers(c)),
                           .temperature = temperature > 0        ? temperature
                                          : 1 + n > MANY_ENTRIES ? 0.45
                                                                 : 1,
                           .want_entropy = true};
}

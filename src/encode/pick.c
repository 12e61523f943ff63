#include "encode/pick.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

typedef struct {
    float score;
    int64_t at; /* head * n + row */
} scored_t;

static int by_score(const void *a, const void *b) {
    const scored_t *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    return x->at < y->at ? -1 : 1;
}

/* The `best` of n scores. */
static void choose(scored_t *list, const float *score, int64_t n, int64_t best, uint8_t *keep) {
    for (int64_t i = 0; i < n; i++) list[i] = (scored_t){score[i], i};
    qsort(list, (size_t)n, sizeof *list, by_score);
    for (int64_t i = 0; i < n; i++) keep[list[i].at] = i < best;
}

status_t pick_choose(const model_config_t *c, budget_t budget, int64_t m, int64_t n, const float *score, int32_t *count, uint8_t *keep) {
    scored_t *list = NULL;
    int64_t heads = c->n_kv_head, joint = budget == BUDGET_HEAD ? heads : 1;
    status_t st = mem_alloc(&list, (size_t)(joint * n), sizeof *list, "rows by score");
    for (int64_t x = 0; x < c->n_layer * heads && !st; x += joint) choose(list, score + x * n, joint * n, joint * m, keep + x * n);
    for (int64_t x = 0; x < c->n_layer * heads && !st; x++) {
        count[x] = 0;
        for (int64_t i = 0; i < n; i++) count[x] += keep[x * n + i];
    }
    mem_free(list);
    return st;
}

void pick_list(const model_config_t *c, int64_t m, int64_t n, const uint8_t *keep, int32_t *list) {
    int64_t heads = c->n_kv_head;
    for (int64_t layer = 0; layer < c->n_layer; layer++, keep += heads * n, list += heads * m)
        for (int64_t i = 0, at = 0; i < heads * n && at < heads * m; i++)
            if (keep[i]) list[at++] = (int32_t)i;
}

status_t pick_unlist(const model_config_t *c, int64_t m, int64_t n, const int32_t *list, int32_t *count, uint8_t *keep) {
    int64_t heads = c->n_kv_head;
    memset(count, 0, (size_t)(c->n_layer * heads) * sizeof *count);
    if (keep) memset(keep, 0, (size_t)(c->n_layer * heads * n));
    for (int64_t layer = 0; layer < c->n_layer; layer++)
        for (int64_t i = 0; i < heads * m; i++) {
            int64_t at = list[layer * heads * m + i];
            if (at < 0 || at >= heads * n || (i && at <= list[layer * heads * m + i - 1]))
                return status_fail(ST_INPUT, "the list of kept rows is damaged at layer %lld, entry %lld", (long long)layer, (long long)i);
            count[layer * heads + at / n]++;
            if (keep) keep[layer * heads * n + at] = 1;
        }
    return ST_OK;
}

/* Kept rows of a head, gathered on the host. */
static int64_t gather(const uint8_t *keep, int64_t n, size_t row_bytes, const char *from, char *to) {
    int64_t kept = 0;
    for (int64_t i = 0; i < n; i++)
        if (keep[i]) memcpy(to + (size_t)kept++ * row_bytes, from + (size_t)i * row_bytes, row_bytes);
    return kept;
}

status_t pick_pack(backend_t *be, const model_config_t *c, int64_t n, int64_t m, const uint8_t *keep, const kv_pool_t *from,
                   kv_pool_t *to) {
    size_t row = (size_t)c->d_head * dtype_bytes(from->type), layer_bytes = (size_t)(c->n_kv_head * m) * row;
    char *host = NULL, *packed = NULL;
    status_t st = mem_alloc(&host, (size_t)n, row, "rows of a head");
    if (!st) st = mem_alloc(&packed, layer_bytes, 1, "kept rows of a layer");
    for (int64_t x = 0; x < 2 * c->n_layer && !st; x++) {
        const char *source = x % 2 ? from->v : from->k;
        char *target = (x % 2 ? (char *)to->v : (char *)to->k) + (size_t)(x / 2) * layer_bytes;
        int64_t at = 0;
        for (int64_t h = 0; h < c->n_kv_head && !st; h++) {
            size_t skip = (size_t)(x / 2 * from->layer_stride + h * from->head_stride) * dtype_bytes(from->type);
            st = be->ops->copy_out(be, host, source + skip, (size_t)n * row);
            if (!st) at += gather(keep + (x / 2 * c->n_kv_head + h) * n, n, row, host, packed + (size_t)at * row);
        }
        if (!st) st = be->ops->copy_in(be, target, packed, layer_bytes);
        if (!st) st = be->ops->sync(be); /* packed is used again */
    }
    mem_free(host);
    mem_free(packed);
    return st;
}

kv_pool_t pick_part(const model_config_t *c, const kv_pool_t *packed, const int32_t *count, int64_t layer, int64_t head) {
    int64_t at = 0;
    for (int64_t h = 0; h < head; h++) at += count[layer * c->n_kv_head + h];
    size_t skip = (size_t)(at * c->d_head) * dtype_bytes(packed->type);
    return (kv_pool_t){.k = (char *)packed->k + skip,
                       .v = (char *)packed->v + skip,
                       .type = packed->type,
                       .n_row = count[layer * c->n_kv_head + head],
                       .row_stride = c->d_head,
                       .layer_stride = packed->layer_stride,
                       .only_head = (int32_t)head + 1};
}

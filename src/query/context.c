#include "query/context.h"

#include <string.h>

#include "base/log.h"
#include "encode/move.h"
#include "layout/assign.h"

static const size_t RESERVE_BYTES = (size_t)1 << 30; /* for work space and partial results */

status_t context_deal(backend_t *be, comm_t *comm, const int64_t *rows, int64_t n_segment, context_kv_t *c) {
    status_t st;
    *c = (context_kv_t){.be = be, .n_segment = n_segment, .n_device = INT64_MAX};
    c->group = i64_max(1, i64_ceil_div(n_segment, MAX_GROUPS));
    c->n_group = i64_ceil_div(n_segment, c->group);
    if ((st = mem_alloc(&c->rows, (size_t)n_segment, sizeof *rows, "segment sizes"))) goto out;
    if (n_segment) memcpy(c->rows, rows, (size_t)n_segment * sizeof *rows);
    if ((st = mem_alloc(&c->first_group, (size_t)comm->size + 1, sizeof *c->first_group, "rank ranges"))) goto out;
    if ((st = assign_ranges(rows, n_segment, c->group, comm->size, c->first_group))) goto out;
    for (int r = 0; r <= comm->size; r++) c->first_group[r] = i64_ceil_div(c->first_group[r], c->group); /* items to groups */
    c->first = i64_min(c->first_group[comm->rank] * c->group, n_segment);
    c->n_local = i64_min(c->first_group[comm->rank + 1] * c->group, n_segment) - c->first;
    st = mem_zalloc(&c->pools, (size_t)c->n_local, sizeof *c->pools, "segment pools");
out:
    if (st) context_free(c);
    return st;
}

void context_free(context_kv_t *c) {
    kv_pool_t *owned = c->whole ? c->whole : c->pools;
    for (int64_t i = 0; c->owns_pools && owned && i < c->n_local; i++) {
        if (i < c->n_device)
            kv_free(c->be, &owned[i]);
        else
            kv_free_host(c->be, &owned[i]);
    }
    if (c->be) kv_free(c->be, &c->zero);
    mem_free(c->rows);
    mem_free(c->first_group);
    mem_free(c->pools);
    for (int64_t i = 0; c->counts && i < c->n_local; i++) mem_free(c->counts[i]);
    mem_free(c->counts);
    for (int64_t i = 0; c->packed && i < c->n_local; i++) kv_free(c->be, &c->packed[i]);
    mem_free(c->packed);
    mem_free(c->raw);
    mem_free(c->whole);
    mem_free(c->places);
    *c = (context_kv_t){0};
}

void context_plan_memory(context_kv_t *c, const model_config_t *config) {
    size_t left, total, used = 0;
    c->be->ops->memory_left(c->be, &left, &total);
    c->n_device = c->n_local;
    if (left == SIZE_MAX) return;
    double room = 0.95 * (double)left - (double)RESERVE_BYTES, all = 0;
    for (int64_t i = 0; i < c->n_local; i++) all += 2 * (double)kv_bytes(config, c->be->act, c->rows[c->first + i]);
    if (all <= room) return;
    for (c->n_device = 0; c->n_device < c->n_local; c->n_device++) {
        used += 2 * kv_bytes(config, c->be->act, c->rows[c->first + c->n_device]);
        if ((double)used > room) break;
    }
    log_warn("GPU memory: %.2f GiB of K/V, room for %.2f of %.2f GiB: %lld of %lld segments stay in host memory and are read from there, "
             "which is slower; use --select, fewer --docs, gists or more GPUs",
             all / 0x1p30, room / 0x1p30, (double)total / 0x1p30, (long long)(c->n_local - c->n_device), (long long)c->n_local);
}

status_t context_alloc(context_kv_t *c, const model_config_t *config, int64_t i, kv_pool_t *out) {
    int64_t rows = c->rows[c->first + i];
    if (i < c->n_device) return kv_alloc(c->be, config, c->be->act, rows, "a segment's K/V", out);
    return kv_alloc_host(c->be, config, c->be->act, rows, "a segment's K/V", out);
}

status_t context_places(context_kv_t *c, const place_t *all) {
    status_t st = mem_alloc(&c->places, (size_t)i64_max(1, c->n_local), sizeof *c->places, "places of segments");
    if (!st && c->n_local) memcpy(c->places, all + c->first, (size_t)c->n_local * sizeof *c->places);
    return st;
}

/* A CPU backend reads bf16 and f32 rows where they lie in the map; everything else is converted or uploaded once. */
static bool readable_in_place(const backend_t *be, dtype_t type) { return be->host_memory && (type == DT_BF16 || type == be->act); }

/* K and V of local segment i, as stored, into memory of its own. */
static status_t pool_copy(context_kv_t *c, const model_config_t *config, dtype_t type, int64_t i, const void *k, const void *v,
                          kv_pool_t *out) {
    backend_t *be = c->be;
    bool device = i < c->n_device;
    int64_t n_row = c->rows[c->first + i];
    size_t n = kv_bytes(config, DT_U8, n_row), bytes = kv_bytes(config, be->act, n_row);
    void *host = NULL;
    status_t st = context_alloc(c, config, i, out);
    if (!st && device) st = mem_alloc(&host, bytes, 1, "a segment's K/V");
    const void *from[2] = {k, v};
    void *to[2] = {out->k, out->v};
    for (int x = 0; !st && x < 2; x++) {
        dtype_convert(be->act, device ? host : to[x], type, from[x], n);
        if (device) st = be->ops->copy_in(be, to[x], host, bytes);
        if (!st) st = be->ops->sync(be); /* host is used again */
    }
    mem_free(host);
    return st;
}

status_t context_verify(store_t *store, const store_segment_t *const *segments, int64_t n) {
    status_first_t first = {0};
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < n; i++) status_first(&first, store_verify(store, segments[i]));
    return status_first_tell(&first);
}

/* blockselect: pools of selected rows, as they are stored or packed here out of the raw ones. */
static status_t take_selected(context_kv_t *c, const model_config_t *config, store_t *store, const store_segment_t *seg, int64_t i,
                              const context_read_t *how) {
    int64_t n = seg->n_token, m = kept_picked(&how->kept, n);
    size_t heads = (size_t)(config->n_layer * config->n_kv_head);
    const int32_t *list;
    uint8_t *keep = NULL;
    bool packed = how->kept.keep == KEEP_GIST;
    status_t st = store_map_kept(store, seg, &list);
    if (!st && seg->n_kept != (int64_t)heads * m)
        st = status_fail(ST_INPUT, "a segment lists %lld kept rows in place of %lld; encode into another store", (long long)seg->n_kept,
                         (long long)((int64_t)heads * m));
    if (!st) st = mem_alloc(&c->counts[i], heads, sizeof *c->counts[i], "kept rows");
    if (!st && !packed) st = mem_alloc(&keep, heads * (size_t)n, 1, "kept rows");
    if (!st) st = pick_unlist(config, m, n, list, c->counts[i], keep);
    if (!st && !packed) st = kv_alloc(c->be, config, c->whole[i].type, m, "kept rows", &c->packed[i]);
    if (!st && !packed) st = pick_pack(c->be, config, n, m, keep, &c->whole[i], &c->packed[i]);
    if (!st) c->pools[i] = packed ? c->whole[i] : c->packed[i];
    if (!st && how->both) c->raw[i] = c->whole[i];
    mem_free(keep);
    return st;
}

/* Pools of local segment i out of all rows that the store has of it. */
static void take_parts(context_kv_t *c, int64_t i, int64_t n_token, const context_read_t *how) {
    int64_t gists = kept_gists(&how->kept, n_token);
    bool use_gists = how->kept.keep != KEEP_RAW && !how->raw_only;
    if (how->kept.keep == KEEP_TAIL) {
        c->pools[i] = c->whole[i]; /* the last window's raw rows beside the gists */
        return;
    }
    c->pools[i] = use_gists ? kept_part(&c->whole[i], 0, gists) : kept_part(&c->whole[i], gists, c->whole[i].n_row - gists);
    if (how->both) c->raw[i] = kept_part(&c->whole[i], gists, c->whole[i].n_row - gists);
}

static status_t map_local(backend_t *be, const model_config_t *config, store_t *store, const store_segment_t *const *segments,
                          const context_read_t *how, context_kv_t *c) {
    dtype_t type = store_profile(store)->kv_type;
    int64_t before = 0;
    for (int64_t i = 0; i < c->first; i++) before += segments[i]->n_token;
    status_t st = mem_zalloc(&c->whole, (size_t)c->n_local, sizeof *c->whole, "segment pools");
    bool selected = how->kept.select.ratio && !how->raw_only;
    if (!st && selected) st = mem_zalloc(&c->counts, (size_t)c->n_local, sizeof *c->counts, "kept rows");
    if (!st && selected) st = mem_zalloc(&c->packed, (size_t)c->n_local, sizeof *c->packed, "kept rows");
    if (!st && how->both) st = mem_zalloc(&c->raw, (size_t)c->n_local, sizeof *c->raw, "segment pools");
    context_plan_memory(c, config);
    for (int64_t i = 0; i < c->n_local && !st; i++) {
        const int32_t *tokens;
        const void *k, *v;
        const store_segment_t *seg = segments[c->first + i];
        if ((st = store_map(store, seg, &tokens, &k, &v))) break;
        if (seg->n_row != kept_rows(&how->kept, seg->n_token)) {
            st = status_fail(ST_INPUT, "a segment of %lld tokens has %lld rows, which its store's settings do not make; encode again",
                             (long long)seg->n_token, (long long)seg->n_row);
            break;
        }
        if (readable_in_place(be, type) && !how->joined) {
            c->whole[i] = kv_view(config, type, seg->n_row, (void *)(uintptr_t)k, (void *)(uintptr_t)v); /* never written */
        } else {
            c->owns_pools = true;
            st = pool_copy(c, config, type, i, k, v, &c->whole[i]);
            if (!st && how->joined) st = keys_move_all(how->joined, &c->whole[i], before);
        }
        before += seg->n_token;
        if (!st && selected)
            st = take_selected(c, config, store, seg, i, how);
        else
            take_parts(c, i, seg->n_token, how);
    }
    return st;
}

status_t context_from_store(backend_t *be, const model_config_t *config, comm_t *comm, store_t *store,
                            const store_segment_t *const *segments, int64_t n, const context_read_t *how, context_kv_t *out) {
    int64_t *rows = NULL;
    status_t st = mem_alloc(&rows, (size_t)n, sizeof *rows, "segment sizes");
    for (int64_t i = 0; !st && i < n; i++) rows[i] = segments[i]->n_row;
    if (!st) st = context_deal(be, comm, rows, n, out);
    if (!st && how->verify) st = context_verify(store, segments + out->first, out->n_local);
    if (!st) st = map_local(be, config, store, segments, how, out);
    mem_free(rows);
    st = comm_agree(comm, st);
    if (st) context_free(out);
    return st;
}

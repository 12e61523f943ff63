/* This rank's share of a round: segments through the encoder, in batches or in chains, and into the store. */
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "encode/job.h"

/* Segments on their way to the writer: on a device their K/V go out beside what is computed next, and several are written at a time. */
enum { LEAVING = 4 };
typedef struct {
    int64_t each; /* rows of a segment at most */
    int64_t most; /* segments that the writer gets at a time */
    store_item_t items[LEAVING];
    int64_t n, tokens, ticket;
    early_t early; /* one alone may be on its way since before its end */
} leaving_t;

static leaving_t leaving_of(const job_t *j, int64_t each) {
    bool device = !j->be->host_memory && !j->spilled;
    return (leaving_t){.each = each, .most = device ? i64_max(1, i64_min(LEAVING, j->spec->max_row / i64_max(each, 1))) : 1};
}

static status_t leave_end(job_t *j, leaving_t *l) {
    if (!l->n) return ST_OK;
    status_t st = l->early.open ? early_end(&l->early) : watch_copies(j, l->ticket);
    if (!st && !l->early.of) st = store_append_group(j->writer, l->items, l->n);
    l->early = (early_t){0};
    if (!st) st = notes_done(j, l->tokens, l->n);
    l->n = l->tokens = l->ticket = 0;
    j->turn = 1 - j->turn; /* the append saw to it that what had this host memory before is written */
    return st;
}

/* The same for one that has been leaving. */
static status_t leave_rest(leaving_t *l, const early_t *e) {
    l->early = *e;
    l->n = 1;
    l->tokens = e->of->n;
    return early_rest(&l->early);
}

static status_t leave_settle(job_t *j, void *with) { return leave_end(j, with); }

static status_t leave_begin(job_t *j, const round_t *r, const round_item_t *it, const kv_pool_t *pool, const int32_t *list, leaving_t *l) {
    size_t bytes = kv_bytes(j->config, pool->type, pool->n_row);
    char *k = pool->k, *v = pool->v;
    status_t st = ST_OK;
    if (!it->todo) return notes_done(j, it->n, 0);
    if (j->spilled) st = j->be->ops->sync(j->be); /* they are there, but for what the device was last asked to change */
    if (!j->spilled && !j->be->host_memory) {
        if ((st = host_fit(j, j->turn))) return st;
        k = j->host[j->turn] + kv_bytes(j->config, pool->type, l->n * l->each);
        v = k + kv_bytes(j->config, pool->type, j->host_rows);
        st = j->be->ops->copy_out_start(j->be, k, pool->k, bytes, &l->ticket);
        if (!st) st = j->be->ops->copy_out_start(j->be, v, pool->v, bytes, &l->ticket);
    }
    l->items[l->n++] = batch_item(j, r, it, pool->type, k, v, list);
    l->tokens += it->n;
    return st;
}

/* Segments of one document that continue each other. What later ones see of earlier ones stays in memory until the document ends: all raw
 * rows (full attention over a document in slices), or gists. */
static status_t encode_chain(job_t *j, const round_t *r, int64_t first, int64_t n_slice) {
    const kept_t *keep = &j->spec->kept;
    kv_pool_t *seen = NULL;
    int64_t rows = 0, at = 0, longest = 0, each = 0, tokens = 0;
    bool picks = keep->select.ratio > 0; /* of a segment that is alone */
    for (int64_t s = 0; s < n_slice; s++) {
        rows += kept_rows(keep, r->items[first + s].n);
        each = i64_max(each, kept_rows(keep, r->items[first + s].n));
        longest = i64_max(longest, r->items[first + s].n);
        tokens += r->items[first + s].n;
    }
    status_t st = batch_end(j);
    if (!st) st = room_choose(j, tokens, rows, scratch_rows(keep, longest));
    leaving_t out = leaving_of(j, each);
    if (!st) st = buffer_fit(j, rows, out.most * out.each);
    if (!st) st = scratch_fit(j, longest);
    if (!st) st = mem_alloc(&seen, (size_t)n_slice, sizeof *seen, "slices of a document");
    if (!st) st = watch_store(j);
    for (int64_t s = 0; s < n_slice && !st && !j->stopping; s++) {
        const round_item_t *it = &r->items[first + s];
        int64_t n = kept_rows(keep, it->n), spare = 0;
        kv_pool_t kept = buffer_piece(j, 0, at, n);
        piece_t piece = {.tokens = r->tokens.ids + it->begin, .n = it->n, .before = it->before, .chain = seen};
        piece.n_chain = (int)layout_continues(layout_info(j->spec->layout), s);
        piece_pools(j, &kept, it->n, &spare, &piece);
        early_t early = early_of(j, r, it, &kept);
        early.settle = leave_settle;
        early.settle_ctx = &out;
        if (out.most == 1 && it->todo && early_may(j)) piece.after = early_rows, piece.after_ctx = &early;
        st = watch_mark(j);
        if (!st) st = encoder_run(j->encoder, &piece, 1);
        if (!st) st = kept_remember(keep, j->encoder, j->model, &piece);
        if (!st) st = watch_mark(j);
        seen[s] = keep->gist.ratio ? piece.gist_pool : piece.pool;
        if (!st && out.n == out.most) st = leave_end(j, &out); /* those before, while the device works on this one */
        if (!st && picks) st = batch_pick(j, 0, &piece, &kept, 1);
        if (!st) st = early.open ? leave_rest(&out, &early) : leave_begin(j, r, it, &kept, picks ? j->lists[0] : NULL, &out);
        if (!st && (j->be->host_memory || j->spilled)) st = leave_end(j, &out);
        if (!st) st = notes_take(j);
        at += n;
    }
    if (!st) st = leave_end(j, &out);
    status_t waited = watch_store(j);
    mem_free(seen);
    return st ? st : waited;
}

static int64_t slices_of(const round_t *r, int64_t first) {
    int64_t n = 1;
    while (first + n < r->n_item && r->items[first + n].slice) n++;
    return n;
}

/* K/V rows that this rank keeps of a shared document, and of its longest segment. */
static int64_t document_rows(const job_t *j, const shard_t *plan, int64_t *each) {
    int64_t rows = 0;
    *each = 0;
    for (int64_t s = 0; s < plan->spec.n_segment; s++) {
        if (shard_writer(plan, s) != j->comm->rank) continue;
        int64_t n = kept_rows(&j->spec->kept, plan->segment[s + 1] - plan->segment[s]);
        rows += n;
        *each = i64_max(*each, n);
    }
    return rows;
}

/* Where they go: kept[s], and its parts; *out: how they will leave. */
static status_t document_pools(job_t *j, const shard_t *plan, kv_pool_t *kept, kv_pool_t *raw, kv_pool_t *gists, leaving_t *out) {
    const kept_t *k = &j->spec->kept;
    int64_t each, rows = document_rows(j, plan, &each), at = 0, n_segment = plan->spec.n_segment;
    status_t st = watch_store(j);
    *out = leaving_of(j, each);
    if (!st) st = buffer_fit(j, rows, out->most * each);
    for (int64_t s = 0; s < n_segment && !st; s++) {
        int64_t n = plan->segment[s + 1] - plan->segment[s];
        kept[s] = raw[s] = gists[s] = (kv_pool_t){0};
        if (shard_writer(plan, s) != j->comm->rank) continue;
        kept[s] = buffer_piece(j, 0, at, kept_rows(k, n));
        gists[s] = kept_part(&kept[s], 0, kept_gists(k, n));
        raw[s] = kept_part(&kept[s], kept_gists(k, n), kept_raw(k, n));
        at += kept_rows(k, n);
    }
    return st;
}

static status_t document_end(job_t *j, leaving_t *out) {
    status_t st = leave_end(j, out), waited = watch_store(j);
    return st ? st : waited;
}

/* Of the only segment that this rank writes of the document K/V leave layer by layer. */
static bool document_early(job_t *j, const round_t *r, int64_t first, const shard_t *plan, const kv_pool_t *kept, early_t *out) {
    int64_t n = 0, mine = 0;
    for (int64_t s = 0; s < plan->spec.n_segment; s++)
        if (shard_writer(plan, s) == j->comm->rank) n++, mine = s;
    *out = early_of(j, r, &r->items[first + mine], &kept[mine]);
    return n == 1 && out->of->todo && kept[mine].n_row && early_may(j);
}

static status_t document_write(job_t *j, const round_t *r, int64_t first, const shard_t *plan, const kv_pool_t *kept, leaving_t *out) {
    status_t st = ST_OK;
    for (int64_t s = 0; s < plan->spec.n_segment && !st; s++) {
        const round_item_t *it = &r->items[first + s];
        if (shard_writer(plan, s) != j->comm->rank) continue;
        if (out->n == out->most) st = leave_end(j, out);
        if (!st) st = leave_begin(j, r, it, &kept[s], NULL, out);
    }
    status_t ended = st ? watch_store(j) : document_end(j, out);
    return st ? st : ended;
}

static bool stop_wanted(void *ctx) {
    job_t *j = ctx;
    return notes_take(j) || j->stopping;
}

/* The document, its plan and this rank: what a stop saves fits nothing else. */
static hash_t document_key(const job_t *j, const round_t *r, int64_t first, int64_t n) {
    struct {
        hash_t document;
        int64_t rank, size, max_row, n;
    } of = {r->items[first + n - 1].address, j->comm->rank, j->comm->size, j->spec->max_row, n};
    return hash_bytes(&of, sizeof of);
}

/* A stop's file goes when its document is committed; rank 0 also takes those of ranks that there are no more. */
static void under_way_remove(const job_t *j) {
    char path[PATH_MAX];
    for (int r = j->comm->rank;; r = r < j->comm->size ? j->comm->size : r + 1) {
        snprintf(path, sizeof path, "%s/rank%04d.under-way", j->spec->store_dir, r);
        if ((unlink(path) && r >= j->comm->size) || j->comm->rank) break;
    }
}

/* The plan of a document of n items, this rank's room for its part of it, and whether every rank has some; under --shard document they
 * must. Collective. */
static status_t document_plan(job_t *j, const round_item_t *items, int64_t n, shard_t *plan, room_t *room, bool *fits) {
    keep_t keep = j->spec->kept.keep;
    int64_t *segment = NULL, too_large = 0, each;
    status_t st = mem_alloc(&segment, (size_t)n + 1, sizeof *segment, "segments of a document");
    for (int64_t s = 0; s < n && !st; s++) segment[s] = items[s].begin - items[0].begin;
    if (!st) segment[n] = items[n - 1].begin + items[n - 1].n - items[0].begin;
    if (!st) st = encoder_shard(j->encoder, segment, n, keep == KEEP_RAW || keep == KEEP_BOTH, j->comm->size, plan);
    if (!st) st = batch_end(j);
    room->fits = true;
    if (!st) st = room_share(j, plan, document_rows(j, plan, &each), room);
    if (!room->fits && j->spec->shard == SHARD_AUTO) {
        log_info("%s; one rank takes it", status_message());
        too_large = 1;
        st = ST_OK;
    }
    mem_free(segment);
    st = comm_agree(j->comm, st);
    if (!st) st = j->comm->ops->max_i64(j->comm, &too_large, 1);
    *fits = !too_large;
    return st;
}

static status_t document_run(job_t *j, const round_t *r, int64_t first, const shard_t *plan, const room_t *room) {
    int64_t n = plan->spec.n_segment;
    kv_pool_t *pools = NULL; /* [3][n] */
    leaving_t leaving;
    char path[PATH_MAX];
    under_way_t saved = {.path = path, .key = document_key(j, r, first, n), .n_layer = (int)j->config->n_layer};
    status_t st = room_take(j, room);
    if (!st) st = mem_alloc(&pools, 3 * (size_t)n, sizeof *pools, "segments of a document");
    if (!st) st = document_pools(j, plan, pools, pools + n, pools + 2 * n, &leaving);
    snprintf(path, sizeof path, "%s/rank%04d.under-way", j->spec->store_dir, j->comm->rank);
    for (int64_t s = 0; s < n && !st; s++) {
        size_t bytes = kv_bytes(j->config, pools[s].type, pools[s].n_row);
        if (bytes) st = under_way_add(&saved, pools[s].k, bytes, true);
        if (bytes && !st) st = under_way_add(&saved, pools[s].v, bytes, true);
    }
    if ((st = comm_agree(j->comm, st))) goto out;
    j->report->n_spilled += j->spilled;
    sharded_t d = {.tokens = r->tokens.ids + r->items[first].begin,
                   .raw = pools + n,
                   .gists = pools + 2 * n,
                   .spilled = j->spilled,
                   .stop = stop_wanted,
                   .stop_ctx = j,
                   .under_way = &saved};
    early_t early;
    if (document_early(j, r, first, plan, pools, &early)) d.after = early_layer, d.after_ctx = &early;
    st = watch_mark(j);
    if (!st) st = encoder_run_sharded(j->encoder, j->comm, plan, &d);
    if (!st) st = watch_mark(j);
    j->kv_sent += d.sent;
    int n_layer = saved.n_layer, done = d.stopped > 0 ? d.stopped : 0; /* of the layer after those done K/V were sent, too */
    j->kv_sent_plan += encoder_shard_bytes(j->encoder, plan, j->comm->rank) / n_layer * ((d.stopped ? done + 1 : n_layer) - d.from);
    if (!st && d.from) log_info("went on behind layer %d of %d of a document that all ranks share", d.from, n_layer);
    if (!st && d.stopped) {
        log_info("stopped behind layer %d of %d of a document that all ranks share", done, n_layer);
        j->stopping = true;
    }
    if (early.open && (st || d.stopped)) {
        status_t left = early_leave_off(&early);
        if (!st) st = left;
    } else if (early.open) {
        leaving.early = early;
        leaving.n = 1;
        leaving.tokens = early.of->n;
        st = document_end(j, &leaving);
    } else if (!st && !d.stopped) {
        st = document_write(j, r, first, plan, pools, &leaving);
    }
    st = comm_agree(j->comm, st);
    if (!st && !d.stopped) under_way_remove(j);
out:
    under_way_free(&saved);
    mem_free(pools);
    return st;
}

status_t share_document(job_t *j, const round_t *r, int64_t first, bool *shared) {
    shard_t plan = {0};
    room_t room = {0};
    status_t st = document_plan(j, r->items + first, slices_of(r, first), &plan, &room, shared);
    if (!st && *shared) st = document_run(j, r, first, &plan, &room);
    shard_free(&plan);
    return st;
}

/* A segment too long for the device beside the one that is being written. */
static bool alone(const job_t *j, const round_item_t *it) { return !j->spec->kept.gist.single && !room_for(j, it->n); }

status_t share_encode(job_t *j, const round_t *r, const int64_t *mine, int64_t n) {
    status_t st = ST_OK;
    for (int64_t at = 0; at < n && !st;) {
        if ((st = notes_take(j)) || j->stopping) break;
        if (j->chained || alone(j, &r->items[mine[at]])) {
            st = encode_chain(j, r, mine[at], j->chained ? slices_of(r, mine[at]) : 1);
            at++;
            continue;
        }
        int64_t pass = 0, kept = 0, upto = at; /* rows that go through the model, and rows that stay */
        while (upto < n) {
            int64_t tokens = r->items[mine[upto]].n, more = tokens + gist_count(&j->spec->kept.gist, tokens);
            if (upto > at && pass + more > j->spec->max_row) break;
            pass += more;
            kept += kept_rows(&j->spec->kept, tokens);
            upto++;
        }
        st = room_device(j);
        if (!st) st = buffer_fit(j, kept, kept);
        if (!st) st = batch_begin(j, r, mine + at, upto - at);
        at = upto;
    }
    status_t ended = batch_end(j), waited = watch_store(j); /* what is encoded is written, also after a stop */
    if (!st) st = ended ? ended : waited;
    if (st) { /* the others need not go on */
        char held[STATUS_BYTES];
        status_hold(held);
        notes_stop(j);
        status_fail(st, "%s", held);
    }
    return st;
}

/* This rank's share of a round: segments through the encoder, in batches or in chains, and into the store. */
#include <string.h>

#include "base/mem.h"
#include "encode/job.h"
#include "encode/sharded.h"

static status_t buffer_fit(job_t *j, int64_t rows) {
    if (rows <= j->buffer_rows) return ST_OK;
    status_t st = j->writer ? store_writer_wait(j->writer) : ST_OK; /* the writer may still read the old one */
    int n = j->chained ? 1 : 2;                                     /* a chain is written before the next one begins */
    for (int i = 0; i < n && !st; i++) {
        kv_free(j->be, &j->buffer[i]);
        mem_free(j->host[i]);
        j->host[i] = NULL;
        st = kv_alloc(j->be, j->config, j->be->act, rows, "K/V of segments being encoded", &j->buffer[i]);
        if (!st && !j->be->host_memory) st = mem_alloc(&j->host[i], 2 * kv_bytes(j->config, j->be->act, rows), 1, "K/V on the host");
    }
    j->buffer_rows = st ? 0 : rows;
    return st;
}

/* The part of buffer `b` that holds n rows from row `at`: pieces lie one after another, each contiguous in itself. */
static kv_pool_t buffer_piece(job_t *j, int b, int64_t at, int64_t n) {
    size_t skip = kv_bytes(j->config, j->be->act, at);
    return kv_view(j->config, j->be->act, n, (char *)j->buffer[b].k + skip, (char *)j->buffer[b].v + skip);
}

/* A segment's raw and gist pools: in the buffer where they are kept, else in the scratch rows from *spare on. */
static void piece_pools(job_t *j, const kv_pool_t *kept, int64_t n, int64_t *spare, piece_t *p) {
    const kept_t *k = &j->spec->kept;
    int64_t gists = gist_count(&k->gist, n);
    if (k->keep == KEEP_GIST) {
        p->pool = kept_part(&j->scratch, *spare, n);
        *spare += n;
    } else {
        p->pool = kept_part(kept, kept_gists(k, n), kept_raw(k, n));
    }
    if (k->keep == KEEP_RAW) {
        p->gist_pool = kept_part(&j->scratch, *spare, gists);
        *spare += gists;
    } else {
        p->gist_pool = kept_part(kept, 0, gists);
    }
}

/* Scratch rows for segments of `tokens` tokens in all. */
static status_t scratch_fit(job_t *j, int64_t tokens) {
    const kept_t *k = &j->spec->kept;
    int64_t rows = (!k->gist.ratio && !k->select.ratio) || k->keep == KEEP_BOTH || k->keep == KEEP_TAIL ? 0
                   : k->keep == KEEP_GIST                                                               ? tokens
                   : k->gist.ratio                                                                      ? tokens / k->gist.ratio + 1
                                                                                                        : 0;
    if (rows <= j->scratch.n_row) return ST_OK;
    kv_free(j->be, &j->scratch);
    return kv_alloc(j->be, j->config, j->be->act, rows, "K/V rows that are not kept", &j->scratch);
}

/* list [n_list]: which rows were kept; NULL where no choice was made. */
static status_t append(job_t *j, const round_t *r, const round_item_t *it, const kv_pool_t *pool, int b, const int32_t *list,
                       int64_t n_list) {
    const void *k = pool->k, *v = pool->v;
    int64_t rows = kept_rows(&j->spec->kept, it->n);
    size_t bytes = kv_bytes(j->config, pool->type, rows), skip = (size_t)((char *)pool->k - (char *)j->buffer[b].k);
    if (!j->be->host_memory) {
        char *hk = j->host[b] + skip, *hv = j->host[b] + kv_bytes(j->config, pool->type, j->buffer_rows) + skip;
        status_t st = j->be->ops->copy_out(j->be, hk, pool->k, bytes);
        if (!st) st = j->be->ops->copy_out(j->be, hv, pool->v, bytes);
        if (st) return st;
        k = hk;
        v = hv;
    }
    size_t below = bytes / (size_t)j->config->n_layer * (size_t)(j->config->n_layer - j->spec->profile.n_layer); /* layers that stay out */
    int64_t n_sink = j->spec->profile.n_sink + j->spec->kept.n_blank;
    int64_t pos = layout_position(j->spec->align, n_sink, 0, it->n, j->spec->profile.segment, it->before);
    if (it->slice) pos = n_sink + it->before;
    store_item_t item = {.address = it->address,
                         .n_token = it->n,
                         .n_row = rows,
                         .n_kept = n_list,
                         .kept = list,
                         .first_pos = pos,
                         .tokens = r->tokens.ids + it->begin,
                         .type = pool->type,
                         .k = (const char *)k + below,
                         .v = (const char *)v + below};
    return store_append(j->writer, &item);
}

/* ---- blockselect ---- */
static int64_t list_size(const job_t *j, int64_t n) { return j->config->n_layer * j->config->n_kv_head * kept_picked(&j->spec->kept, n); }

/* Room for the lists of a batch, and a picker for its longest segment. */
static status_t picker_fit(job_t *j, int b, int64_t longest, int64_t n_list) {
    const encode_spec_t *s = j->spec;
    status_t st = ST_OK;
    if (n_list > j->cap_lists[b]) st = mem_grow(&j->lists[b], (size_t)n_list, sizeof(int32_t), "lists of kept rows");
    if (!st) j->cap_lists[b] = i64_max(n_list, j->cap_lists[b]);
    if (st || longest <= j->picker_rows) return st;
    picker_free(j->picker);
    j->picker = NULL;
    j->picker_rows = longest;
    picker_spec_t spec = {.kept = &s->kept,
                          .repeat = j->repeat.ids,
                          .n_repeat = j->repeat.n,
                          .align = s->align,
                          .reserve = s->profile.segment,
                          .max_row = s->max_row,
                          .max_tokens = longest};
    return picker_create(j->model, j->encoder, &spec, &j->picker);
}

/* The rows of encoded pieces that stay: listed and, where the others go, packed. */
static status_t batch_pick(job_t *j, int b, const piece_t *pieces, kv_pool_t *kept, int64_t n) {
    int64_t longest = 0, n_list = 0, at = 0;
    for (int64_t i = 0; i < n; i++) {
        longest = i64_max(longest, pieces[i].n);
        n_list += list_size(j, pieces[i].n);
    }
    status_t st = picker_fit(j, b, longest, n_list);
    for (int64_t i = 0; i < n && !st; i++) {
        st = picker_run(j->picker, &pieces[i], j->spec->kept.keep == KEEP_GIST ? &kept[i] : NULL, NULL, j->lists[b] + at);
        at += list_size(j, pieces[i].n);
    }
    return st;
}

/* Independent segments: as many small ones as fit a pass go together; encoding the next batch overlaps writing this one. */
static status_t encode_batch(job_t *j, const round_t *r, const int64_t *mine, int64_t n) {
    piece_t *pieces = NULL;
    kv_pool_t *kept = NULL;
    int64_t at = 0, tokens = 0, spare = 0, listed = 0;
    int b = j->turn;
    bool selects = j->spec->kept.select.ratio > 0;
    for (int64_t i = 0; i < n; i++) tokens += r->items[mine[i]].n;
    status_t st = mem_alloc(&pieces, (size_t)n, sizeof *pieces, "a batch of segments");
    if (!st) st = mem_alloc(&kept, (size_t)n, sizeof *kept, "a batch of segments");
    if (!st) st = scratch_fit(j, tokens);
    for (int64_t i = 0; i < n && !st; i++) {
        const round_item_t *it = &r->items[mine[i]];
        int64_t rows = kept_rows(&j->spec->kept, it->n);
        kept[i] = buffer_piece(j, b, at, rows);
        pieces[i] = (piece_t){.tokens = r->tokens.ids + it->begin, .n = it->n, .before = it->before};
        piece_pools(j, &kept[i], it->n, &spare, &pieces[i]);
        at += rows;
    }
    if (!st) st = encoder_run(j->encoder, pieces, (int)n);
    for (int64_t i = 0; i < n && !st; i++) st = kept_remember(&j->spec->kept, j->encoder, j->model, &pieces[i]);
    if (!st && selects) st = batch_pick(j, b, pieces, kept, n);
    for (int64_t i = 0; i < n && !st; i++) {
        int64_t n_list = list_size(j, pieces[i].n);
        st = append(j, r, &r->items[mine[i]], &kept[i], b, selects ? j->lists[b] + listed : NULL, n_list);
        listed += n_list;
    }
    j->turn = 1 - b;
    mem_free(pieces);
    mem_free(kept);
    return st ? st : notes_done(j, tokens, n);
}

/* Segments of one document that continue each other. What later ones see of earlier ones stays in memory until the document ends: all raw
 * rows (full attention over a document in slices), or gists. */
static status_t encode_chain(job_t *j, const round_t *r, int64_t first, int64_t n_slice) {
    const kept_t *keep = &j->spec->kept;
    kv_pool_t *seen = NULL;
    int64_t rows = 0, at = 0, longest = 0;
    for (int64_t s = 0; s < n_slice; s++) {
        rows += kept_rows(keep, r->items[first + s].n);
        longest = i64_max(longest, r->items[first + s].n);
    }
    status_t st = buffer_fit(j, rows);
    if (!st) st = scratch_fit(j, longest);
    if (!st) st = mem_alloc(&seen, (size_t)n_slice, sizeof *seen, "slices of a document");
    if (!st) st = store_writer_wait(j->writer);
    for (int64_t s = 0; s < n_slice && !st && !j->stopping; s++) {
        const round_item_t *it = &r->items[first + s];
        int64_t n = kept_rows(keep, it->n), spare = 0;
        kv_pool_t kept = buffer_piece(j, 0, at, n);
        piece_t piece = {.tokens = r->tokens.ids + it->begin, .n = it->n, .before = it->before, .chain = seen};
        piece.n_chain = (int)layout_continues(layout_info(j->spec->layout), s);
        piece_pools(j, &kept, it->n, &spare, &piece);
        st = encoder_run(j->encoder, &piece, 1);
        if (!st) st = kept_remember(keep, j->encoder, j->model, &piece);
        seen[s] = keep->gist.ratio ? piece.gist_pool : piece.pool;
        if (!st && it->todo) st = append(j, r, it, &kept, 0, NULL, 0);
        if (!st) st = notes_done(j, it->n, it->todo);
        if (!st) st = notes_take(j);
        at += n;
    }
    status_t waited = store_writer_wait(j->writer);
    mem_free(seen);
    return st ? st : waited;
}

static int64_t slices_of(const round_t *r, int64_t first) {
    int64_t n = 1;
    while (first + n < r->n_item && r->items[first + n].slice) n++;
    return n;
}

/* Where K/V of this rank's segments of a shared document go: kept[s], and its parts. */
static status_t document_pools(job_t *j, const shard_t *plan, kv_pool_t *kept, kv_pool_t *raw, kv_pool_t *gists) {
    const kept_t *k = &j->spec->kept;
    int64_t rows = 0, at = 0, n_segment = plan->spec.n_segment;
    for (int64_t s = 0; s < n_segment; s++)
        if (shard_writer(plan, s) == j->comm->rank) rows += kept_rows(k, plan->segment[s + 1] - plan->segment[s]);
    status_t st = store_writer_wait(j->writer);
    if (!st) st = buffer_fit(j, rows);
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

static status_t document_write(job_t *j, const round_t *r, int64_t first, const shard_t *plan, const kv_pool_t *kept) {
    status_t st = ST_OK;
    for (int64_t s = 0; s < plan->spec.n_segment && !st; s++) {
        const round_item_t *it = &r->items[first + s];
        if (shard_writer(plan, s) != j->comm->rank) continue;
        if (it->todo) st = append(j, r, it, &kept[s], 0, NULL, 0);
        if (!st) st = notes_done(j, it->n, it->todo);
    }
    status_t waited = store_writer_wait(j->writer);
    return st ? st : waited;
}

status_t share_document(job_t *j, const round_t *r, int64_t first) {
    int64_t n = slices_of(r, first), *segment = NULL, sent = j->comm->sent_bytes;
    const round_item_t *items = r->items + first;
    kv_pool_t *pools = NULL; /* [3][n] */
    shard_t plan = {0};
    status_t st = mem_alloc(&segment, (size_t)n + 1, sizeof *segment, "segments of a document");
    if (!st) st = mem_alloc(&pools, 3 * (size_t)n, sizeof *pools, "segments of a document");
    for (int64_t s = 0; s < n && !st; s++) segment[s] = items[s].begin - items[0].begin;
    if (!st) segment[n] = items[n - 1].begin + items[n - 1].n - items[0].begin;
    if (!st) st = encoder_shard(j->encoder, segment, n, j->comm->size, &plan);
    if (!st) st = document_pools(j, &plan, pools, pools + n, pools + 2 * n);
    if ((st = comm_agree(j->comm, st))) goto out;
    sharded_t d = {.tokens = r->tokens.ids + items[0].begin, .raw = pools + n, .gists = pools + 2 * n};
    sent = j->comm->sent_bytes;
    st = encoder_run_sharded(j->encoder, j->comm, &plan, &d);
    j->kv_sent += j->comm->sent_bytes - sent;
    j->kv_sent_plan += encoder_shard_bytes(j->encoder, &plan, j->comm->rank);
    if (!st) st = document_write(j, r, first, &plan, pools);
    st = comm_agree(j->comm, st);
out:
    shard_free(&plan);
    mem_free(segment);
    mem_free(pools);
    return st;
}

status_t share_encode(job_t *j, const round_t *r, const int64_t *mine, int64_t n) {
    status_t st = ST_OK;
    for (int64_t at = 0; at < n && !st;) {
        if ((st = notes_take(j)) || j->stopping) break;
        if (j->chained) {
            st = encode_chain(j, r, mine[at], slices_of(r, mine[at]));
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
        st = buffer_fit(j, kept);
        if (!st) st = encode_batch(j, r, mine + at, upto - at);
        at = upto;
    }
    status_t waited = store_writer_wait(j->writer);
    if (!st) st = waited;
    if (st) { /* the others need not go on */
        char message[1024];
        strncpy(message, status_message(), sizeof message - 1);
        message[sizeof message - 1] = 0;
        notes_stop(j);
        status_fail(st, "%s", message);
    }
    return st;
}

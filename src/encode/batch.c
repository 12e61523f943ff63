/* Independent segments in batches, through three stages side by side:
 *
 *     device    encode batch i        | copy out i-1 (its own stream)
 *     writer    hash, write, sync i-2
 *     host      puts passes together, hands over
 *
 * A CPU encodes in place: the batch goes to the writer at once, and is written while the next one is encoded. Two buffers either way: a
 * buffer is used again when its copy is out and the host's when its segments are written. So what is committed lags behind by two batches.
 */
#include <string.h>

#include "base/mem.h"
#include "encode/job.h"

static void buffers_free(job_t *j) {
    for (int i = 0; i < 2; i++) {
        if (!j->spilled) kv_free(j->be, &j->buffer[i]);
        j->be->ops->host_free(j->be, j->host[i]);
        j->buffer[i] = (kv_pool_t){0};
        j->host[i] = NULL;
    }
    j->buffer_rows = j->host_rows = 0;
}

void room_free(job_t *j) {
    buffers_free(j);
    (j->spilled ? kv_free_host : kv_free)(j->be, &j->scratch);
}

status_t host_fit(job_t *j, int b) {
    if (j->host[b]) return ST_OK;
    return j->be->ops->host_alloc(j->be, 2 * kv_bytes(j->config, j->be->act, j->host_rows), "K/V on the host", &j->host[b]);
}

status_t buffer_fit(job_t *j, int64_t rows, int64_t each) {
    if (rows <= j->buffer_rows && each <= j->host_rows) return ST_OK;
    int64_t had = j->host_rows;
    status_t st = batch_end(j), waited = store_writer_wait(j->writer); /* it may still read the old ones, also after a failure */
    int n = j->chained || j->spilled ? 1 : 2;                          /* a chain is written before the next one begins */
    size_t bytes = kv_bytes(j->config, j->be->act, rows);
    if (!st) st = waited;
    buffers_free(j);
    j->host_rows = j->spilled ? rows : i64_max(each, had); /* batches and documents take turns without new memory for each */
    if (!st && j->spilled) st = host_fit(j, 0);
    for (int i = 0; i < n && !st; i++) {
        if (j->spilled)
            j->buffer[i] = kv_view(j->config, j->be->act, rows, j->host[i], j->host[i] + bytes);
        else
            st = kv_alloc(j->be, j->config, j->be->act, rows, "K/V of segments being encoded", &j->buffer[i]);
    }
    j->buffer_rows = st ? 0 : rows;
    return st;
}

/* The part of buffer `b` that holds n rows from row `at`: pieces lie one after another, each contiguous in itself. */
kv_pool_t buffer_piece(job_t *j, int b, int64_t at, int64_t n) {
    size_t skip = kv_bytes(j->config, j->be->act, at);
    return kv_view(j->config, j->be->act, n, (char *)j->buffer[b].k + skip, (char *)j->buffer[b].v + skip);
}

/* A segment's raw and gist pools: in the buffer where they are kept, else in the scratch rows from *spare on. */
void piece_pools(job_t *j, const kv_pool_t *kept, int64_t n, int64_t *spare, piece_t *p) {
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

int64_t scratch_rows(const kept_t *k, int64_t tokens) {
    return (!k->gist.ratio && !k->select.ratio) || k->keep == KEEP_BOTH || k->keep == KEEP_TAIL ? 0
           : k->keep == KEEP_GIST                                                               ? tokens
           : k->gist.ratio                                                                      ? tokens / k->gist.ratio + 1
                                                                                                : 0;
}

status_t scratch_fit(job_t *j, int64_t tokens) {
    int64_t rows = scratch_rows(&j->spec->kept, tokens);
    if (rows <= j->scratch.n_row) return ST_OK;
    (j->spilled ? kv_free_host : kv_free)(j->be, &j->scratch);
    return (j->spilled ? kv_alloc_host : kv_alloc)(j->be, j->config, j->be->act, rows, "K/V rows that are not kept", &j->scratch);
}

static int64_t list_size(const job_t *j, int64_t n) { return j->config->n_layer * j->config->n_kv_head * kept_picked(&j->spec->kept, n); }

store_item_t batch_item(const job_t *j, const round_t *r, const round_item_t *it, dtype_t type, const void *k, const void *v,
                        const int32_t *list) {
    int64_t n_sink = j->spec->profile.n_sink + j->spec->kept.n_blank;
    int64_t pos = it->slice ? n_sink + it->before : layout_position(j->spec->align, n_sink, 0, it->n, j->spec->profile.segment, it->before);
    int64_t n_row = kept_rows(&j->spec->kept, it->n);
    size_t below = kv_bytes(j->config, type, n_row) / (size_t)j->config->n_layer *
                   (size_t)(j->config->n_layer - j->spec->profile.n_layer); /* layers that stay out: of edits the lower ones */
    return (store_item_t){.address = it->address,
                          .n_token = it->n,
                          .n_row = n_row,
                          .first_pos = pos,
                          .tokens = r->tokens.ids + it->begin,
                          .type = type,
                          .k = (const char *)k + below,
                          .v = (const char *)v + below,
                          .n_kept = list ? list_size(j, it->n) : 0,
                          .kept = list};
}

/* ---- blockselect ---- */
picker_spec_t batch_picker(const job_t *j, int64_t longest) {
    return (picker_spec_t){.kept = &j->spec->kept,
                           .repeat = j->repeat.ids,
                           .n_repeat = j->repeat.n,
                           .align = j->spec->align,
                           .reserve = j->spec->profile.segment,
                           .max_row = j->spec->max_row,
                           .max_tokens = longest};
}

/* Room for the lists of a batch, and a picker for its longest segment. */
static status_t picker_fit(job_t *j, int b, int64_t longest, int64_t n_list) {
    status_t st = ST_OK;
    if (n_list > j->cap_lists[b]) st = mem_grow(&j->lists[b], (size_t)n_list, sizeof(int32_t), "lists of kept rows");
    if (!st) j->cap_lists[b] = i64_max(n_list, j->cap_lists[b]);
    if (st || longest <= j->picker_rows) return st;
    picker_spec_t spec = batch_picker(j, longest);
    picker_free(j->picker);
    j->picker = NULL;
    j->picker_rows = longest;
    return picker_create(j->model, j->encoder, &spec, &j->picker);
}

status_t batch_pick(job_t *j, int b, const piece_t *pieces, kv_pool_t *kept, int64_t n) {
    int64_t longest = 0, n_list = 0, at = 0;
    for (int64_t i = 0; i < n; i++) {
        longest = i64_max(longest, pieces[i].n);
        n_list += list_size(j, pieces[i].n);
    }
    status_t st = picker_fit(j, b, longest, n_list);
    if (!st) st = watch_mark(j);
    for (int64_t i = 0; i < n && !st; i++) {
        st = picker_run(j->picker, &pieces[i], j->spec->kept.keep == KEEP_GIST ? &kept[i] : NULL, NULL, j->lists[b] + at);
        at += list_size(j, pieces[i].n);
    }
    return st ? st : watch_mark(j);
}

/* ---- a batch ---- */
/* K and V of the batch's rows, which lie one after another, on their way to the host. */
static status_t copies_start(job_t *j, group_t *b, int64_t rows) {
    size_t bytes = kv_bytes(j->config, j->be->act, rows);
    status_t st = host_fit(j, b->turn); /* the first time while the device computes: pinning takes long */
    char *k = j->host[b->turn], *v = k + kv_bytes(j->config, j->be->act, j->host_rows);
    if (!st) st = j->be->ops->copy_out_start(j->be, k, j->buffer[b->turn].k, bytes, &b->ticket);
    return st ? st : j->be->ops->copy_out_start(j->be, v, j->buffer[b->turn].v, bytes, &b->ticket);
}

/* Where the writer finds a segment of batch b. */
static store_item_t segment_item(const job_t *j, const group_t *b, int64_t i, const int32_t *list) {
    const kv_pool_t *pool = &b->kept[i], *buffer = &j->buffer[b->turn];
    const char *k = pool->k, *v = pool->v;
    if (!j->be->host_memory) {
        k = j->host[b->turn] + (k - (const char *)buffer->k);
        v = j->host[b->turn] + kv_bytes(j->config, j->be->act, j->host_rows) + (v - (const char *)buffer->v);
    }
    return batch_item(j, b->round, &b->round->items[b->mine[i]], pool->type, k, v, list);
}

static status_t batch_settle(job_t *j, void *with) {
    (void)with;
    return batch_end(j);
}

static status_t batch_run(job_t *j, group_t *b, piece_t *pieces) {
    int64_t at = 0, spare = 0;
    for (int64_t i = 0; i < b->n; i++) {
        const round_item_t *it = &b->round->items[b->mine[i]];
        int64_t rows = kept_rows(&j->spec->kept, it->n);
        b->kept[i] = buffer_piece(j, b->turn, at, rows);
        pieces[i] = (piece_t){.tokens = b->round->tokens.ids + it->begin, .n = it->n, .before = it->before};
        piece_pools(j, &b->kept[i], it->n, &spare, &pieces[i]);
        at += rows;
    }
    if (b->n == 1 && early_may(j)) {
        b->early = early_of(j, b->round, &b->round->items[b->mine[0]], &b->kept[0]);
        b->early.settle = batch_settle;
        pieces[0].after = early_rows;
        pieces[0].after_ctx = &b->early;
    }
    status_t st = watch_mark(j);
    if (!st) st = encoder_run(j->encoder, pieces, (int)b->n);
    for (int64_t i = 0; i < b->n && !st; i++) st = kept_remember(&j->spec->kept, j->encoder, j->model, &pieces[i]);
    if (!st) st = watch_mark(j);
    if (!st && b->early.open) return early_rest(&b->early);
    if (!st && !j->be->host_memory) st = watch_store(j); /* of the batch before the last: its host memory and lists are free */
    if (!st && j->spec->kept.select.ratio) st = batch_pick(j, b->turn, pieces, b->kept, b->n);
    return st || j->be->host_memory ? st : copies_start(j, b, at);
}

status_t batch_begin(job_t *j, const round_t *r, const int64_t *mine, int64_t n) {
    group_t b = {.round = r, .mine = mine, .n = n, .turn = j->turn};
    piece_t *pieces = NULL;
    for (int64_t i = 0; i < n; i++) b.tokens += r->items[mine[i]].n;
    status_t st = mem_alloc(&pieces, (size_t)n, sizeof *pieces, "a batch of segments");
    if (!st) st = mem_alloc(&b.kept, (size_t)n, sizeof *b.kept, "a batch of segments");
    if (!st) st = scratch_fit(j, b.tokens);
    if (!st) st = batch_run(j, &b, pieces);
    mem_free(pieces);
    status_t ended = batch_end(j); /* the one before, while the device works on this one */
    if (!st) st = ended;
    if (st) {
        mem_free(b.kept);
        return st;
    }
    j->held = b;
    j->turn = 1 - j->turn;
    return j->be->host_memory ? batch_end(j) : ST_OK;
}

static status_t group_append(job_t *j, const group_t *b) {
    store_item_t *items = NULL;
    int64_t listed = 0;
    status_t st = watch_copies(j, b->ticket);
    if (!st) st = mem_alloc(&items, (size_t)b->n, sizeof *items, "a batch of segments");
    for (int64_t i = 0; i < b->n && !st; i++) {
        items[i] = segment_item(j, b, i, j->spec->kept.select.ratio ? j->lists[b->turn] + listed : NULL);
        listed += items[i].n_kept;
    }
    if (!st) st = store_append_group(j->writer, items, b->n);
    mem_free(items);
    return st;
}

status_t batch_end(job_t *j) {
    group_t b = j->held;
    if (!b.n) return ST_OK;
    j->held = (group_t){0};
    status_t st = b.early.open ? early_end(&b.early) : group_append(j, &b);
    mem_free(b.kept);
    return st ? st : notes_done(j, b.tokens, b.n);
}

/* A segment alone in its batch, in more passes than one: rows that no later pass changes leave, and are written, while those passes
 * compute, so that behind the last one only its own rows are left, and the hash.
 *
 *     device    pass 1 | pass 2          | pass 3          |
 *     copies           | rows of 1 out   | rows of 2 out   | rows of 3 out
 *     writer    place  |          1 written |     2 written |       3 written, hash, commit
 *
 * The host is a pass ahead of the device: it waits for the rows of a pass when the next one has been asked for.
 */
#include "encode/job.h"

bool early_may(const job_t *j, int64_t n_segment) {
    const kept_t *k = &j->spec->kept;
    bool final = !k->gist.single && !k->recurrent && !k->compact && !k->select.ratio; /* else keys move, or rows are chosen, at the end */
    return final && n_segment == 1 && !j->be->host_memory && !j->spilled;
}

/* The first rows: the batch before is with the writer, so that its host memory and place in the store are free. */
static status_t leave_begin(job_t *j, group_t *b) {
    status_t st = batch_end(j);
    if (!st) st = watch_store(j);
    if (!st) st = host_fit(j, b->turn); /* the first time while the device computes: pinning takes long */
    if (st) return st;
    b->early.item = batch_segment(j, b, 0, NULL);
    b->early.open = true;
    j->report->n_early++;
    return store_open_segment(j->writer, &b->early.item);
}

/* Rows of all layers and heads on their way to the host. */
static status_t copies_start(job_t *j, group_t *b, stretch_t rows) {
    const kv_pool_t *pool = &b->kept[0];
    size_t bytes = (size_t)(rows.n * pool->row_stride) * dtype_bytes(pool->type);
    char *k = (char *)(uintptr_t)b->early.item.k, *v = (char *)(uintptr_t)b->early.item.v;
    status_t st = ST_OK;
    for (int64_t x = 0; x < j->config->n_layer * j->config->n_kv_head && rows.n && !st; x++) {
        size_t at = kv_row_at(pool, x / j->config->n_kv_head, x % j->config->n_kv_head, rows.first);
        st = j->be->ops->copy_out_start(j->be, k + at, (char *)pool->k + at, bytes, &b->ticket);
        if (!st) st = j->be->ops->copy_out_start(j->be, v + at, (char *)pool->v + at, bytes, &b->ticket);
    }
    return st;
}

/* Those that were on their way are written. */
static status_t rows_write(job_t *j, const stretch_t rows[2], int64_t ticket) {
    status_t st = rows[0].n + rows[1].n ? watch_copies(j, ticket) : ST_OK;
    for (int i = 0; i < 2 && !st; i++) {
        if (rows[i].n) st = watch_store(j);
        if (rows[i].n && !st) st = store_rows(j->writer, rows[i].first, rows[i].n);
    }
    return st;
}

/* So many of the kept gists and raw rows have been asked for in all. */
static status_t rows_leave(job_t *j, group_t *b, int64_t gists, int64_t raw) {
    early_t *e = &b->early;
    stretch_t before[2] = {e->leaving[0], e->leaving[1]};
    int64_t ticket = b->ticket, all_gists = kept_gists(&j->spec->kept, b->tokens);
    e->leaving[0] = (stretch_t){e->gists, gists - e->gists};
    e->leaving[1] = (stretch_t){all_gists + e->raw, raw - e->raw};
    e->gists = gists;
    e->raw = raw;
    status_t st = copies_start(j, b, e->leaving[0]);
    if (!st) st = copies_start(j, b, e->leaving[1]);
    return st ? st : rows_write(j, before, ticket);
}

status_t early_rows(void *ctx, int64_t raw, int64_t gists) {
    early_run_t *run = ctx;
    job_t *j = run->job;
    group_t *b = run->batch;
    keep_t keep = j->spec->kept.keep;
    if (raw == b->tokens) return ST_OK; /* the rest leaves at the end */
    status_t st = b->early.open ? ST_OK : leave_begin(j, b);
    return st ? st : rows_leave(j, b, keep == KEEP_RAW ? 0 : gists, keep == KEEP_RAW || keep == KEEP_BOTH ? raw : 0);
}

status_t early_rest(job_t *j, group_t *b) {
    const kept_t *k = &j->spec->kept;
    return rows_leave(j, b, kept_gists(k, b->tokens), kept_raw(k, b->tokens));
}

status_t early_end(job_t *j, const group_t *b) {
    status_t st = rows_write(j, b->early.leaving, b->ticket);
    return st ? st : store_close_segment(j->writer);
}

/* K/V of a long segment that is written alone leave while the rest of it is computed, so that behind the last pass only its own rows are
 * left, and the hash. They go pass by pass, as rows that no later pass changes:
 *
 *     device    pass 1 | pass 2          | pass 3          |
 *     copies           | rows of 1 out   | rows of 2 out   | rows of 3 out
 *     writer    place  |          1 written |     2 written |       3 written, hash, commit
 *
 * and of a document that ranks share layer by layer. The host is a pass ahead of the device, or two layers: it waits for what left when as
 * much more has been asked for.
 */
#include "base/mem.h"
#include "encode/job.h"

enum { LAYERS_AHEAD = 2 };

bool early_may(const job_t *j) {
    const kept_t *k = &j->spec->kept;
    bool final = !k->gist.single && !k->recurrent && !k->compact && !k->select.ratio; /* else keys move, or rows are chosen, at the end */
    return final && !j->be->host_memory && !j->spilled;
}

early_t early_of(job_t *j, const round_t *r, const round_item_t *it, const kv_pool_t *pool) {
    return (early_t){.job = j, .round = r, .of = it, .pool = *pool};
}

/* What was before is with the writer and written, so that its host memory and place in the store are free. */
static status_t place(early_t *e) {
    job_t *j = e->job;
    status_t st = e->settle ? e->settle(j, e->settle_ctx) : ST_OK;
    if (!st) st = watch_store(j);
    if (!st) st = host_fit(j, j->turn); /* the first time while the device computes: pinning takes long */
    if (st) return st;
    e->k = j->host[j->turn];
    e->v = e->k + kv_bytes(j->config, e->pool.type, j->host_rows);
    e->item = batch_item(j, e->round, e->of, e->pool.type, e->k, e->v, NULL);
    e->open = true;
    j->report->n_early++;
    return store_open_segment(j->writer, &e->item);
}

/* K/V on their way to the host. */
static status_t leave(early_t *e, store_part_t p) {
    backend_t *be = e->job->be;
    const kv_pool_t *pool = &e->pool;
    size_t at = kv_row_at(pool, p.layer, 0, p.row), head = (size_t)pool->head_stride * dtype_bytes(pool->type);
    size_t bytes = (size_t)(p.n_row * pool->row_stride) * dtype_bytes(pool->type);
    int64_t n = p.n_layer * e->job->config->n_kv_head; /* one behind the other, of all layers */
    if (!p.n_row) return ST_OK;
    int64_t *ticket = &e->ticket[e->n_leaving];
    e->leaving[e->n_leaving++] = p;
    status_t st = be->ops->copy_out_rows_start(be, e->k + at, (char *)pool->k + at, bytes, head, n, ticket);
    return st ? st : be->ops->copy_out_rows_start(be, e->v + at, (char *)pool->v + at, bytes, head, n, ticket);
}

/* All that left but the last n parts to the writer. */
static status_t write_but(early_t *e, int n) {
    status_t st = ST_OK;
    int done = e->n_leaving - n;
    for (int i = 0; i < done && !st; i++) {
        st = watch_copies(e->job, e->ticket[i]);
        if (!st) st = watch_store(e->job);
        if (!st) st = store_part(e->job->writer, e->leaving[i]);
    }
    for (int i = 0; i < n && done > 0; i++) {
        e->leaving[i] = e->leaving[done + i];
        e->ticket[i] = e->ticket[done + i];
    }
    e->n_leaving -= done > 0 ? done : 0;
    return st;
}

/* So many of the kept gists and raw rows have been asked for in all. */
static status_t rows_leave(early_t *e, int64_t gists, int64_t raw) {
    int64_t n_layer = e->job->config->n_layer, all_gists = kept_gists(&e->job->spec->kept, e->of->n);
    int before = e->n_leaving;
    status_t st = leave(e, (store_part_t){0, n_layer, e->gists, gists - e->gists});
    if (!st) st = leave(e, (store_part_t){0, n_layer, all_gists + e->raw, raw - e->raw});
    e->gists = gists;
    e->raw = raw;
    return st ? st : write_but(e, e->n_leaving - before);
}

status_t early_rows(void *ctx, int64_t raw, int64_t gists) {
    early_t *e = ctx;
    keep_t keep = e->job->spec->kept.keep;
    if (raw == e->of->n) return ST_OK; /* the rest leaves at the end */
    status_t st = e->open ? ST_OK : place(e);
    return st ? st : rows_leave(e, keep == KEEP_RAW ? 0 : gists, keep == KEEP_RAW || keep == KEEP_BOTH ? raw : 0);
}

status_t early_rest(early_t *e) {
    const kept_t *k = &e->job->spec->kept;
    return rows_leave(e, kept_gists(k, e->of->n), kept_raw(k, e->of->n));
}

status_t early_layer(void *ctx, int layer) {
    early_t *e = ctx;
    status_t st = e->open ? ST_OK : place(e);
    if (!st)
        st = leave(e, (store_part_t){e->layers, layer + 1 - e->layers, 0, e->pool.n_row}); /* the first time also those before a stop */
    e->layers = layer + 1;
    return st ? st : write_but(e, (int)i64_min(e->n_leaving, LAYERS_AHEAD));
}

status_t early_end(early_t *e) {
    status_t st = write_but(e, (int)i64_min(e->n_leaving, STORE_LAST_PARTS));
    if (!st && e->n_leaving) st = watch_copies(e->job, e->ticket[e->n_leaving - 1]);
    e->open = false;
    return st ? st : store_close_segment(e->job->writer, e->leaving, e->n_leaving);
}

status_t early_leave_off(early_t *e) {
    e->open = false;
    return e->n_leaving ? watch_copies(e->job, e->ticket[e->n_leaving - 1]) : ST_OK;
}

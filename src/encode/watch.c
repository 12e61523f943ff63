/* What a device did and what the host waited for, for --profile: the operations of batches and documents stand between marks, which the
 * device passes when it gets there, so what is left of the time it had nothing to do.
 *
 *     device   [mark  batch 1  mark]      [mark  batch 2  mark]
 *                 computing        idle       computing
 */
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "encode/job.h"

status_t watch_mark(job_t *j) {
    watch_t *w = &j->watch;
    if (!j->spec->watch) return ST_OK;
    status_t st = mem_room(&w->marks, w->n, &w->cap, sizeof *w->marks, "marks of a profile");
    if (st) return st;
    return j->be->ops->mark(j->be, &w->marks[w->n++]);
}

status_t watch_store(job_t *j) {
    double begin = clock_s();
    status_t st = store_writer_wait(j->writer);
    j->watch.store_s += clock_s() - begin;
    return st;
}

status_t watch_copies(job_t *j, int64_t ticket) {
    double begin = clock_s();
    status_t st = j->be->ops->copy_out_wait(j->be, ticket);
    j->watch.copies_s += clock_s() - begin;
    return st;
}

status_t watch_report(job_t *j) {
    watch_t *w = &j->watch;
    encode_profile_t *p = &j->report->profile;
    status_t st = ST_OK;
    *p = (encode_profile_t){.tokens_s = w->tokens_s, .copies_s = w->copies_s, .store_s = w->store_s};
    for (int64_t i = 0; i + 1 < w->n && !st; i += 2) {
        double seconds = 0;
        st = j->be->ops->mark_seconds(j->be, w->marks[i], w->marks[i + 1], &seconds);
        p->computing_s += seconds;
    }
    mem_free(w->marks);
    *w = (watch_t){0};
    return st;
}

/* What a device did and what the host waited for, for --profile: the operations of passes and documents stand between marks, which the
 * device passes when it gets there, so what is left of the time it had nothing to do.
 *
 *     device   before  [mark  pass 1  mark]  between  [mark  pass 2  mark]  after
 *                        computing                       computing
 */
#include <math.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "encode/job.h"

static status_t pass_mark(void *job) { return watch_mark(job); }

void watch_begin(job_t *j) {
    j->watch.begin_s = clock_s();
    if (j->spec->watch && j->encoder) encoder_watch(j->encoder, pass_mark, j);
}

status_t watch_mark(job_t *j) {
    watch_t *w = &j->watch;
    if (!j->spec->watch) return ST_OK;
    if (!w->n) w->first_s = clock_s();
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
    double span = 0, all = j->report->seconds;
    if (w->n && !st) st = j->be->ops->mark_seconds(j->be, w->marks[0], w->marks[w->n - 1], &span);
    p->before_s = w->n ? w->first_s - w->begin_s : all;
    p->between_s = span - p->computing_s;
    p->after_s = fmax(0, all - p->before_s - span);
    mem_free(w->marks);
    *w = (watch_t){0};
    return st;
}

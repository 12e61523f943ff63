/* While encoding nothing is on the wire but notes: progress to rank 0, and a request to stop, which rank 0 passes on. */
#include <unistd.h>

#include "base/stop.h"
#include "encode/job.h"

static status_t note_all(job_t *j, note_kind_t kind) {
    status_t st = ST_OK;
    for (int to = 1; to < j->comm->size && !st; to++) st = j->comm->ops->note_send(j->comm, to, (note_t){.kind = kind, .from = 0});
    return st;
}

status_t notes_stop(job_t *j) {
    if (j->stopping) return ST_OK;
    j->stopping = true;
    if (j->comm->rank == 0) return note_all(j, NOTE_STOP);
    return j->comm->ops->note_send(j->comm, 0, (note_t){.kind = NOTE_STOP, .from = j->comm->rank});
}

status_t notes_take(job_t *j) {
    note_t n;
    status_t st = ST_OK;
    while (!st && j->comm->ops->note_poll(j->comm, &n)) {
        if (n.kind == NOTE_PROGRESS) {
            j->tokens_done += n.a;
            j->segments_done += n.b;
        }
        if (n.kind == NOTE_DONE && j->comm->rank == 0) j->done_ranks++;
        if (n.kind == NOTE_DONE && j->comm->rank) j->released = true;
        if (n.kind == NOTE_STOP && j->comm->rank == 0) st = notes_stop(j);
        if (n.kind == NOTE_STOP && j->comm->rank) j->stopping = true;
    }
    if (!st && stop_requested()) st = notes_stop(j);
    if (j->comm->rank == 0) progress_update(&j->progress, j->tokens_done);
    return st;
}

status_t notes_done(job_t *j, int64_t tokens, int64_t segments) {
    if (j->comm->rank)
        return j->comm->ops->note_send(j->comm, 0, (note_t){.kind = NOTE_PROGRESS, .from = j->comm->rank, .a = tokens, .b = segments});
    j->tokens_done += tokens;
    j->segments_done += segments;
    return ST_OK;
}

/* Nobody enters the round's collectives before all are there: ranks that are done sleep, they do not spin. */
status_t notes_settle(job_t *j) {
    comm_t *c = j->comm;
    status_t st = ST_OK;
    if (c->size == 1) return notes_take(j);
    if (c->rank) st = c->ops->note_send(c, 0, (note_t){.kind = NOTE_DONE, .from = c->rank});
    while (!st && (c->rank ? !j->released : j->done_ranks < c->size - 1)) {
        if (!(st = notes_take(j))) usleep(1000);
    }
    if (!st && c->rank == 0) st = note_all(j, NOTE_DONE);
    j->released = false;
    j->done_ranks = 0;
    return st;
}

/* Many ranks: comm_ops over a duplicate of MPI_COMM_WORLD.
 *
 * Three ideas run through the file.
 *
 * Pieces. MPI counts are ints, so nothing longer than `piece` bytes goes into one call. Gathers cut the concatenated result, not the
 * senders: window w holds result bytes [w * piece, (w + 1) * piece), and each rank gives the part of its own bytes that falls there:
 *
 *     rank        0      1  2       3
 *     result  |-------|-----||-------------|
 *     windows |    0    |    1    |    2   |       one MPI_Allgatherv each; its counts and displacements stay below `piece`
 *
 * Polite waiting. MPI libraries spin. A rank that waits for one still encoding would burn the core that another could use, so waits here
 * test, yield, and after SPIN_S sleep for a small share of the time already waited. Bulk calls first meet in such a wait (MPI_Ibarrier),
 * then run when everyone is there.
 *
 * Notes are single small messages outside the collectives. The sender keeps each one in a slot until MPI is done with it; slots are used
 * again.
 *
 * sent_bytes counts what must leave a rank whatever the algorithm: a broadcast costs its root (size - 1) copies, an all_gather each rank
 * (size - 1) copies of its part, a gather each part once, a reduction each rank its vector.
 */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "mpi/comm_mpi.h"
#include "mpi/comm_mpi_impl.h"

static const int64_t PIECE_MAX = (int64_t)1 << 30, BCAST_SHORT = 64 << 10;
static const double SPIN_S = 100e-6, SLEEP_MAX_S = 1e-3, SLEEP_SHARE = 1.0 / 16;

status_t mpi_check(mpi_t *m, int rc, const char *what) {
    if (rc == MPI_SUCCESS) return ST_OK;
    char text[MPI_MAX_ERROR_STRING] = "unknown error";
    int n;
    MPI_Error_string(rc, text, &n);
    if (m) m->broken = true;
    return status_fail(ST_FAIL, "MPI: %s failed: %s; a rank or its network was probably lost: run the same command again", what, text);
}

/* ---- waiting ---------------------------------------------------------------------------------------------------- */

void mpi_pause_after(double waited_s) {
    if (waited_s < SPIN_S) {
        sched_yield();
        return;
    }
    double s = waited_s * SLEEP_SHARE < SLEEP_MAX_S ? waited_s * SLEEP_SHARE : SLEEP_MAX_S;
    nanosleep(&(struct timespec){.tv_nsec = (long)(s * 1e9)}, NULL);
}

status_t mpi_wait_politely(mpi_t *m, int rc, MPI_Request *request, const char *what) {
    double begin = clock_s();
    int done = 0;
    while (rc == MPI_SUCCESS) {
        rc = MPI_Test(request, &done, MPI_STATUS_IGNORE);
        if (rc != MPI_SUCCESS || done) break;
        mpi_pause_after(clock_s() - begin);
    }
    return mpi_check(m, rc, what);
}

status_t mpi_meet(mpi_t *m, MPI_Comm where, const char *what) {
    MPI_Request request;
    return mpi_wait_politely(m, MPI_Ibarrier(where, &request), &request, what);
}

static status_t mpi_barrier(comm_t *c) {
    mpi_t *m = (mpi_t *)c;
    return mpi_meet(m, m->all, "barrier");
}

/* ---- collectives ------------------------------------------------------------------------------------------------ */

static status_t mpi_bcast(comm_t *c, int root, void *p, int64_t bytes) {
    mpi_t *m = (mpi_t *)c;
    status_t st = ST_OK;
    if (bytes <= i64_min(BCAST_SHORT, m->piece)) { /* the wait is in the message itself */
        MPI_Request request;
        st = mpi_wait_politely(m, MPI_Ibcast(p, (int)bytes, MPI_BYTE, root, m->all, &request), &request, "broadcast");
    } else {
        st = mpi_meet(m, m->all, "broadcast");
        for (int64_t at = 0; !st && at < bytes; at += m->piece)
            st = mpi_check(m, MPI_Bcast((char *)p + at, (int)i64_min(m->piece, bytes - at), MPI_BYTE, root, m->all), "broadcast");
    }
    if (!st && c->rank == root) c->sent_bytes += bytes * (c->size - 1);
    return st;
}

/* Counts and displacements of result bytes [from, from + piece); *mine: where this rank's part begins among its own bytes. */
static void cut_window(mpi_t *m, const int64_t *bytes_each, int64_t from, int64_t *mine) {
    int64_t to = from + m->piece, begin = 0;
    *mine = 0;
    for (int r = 0; r < m->comm.size; r++) {
        int64_t end = begin + bytes_each[r], lo = i64_max(begin, from), hi = i64_min(end, to);
        m->counts[r] = hi > lo ? (int)(hi - lo) : 0;
        m->displs[r] = hi > lo ? (int)(lo - from) : 0;
        if (r == m->comm.rank && hi > lo) *mine = lo - begin;
        begin = end;
    }
}

static int64_t sum_of(const int64_t *bytes_each, int n) {
    int64_t sum = 0;
    for (int r = 0; r < n; r++) sum += bytes_each[r];
    return sum;
}

static status_t mpi_all_gather(comm_t *c, const void *send, void *recv, const int64_t *bytes_each) {
    mpi_t *m = (mpi_t *)c;
    int64_t total = sum_of(bytes_each, c->size), mine;
    status_t st = mpi_meet(m, m->all, "all_gather");
    for (int64_t from = 0; !st && from < total; from += m->piece) {
        cut_window(m, bytes_each, from, &mine);
        st = mpi_check(m,
                       MPI_Allgatherv((const char *)send + mine, m->counts[c->rank], MPI_BYTE, (char *)recv + from, m->counts, m->displs,
                                      MPI_BYTE, m->all),
                       "all_gather");
    }
    if (!st) c->sent_bytes += bytes_each[c->rank] * (c->size - 1);
    return st;
}

static status_t mpi_gather(comm_t *c, int root, const void *send, void *recv, const int64_t *bytes_each) {
    mpi_t *m = (mpi_t *)c;
    int64_t total = sum_of(bytes_each, c->size), mine;
    status_t st = mpi_meet(m, m->all, "gather");
    for (int64_t from = 0; !st && from < total; from += m->piece) {
        cut_window(m, bytes_each, from, &mine);
        char *to = c->rank == root ? (char *)recv + from : NULL;
        st = mpi_check(m,
                       MPI_Gatherv((const char *)send + mine, m->counts[c->rank], MPI_BYTE, to, m->counts, m->displs, MPI_BYTE, root,
                                   m->all),
                       "gather");
    }
    if (!st && c->rank != root) c->sent_bytes += bytes_each[c->rank];
    return st;
}

static status_t reduce(comm_t *c, int64_t *v, int64_t n, MPI_Op op, const char *what) {
    mpi_t *m = (mpi_t *)c;
    status_t st = ST_OK;
    int64_t step = m->piece / (int64_t)sizeof *v;
    for (int64_t at = 0; !st && at < n; at += step) {
        MPI_Request request;
        int rc = MPI_Iallreduce(MPI_IN_PLACE, v + at, (int)i64_min(step, n - at), MPI_INT64_T, op, m->all, &request);
        st = mpi_wait_politely(m, rc, &request, what);
    }
    if (!st && c->size > 1) c->sent_bytes += n * (int64_t)sizeof *v;
    return st;
}

static status_t mpi_max_i64(comm_t *c, int64_t *v, int64_t n) { return reduce(c, v, n, MPI_MAX, "maximum"); }
static status_t mpi_sum_i64(comm_t *c, int64_t *v, int64_t n) { return reduce(c, v, n, MPI_SUM, "sum"); }

/* ---- notes ------------------------------------------------------------------------------------------------------ */

static void slot_append(mpi_t *m, slot_t *s) {
    s->next = NULL;
    *m->flying_end = s;
    m->flying_end = &s->next;
}

static slot_t *slot_take_first(mpi_t *m) {
    slot_t *s = m->flying;
    m->flying = s->next;
    if (!m->flying) m->flying_end = &m->flying;
    return s;
}

/* Looks at `n` of the notes under way: finished ones give their slots back, others go to the end, so that one slow receiver holds up
 * nothing. */
static status_t slots_reclaim(mpi_t *m, int n) {
    for (; n > 0 && m->flying; n--) {
        slot_t *s = slot_take_first(m);
        int done = 0;
        status_t st = mpi_check(m, MPI_Test(&s->request, &done, MPI_STATUS_IGNORE), "note");
        if (done) {
            s->next = m->spare;
            m->spare = s;
        } else {
            slot_append(m, s);
        }
        if (st) return st;
    }
    return ST_OK;
}

static status_t mpi_note_send(comm_t *c, int to, note_t note) {
    mpi_t *m = (mpi_t *)c;
    status_t st = slots_reclaim(m, 2);
    if (st) return st;
    slot_t *s = m->spare;
    if (s)
        m->spare = s->next;
    else if ((st = mem_alloc(&s, 1, sizeof *s, "a note")))
        return st;
    s->note = note;
    s->note.from = c->rank;
    st = mpi_check(m, MPI_Isend(&s->note, (int)sizeof s->note, MPI_BYTE, to, TAG_NOTE, m->all, &s->request), "note");
    if (st) {
        mem_free(s);
        return st;
    }
    slot_append(m, s);
    m->n_note_sent++;
    return ST_OK;
}

static bool mpi_note_poll(comm_t *c, note_t *out) {
    mpi_t *m = (mpi_t *)c;
    MPI_Status found;
    int there = 0;
    if (m->flying) slots_reclaim(m, 2);
    if (MPI_Iprobe(MPI_ANY_SOURCE, TAG_NOTE, m->all, &there, &found) != MPI_SUCCESS || !there) return false;
    if (MPI_Recv(out, (int)sizeof *out, MPI_BYTE, found.MPI_SOURCE, TAG_NOTE, m->all, MPI_STATUS_IGNORE) != MPI_SUCCESS) return false;
    m->n_note_taken++;
    return true;
}

/* ---- the end ---------------------------------------------------------------------------------------------------- */

static void mpi_abort(comm_t *c, status_t code) {
    mpi_t *m = (mpi_t *)c;
    fflush(NULL);
    MPI_Abort(m->all, code);
    _Exit(code);
}

/* Takes in notes until as many were taken as were sent, over all ranks. */
static status_t drain(mpi_t *m) {
    int64_t left = 1;
    while (left > 0) {
        note_t dropped;
        while (mpi_note_poll(&m->comm, &dropped)) {}
        left = m->n_note_sent - m->n_note_taken;
        status_t st = mpi_sum_i64(&m->comm, &left, 1);
        if (st) return st;
    }
    double begin = clock_s();
    while (m->flying) {
        status_t st = slots_reclaim(m, 64);
        if (st) return st;
        if (m->flying) mpi_pause_after(clock_s() - begin);
    }
    return ST_OK;
}

static void mpi_close(comm_t *c) {
    mpi_t *m = (mpi_t *)c;
    if (!m) return;
    while (m->windows) mpi_shared_free(c, m->windows->p);
    if (!m->broken && drain(m)) log_warn("%s", status_message());
    if (!m->broken) {
        if (m->node != MPI_COMM_NULL) MPI_Comm_free(&m->node);
        if (m->all != MPI_COMM_NULL) MPI_Comm_free(&m->all);
    }
    /* Notes still flying (only when broken) keep their slots: MPI may yet read them. */
    for (slot_t *s = m->spare, *next; s; s = next) {
        next = s->next;
        mem_free(s);
    }
    for (comm_exchange_t *e = m->spare_exchanges, *next; e; e = next) {
        next = e->next;
        mem_free(e->requests);
        mem_free(e);
    }
    mem_free(m->counts);
    mem_free(m->displs);
    mem_free(m);
}

static const comm_ops_t mpi_ops = {
    .name = "mpi",
    .bcast = mpi_bcast,
    .all_gather = mpi_all_gather,
    .gather = mpi_gather,
    .max_i64 = mpi_max_i64,
    .sum_i64 = mpi_sum_i64,
    .barrier = mpi_barrier,
    .exchange_start = mpi_exchange_start,
    .exchange_wait = mpi_exchange_wait,
    .exchange_poke = mpi_exchange_poke,
    .shared_alloc = mpi_shared_alloc,
    .shared_free = mpi_shared_free,
    .node_barrier = mpi_node_barrier,
    .note_send = mpi_note_send,
    .note_poll = mpi_note_poll,
    .abort = mpi_abort,
    .close = mpi_close,
};

void comm_mpi_set_piece(comm_t *c, int64_t bytes) {
    int64_t piece = i64_max(8, i64_min(bytes, PIECE_MAX));
    ((mpi_t *)c)->piece = piece / 8 * 8;
}

static status_t find_ranks(mpi_t *m) {
    comm_t *c = &m->comm;
    status_t st = mpi_check(m, MPI_Comm_dup(MPI_COMM_WORLD, &m->all), "duplicating the world");
    if (!st) st = mpi_check(m, MPI_Comm_set_errhandler(m->all, MPI_ERRORS_RETURN), "error handler");
    if (!st) st = mpi_check(m, MPI_Comm_rank(m->all, &c->rank), "rank");
    if (!st) st = mpi_check(m, MPI_Comm_size(m->all, &c->size), "size");
    if (!st)
        st = mpi_check(m, MPI_Comm_split_type(m->all, MPI_COMM_TYPE_SHARED, c->rank, MPI_INFO_NULL, &m->node), "finding the node's ranks");
    if (!st) st = mpi_check(m, MPI_Comm_set_errhandler(m->node, MPI_ERRORS_RETURN), "error handler");
    if (!st) st = mpi_check(m, MPI_Comm_rank(m->node, &c->node_rank), "rank");
    if (!st) st = mpi_check(m, MPI_Comm_size(m->node, &c->node_size), "size");
    int64_t n_node = c->node_rank == 0;
    if (!st) st = mpi_sum_i64(c, &n_node, 1);
    c->n_node = (int)n_node;
    c->sent_bytes = 0;
    return st;
}

status_t comm_mpi_create(comm_t **out) {
    mpi_t *m;
    *out = NULL;
    status_t st = mem_zalloc(&m, 1, sizeof *m, "a communicator");
    if (st) return st;
    m->comm.ops = &mpi_ops;
    m->all = m->node = MPI_COMM_NULL;
    m->piece = PIECE_MAX;
    m->flying_end = &m->flying;
    st = find_ranks(m);
    if (!st) st = mem_alloc(&m->counts, (size_t)m->comm.size, sizeof *m->counts, "a gather's counts");
    if (!st) st = mem_alloc(&m->displs, (size_t)m->comm.size, sizeof *m->displs, "a gather's places");
    if (!st)
        *out = &m->comm;
    else
        m->broken = true, mpi_close(&m->comm); /* others may have succeeded: nothing collective any more; the caller ends the job */
    return st;
}

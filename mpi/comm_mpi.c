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
#include "mpi/comm_mpi.h"

#include <mpi.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

enum { TAG_NOTE = 7, TAG_EXCHANGE = 8 };
enum { SHARED_ALIGN = 64 };
static const int64_t PIECE_MAX = (int64_t)1 << 30, BCAST_SHORT = 64 << 10;
static const double SPIN_S = 100e-6, SLEEP_MAX_S = 1e-3, SLEEP_SHARE = 1.0 / 16;

typedef struct slot {
    struct slot *next;
    MPI_Request request;
    note_t note;
} slot_t;

typedef struct window {
    struct window *next;
    void *p; /* what the caller knows it by */
    MPI_Win win;
} window_t;

struct comm_exchange {
    comm_exchange_t *next, **link; /* among those under way */
    MPI_Request *requests;         /* [n]; the memory of finished exchanges is used again */
    int n, cap;
    int64_t bytes; /* sent and received */
};

typedef struct {
    comm_t comm; /* first: the two pointers are the same */
    MPI_Comm all, node;
    int64_t piece;
    int *counts, *displs;                 /* [size], of one window of a gather */
    slot_t *flying, **flying_end, *spare; /* notes under way, oldest first; slots to use again */
    int64_t n_note_sent, n_note_taken;
    window_t *windows;
    comm_exchange_t *exchanges, *spare_exchanges; /* under way; to be used again */
    bool broken; /* a collective failed: others may have left it half-way, so close must not start new ones */
} mpi_t;

static status_t check(mpi_t *m, int rc, const char *what) {
    if (rc == MPI_SUCCESS) return ST_OK;
    char text[MPI_MAX_ERROR_STRING] = "unknown error";
    int n;
    MPI_Error_string(rc, text, &n);
    if (m) m->broken = true;
    return status_fail(ST_FAIL, "MPI: %s failed: %s; a rank or its network was probably lost: run the same command again", what, text);
}

/* ---- waiting ---------------------------------------------------------------------------------------------------- */

static void pause_after(double waited_s) {
    if (waited_s < SPIN_S) {
        sched_yield();
        return;
    }
    double s = waited_s * SLEEP_SHARE < SLEEP_MAX_S ? waited_s * SLEEP_SHARE : SLEEP_MAX_S;
    nanosleep(&(struct timespec){.tv_nsec = (long)(s * 1e9)}, NULL);
}

static status_t wait_politely(mpi_t *m, int rc, MPI_Request *request, const char *what) {
    double begin = clock_s();
    int done = 0;
    while (rc == MPI_SUCCESS) {
        rc = MPI_Test(request, &done, MPI_STATUS_IGNORE);
        if (rc != MPI_SUCCESS || done) break;
        pause_after(clock_s() - begin);
    }
    return check(m, rc, what);
}

static status_t meet(mpi_t *m, MPI_Comm where, const char *what) {
    MPI_Request request;
    return wait_politely(m, MPI_Ibarrier(where, &request), &request, what);
}

static status_t mpi_barrier(comm_t *c) {
    mpi_t *m = (mpi_t *)c;
    return meet(m, m->all, "barrier");
}

/* ---- collectives ------------------------------------------------------------------------------------------------ */

static status_t mpi_bcast(comm_t *c, int root, void *p, int64_t bytes) {
    mpi_t *m = (mpi_t *)c;
    status_t st = ST_OK;
    if (bytes <= i64_min(BCAST_SHORT, m->piece)) { /* the wait is in the message itself */
        MPI_Request request;
        st = wait_politely(m, MPI_Ibcast(p, (int)bytes, MPI_BYTE, root, m->all, &request), &request, "broadcast");
    } else {
        st = meet(m, m->all, "broadcast");
        for (int64_t at = 0; !st && at < bytes; at += m->piece)
            st = check(m, MPI_Bcast((char *)p + at, (int)i64_min(m->piece, bytes - at), MPI_BYTE, root, m->all), "broadcast");
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
    status_t st = meet(m, m->all, "all_gather");
    for (int64_t from = 0; !st && from < total; from += m->piece) {
        cut_window(m, bytes_each, from, &mine);
        st = check(m,
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
    status_t st = meet(m, m->all, "gather");
    for (int64_t from = 0; !st && from < total; from += m->piece) {
        cut_window(m, bytes_each, from, &mine);
        char *to = c->rank == root ? (char *)recv + from : NULL;
        st =
            check(m, MPI_Gatherv((const char *)send + mine, m->counts[c->rank], MPI_BYTE, to, m->counts, m->displs, MPI_BYTE, root, m->all),
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
        st = wait_politely(m, rc, &request, what);
    }
    if (!st && c->size > 1) c->sent_bytes += n * (int64_t)sizeof *v;
    return st;
}

static status_t mpi_max_i64(comm_t *c, int64_t *v, int64_t n) { return reduce(c, v, n, MPI_MAX, "maximum"); }
static status_t mpi_sum_i64(comm_t *c, int64_t *v, int64_t n) { return reduce(c, v, n, MPI_SUM, "sum"); }

/* ---- exchanges -------------------------------------------------------------------------------------------------- */

/* Bulk moves in this thread: a wait that sleeps early would slow it down, so it only yields for as long as the bytes may take. */
static const double EXCHANGE_SPIN_S = 20e-3, EXCHANGE_SLOW = 1.0 / 0.25e9;

static status_t requests_fit(comm_exchange_t *e) {
    if (e->n < e->cap) return ST_OK;
    int cap = e->cap ? 2 * e->cap : 64;
    status_t st = mem_grow(&e->requests, (size_t)cap, sizeof *e->requests, "messages of an exchange");
    if (!st) e->cap = cap;
    return st;
}

static status_t post(mpi_t *m, comm_exchange_t *e, bool send, void *p, int n, MPI_Datatype type, int peer) {
    status_t st = requests_fit(e);
    if (st) return st;
    int rc = send ? MPI_Isend(p, n, type, peer, TAG_EXCHANGE, m->all, &e->requests[e->n])
                  : MPI_Irecv(p, n, type, peer, TAG_EXCHANGE, m->all, &e->requests[e->n]);
    if (rc == MPI_SUCCESS) e->n++;
    return check(m, rc, "exchange");
}

/* A part as one message when it fits a piece, else block by block, a piece at a time: both sides cut alike. */
static status_t part_post(mpi_t *m, comm_exchange_t *e, const comm_part_t *part, bool send) {
    status_t st = ST_OK;
    char *p = part->p;
    if (part->count * part->bytes == 0) return ST_OK;
    if (part->count > 1 && part->count * part->bytes <= m->piece) {
        MPI_Datatype blocks;
        st = check(m, MPI_Type_create_hvector((int)part->count, (int)part->bytes, (MPI_Aint)part->stride, MPI_BYTE, &blocks), "exchange");
        if (!st) st = check(m, MPI_Type_commit(&blocks), "exchange");
        if (!st) st = post(m, e, send, p, 1, blocks, part->peer);
        if (!st) MPI_Type_free(&blocks); /* messages under way keep what they need of it */
        return st;
    }
    for (int64_t i = 0; i < part->count; i++)
        for (int64_t at = 0; at < part->bytes && !st; at += m->piece)
            st = post(m, e, send, p + i * part->stride + at, (int)i64_min(m->piece, part->bytes - at), MPI_BYTE, part->peer);
    return st;
}

static status_t mpi_exchange_start(comm_t *c, const comm_part_t *send, int n_send, const comm_part_t *recv, int n_recv,
                                   comm_exchange_t **out) {
    mpi_t *m = (mpi_t *)c;
    comm_exchange_t *e = m->spare_exchanges;
    status_t st = ST_OK;
    *out = NULL;
    if (!n_send && !n_recv) return ST_OK;
    if (e)
        m->spare_exchanges = e->next;
    else if ((st = mem_zalloc(&e, 1, sizeof *e, "an exchange")))
        return st;
    e->n = 0;
    e->bytes = 0;
    for (int i = 0; i < n_recv && !st; i++) {
        st = part_post(m, e, &recv[i], false);
        e->bytes += recv[i].bytes * recv[i].count;
    }
    for (int i = 0; i < n_send && !st; i++) {
        st = part_post(m, e, &send[i], true);
        c->sent_bytes += send[i].bytes * send[i].count;
        e->bytes += send[i].bytes * send[i].count;
    }
    e->next = m->exchanges;
    e->link = &m->exchanges;
    if (e->next) e->next->link = &e->next;
    m->exchanges = *out = e;
    return st;
}

static status_t mpi_exchange_wait(comm_t *c, comm_exchange_t *e) {
    mpi_t *m = (mpi_t *)c;
    double begin = clock_s();
    int rc = MPI_SUCCESS, done = 0;
    if (!e) return ST_OK;
    double patience = EXCHANGE_SPIN_S + (double)e->bytes * EXCHANGE_SLOW;
    while (rc == MPI_SUCCESS) {
        rc = MPI_Testall(e->n, e->requests, &done, MPI_STATUSES_IGNORE);
        if (rc != MPI_SUCCESS || done) break;
        double waited = clock_s() - begin;
        pause_after(waited < patience ? 0 : waited - patience);
    }
    *e->link = e->next;
    if (e->next) e->next->link = e->link;
    e->next = m->spare_exchanges;
    m->spare_exchanges = e;
    return check(m, rc, "exchange");
}

static void mpi_exchange_poke(comm_t *c) {
    mpi_t *m = (mpi_t *)c;
    int flag;
    if (m->exchanges && m->exchanges->n)
        MPI_Request_get_status(m->exchanges->requests[0], &flag, MPI_STATUS_IGNORE); /* any call moves all of them */
}

/* ---- memory shared on a node ------------------------------------------------------------------------------------ */

/* MPI keeps shared windows in /dev/shm. When it is too small some libraries leave the other ranks waiting, or hand out memory that kills
 * the process at the first touch: so the first rank of the node looks, and all of them hear the answer. */
static status_t shared_fits(mpi_t *m, size_t bytes) {
    int64_t room[2] = {1, 0};
    struct statvfs fs;
    if (m->comm.node_rank == 0 && m->comm.node_size > 1 && statvfs("/dev/shm", &fs) == 0) {
        room[1] = (int64_t)fs.f_bavail * (int64_t)fs.f_frsize;
        room[0] = room[1] >= 0 && (uint64_t)room[1] >= bytes;
    }
    MPI_Request request;
    status_t st = wait_politely(m, MPI_Ibcast(room, 2, MPI_INT64_T, 0, m->node, &request), &request, "shared memory");
    if (st || room[0]) return st;
    return status_fail(ST_FAIL,
                       "shared memory: %zu bytes wanted for the ranks of this node, %lld free in /dev/shm; make it larger (containers: "
                       "--shm-size), remove what "
                       "is left there, or start one rank per node",
                       bytes, (long long)room[1]);
}

static status_t mpi_shared_alloc(comm_t *c, size_t bytes, void *out_pp) {
    mpi_t *m = (mpi_t *)c;
    void **out = out_pp, *base = NULL;
    window_t *w = NULL;
    size_t total;
    *out = NULL;
    if (bytes == 0) return ST_OK;
    if (!size_add(bytes, SHARED_ALIGN, &total) || total > (size_t)PTRDIFF_MAX)
        return status_fail(ST_FAIL, "shared memory: %zu bytes is more than can be addressed; use smaller sizes", bytes);
    status_t st = shared_fits(m, total);
    if (st) return st;
    /* The list's entry: a rank without these few bytes would leave the others in the next call, so it asks them first. */
    int64_t failed = mem_zalloc(&w, 1, sizeof *w, "a shared window") != ST_OK;
    MPI_Request request;
    st = wait_politely(m, MPI_Iallreduce(MPI_IN_PLACE, &failed, 1, MPI_INT64_T, MPI_MAX, m->node, &request), &request, "shared memory");
    if (!st && failed) st = status_fail(ST_FAIL, "shared memory: a rank of this node is out of memory; use fewer ranks per node");
    if (st) goto out;
    MPI_Aint size = c->node_rank == 0 ? (MPI_Aint)total : 0;
    st = check(m, MPI_Win_allocate_shared(size, 1, MPI_INFO_NULL, m->node, &base, &w->win), "shared memory");
    if (st) goto out;
    int unit;
    st = check(m, MPI_Win_shared_query(w->win, 0, &size, &unit, &base), "shared memory");
    if (!st) st = check(m, MPI_Win_lock_all(MPI_MODE_NOCHECK, w->win), "shared memory"); /* one epoch for the window's life */
    /* Maps begin at pages, so every rank skips the same few bytes; the first rank's number is taken all the same. */
    int64_t skip = (int64_t)(-(uintptr_t)base & (SHARED_ALIGN - 1));
    if (!st) st = wait_politely(m, MPI_Ibcast(&skip, 1, MPI_INT64_T, 0, m->node, &request), &request, "shared memory");
    if (st) goto out;
    *out = w->p = (char *)base + skip;
    w->next = m->windows;
    m->windows = w;
    return ST_OK;
out:
    mem_free(w);
    return st;
}

static void mpi_shared_free(comm_t *c, void *p) {
    mpi_t *m = (mpi_t *)c;
    for (window_t **at = &m->windows; *at; at = &(*at)->next) {
        window_t *w = *at;
        if (w->p != p) continue;
        *at = w->next;
        if (!m->broken) {
            MPI_Win_unlock_all(w->win);
            MPI_Win_free(&w->win);
        }
        mem_free(w);
        return;
    }
}

static status_t mpi_node_barrier(comm_t *c) {
    mpi_t *m = (mpi_t *)c;
    for (window_t *w = m->windows; w; w = w->next) MPI_Win_sync(w->win);
    atomic_thread_fence(memory_order_seq_cst);
    status_t st = meet(m, m->node, "node barrier");
    atomic_thread_fence(memory_order_seq_cst);
    for (window_t *w = m->windows; w; w = w->next) MPI_Win_sync(w->win);
    return st;
}

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
        status_t st = check(m, MPI_Test(&s->request, &done, MPI_STATUS_IGNORE), "note");
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
    st = check(m, MPI_Isend(&s->note, (int)sizeof s->note, MPI_BYTE, to, TAG_NOTE, m->all, &s->request), "note");
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
        if (m->flying) pause_after(clock_s() - begin);
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
    status_t st = check(m, MPI_Comm_dup(MPI_COMM_WORLD, &m->all), "duplicating the world");
    if (!st) st = check(m, MPI_Comm_set_errhandler(m->all, MPI_ERRORS_RETURN), "error handler");
    if (!st) st = check(m, MPI_Comm_rank(m->all, &c->rank), "rank");
    if (!st) st = check(m, MPI_Comm_size(m->all, &c->size), "size");
    if (!st) st = check(m, MPI_Comm_split_type(m->all, MPI_COMM_TYPE_SHARED, c->rank, MPI_INFO_NULL, &m->node), "finding the node's ranks");
    if (!st) st = check(m, MPI_Comm_set_errhandler(m->node, MPI_ERRORS_RETURN), "error handler");
    if (!st) st = check(m, MPI_Comm_rank(m->node, &c->node_rank), "rank");
    if (!st) st = check(m, MPI_Comm_size(m->node, &c->node_size), "size");
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

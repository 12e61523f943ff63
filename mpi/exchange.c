/* Exchanges between ranks: lists of strided parts, sent as MPI vectors while others compute. */
#include <sched.h>

#include "base/clock.h"
#include "base/mem.h"
#include "mpi/comm_mpi_impl.h"

/* Bulk moves in this thread: a wait that sleeps early would slow it down, so it only yields for as long as the bytes may take. */
static const double EXCHANGE_SPIN_S = 20e-3, EXCHANGE_SLOW = 1.0 / 0.25e9;

static status_t post(mpi_t *m, comm_exchange_t *e, bool send, void *p, int n, MPI_Datatype type, int peer) {
    status_t st = mem_room(&e->requests, e->n, &e->cap, sizeof *e->requests, "messages of an exchange");
    if (st) return st;
    int rc = send ? MPI_Isend(p, n, type, peer, TAG_EXCHANGE, m->all, &e->requests[e->n])
                  : MPI_Irecv(p, n, type, peer, TAG_EXCHANGE, m->all, &e->requests[e->n]);
    if (rc == MPI_SUCCESS) e->n++;
    return mpi_check(m, rc, "exchange");
}

/* A part as one message when it fits a piece, else block by block, a piece at a time: both sides cut alike. */
static status_t part_post(mpi_t *m, comm_exchange_t *e, const comm_part_t *part, bool send) {
    status_t st = ST_OK;
    char *p = part->p;
    if (part->count * part->bytes == 0) return ST_OK;
    if (part->count > 1 && part->count * part->bytes <= m->piece) {
        MPI_Datatype blocks;
        st = mpi_check(m, MPI_Type_create_hvector((int)part->count, (int)part->bytes, (MPI_Aint)part->stride, MPI_BYTE, &blocks),
                       "exchange");
        if (!st) st = mpi_check(m, MPI_Type_commit(&blocks), "exchange");
        if (!st) st = post(m, e, send, p, 1, blocks, part->peer);
        if (!st) MPI_Type_free(&blocks); /* messages under way keep what they need of it */
        return st;
    }
    for (int64_t i = 0; i < part->count; i++)
        for (int64_t at = 0; at < part->bytes && !st; at += m->piece)
            st = post(m, e, send, p + i * part->stride + at, (int)i64_min(m->piece, part->bytes - at), MPI_BYTE, part->peer);
    return st;
}

status_t mpi_exchange_start(comm_t *c, const comm_part_t *send, int n_send, const comm_part_t *recv, int n_recv, comm_exchange_t **out) {
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

status_t mpi_exchange_wait(comm_t *c, comm_exchange_t *e) {
    mpi_t *m = (mpi_t *)c;
    double begin = clock_s();
    int rc = MPI_SUCCESS, done = 0;
    if (!e) return ST_OK;
    double patience = EXCHANGE_SPIN_S + (double)e->bytes * EXCHANGE_SLOW;
    while (rc == MPI_SUCCESS) {
        rc = MPI_Testall(e->n, e->requests, &done, MPI_STATUSES_IGNORE);
        if (rc != MPI_SUCCESS || done) break;
        double waited = clock_s() - begin;
        mpi_pause_after(waited < patience ? 0 : waited - patience);
    }
    *e->link = e->next;
    if (e->next) e->next->link = e->link;
    e->next = m->spare_exchanges;
    m->spare_exchanges = e;
    return mpi_check(m, rc, "exchange");
}

void mpi_exchange_poke(comm_t *c) {
    mpi_t *m = (mpi_t *)c;
    int flag;
    if (m->exchanges && m->exchanges->n)
        MPI_Request_get_status(m->exchanges->requests[0], &flag, MPI_STATUS_IGNORE); /* any call moves all of them */
}

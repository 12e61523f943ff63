/* Memory that the ranks of a node share: one window of the node's first rank, which all of them map. */
#include <stdatomic.h>
#include <sys/statvfs.h>

#include "base/mem.h"
#include "mpi/comm_mpi_impl.h"

enum { SHARED_ALIGN = 64 };

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
    status_t st = mpi_wait_politely(m, MPI_Ibcast(room, 2, MPI_INT64_T, 0, m->node, &request), &request, "shared memory");
    if (st || room[0]) return st;
    return status_fail(ST_FAIL,
                       "shared memory: %zu bytes wanted for the ranks of this node, %lld free in /dev/shm; make it larger (containers: "
                       "--shm-size), remove what "
                       "is left there, or start one rank per node",
                       bytes, (long long)room[1]);
}

status_t mpi_shared_alloc(comm_t *c, size_t bytes, void *out_pp) {
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
    st = mpi_wait_politely(m, MPI_Iallreduce(MPI_IN_PLACE, &failed, 1, MPI_INT64_T, MPI_MAX, m->node, &request), &request, "shared memory");
    if (!st && failed) st = status_fail(ST_FAIL, "shared memory: a rank of this node is out of memory; use fewer ranks per node");
    if (st) goto out;
    MPI_Aint size = c->node_rank == 0 ? (MPI_Aint)total : 0;
    st = mpi_check(m, MPI_Win_allocate_shared(size, 1, MPI_INFO_NULL, m->node, &base, &w->win), "shared memory");
    if (st) goto out;
    int unit;
    st = mpi_check(m, MPI_Win_shared_query(w->win, 0, &size, &unit, &base), "shared memory");
    if (!st) st = mpi_check(m, MPI_Win_lock_all(MPI_MODE_NOCHECK, w->win), "shared memory"); /* one epoch for the window's life */
    /* Maps begin at pages, so every rank skips the same few bytes; the first rank's number is taken all the same. */
    int64_t skip = (int64_t)(-(uintptr_t)base & (SHARED_ALIGN - 1));
    if (!st) st = mpi_wait_politely(m, MPI_Ibcast(&skip, 1, MPI_INT64_T, 0, m->node, &request), &request, "shared memory");
    if (st) goto out;
    *out = w->p = (char *)base + skip;
    w->next = m->windows;
    m->windows = w;
    return ST_OK;
out:
    mem_free(w);
    return st;
}

void mpi_shared_free(comm_t *c, void *p) {
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

status_t mpi_node_barrier(comm_t *c) {
    mpi_t *m = (mpi_t *)c;
    for (window_t *w = m->windows; w; w = w->next) MPI_Win_sync(w->win);
    atomic_thread_fence(memory_order_seq_cst);
    status_t st = mpi_meet(m, m->node, "node barrier");
    atomic_thread_fence(memory_order_seq_cst);
    for (window_t *w = m->windows; w; w = w->next) MPI_Win_sync(w->win);
    return st;
}

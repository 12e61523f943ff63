/* Inside of the MPI communicator, for its own files only: comm_mpi.c waits, gathers, takes notes and ends; exchange.c moves strided parts;
 * shared.c holds a node's shared memory. */
#ifndef MPI_COMM_MPI_IMPL_H
#define MPI_COMM_MPI_IMPL_H

#include <mpi.h>

#include "comm/comm.h"

enum { TAG_NOTE = 7, TAG_EXCHANGE = 8 };

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
    int n;
    int64_t cap;
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

/* An MPI return code as a status; a failure marks m (which may be NULL) as broken. */
status_t mpi_check(mpi_t *m, int rc, const char *what);
/* Polite waiting (comm_mpi.c): sleeps more the longer it lasts. rc: of the call that made `request`. */
void mpi_pause_after(double waited_s);
status_t mpi_wait_politely(mpi_t *m, int rc, MPI_Request *request, const char *what);
status_t mpi_meet(mpi_t *m, MPI_Comm where, const char *what);

/* exchange.c and shared.c: comm_ops_t. */
status_t mpi_exchange_start(comm_t *c, const comm_part_t *send, int n_send, const comm_part_t *recv, int n_recv, comm_exchange_t **out);
status_t mpi_exchange_wait(comm_t *c, comm_exchange_t *e);
void mpi_exchange_poke(comm_t *c);
status_t mpi_shared_alloc(comm_t *c, size_t bytes, void *out_pp);
void mpi_shared_free(comm_t *c, void *p);
status_t mpi_node_barrier(comm_t *c);

#endif

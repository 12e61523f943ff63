/* Exchanges of backend memory: as they are where that is host memory or the communicator carries a device's, else through pinned copies on
 * the host. */
#ifndef ENCODE_WIRE_H
#define ENCODE_WIRE_H

#include "backend/backend.h"
#include "comm/comm.h"

/* One exchange under way; zero it first. It keeps its memory for the next. */
typedef struct {
    comm_exchange_t *exchange;
    comm_part_t *host; /* [n] the parts as they travel, sent ones first */
    comm_part_t *recv; /* [n_recv] where they belong */
    int n_send, n_recv, cap;
    char *memory;
    size_t bytes;
} wire_t;

/* The parts are [B]. As comm's exchange_start and exchange_wait; the parts may be forgotten when wire_start returns. */
status_t wire_start(wire_t *w, backend_t *be, comm_t *comm, const comm_part_t *send, int n_send, const comm_part_t *recv, int n_recv);
status_t wire_wait(wire_t *w, backend_t *be, comm_t *comm);
void wire_free(wire_t *w, backend_t *be);

#endif

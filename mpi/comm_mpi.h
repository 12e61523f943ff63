/* The communicator over MPI. The header has no MPI in it: only the registry of the command line and the tests include it. */
#ifndef MPI_COMM_MPI_H
#define MPI_COMM_MPI_H

#include <stdint.h>

#include "base/status.h"
#include "comm/comm.h"
#include "mpi/launch.h"

/* All ranks of MPI_COMM_WORLD, on a duplicate of it that returns errors instead of ending the job. MPI must be initialised. Collective.
 * Calls on it come from one thread. close is collective too: it takes in and drops notes that nobody polled. */
status_t comm_mpi_create(comm_t **out);

/* Longest message in bytes that one MPI call carries (default 1 GiB; MPI counts are ints). The same on every rank. Tests make it small so
 * that the loop over pieces runs. Rounded down to a multiple of 8, at least 8, at most the default. */
void comm_mpi_set_piece(comm_t *c, int64_t bytes);

#endif

/* Where the ranks come from: was this process started by an MPI launcher, and if so, the communicator of all of them.
 *
 *     if (launch_under_mpi()) st = launch_comm(&comm);   // mpirun, srun --mpi=pmix
 *     else st = comm_self_create(&comm);                 // a laptop or a login node: MPI is never touched
 *     launch_warn_alone(comm);
 *     launch_warn_threads(comm, threads);
 *     ...
 *     comm->ops->close(comm);
 *     launch_finalize();
 *
 * No <mpi.h> here, so that the command line's registry can include it.
 */
#ifndef MPI_LAUNCH_H
#define MPI_LAUNCH_H

#include <stdbool.h>

#include "base/status.h"
#include "comm/comm.h"

/* The environment says that a launcher started this process. Touches nothing. */
bool launch_under_mpi(void);
/* MPI_Init_thread (FUNNELED: this thread alone makes MPI calls), then comm_mpi_create. Collective over all processes of the job. */
status_t launch_comm(comm_t **out);
/* Device memory between the ranks of comm, one GPU each: see comm_nccl.h. Only in builds with NCCL. Collective over comm. */
status_t launch_device(comm_t *comm, int device, void *stream, int n_cta, comm_device_t **out);
/* MPI_Finalize when launch_comm initialised MPI; otherwise nothing. Collective. Every rank should leave through it before its exit code is
 * seen. */
void launch_finalize(void);

/* Warns when Slurm started several tasks that do not know of each other (an --mpi type that this MPI does not speak). */
void launch_warn_alone(const comm_t *c);
/* Warns (each rank that sees it, at most one per node) when `threads` cannot run at once on the CPUs this process is allowed to use. */
void launch_warn_threads(const comm_t *c, int threads);
/* CPUs in this process's affinity mask; at least 1. */
int launch_n_cpu(void);

#endif

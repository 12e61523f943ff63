/* What this program was built with. registry.c is the only file of src/ that knows it; all others ask here. */
#ifndef CLI_REGISTRY_H
#define CLI_REGISTRY_H

#include <stdbool.h>
#include <stdio.h>

#include "backend/backend.h"
#include "comm/comm.h"

/* The rank and size that the launcher's environment tells, before MPI starts: 0 and 1 when there is none. */
void registry_launch(int *rank, int *size);
/* The job's ranks: MPI when this process was started under it (mpirun, srun), else one rank. Collective, as is close (NULL ok), which ends
 * MPI. */
status_t registry_comm_open(comm_t **out);
void registry_comm_close(comm_t *c);
/* Warns of what is probably a mistake: tasks that do not know of each other, more threads than CPUs. */
void registry_warn_launch(const comm_t *c, int n_threads);

/* This rank's number among those of its node that will take a GPU: ranks with and without may stand in any order. Collective over the node.
 */
status_t registry_gpu_choose(const char *name, comm_t *comm, int *gpu);
/* name: auto, cpu, cpu_ref or cuda; gpu: as chosen above, taken modulo the GPUs there are. auto takes a GPU when this build has CUDA and
 * the node has one, else cpu. ST_USAGE when the build lacks it. */
status_t registry_backend_create(const char *name, dtype_t act, int n_threads, int gpu, backend_t **out);
/* What carries the backend's memory between ranks, as comm->device: NCCL where every rank has a GPU of its own and this build has it; else
 * nothing, and memory goes through the host. ST_USAGE when ranks have one GPU together and `share` allows it on none. Collective, as is
 * close, which comes before the backend's end. */
status_t registry_device_open(comm_t *comm, backend_t *be, bool share);
void registry_device_close(comm_t *comm);
const char *registry_backends(void); /* "cpu, cpu_ref" */

/* Lines "name: value": compiler, backends, instruction sets, libraries with their versions. */
void registry_describe(FILE *f);

#endif

/* Device memory between ranks by NCCL: one GPU per rank. Its id travels over the communicator that it belongs to. */
#ifndef MPI_COMM_NCCL_H
#define MPI_COMM_NCCL_H

#include "comm/comm.h"

/* stream: the backend's (cudaStream_t); device: its GPU; n_cta: how many of its multiprocessors messages beside computing may take (0: as
 * many as NCCL likes). Collective over comm. */
status_t comm_nccl_create(comm_t *comm, int device, void *stream, int n_cta, comm_device_t **out);

#endif

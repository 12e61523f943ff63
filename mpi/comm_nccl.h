/* Device memory between ranks by NCCL: one GPU per rank. Its id travels over the communicator that it belongs to. */
#ifndef MPI_COMM_NCCL_H
#define MPI_COMM_NCCL_H

#include "comm/comm.h"

/* stream: the backend's (cudaStream_t); device: its GPU. Collective over comm. */
status_t comm_nccl_create(comm_t *comm, int device, void *stream, comm_device_t **out);

#endif

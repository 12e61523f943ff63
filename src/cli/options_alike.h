/* Programs of one job may be started with command lines of their own (mpirun ... : ...). */
#ifndef CLI_OPTIONS_ALIKE_H
#define CLI_OPTIONS_ALIKE_H

#include "cli/options.h"
#include "comm/comm.h"

/* What decides who does what must be the same on all ranks: ST_USAGE, on the ranks that differ from rank 0, with the option's name.
 * Backend, threads, speed, and where a file lies may be each rank's own. Collective; the caller agrees. */
status_t options_alike(const options_t *o, comm_t *comm);

#endif

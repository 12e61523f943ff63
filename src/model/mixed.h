/* Are the ranks of a job alike? Ranks with GPUs and ranks with CPUs may serve one job: each has its own bits, and its own packing of the
 * weights. */
#ifndef MODEL_MIXED_H
#define MODEL_MIXED_H

#include "model/model_impl.h"

/* Fills m->mixed and m->shared. Collective. */
status_t mixed_find(model_t *m);

#endif

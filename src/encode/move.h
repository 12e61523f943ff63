/* Moves encoded keys to other positions: one more rotation, by the distance. */
#ifndef ENCODE_MOVE_H
#define ENCODE_MOVE_H

#include "model/model.h"

/* Row i of the pool's rows turns by distance[i], in all layers and heads. */
status_t keys_move(model_t *m, kv_pool_t *pool, const double *distance);
/* All rows by the same distance. */
status_t keys_move_all(model_t *m, kv_pool_t *pool, int64_t distance);

#endif

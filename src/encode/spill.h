/* Passes over K/V that lie in host memory because they are larger than the device: all layers there, two of them on the device.
 *
 *     device    layer l: keys | attention, feed-forward          even layers' rows | odd layers' rows
 *     copies             own rows of l out, what layer l+1 sees in
 *
 * Pools keep their indices and their rows, so the bits are those of pools on the device.
 */
#ifndef ENCODE_SPILL_H
#define ENCODE_SPILL_H

#include "model/kv.h"
#include "model/model.h"

/* Of what is free on the device: operations need some for themselves. */
static const double ROOM_USABLE = 0.9;
enum { LAYER_RING = 2 }; /* layers of K/V at work on the device, even and odd */

typedef struct {
    backend_t *be;
    const model_config_t *config;
    char *memory; /* [B] two layers of the pools of a pass */
    size_t bytes;
    kv_pool_t *rings; /* [cap] */
    int64_t *seen;    /* [cap][2] rows that the pass's rows see of each pool */
    int cap;
    int64_t ticket; /* of the last copy out */
} spill_t;

/* Bytes on the device for pools of n_row rows in all. */
size_t spill_bytes(const model_config_t *c, dtype_t act, int64_t n_row);
/* The forward pass of a batch whose pools are all in host memory (kv_alloc_host, or parts of such). */
status_t spill_forward(spill_t *s, model_t *m, forward_ws_t *ws, batch_t b);
/* Waits until what passes left is in host memory. */
status_t spill_settle(spill_t *s);
void spill_free(spill_t *s); /* takes a zeroed one */

/* Some rows of a pool. */
typedef struct {
    const kv_pool_t *pool;
    int64_t row;
} rows_at_t;
/* n rows of a layer between a pool of LAYER_RING layers on the device and one of all layers in host memory, in or out, beside the
 * operations (copy_in_start, copy_out_start). */
status_t ring_copy(backend_t *be, const model_config_t *c, rows_at_t ring, rows_at_t host, int layer, int64_t n, bool in, int64_t *ticket);

#endif

/* A segment's most important rows, by layer and K/V head, packed: heads may keep different numbers.
 *
 * The rows of a layer lie head after head, n_kv_head * m of them in all, so the packed pool has the shape of an ordinary pool of m rows;
 * how many each head has is beside it. Which rows they are is a list, layer after layer n_kv_head * m numbers head * n + row, ascending.
 */
#ifndef ENCODE_PICK_H
#define ENCODE_PICK_H

#include "model/kv.h"

typedef enum { BUDGET_UNIFORM, BUDGET_HEAD } budget_t; /* every head keeps m rows; the n_kv_head * m best of a layer over its heads */

/* Rows that a segment of n tokens keeps per head, on average. */
static inline int64_t pick_rows(int64_t ratio, int64_t n) { return n ? (n / ratio > 0 ? n / ratio : 1) : 0; }
/* count[n_layer][n_kv_head] and keep[n_layer][n_kv_head][n] (0 or 1) from score[n_layer][n_kv_head][n]; ties go to the earlier row, of the
 * lower head. */
status_t pick_choose(const model_config_t *c, budget_t budget, int64_t m, int64_t n, const float *score, int32_t *count, uint8_t *keep);
/* keep as a list[n_layer][n_kv_head * m]; and back, with the counts: ST_INPUT when the list is not of that form. */
void pick_list(const model_config_t *c, int64_t m, int64_t n, const uint8_t *keep, int32_t *list);
status_t pick_unlist(const model_config_t *c, int64_t m, int64_t n, const int32_t *list, int32_t *count, uint8_t *keep);
/* Copies the kept rows of `from` (n rows) into `to` (m rows, contiguous), in their order. */
status_t pick_pack(backend_t *be, const model_config_t *c, int64_t n, int64_t m, const uint8_t *keep, const kv_pool_t *from, kv_pool_t *to);
/* The rows of one layer and head, as a pool that serves that head alone. */
kv_pool_t pick_part(const model_config_t *c, const kv_pool_t *packed, const int32_t *count, int64_t layer, int64_t head);

#endif

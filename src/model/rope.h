/* Rotary positions: angle j of a row at position p is p * inv_freq[j]; elements j and j + d_rot/2 of a head turn by it (half-split
 * rotation). Angles are computed in double, so that far positions keep their precision, and the cosines and sines are then rounded to f32.
 */
#ifndef MODEL_ROPE_H
#define MODEL_ROPE_H

#include <stdint.h>

#include "model/config.h"

/* out[d_rot/2], scaling applied. factors[d_rot/2] divide the frequencies (rope_freqs.weight of GGUF files), or NULL: by the config's
 * constants. */
void rope_inv_freq(const model_config_t *c, const float *factors, double *out);
/* out[n_row][d_rot]: the d_rot/2 cosines of a row, then its sines. */
void rope_cos_sin(const double *inv_freq, int64_t d_rot, int64_t n_row, const double *positions, float *out);

#endif

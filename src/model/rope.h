/* Rotary positions: angle j of a row at position p is p * inv_freq[j]; elements j and j + d_rot/2 of a head turn by it (half-split
 * rotation). Angles are computed in double, so that far positions keep their precision, and the cosines and sines are then rounded to f32.
 *
 * Scalings are arithmetic on inv_freq plus one factor on the cosines and sines. Two of them (dynamic, longrope) choose inv_freq by the
 * length of the text, which with keys kept in a cache would turn early and late keys by different frequencies; here the choice is made
 * once, for the whole run: by config.rope_length, or for texts within the trained context. rope_limit is where that choice ends.
 */
#ifndef MODEL_ROPE_H
#define MODEL_ROPE_H

#include <stdint.h>

#include "model/config.h"

/* out[d_rot/2], scaling applied. factors[d_rot/2] divide the frequencies (rope_freqs.weight of GGUF files), or NULL: by the config's
 * constants. */
void rope_inv_freq(const model_config_t *c, const float *factors, double *out);
/* Positions must stay below this; 0: no limit. */
int64_t rope_limit(const model_config_t *c);
/* out[n_row][d_rot]: the d_rot/2 cosines of a row, then its sines, times scale. */
void rope_cos_sin(const double *inv_freq, int64_t d_rot, double scale, int64_t n_row, const double *positions, float *out);

#endif

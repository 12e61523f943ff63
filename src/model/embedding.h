/* Embedding rows on the host, in f32 from the file: for rows whose input is no token's (gists). */
#ifndef MODEL_EMBEDDING_H
#define MODEL_EMBEDDING_H

#include "model/model.h"

/* out [d_model]; token in [0, n_vocab). */
status_t model_embedding(const model_t *m, int32_t token, float *out);
/* The mean of all embeddings, summed in double in row order. */
status_t model_mean_embedding(const model_t *m, float *out);
/* Cosines and sines [n][d_rot] by which keys that are to be moved by these distances turn. */
void model_rope(const model_t *m, int64_t n, const double *distances, float *cos_sin);

#endif

/* Queries to come, guessed from those of a segment (arXiv 2510.00636): in each layer and query head a Gaussian over the segment's queries
 * before rotation, turned by the mean rotation R of the positions to come. What it gives to key k of its group, on average over queries:
 *
 *     exp(k.R mu / sqrt(d) + k' R Sigma R' k / 2d)      and with y = R'k      exp(y.mu / sqrt(d) + y' Sigma y / 2d)
 *
 * made a softmax over the segment's rows, averaged over the group's heads, times the length of the row's value.
 */
#ifndef ENCODE_EXPECT_H
#define ENCODE_EXPECT_H

#include "base/status.h"
#include "model/config.h"

enum { MAX_HEAD_DIM = 1024 /* the models' own limit */ };
enum { EXPECT_FIRST = 4, EXPECT_POSITIONS = 512 }; /* rows of a segment left out of the Gaussian; positions to come */

typedef struct expect expect_t;
size_t expect_bytes(const model_config_t *c); /* for plan */
status_t expect_create(const model_config_t *c, expect_t **out);
void expect_free(expect_t *e);
void expect_begin(expect_t *e);
/* q [n][n_head][d_head], rotated by cos_sin [n][d_rot] (model_rope), of rows that count. */
void expect_add(expect_t *e, int64_t layer, int64_t n, const float *q, const float *cos_sin);
/* score [n] of a K/V head's rows: keys [n][d_head], rotated; lengths [n] of their values; turns [EXPECT_POSITIONS][d_rot] of the positions
 * to come. */
status_t expect_score(expect_t *e, int64_t layer, int64_t head, int64_t n, const float *keys, const float *lengths, const float *turns,
                      float *score);

#endif

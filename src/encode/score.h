/* Which raw rows of an encoded segment matter most, by K/V head: training-free scores (methods.md section 7, its end).
 *
 * Query rows go through the model behind the segment's K/V; in every layer the probabilities that they give to the segment's rows are
 * summed up, or their largest is kept:
 *
 *     knorm         minus the key's length; no pass
 *     snapkv        the segment's last 64 rows again; mean, then over 5 neighbours; these 64 rows always stay
 *     observed      all rows of the segment again; mean over the rows at and after it
 *     expected      the queries to come, guessed from the segment's own (expect.h)
 *     reconstruct   "repeat the context" and the segment once more, behind it; the largest
 *
 * Running rows again changes nothing: their K/V are in the pool, so each gets the very attention that it had when it was encoded.
 */
#ifndef ENCODE_SCORE_H
#define ENCODE_SCORE_H

#include "encode/encoder.h"

/* The names' order is score_name's. */
typedef enum { SCORE_KNORM, SCORE_SNAPKV, SCORE_OBSERVED, SCORE_EXPECTED, SCORE_RECONSTRUCT } score_method_t;
enum { SCORE_FIRST = 4 }; /* sink rows that reconstruct sees; rows of a segment without a sink that always stay */

typedef struct {
    score_method_t method;
    const int32_t *repeat; /* [n_repeat] tokens that ask to repeat the context; copied */
    int64_t n_repeat;
    align_t align;                        /* as the encoder's */
    int64_t reserve, max_row, max_tokens; /* rows per pass; of the longest segment */
} score_spec_t;

const char *score_name(score_method_t m);
bool score_find(const char *name, score_method_t *out);
/* What reconstruct asks for, in words. */
extern const char score_repeat_text[];

typedef struct scorer scorer_t;
/* Bytes that it takes, for plan (of the spec: method, n_repeat, max_row and max_tokens), without K/V; of them on a device; and the K/V rows
 * that it has of its own, which lie where the encoder's pieces do. */
size_t scorer_bytes(const model_config_t *c, dtype_t act, const score_spec_t *spec);
size_t scorer_device_bytes(const model_config_t *c, dtype_t act, const score_spec_t *spec);
int64_t scorer_kv_rows(const score_spec_t *spec);
/* Runs passes of the encoder, between encodings; e must live as long, have max_row rows a pass or more, and its pieces' pools where they
 * are now (encoder_spill). */
status_t scorer_create(model_t *m, encoder_t *e, const score_spec_t *spec, scorer_t **out);
void scorer_free(scorer_t *s);
/* score [n_layer][n_kv_head][n]; INFINITY: always kept. p as it was encoded. */
status_t scorer_run(scorer_t *s, const piece_t *p, float *score);

#endif

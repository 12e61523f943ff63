/* Answers in UniGist's own way (methods.md section 5, "Inference"): prompt and answer are one sequence, whose gists and whose window go on
 * while it is written. A gist rides in the pass of its unit's last token; raw rows that left the window are freed. The logits are those of
 * the whole sequence in one pass, bit for bit.
 */
#ifndef QUERY_INTERLEAVE_H
#define QUERY_INTERLEAVE_H

#include "encode/kept.h"
#include "query/generate.h"

typedef struct interleave interleave_t;
typedef struct {
    const kept_t *kept; /* its gists and blank sink rows */
    const int32_t *sink;
    int64_t n_sink, max_row;
} interleave_spec_t;

/* For sequences of up to max_token tokens, one after another. Not collective. */
status_t interleave_create(model_t *m, const interleave_spec_t *spec, int64_t max_token, interleave_t **out);
void interleave_free(interleave_t *s);  /* NULL ok */
void interleave_begin(interleave_t *s); /* a new sequence */
/* n >= 1 more tokens of it; logits [n_vocab]: of the last one. */
status_t interleave_feed(interleave_t *s, const int32_t *tokens, int64_t n, float *logits);

/* As generate (query/generate.h), without a context. Rank 0 does it all; attention is not looked into, so there is no entropy (NaN).
 * Collective. */
status_t interleave_generate(model_t *m, comm_t *comm, const interleave_spec_t *spec, const generate_spec_t *how, const int32_t *tokens_end,
                             int n_end, generation_t *all, int64_t n, generated_fn done, void *done_ctx);

#endif

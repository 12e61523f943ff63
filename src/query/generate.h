/* Generation: prompts in, tokens out, several prompts side by side so that weights are read once for all of them.
 *
 * Every rank runs the same steps on the same rows; only the attention over segments is divided (attend.h). Greedy or sampled, a prompt's
 * text does not depend on which others run beside it, nor on the number of ranks.
 */
#ifndef QUERY_GENERATE_H
#define QUERY_GENERATE_H

#include "base/rng.h"
#include "query/attend.h"
#include "text/tokenizer.h"

/* Is called with each token as it is made (not with the one that ends a text), on every rank; generation i of those given to generate. */
typedef status_t (*token_fn)(void *ctx, int64_t i, int32_t id);

typedef struct {
    int64_t max_tokens;
    double temperature, top_p; /* temperature 0: greedy */
    uint64_t seed;             /* prompt i uses seed + i */
    attend_spec_t attend;
    int64_t batch;   /* prompts side by side */
    int64_t max_row; /* rows per forward pass; a longer prompt goes in chunks (SEL then chooses per chunk) */
    token_fn token;  /* NULL: not wanted */
    void *token_ctx;
} generate_spec_t;

typedef struct {
    /* in */
    const int32_t *prompt; /* [n_prompt], at least one */
    int64_t n_prompt;
    int64_t number; /* for the seed */
    /* out */
    ids_t ids;      /* generated, without the end token; the caller frees */
    bool ended;     /* by an end token (else by max_tokens) */
    double *mass;   /* [ctx->n_local] share of the attention mass, mean over layers, heads and rows; the caller frees (mem_free) */
    double edits;   /* over a pool of edits: what rows took from edits, not from entry 0; mean over rows, heads and upper layers */
    double entropy; /* mean over forwards, a decode step counting as one */
    int64_t n_forward;
    double first_token_s, total_s; /* from the prompt's start */
} generation_t;

/* Is called in the order in which generations end, on every rank. */
typedef status_t (*generated_fn)(void *ctx, generation_t *g);

/* tokens_end: ids that end a text. Collective. */
status_t generate(model_t *m, comm_t *comm, const context_kv_t *ctx, const generate_spec_t *spec, const int32_t *tokens_end, int n_end,
                  generation_t *all, int64_t n, generated_fn done, void *done_ctx);

/* Is id one of the ids that end a text? */
bool token_ends(const int32_t *ends, int n_end, int32_t id);
/* Next token from logits: argmax (first of equals) at temperature 0, else from the smallest set of tokens whose probability reaches top_p.
 * scratch: n_vocab floats and n_vocab int32. */
int32_t sample_token(const float *logits, int64_t n_vocab, double temperature, double top_p, rng_t *rng, float *prob, int32_t *order);

#endif

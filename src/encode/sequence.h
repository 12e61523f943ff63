/* One token sequence under a layout, and the logits of its rows: the check of a layout against another program, and what evaluations
 * compare.
 *
 * The tokens are cut into segments. Under pce and blockgist a row's logits come from its own segment's pass; under full and the KV kinds
 * segments continue each other (under star, all of them the first); under unigist and streaming the sequence is one segment. Streaming's
 * sink is its first kept.n_blank tokens, its window kept.gist.window rows.
 */
#ifndef ENCODE_SEQUENCE_H
#define ENCODE_SEQUENCE_H

#include "encode/kept.h"

typedef struct {
    layout_method_t layout;
    kept_t kept; /* its gists and blank sink rows */
    const int32_t *sink;
    int64_t n_sink;
    align_t align; /* of segments that do not continue each other */
    int64_t segment, max_row;
    bool all_rows; /* rows of the sink and gists, too, in the order of the sequence */
} sequence_spec_t;

/* Rows whose logits come. */
int64_t sequence_rows(const sequence_spec_t *s, int64_t n_token);
/* Calls `rows` on rank 0 with the logits of every row, once each, in no particular order. Collective. Where segments see each other all
 * ranks share the work, with the bits of one rank; else (and with compact positions) rank 0 does it. */
status_t sequence_logits(model_t *m, comm_t *comm, const sequence_spec_t *s, const int32_t *tokens, int64_t n, rows_fn rows, void *ctx);

#endif

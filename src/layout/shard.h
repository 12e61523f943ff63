/* One document over ranks, exactly (methods.md sections 2, 4 and 5, "Over ranks"). Pure arithmetic: every rank makes the same plan.
 *
 * The document is cut into 2 * size chunks of equally many rows, and rank r takes chunk r and chunk 2 * size - 1 - r: what a row sees grows
 * evenly along the document, so the pairs weigh the same:
 *
 *     chunk      0   1   2 | 3   4   5
 *     rank       0   1   2 | 2   1   0          fronts | backs
 *
 * The layers are taken one after another, each by all ranks at once. A row needs, of lower chunks, the gists (full attention: the raw rows)
 * and the raw rows of its window or its segment: what a layer's rows have just computed is sent step by step, to those who need it, and to
 * nobody else. Fronts need fronts alone, so while a rank works on its back, the fronts of the next layer are already on their way.
 */
#ifndef LAYOUT_SHARD_H
#define LAYOUT_SHARD_H

#include "layout/assign.h"
#include "layout/gist.h"

enum { SHARD_ROWS = 256 }; /* tokens per rank below which a document is better left to one rank: waiting would cost more */

typedef struct {
    gist_spec_t gist;
    bool raw_chain;         /* rows see the raw rows of earlier segments (full attention), else their gists */
    bool raw_kept;          /* who writes a segment needs all its raw rows, also those that its own rows do not see */
    const int64_t *segment; /* [n_segment + 1] first raw rows of the segments, then the document's end; copied */
    int64_t n_segment;
    int size;        /* ranks */
    int64_t max_row; /* rows that go through the model at once, at least ratio + 1 */
} shard_spec_t;

/* Rows that go through a layer together, all of one segment and counted inside it. */
typedef struct {
    int64_t segment, raw, raw_n, gist, gist_n;
    int chunk;
} shard_step_t;

typedef struct {
    shard_spec_t spec;
    int64_t *segment;    /* [n_segment + 1] */
    int64_t *chunk;      /* [2 size + 1] first raw rows of the chunks, then the end */
    shard_step_t *steps; /* in the order of the document */
    int64_t *first;      /* [2 size + 1] first steps of the chunks, then how many there are */
    int64_t most[2];     /* steps that a rank has at most in its front, and in its back */
} shard_t;

status_t shard_make(const shard_spec_t *spec, shard_t *out);
void shard_free(shard_t *s); /* takes a zeroed one */

static inline int shard_owner(const shard_t *s, int chunk) { return chunk < s->spec.size ? chunk : 2 * s->spec.size - 1 - chunk; }
/* The chunk of a rank: its front (0) or its back (1). */
static inline int shard_chunk(const shard_t *s, int rank, int back) { return back ? 2 * s->spec.size - 1 - rank : rank; }
/* Step i of a rank's front or back, or NULL when it has no such step. */
const shard_step_t *shard_step(const shard_t *s, int rank, int back, int64_t i);
/* The rank that has, or is sent, all K/V of a segment that are kept: who computes its last row. */
int shard_writer(const shard_t *s, int64_t segment);
/* The first raw row of the document that raw row `raw`, or any row after it, still sees. */
int64_t shard_oldest(const shard_t *s, int64_t raw);
/* What rank `to` needs of a step that is not its own: raw rows *raw .. +*raw_n and gists *gist .. +*gist_n, counted inside the step's
 * segment. false: nothing. */
bool shard_need(const shard_t *s, const shard_step_t *step, int to, int64_t *raw, int64_t *raw_n, int64_t *gist, int64_t *gist_n);

/* K/V rows of one layer that a rank sends; and that ring attention over the same document would have it send. */
int64_t shard_sent_rows(const shard_t *s, int rank);
int64_t shard_ring_rows(const shard_t *s, int rank);
/* Multiply-adds of a rank (gists included), from the same cost per row and per key as segments are dealt by. */
double shard_load(const shard_t *s, const assign_cost_t *c, int rank);

#endif

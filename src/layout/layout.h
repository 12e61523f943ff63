/* Layouts: a method is which rows there are, their positions, who sees whom, and which K/V rows are kept (methods.md section 1). Pure
 * arithmetic.
 *
 * A builder fills a row plan for one segment (or the sink, or a query) as runs and spans over numbered pools. Its row-by-row predicate,
 * written from the paper's rule and sharing no code with the spans, is the oracle in the tests.
 */
#ifndef LAYOUT_LAYOUT_H
#define LAYOUT_LAYOUT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "layout/span.h"

typedef enum {
    LAYOUT_FULL,
    LAYOUT_PCE,
    LAYOUT_BLOCKGIST,
    LAYOUT_FINE_KV,
    LAYOUT_COARSE_KV,
    LAYOUT_UNIGIST,
    LAYOUT_BLOCKSELECT,
    LAYOUT_PCW,
    LAYOUT_STRUCTURED,
    LAYOUT_APE,
    LAYOUT_BLOCK,
    LAYOUT_STAR,
    LAYOUT_STREAMING,
    LAYOUT_COARSE_REC,
    LAYOUT_INCOMES,
    LAYOUT_COUNT
} layout_method_t;
/* What sets one method apart from another. */
typedef struct {
    const char *name;  /* as on the command line and in a store */
    bool chained;      /* a segment continues those before it in its document (else it sees the sink alone) */
    bool gists;        /* has gist rows; chained segments then see earlier gists, else earlier raw rows */
    bool gists_at_end; /* behind the segment's raw rows, else spaced */
    bool recurrent;    /* later segments find the gists' last hidden states as rows in front, not their K/V */
    bool whole;        /* a document is one segment */
    bool selects;      /* a segment keeps its most important raw rows alone */
    /* what the neighbours of section 8 have of their own */
    bool bos;         /* the sink begins with the model's BOS */
    bool left, right; /* segments are aligned so, whatever is asked for */
    bool anchored;    /* chained, but a segment sees the first one alone */
    bool joined;      /* encoded apart, keys moved to positions one after another when they are read */
    bool own_log_p;   /* a query adds ln P to the logits of its own rows */
    bool reweighs;    /* a query weighs its context by a temperature and a scale */
    bool edits;   /* section 6: a document is one gist's K/V in the upper layers, before rotation; queries read them beside themselves */
    bool streams; /* rows see the first few and a recent window, at positions inside that cache; nothing is kept */
} layout_info_t;
const layout_info_t *layout_info(layout_method_t m);
/* How many of the `before` segments in front of it, from the first on, a segment continues. */
static inline int64_t layout_continues(const layout_info_t *l, int64_t before) {
    return !l->chained ? 0 : l->anchored && before > 1 ? 1 : before;
}
/* Is a model's sliding window done in this layout (layout/window.h)? */
static inline bool layout_windows(layout_method_t m) { return m == LAYOUT_FULL || m == LAYOUT_PCE; }
/* May several ranks encode a document together (layout/shard.h)? Of a model with this sliding window (0: none). */
static inline bool layout_shards(const layout_info_t *l, bool compact, int64_t window) {
    return (l->chained || l->whole) && !l->recurrent && !l->anchored && !l->streams && !l->edits && !compact && window <= 0;
}
bool layout_find(const char *name, layout_method_t *out);
typedef enum { KIND_SINK, KIND_RAW, KIND_GIST, KIND_QUERY } row_kind_t;
typedef enum { ALIGN_EVEN, ALIGN_LEFT, ALIGN_RIGHT, ALIGN_SEQUENTIAL } align_t; /* methods.md section 3, "Positions" */
typedef enum { RESERVE_MAX, RESERVE_MEAN, RESERVE_HARMONIC } reserve_t;

/* Position of token i of a piece of `length` tokens behind `n_sink` sink rows, when the pieces' common range holds `reserve` positions.
 * `before`: raw tokens in earlier pieces (ALIGN_SEQUENTIAL only). */
int64_t layout_position(align_t align, int64_t n_sink, int64_t i, int64_t length, int64_t reserve, int64_t before);
/* M of methods.md: positions held by the pieces' common range, so that the query starts at n_sink + M. */
int64_t layout_reserve(reserve_t how, const int64_t *lengths, int64_t n);

/* All rows [0, n) of a pool. */
span_t span_all(int32_t pool, int32_t block, int64_t n);
/* Rows up to and including the row's own index, of the last `window` rows when it is > 0; rows at `end` and after do not exist yet. */
span_t span_causal(int32_t pool, int32_t block, int64_t end, int64_t window);

/* A growing list of runs with their spans. Zero it first. */
typedef struct {
    run_t *runs;
    span_t *spans;
    int n_run, n_span;
    int64_t cap_run, cap_span;
    int64_t n_row;
} layout_t;
void layout_clear(layout_t *l); /* keeps the memory */
void layout_free(layout_t *l);
/* Starts a run of n rows whose pool index starts at `index`; rows follow the rows added before. */
status_t layout_add_run(layout_t *l, int32_t pool, int64_t index, int64_t n);
/* Adds a span to the last run. */
status_t layout_add_span(layout_t *l, span_t s);

/* The runs of the methods so far. `window` > 0: sliding window of the model, in rows of the segment (the sink stays visible). */
status_t layout_sink(layout_t *l, int32_t sink_pool, int64_t index, int64_t n);
status_t layout_segment(layout_t *l, int32_t sink_pool, int64_t n_sink, int32_t raw_pool, int64_t index, int64_t n, int64_t window);
/* Query rows: block 0 = the sink and the query's own earlier rows; block 1 + g = segment g, whose raw rows are pool first_pool + g. */
status_t layout_query(layout_t *l, int32_t sink_pool, int64_t n_sink, int32_t own_pool, int64_t index, int64_t n, int32_t first_pool,
                      const int64_t *segment_rows, int n_segment);

/* ---- cutting text into segments -------------------------------------------------------------------------------- */
/* Piece p of `n` tokens in `pieces` chunks of ceil(n/pieces) (language modelling): [begin, end). */
void split_even(int64_t n, int64_t pieces, int64_t p, int64_t *begin, int64_t *end);
/* Bucket p of n whole items dealt contiguously, the first (n mod pieces) buckets taking one more (tasks). */
void split_items(int64_t n, int64_t pieces, int64_t p, int64_t *begin, int64_t *end);

#endif

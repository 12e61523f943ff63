/* Gists: rows inside a segment that summarise it (methods.md sections 4, 5, 7). Raw rows and gist rows live in pools of their own.
 *
 * A unit is `ratio` raw rows and the gist after them; a tail shorter than a unit has no gist. Inside a segment, with k = window / ratio
 * units:
 *
 *     c <= q  and  (c is a sink or a gist  or  unit(q) - unit(c) <= k)          UniGist spacing (k = all: Fine-KV)
 *     every gist behind all raw rows, each sees the whole segment                Coarse
 *
 * A gist takes the position of the raw row right after it, and stands between them in the order.
 */
#ifndef LAYOUT_GIST_H
#define LAYOUT_GIST_H

#include "layout/layout.h"

typedef struct {
    int64_t ratio;  /* raw rows per gist; 0: no gists */
    int64_t window; /* raw rows that stay visible besides the current unit, a multiple of ratio; < 0: all of the segment */
    bool at_end;    /* Coarse: all gists after the raw rows */
    bool single;    /* one gist for the whole segment, whatever its length; at_end, too */
} gist_spec_t;

static inline int64_t gist_count(const gist_spec_t *g, int64_t n_raw) {
    return g->single ? n_raw > 0 : g->ratio > 0 ? n_raw / g->ratio : 0;
}
/* The next pass over a segment that raw rows before `raw` and gists before `gist` have gone through: as many of both as fit `space` rows.
 * Spaced gists go with their unit's last raw row, so a pass that does not reach the end cuts at a multiple of the ratio; Coarse gists come
 * when all raw rows are through. false: the segment is done. space must be at least ratio + 1. */
bool gist_step(const gist_spec_t *g, int64_t n_raw, int64_t raw, int64_t gist, int64_t space, int64_t *raw_n, int64_t *gist_n);
/* The raw row whose position a gist takes (it may be one past the segment's end). */
static inline int64_t gist_position(const gist_spec_t *g, int64_t gist, int64_t n_raw) {
    return g->at_end ? n_raw + gist : (gist + 1) * g->ratio;
}

/* What all rows of a segment see whole: the sink; gists of earlier segments. */
typedef struct {
    const int32_t *pools;
    const int64_t *rows;
    int n;
} shared_t;

/* A run of raw rows from .. from+n-1; n_gist: gists of the segment that exist when the pass ends. */
status_t layout_gist_raw(layout_t *l, const gist_spec_t *g, int32_t raw_pool, int32_t gist_pool, int64_t from, int64_t n, int64_t n_gist,
                         const shared_t *shared);
/* The same when raw rows lie in pages: page P is a pool of `page` rows that holds raw rows P*page .. (P+1)*page-1, and pools[P - first] is
 * its number. Pages 0 .. first-1 are gone: nobody sees them any more. A run must lie in one page, and is cut where it does not. */
typedef struct {
    const int32_t *pools;
    int64_t first, n, page;
} pages_t;
status_t layout_gist_raw_paged(layout_t *l, const gist_spec_t *g, const pages_t *pages, int32_t gist_pool, int64_t from, int64_t n,
                               int64_t n_gist, const shared_t *shared);
status_t layout_gist_rows_paged(layout_t *l, const gist_spec_t *g, const pages_t *pages, int32_t gist_pool, int64_t from, int64_t upto,
                                int64_t n_raw, const shared_t *shared);
/* The first raw row that raw row `raw`, or any row after it, still sees. */
static inline int64_t gist_oldest(const gist_spec_t *g, int64_t raw) {
    int64_t unit = g->window < 0 ? 0 : raw / g->ratio - g->window / g->ratio;
    return unit > 0 ? unit * g->ratio : 0;
}
/* Place of a row in the interleaved sequence of its segment. */
static inline int64_t gist_order(const gist_spec_t *g, row_kind_t kind, int64_t i, int64_t n_raw) {
    if (!g->ratio || (g->at_end && kind == KIND_RAW)) return i;
    if (g->at_end) return n_raw + i;
    return kind == KIND_RAW ? i + i / g->ratio : (i + 1) * g->ratio + i;
}

/* A run of gists from .. upto-1 of a segment of n_raw raw rows. */
status_t layout_gist_rows(layout_t *l, const gist_spec_t *g, int32_t raw_pool, int32_t gist_pool, int64_t from, int64_t upto, int64_t n_raw,
                          const shared_t *shared);

/* The oracle, from the rules alone: does row q of kind q_kind (KIND_RAW or KIND_GIST) and index q see row c? Both in one segment of n_raw
 * raw rows. */
bool gist_sees(const gist_spec_t *g, row_kind_t q_kind, int64_t q, row_kind_t c_kind, int64_t c, int64_t n_raw);

#endif

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
} gist_spec_t;

static inline int64_t gist_count(const gist_spec_t *g, int64_t n_raw) { return g->ratio > 0 ? n_raw / g->ratio : 0; }
/* Gists that come with raw rows from .. from+n-1 of a segment of n_raw: [*begin, *end). Passes cut a segment at multiples of the ratio, but
 * for its end. */
void gist_range(const gist_spec_t *g, int64_t from, int64_t n, int64_t n_raw, int64_t *begin, int64_t *end);
/* The raw row whose position a gist takes (it may be one past the segment's end). */
static inline int64_t gist_position(const gist_spec_t *g, int64_t gist, int64_t n_raw) {
    return g->at_end ? n_raw + gist : (gist + 1) * g->ratio;
}

/* Runs of raw rows from .. from+n-1 and of the gists that come with them. `shared`: pools that all of them see whole (the sink; gists of
 * earlier segments), n_shared of them with shared_rows rows each. */
status_t layout_gist_segment(layout_t *l, const gist_spec_t *g, int32_t raw_pool, int32_t gist_pool, int64_t from, int64_t n, int64_t n_raw,
                             const int32_t *shared, const int64_t *shared_rows, int n_shared);

/* The oracle, from the rules alone: does row q of kind q_kind (KIND_RAW or KIND_GIST) and index q see row c? Both in one segment of n_raw
 * raw rows. */
bool gist_sees(const gist_spec_t *g, row_kind_t q_kind, int64_t q, row_kind_t c_kind, int64_t c, int64_t n_raw);

#endif

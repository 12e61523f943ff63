/* Which rows of a segment are kept, and how they lie: of n raw tokens, first the gists, then the raw rows, each part contiguous per head.
 */
#ifndef ENCODE_KEPT_H
#define ENCODE_KEPT_H

#include "encode/encoder.h"
#include "encode/pick.h"
#include "encode/score.h"

/* KEEP_TAIL: gists, and the raw rows that a row behind the segment still sees (the others were freed while encoding). */
typedef enum { KEEP_RAW, KEEP_GIST, KEEP_BOTH, KEEP_TAIL } keep_t;

typedef struct {
    gist_spec_t gist;
    gist_init_t init;
    int32_t token;   /* of GIST_TOKEN */
    int64_t n_blank; /* sink rows without text */
    keep_t keep;
    bool recurrent; /* Coarse-Rec: gists are replaced by what their hidden states give as rows in front of later segments */
    bool compact;   /* gists that later segments see are numbered on, one after another */
    struct {
        score_method_t by;
        budget_t budget;
        int64_t ratio; /* 0: nothing is selected */
    } select;          /* blockselect: of n raw rows each K/V head keeps n / ratio on average, and they stand for the gists */
} kept_t;

static inline int64_t kept_gists(const kept_t *k, int64_t n) { return k->keep == KEEP_RAW ? 0 : gist_count(&k->gist, n); }
/* Packed rows of a segment (encode/pick.h): of the pool that is kept (KEEP_GIST), or listed beside its raw rows (KEEP_BOTH). */
static inline int64_t kept_picked(const kept_t *k, int64_t n) {
    return k->select.ratio && k->keep != KEEP_RAW ? pick_rows(k->select.ratio, n) : 0;
}
static inline int64_t kept_raw(const kept_t *k, int64_t n) {
    return k->keep == KEEP_GIST ? 0 : k->keep == KEEP_TAIL ? encoder_tail(&k->gist, n) : n;
}
static inline int64_t kept_rows(const kept_t *k, int64_t n) {
    return k->select.ratio && k->keep == KEEP_GIST ? kept_picked(k, n) : kept_gists(k, n) + kept_raw(k, n);
}
/* Rows first .. first+n-1 of a pool, as a pool. */
kv_pool_t kept_part(const kv_pool_t *p, int64_t first, int64_t n);
/* Makes the gists of a segment that was just encoded what later segments see of it: under Coarse-Rec other rows, under compact positions
 * keys at other places, of an edit its key not rotated, else as they are. */
status_t kept_remember(const kept_t *k, encoder_t *e, model_t *m, piece_t *p);

/* "ratio 8 window all init mean keep both sinks 4", or "ratio 4 score reconstruct budget head keep gist" and back; "" for no gists, nothing
 * selected and no blank sink rows. false when the text is not of that
 * form. */
void kept_text(const kept_t *k, char *out, size_t cap);
bool kept_parse(const char *text, kept_t *out);

#endif

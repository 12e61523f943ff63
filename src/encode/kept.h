/* Which rows of a segment are kept, and how they lie: of n raw tokens, first the gists, then the raw rows, each part contiguous per head.
 */
#ifndef ENCODE_KEPT_H
#define ENCODE_KEPT_H

#include "encode/encoder.h"

typedef enum { KEEP_RAW, KEEP_GIST, KEEP_BOTH } keep_t;

typedef struct {
    gist_spec_t gist;
    gist_init_t init;
    int32_t token;   /* of GIST_TOKEN */
    int64_t n_blank; /* sink rows without text */
    keep_t keep;
} kept_t;

static inline int64_t kept_gists(const kept_t *k, int64_t n) { return k->keep == KEEP_RAW ? 0 : gist_count(&k->gist, n); }
static inline int64_t kept_rows(const kept_t *k, int64_t n) { return kept_gists(k, n) + (k->keep == KEEP_GIST ? 0 : n); }
/* Rows first .. first+n-1 of a pool, as a pool. */
kv_pool_t kept_part(const kv_pool_t *p, int64_t first, int64_t n);

/* "ratio 8 window all init mean keep both sinks 4" and back; "" for no gists and no blank sink rows. false when the text is not of that
 * form. */
void kept_text(const kept_t *k, char *out, size_t cap);
bool kept_parse(const char *text, kept_t *out);

#endif

/* A pool of edits (methods.md section 6): of each edit one K/V row in every upper layer, its key not rotated, and an entry 0 that says "no
 * edit needed": a key of the adapter's (zeros without one: its logit is 0) and a zero value.
 *
 *     alpha = softmax over entry 0 and all edits of q . k / (sqrt(d) T),        o = self attention + sum alpha v
 *
 * The pool is cut into at most MAX_GROUPS groups of consecutive edits by its size alone; each is one pool of rows, dealt over the ranks
 * like segments. So partial results are merged in the same order on any number of ranks.
 */
#ifndef QUERY_EDITS_H
#define QUERY_EDITS_H

#include "query/attend.h"
#include "query/context.h"

/* Drops segments that came before in the list (exact duplicates have one address). */
status_t edits_unique(const store_segment_t **segments, int64_t *n);
/* Edits of a store as a context without sink or positions of its own. Collective. */
status_t edits_open(model_t *m, comm_t *comm, store_t *store, const store_segment_t *const *segments, int64_t n, bool verify,
                    context_kv_t *out);
/* How queries attend to n edits. temperature 0: the rule, 0.45 when the pool has more than 10 entries (entry 0 counts), else 1. */
attend_spec_t edits_attend(const model_config_t *c, int64_t n, double temperature);

#endif

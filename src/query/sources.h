/* Which segments of a store a query reads, and where each comes from. */
#ifndef QUERY_SOURCES_H
#define QUERY_SOURCES_H

#include "store/store.h"

typedef struct {
    const store_segment_t **segments; /* [n] in document order */
    int32_t *doc, *ordinal;           /* [n] index of its document in the store, and its number within it */
    int64_t *before;                  /* [n] tokens of its document before it */
    int64_t n, n_doc, n_token;
    int64_t reserve; /* M of methods.md section 3: positions that the pieces' common range holds */
} sources_t;

/* docs: ids separated by commas, or NULL for all. ST_INPUT naming a document that is not there or is incomplete. */
status_t sources_open(const store_t *store, const char *dir, const char *docs, sources_t *out);
void sources_free(sources_t *s);

#endif

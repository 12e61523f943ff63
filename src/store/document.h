/* documents.jsonl: what was encoded, as a log of records. The last record of an id counts, at the place where the id appeared first. */
#ifndef STORE_DOCUMENT_H
#define STORE_DOCUMENT_H

#include "store/line.h"
#include "store/store.h"

typedef struct {
    store_document_t doc;
    hash_t id, seal;  /* id: hash of the document's id */
    const char *line; /* in the text it was read from */
    size_t line_bytes;
    bool gone;           /* another record of its id counts (documents_settle) */
    bool fresh, changed; /* fresh: not on disk yet; changed: and it says something new */
} record_t;

typedef struct {
    record_t *records;
    int64_t n, cap;
    int64_t good_bytes; /* of the text, up to a torn tail */
    int64_t n_bad;
    bool torn;
    bool brief; /* set before parsing: only id, seal and line of each record, at the speed of memory; doc stays empty */
    char *text; /* documents_load: what the lines point into */
} documents_t;

/* Adds the records of text, which must outlive `line`s. Problems go to `found`; without it the records are fresh. */
status_t documents_parse(const char *text, size_t bytes, const char *name, problems_t *found, documents_t *out);
/* Leaves the last record of every id, in order of first appearance. */
status_t documents_settle(documents_t *d);
/* DIR/documents.jsonl, settled. None is no error. */
status_t documents_load(const char *dir, bool brief, problems_t *found, documents_t *out);
void documents_free(documents_t *d);
/* Rewrites DIR/documents.jsonl with the records of d as they are, atomically. */
status_t documents_rewrite(const char *dir, const documents_t *d);
/* Cuts a torn tail off. */
status_t documents_cut(const char *dir, const documents_t *d);

#endif

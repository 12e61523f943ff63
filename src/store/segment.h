/* A segment's bytes on their way to a data file: written at their places and hashed by several threads, all at once, or K/V rows first, as
 * they come, and the hash when all are there. Nothing is synced here. */
#ifndef STORE_SEGMENT_H
#define STORE_SEGMENT_H

#include "store/index.h"

typedef struct {
    const store_item_t *item; /* borrowed, with its tokens, K and V */
    dtype_t type;             /* of K and V as stored */
    int64_t heads, d_head;    /* heads: of all layers */
    segment_size_t size;
    store_segment_t at; /* where it goes */
    int fd;
    const char *path;
    int n_thread;
} segment_out_t;

/* K/V rows first .. first+n-1 of all layers and heads, to their places. */
status_t segment_rows(const segment_out_t *o, int64_t first, int64_t n);
/* Hashes the whole and writes it, or what is not K/V when `rows_are_there`. */
status_t segment_write(const segment_out_t *o, bool rows_are_there, hash_t *checksum);

#endif

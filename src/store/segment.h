/* A segment's bytes on their way to a data file: written at their places and hashed by several threads, all at once, or K/V first, as they
 * come, and the hash when all are there. Nothing is synced here. */
#ifndef STORE_SEGMENT_H
#define STORE_SEGMENT_H

#include "store/index.h"

typedef struct {
    const store_item_t *item; /* borrowed, with its tokens, K and V */
    dtype_t type;             /* of K and V as stored */
    int64_t n_head, d_head;   /* of a layer */
    segment_size_t size;
    store_segment_t at; /* where it goes */
    int fd;
    const char *path;
    int n_thread;
} segment_out_t;

/* Some K/V, to their places. */
status_t segment_part(const segment_out_t *o, store_part_t part);
/* Hashes the whole and writes it; or, of K/V, only n parts beside the hash (parts NULL: all). */
status_t segment_write(const segment_out_t *o, const store_part_t *parts, int n, hash_t *checksum);

#endif

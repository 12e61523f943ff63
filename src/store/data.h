/* Data files: one being written, the step that completes it, and its bytes in a map.
 *
 *     [ header region, 256 KiB: blanks until the file is complete ][ segment ][ segment ] ..
 *     segment = [ tokens I32, padded with -1 ][ kept rows I32, the same ][ K ][ 0.. ][ V ][ 0.. ]      every part starts at a multiple of
 * 64
 */
#ifndef STORE_DATA_H
#define STORE_DATA_H

#include "io/file.h"
#include "store/segment.h"

typedef struct {
    const char *dir; /* borrowed, as is p */
    const store_profile_t *p;
    store_file_t file; /* with the committed segments */
    int fd, index_fd;  /* -1 when no file is open */
    int64_t index_end; /* bytes of committed lines */
    char path[FOLDER_PATH], index_path[FOLDER_PATH];
    void *buffer;
    int n_thread; /* that write a segment */
    /* a segment whose K/V come little by little */
    store_item_t item;
    segment_out_t coming;
    int64_t came; /* rows of its layers */
} data_out_t;

/* Nothing is created before the first segment. */
status_t data_begin(data_out_t *d, const char *dir, const store_profile_t *p, int writer);
/* Writes and commits a segment; begins a new file when the present one is full. After a failure the files hold what was committed before.
 */
status_t data_append(data_out_t *d, const store_item_t *item);
/* The same for the first of n segments, as many as go into one file, with one pair of syncs; *n_done of them are committed. *bytes is added
 * to. */
status_t data_append_some(data_out_t *d, const store_item_t *items, int64_t n, int64_t *n_done, int64_t *bytes);
/* The same for a segment whose K/V come in parts: its place is taken, and every row of every layer written once, before it is committed.
 * Whatever else is begun or finished meanwhile takes its place. *item is copied, what it points to borrowed until the end. */
status_t data_open_segment(data_out_t *d, const store_item_t *item);
status_t data_part(data_out_t *d, store_part_t part);
status_t data_close_segment(data_out_t *d, const store_part_t *last, int n, int64_t *bytes); /* with n last parts */
/* Completes the open file, if any. */
status_t data_finish(data_out_t *d);
void data_end(data_out_t *d); /* frees; an open file stays as it is */

/* Gives the .part file of f its header, its length and its final name. f's segments must follow each other without holes. */
status_t data_complete(const char *dir, const store_profile_t *p, store_file_t *f);
/* Removes index and data, in an order that leaves no damage when it is cut short. */
status_t data_remove(const char *dir, const store_file_t *f);

/* Under whichever name it has now. */
status_t data_map(const char *dir, const store_file_t *f, file_map_t *out);
/* Of the segment's bytes; false when the map does not hold them. */
bool data_checksum(const store_profile_t *p, const file_map_t *map, const store_segment_t *s, hash_t *out);
/* Is the header what it must be, and the file as long? Tells `found` when not. */
status_t data_check(const char *dir, const store_profile_t *p, const store_file_t *f, const file_map_t *map, problems_t *found);

#endif

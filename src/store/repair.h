/* Taking segments out of files, which repair, drop and prune have in common. */
#ifndef STORE_REPAIR_H
#define STORE_REPAIR_H

#include "store/data.h"

/* ST_FAIL when a writer is at work in DIR, and still is after wait_s seconds: a killed process holds its locks until its last write
 * is through. */
status_t store_check_idle(const char *dir, double wait_s);
enum { IDLE_WAIT_S = 5 };
/* Leaves the segments i of the file with keep[i] (NULL: all) in a complete file of their own; a kept one whose bytes are damaged is dropped
 * with a warning. *n_kept counts. */
status_t file_rewrite(const folder_t *folder, int file, const store_profile_t *p, const bool *keep, int64_t *n_kept);

#endif

/* The files named by a list of paths: files as they are, folders replaced by what is in them, sorted by name, recursively. */
#ifndef IO_WALK_H
#define IO_WALK_H

#include <stdbool.h>

#include "base/status.h"

typedef struct walk walk_t;

/* ST_INPUT when a path does not exist or "-" is there twice. The paths are copied. */
status_t walk_open(const char *const *paths, int n_path, walk_t **out);
/* *path (borrowed until the next call) is NULL at the end. *in_folder: the user named a folder, not this file. */
status_t walk_next(walk_t *w, const char **path, bool *in_folder);
void walk_close(walk_t *w);

#endif

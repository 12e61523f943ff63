/* Mapped files to read, and atomic ones to write. */
#ifndef IO_FILE_H
#define IO_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct {
    const uint8_t *data;
    size_t bytes;
} file_map_t; /* data is NULL for an empty file */

/* Maps a regular file read-only. ST_INPUT naming the path when it is missing, a folder, or unreadable. */
status_t file_map(const char *path, file_map_t *out);
void file_unmap(file_map_t *m); /* takes an unmapped or zeroed one */
/* Whole file as a NUL-terminated string, at most max_bytes. *text is the caller's (mem_free). */
status_t file_read_text(const char *path, size_t max_bytes, char **text, size_t *bytes);
/* Writes bytes to path through a temporary beside it: write, fsync, rename, fsync of the folder. A full disk says so ("no space left"). */
status_t file_write_atomic(const char *path, const void *data, size_t bytes);
/* write(2) until all is written; ST_FAIL with "no space left on <path>" and the like. */
status_t file_write_all(int fd, const char *path, const void *data, size_t bytes);
status_t file_make_dirs(const char *path);
bool file_exists(const char *path);
bool file_is_dir(const char *path);
/* Bytes of a map that will be read soon: the system may fetch them meanwhile. */
void file_ahead(const void *p, size_t bytes);

#endif

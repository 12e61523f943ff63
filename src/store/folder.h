/* The folder of a store: the names of its files, what lies there, and the few disk operations that durability needs. */
#ifndef STORE_FOLDER_H
#define STORE_FOLDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "store/store.h"

enum { FOLDER_PATH = 4096, FOLDER_WRITER_MAX = 999999, FOLDER_NUMBER_MAX = 999999 };

typedef enum { NAME_DATA, NAME_PART, NAME_INDEX, NAME_OTHER, NAME_LEFTOVER } name_kind_t; /* LEFTOVER: a temporary of one of our files */

/* One pair of files, rankWWWW-NNNNNN: where the data is, and what its index says. */
typedef struct {
    int writer, number;
    bool has_index;
    bool has_data, part; /* part: the data still has its working name */
    int64_t data_bytes;
    /* from the index (index.h) */
    store_segment_t *segments; /* [n_segment], in file order; `file` is the place in folder_t.files */
    int64_t n_segment, cap_segment;
    int64_t end;        /* of the last segment's bytes */
    int64_t good_bytes; /* of the index up to its torn tail */
    int64_t n_bad;      /* damaged lines */
    bool torn, holes;   /* a line cut short at the end; bytes of no segment between segments */
    bool foreign;       /* of another store or version: not to be touched */
} store_file_t;

typedef struct {
    char *dir;
    store_file_t *files; /* in order of writer and number */
    int n_file;
    int n_leftover, n_other; /* temporaries; files that are none of ours */
    bool has_documents;
} folder_t;

status_t folder_path(const char *dir, const char *name, char out[FOLDER_PATH]);
status_t folder_file_path(const char *dir, const store_file_t *f, name_kind_t kind, char out[FOLDER_PATH]);
status_t folder_data_path(const char *dir, const store_file_t *f, char out[FOLDER_PATH]); /* under the name it has */
name_kind_t folder_name_kind(const char *name, int *writer, int *number);
/* Lists DIR. ST_INPUT when it is no folder. */
status_t folder_list(const char *dir, folder_t *out);
void folder_free(folder_t *f);
/* A number above all that `writer` has used in DIR. */
status_t folder_fresh_number(const char *dir, int writer, int *number);
status_t folder_remove_leftovers(const char *dir, int64_t *n);

/* ---- disk: each names the path and says what to do next ----------------------------------------------------------- */
status_t disk_fail(const char *doing, const char *path); /* words errno; a full disk says "no space left on" */
status_t disk_sync(int fd, const char *path);
status_t disk_sync_dir(const char *dir);
status_t disk_cut(int fd, const char *path, int64_t bytes);
status_t disk_rename(const char *dir, const char *from, const char *to); /* and syncs dir */
status_t disk_remove(const char *path);                                  /* no error when it is absent */
/* Takes space for bytes to come, so that writing them finds it ready; does nothing where the file system cannot. */
status_t disk_reserve(int fd, const char *path, int64_t offset, int64_t bytes);
status_t disk_write_at(int fd, const char *path, int64_t offset, const void *data, size_t bytes);

#endif

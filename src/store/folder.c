#include "store/folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"

/* ---- names -------------------------------------------------------------------------------------------------------- */

static const char *const SUFFIX[] = {[NAME_DATA] = ".safetensors", [NAME_PART] = ".safetensors.part", [NAME_INDEX] = ".index"};

status_t folder_path(const char *dir, const char *name, char out[FOLDER_PATH]) {
    int n = snprintf(out, FOLDER_PATH, "%s/%s", dir, name);
    return n > 0 && n < FOLDER_PATH ? ST_OK : status_fail(ST_INPUT, "%.200s..: the path is too long; use a shorter --store", dir);
}

static void file_name(const store_file_t *f, name_kind_t kind, char out[64]) {
    snprintf(out, 64, "rank%04d-%06d%s", f->writer, f->number, SUFFIX[kind]);
}

status_t folder_file_path(const char *dir, const store_file_t *f, name_kind_t kind, char out[FOLDER_PATH]) {
    char name[64];
    file_name(f, kind, name);
    return folder_path(dir, name, out);
}

status_t folder_data_path(const char *dir, const store_file_t *f, char out[FOLDER_PATH]) {
    return folder_file_path(dir, f, f->part ? NAME_PART : NAME_DATA, out);
}

/* Digits at *p; -1 when there are none or more than `most` says. */
static int number_scan(const char **p, int most) {
    int64_t v = 0;
    const char *begin = *p;
    while (**p >= '0' && **p <= '9' && v <= most) v = v * 10 + (*(*p)++ - '0');
    return *p == begin || v > most ? -1 : (int)v;
}

/* As file_write_atomic names them. */
static bool is_temporary_of(const char *name, const char *file) {
    size_t n = strlen(file);
    return !strncmp(name, file, n) && !strncmp(name + n, ".tmp-", 5);
}

name_kind_t folder_name_kind(const char *name, int *writer, int *number) {
    char again[64];
    const char *p = name;
    if (is_temporary_of(name, "store.json") || is_temporary_of(name, "documents.jsonl")) return NAME_LEFTOVER;
    if (strncmp(p, "rank", 4)) return NAME_OTHER;
    p += 4;
    if ((*writer = number_scan(&p, FOLDER_WRITER_MAX)) < 0 || *p++ != '-' || (*number = number_scan(&p, FOLDER_NUMBER_MAX)) < 0)
        return NAME_OTHER;
    for (int kind = NAME_DATA; kind <= NAME_INDEX; kind++) {
        file_name(&(store_file_t){.writer = *writer, .number = *number}, (name_kind_t)kind, again);
        if (!strcmp(name, again)) return (name_kind_t)kind;
    }
    return is_temporary_of(name, again) ? NAME_LEFTOVER : NAME_OTHER; /* `again` is the index's name now */
}

/* ---- listing ------------------------------------------------------------------------------------------------------ */

typedef struct {
    int writer, number;
    name_kind_t kind;
    int64_t bytes;
} entry_t;

static int entry_compare(const void *a, const void *b) {
    const entry_t *x = a, *y = b;
    if (x->writer != y->writer) return x->writer < y->writer ? -1 : 1;
    if (x->number != y->number) return x->number < y->number ? -1 : 1;
    return (int)x->kind - (int)y->kind;
}

static status_t dir_open(const char *dir, DIR **out) {
    *out = opendir(dir);
    if (*out) return ST_OK;
    return status_fail(ST_INPUT, "%s: %s; name the folder of a store", dir, strerror(errno));
}

static status_t entry_bytes(const char *dir, const char *name, int64_t *bytes) {
    char path[FOLDER_PATH];
    struct stat s;
    status_t st = folder_path(dir, name, path);
    if (st) return st;
    *bytes = stat(path, &s) || !S_ISREG(s.st_mode) ? -1 : (int64_t)s.st_size; /* -1: gone meanwhile, or no file */
    return ST_OK;
}

static status_t entries_read(const char *dir, DIR *d, folder_t *out, entry_t **entries, int64_t *n) {
    int64_t cap = 0;
    struct dirent *e;
    while ((e = readdir(d))) {
        entry_t now = {0, 0, NAME_OTHER, 0};
        status_t st;
        if (!strcmp(e->d_name, "documents.jsonl")) out->has_documents = true;
        now.kind = folder_name_kind(e->d_name, &now.writer, &now.number);
        if (now.kind == NAME_LEFTOVER) out->n_leftover++;
        if (now.kind == NAME_OTHER && e->d_name[0] != '.' && strcmp(e->d_name, "lost+found")) out->n_other++;
        if (now.kind >= NAME_OTHER) continue;
        if ((st = entry_bytes(dir, e->d_name, &now.bytes))) return st;
        if (now.bytes < 0) continue;
        if ((st = mem_room(entries, *n, &cap, sizeof **entries, "a list of files"))) return st;
        (*entries)[(*n)++] = now;
    }
    return ST_OK;
}

/* Entries of one writer and number become one file; its data counts under its final name when it has both. */
static void entries_join(const entry_t *entries, int64_t n, folder_t *out) {
    for (int64_t i = 0; i < n; i++) {
        const entry_t *e = &entries[i];
        store_file_t *f = out->n_file ? &out->files[out->n_file - 1] : NULL;
        if (!f || f->writer != e->writer || f->number != e->number) {
            f = &out->files[out->n_file++];
            *f = (store_file_t){.writer = e->writer, .number = e->number, .data_bytes = -1};
        }
        if (e->kind == NAME_INDEX) {
            f->has_index = true;
        } else if (!f->has_data) {
            f->has_data = true;
            f->part = e->kind == NAME_PART;
            f->data_bytes = e->bytes;
        }
    }
}

status_t folder_list(const char *dir, folder_t *out) {
    DIR *d = NULL;
    entry_t *entries = NULL;
    int64_t n = 0;
    *out = (folder_t){0};
    status_t st = dir_open(dir, &d);
    if (st) return st;
    st = entries_read(dir, d, out, &entries, &n);
    closedir(d);
    if (!st && !(out->dir = mem_strdup(dir))) st = ST_FAIL;
    if (!st) st = mem_alloc(&out->files, (size_t)n, sizeof *out->files, "the files of the store");
    if (!st && n) {
        qsort(entries, (size_t)n, sizeof *entries, entry_compare);
        entries_join(entries, n, out);
    }
    mem_free(entries);
    if (st) folder_free(out);
    return st;
}

void folder_free(folder_t *f) {
    for (int i = 0; i < f->n_file; i++) mem_free(f->files[i].segments);
    mem_free(f->files);
    mem_free(f->dir);
    *f = (folder_t){0};
}

status_t folder_fresh_number(const char *dir, int writer, int *number) {
    DIR *d;
    struct dirent *e;
    int top = 0, w, n;
    status_t st = dir_open(dir, &d);
    if (st) return st;
    while ((e = readdir(d)))
        if (folder_name_kind(e->d_name, &w, &n) < NAME_OTHER && w == writer && n > top) top = n;
    closedir(d);
    *number = top + 1;
    if (top < FOLDER_NUMBER_MAX) return ST_OK;
    return status_fail(ST_FAIL, "%s: rank %d has used up its %d file numbers; start a new store", dir, writer, FOLDER_NUMBER_MAX);
}

status_t folder_remove_leftovers(const char *dir, int64_t *n) {
    char path[FOLDER_PATH];
    DIR *d;
    struct dirent *e;
    int writer, number;
    status_t st = dir_open(dir, &d);
    if (st) return st;
    while (!st && (e = readdir(d))) {
        if (folder_name_kind(e->d_name, &writer, &number) != NAME_LEFTOVER) continue;
        st = folder_path(dir, e->d_name, path);
        if (!st) st = disk_remove(path);
        if (!st) ++*n;
    }
    closedir(d);
    return st;
}

/* ---- disk --------------------------------------------------------------------------------------------------------- */

status_t disk_fail(const char *doing, const char *path) {
    int e = errno;
    if (e == ENOSPC || e == EDQUOT)
        return status_fail(ST_FAIL,
                           "no space left on the disk of %s (%s: %s); free some and run the same command again: what was committed is kept",
                           path, doing, strerror(e));
    return status_fail(ST_FAIL, "%s: %s: %s; check the disk and its permissions, then run the same command again", path, doing,
                       strerror(e));
}

status_t disk_sync(int fd, const char *path) {
    int r;
    do r = fdatasync(fd);
    while (r && errno == EINTR);
    return r ? disk_fail("cannot sync", path) : ST_OK;
}

status_t disk_sync_dir(const char *dir) {
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return disk_fail("cannot open", dir);
    int r = fsync(fd), e = errno;
    close(fd);
    errno = e;
    return r && e != EINVAL && e != ENOTSUP ? disk_fail("cannot sync", dir) : ST_OK; /* some file systems cannot sync folders */
}

status_t disk_cut(int fd, const char *path, int64_t bytes) {
    int r;
    do r = ftruncate(fd, (off_t)bytes);
    while (r && errno == EINTR);
    return r ? disk_fail("cannot set the length", path) : ST_OK;
}

status_t disk_reserve(int fd, const char *path, int64_t offset, int64_t bytes) {
    int r;
    do r = fallocate(fd, 0, (off_t)offset, (off_t)bytes);
    while (r && errno == EINTR);
    return r && errno != EOPNOTSUPP && errno != ENOSYS ? disk_fail("cannot take space", path) : ST_OK;
}

status_t disk_rename(const char *dir, const char *from, const char *to) {
    return rename(from, to) ? disk_fail("cannot rename", from) : disk_sync_dir(dir);
}

status_t disk_remove(const char *path) { return unlink(path) && errno != ENOENT ? disk_fail("cannot remove", path) : ST_OK; }

status_t disk_write_at(int fd, const char *path, int64_t offset, const void *data, size_t bytes) {
    const char *p = data;
    while (bytes) {
        ssize_t n = pwrite(fd, p, bytes, (off_t)offset);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return disk_fail("cannot write", path);
        p += n;
        offset += n;
        bytes -= (size_t)n;
    }
    return ST_OK;
}

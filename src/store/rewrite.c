/* Taking segments out of a data file. When the first few stay the file is shortened; else they are copied to a new file and the old one is
 * removed. Cut short at any moment this leaves each segment in one file or in two, never in none. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "store/profile.h"
#include "store/repair.h"

static bool is_locked(const char *index) {
    int fd = open(index, O_RDWR | O_CLOEXEC);
    if (fd < 0) return false;
    bool locked = flock(fd, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK;
    close(fd);
    return locked;
}

static status_t lock_wait(const char *index, double until) {
    while (is_locked(index)) {
        if (clock_s() >= until) return status_fail(ST_FAIL, "%s is being written by another run; wait until it is done, or stop it", index);
        usleep(20000);
    }
    return ST_OK;
}

status_t store_check_idle(const char *dir, double wait_s) {
    char path[FOLDER_PATH];
    folder_t folder;
    double until = clock_s() + wait_s;
    status_t st = folder_list(dir, &folder);
    if (st) return st;
    for (int i = 0; !st && i < folder.n_file; i++) {
        const store_file_t *f = &folder.files[i];
        st = folder_file_path(dir, f, NAME_INDEX, path);
        if (!st && f->has_index && f->part) st = lock_wait(path, until);
    }
    folder_free(&folder);
    return st;
}

/* Kept segments that follow each other from the header on need no copy. */
static bool keeps_head(const store_file_t *f, const bool *keep, int64_t *n) {
    *n = 0;
    if (keep)
        while (*n < f->n_segment && keep[*n]) ++*n;
    else
        *n = f->n_segment;
    for (int64_t i = *n; i < f->n_segment; i++)
        if (keep[i]) return false;
    return !f->holes; /* a hole means that something in front is missing */
}

static status_t index_rewrite(const char *path, const store_profile_t *p, const store_file_t *f) {
    char *text;
    size_t bytes;
    status_t st = mem_alloc(&text, (size_t)f->n_segment + 1, INDEX_LINE_MAX, "the lines of an index");
    if (st) return st;
    bytes = index_head_line(profile_hash(p), text);
    for (int64_t i = 0; i < f->n_segment; i++) bytes += index_segment_line(p, &f->segments[i], text + bytes);
    st = file_write_atomic(path, text, bytes);
    mem_free(text);
    return st;
}

static status_t file_shorten(const char *dir, const store_profile_t *p, store_file_t *f, int64_t n) {
    char data[FOLDER_PATH], part[FOLDER_PATH], index[FOLDER_PATH];
    status_t st = folder_file_path(dir, f, NAME_DATA, data);
    if (!st) st = folder_file_path(dir, f, NAME_PART, part);
    if (!st) st = folder_file_path(dir, f, NAME_INDEX, index);
    if (!st && !f->part) st = disk_rename(dir, data, part); /* under this name header and length are nobody's business */
    if (st) return st;
    f->part = true;
    if (n < f->n_segment) f->end = f->segments[n].tokens_offset;
    f->n_segment = n;
    st = index_rewrite(index, p, f);
    return st ? st : data_complete(dir, p, f);
}

static store_item_t item_of(const store_profile_t *p, const file_map_t *map, const store_segment_t *s) {
    return (store_item_t){.address = s->address,
                          .n_token = s->n_token,
                          .n_row = s->n_row,
                          .n_kept = s->n_kept,
                          .kept = s->n_kept ? (const int32_t *)(const void *)(map->data + s->kept_offset) : NULL,
                          .first_pos = s->first_pos,
                          .tokens = (const int32_t *)(const void *)(map->data + s->tokens_offset),
                          .type = p->kv_type,
                          .k = map->data + s->k_offset,
                          .v = map->data + s->v_offset};
}

static status_t segment_copy(data_out_t *to, const file_map_t *map, const store_segment_t *s, int64_t *n_kept) {
    char hex[HASH_HEX];
    hash_t now;
    if (!data_checksum(to->p, map, s, &now) || !hash_equal(now, s->checksum)) {
        hash_hex(s->address, hex);
        log_warn("%s: segment %s is damaged and dropped; encode again to have it back", to->dir, hex);
        return ST_OK;
    }
    store_item_t item = item_of(to->p, map, s);
    status_t st = data_append(to, &item);
    if (!st) ++*n_kept;
    return st;
}

static status_t file_copy(const char *dir, const store_profile_t *p, const store_file_t *f, const bool *keep, int64_t *n_kept) {
    data_out_t to;
    file_map_t map = {0};
    status_t st = data_begin(&to, dir, p, f->writer);
    if (!st) st = data_map(dir, f, &map);
    for (int64_t i = 0; !st && i < f->n_segment; i++)
        if (!keep || keep[i]) st = segment_copy(&to, &map, &f->segments[i], n_kept);
    if (!st) st = data_finish(&to);
    if (st && to.fd >= 0) data_remove(dir, &to.file); /* a full disk: the old file is still whole */
    data_end(&to);
    file_unmap(&map);
    return st;
}

status_t file_rewrite(const folder_t *folder, int file, const store_profile_t *p, const bool *keep, int64_t *n_kept) {
    store_file_t *f = &folder->files[file];
    int64_t n;
    status_t st = ST_OK;
    *n_kept = 0;
    bool head = keeps_head(f, keep, &n);
    if (head && n && f->has_data) {
        *n_kept = n;
        return file_shorten(folder->dir, p, f, n);
    }
    if (!head) st = file_copy(folder->dir, p, f, keep, n_kept);
    return st ? st : data_remove(folder->dir, f);
}

/* The order of writes is the whole of durability here:
 *
 *     bytes of a segment -> sync -> its index line -> sync                    (committed)
 *     header into the space kept for it -> length -> sync -> rename -> sync   (complete)
 *
 * Completing needs no new space, so that a file on a full disk can still be completed.
 */
#include "store/data.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/mem.h"
#include "store/profile.h"

/* ---- making a file ------------------------------------------------------------------------------------------------ */

status_t data_begin(data_out_t *d, const char *dir, const store_profile_t *p, int writer) {
    *d = (data_out_t){.dir = dir, .p = p, .file.writer = writer, .fd = -1, .index_fd = -1, .n_thread = 1};
    if (writer < 0 || writer > FOLDER_WRITER_MAX)
        return status_fail(ST_FAIL, "writer %d: a store takes ranks 0 to %d; use fewer ranks", writer, FOLDER_WRITER_MAX);
    return mem_alloc(&d->buffer, 1, DATA_HEADER_BYTES, "the store's write buffer");
}

static status_t file_open_new(const char *path, int *fd) {
    *fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    return *fd < 0 ? disk_fail("cannot create", path) : ST_OK;
}

/* The space of the header is taken now, while a full disk costs nothing yet. */
static status_t header_reserve(data_out_t *d) {
    memset(d->buffer, ' ', DATA_HEADER_BYTES);
    status_t st = disk_write_at(d->fd, d->path, 0, d->buffer, DATA_HEADER_BYTES);
    return st ? st : disk_sync(d->fd, d->path);
}

/* The lock tells store_prepare that the writer lives. File systems without locks go without. */
static status_t index_start(data_out_t *d) {
    char line[INDEX_LINE_MAX];
    size_t n = index_head_line(profile_hash(d->p), line);
    flock(d->index_fd, LOCK_EX | LOCK_NB);
    status_t st = disk_write_at(d->index_fd, d->index_path, 0, line, n);
    d->index_end = (int64_t)n;
    return st ? st : disk_sync(d->index_fd, d->index_path);
}

static void file_close(data_out_t *d) {
    if (d->fd >= 0) close(d->fd);
    if (d->index_fd >= 0) close(d->index_fd);
    d->fd = d->index_fd = -1;
}

/* The next number of this writer, and its data file, which holds the number. */
static status_t number_take(data_out_t *d) {
    store_file_t *f = &d->file;
    status_t st = folder_fresh_number(d->dir, f->writer, &f->number);
    if (!st) st = folder_data_path(d->dir, f, d->path);
    if (!st) st = folder_file_path(d->dir, f, NAME_INDEX, d->index_path);
    return st ? st : file_open_new(d->path, &d->fd);
}

static status_t file_create(data_out_t *d) {
    store_file_t *f = &d->file;
    status_t st;
    f->part = f->has_data = f->has_index = true;
    f->n_segment = 0;
    f->end = DATA_HEADER_BYTES;
#pragma omp critical(store_number) /* a writer's threads begin files at the same time */
    st = number_take(d);
    if (st) return st;
    st = header_reserve(d);
    if (!st) st = file_open_new(d->index_path, &d->index_fd);
    if (!st) st = index_start(d);
    if (!st) st = disk_sync_dir(d->dir);
    if (!st) return ST_OK;
    if (d->index_fd >= 0) unlink(d->index_path);
    unlink(d->path);
    file_close(d);
    return st;
}

/* ---- a segment ---------------------------------------------------------------------------------------------------- */

static segment_out_t out_of(const data_out_t *d, const store_item_t *item, const segment_size_t *size, const store_segment_t *s) {
    return (segment_out_t){.item = item,
                           .type = d->p->kv_type,
                           .n_head = d->p->n_kv_head,
                           .d_head = d->p->d_head,
                           .size = *size,
                           .at = *s,
                           .fd = d->fd,
                           .path = d->path,
                           .n_thread = d->n_thread};
}

static status_t group_commit(data_out_t *d, const store_segment_t *s, int64_t n) {
    char *lines = NULL;
    size_t bytes = 0;
    status_t st = disk_sync(d->fd, d->path);
    if (!st) st = mem_alloc(&lines, (size_t)n, INDEX_LINE_MAX, "index lines");
    for (int64_t i = 0; i < n && !st; i++) bytes += index_segment_line(d->p, &s[i], lines + bytes);
    if (!st) st = disk_write_at(d->index_fd, d->index_path, d->index_end, lines, bytes);
    if (!st) st = disk_sync(d->index_fd, d->index_path);
    if (!st) d->index_end += (int64_t)bytes;
    mem_free(lines);
    return st;
}

/* Back to what was committed. The index first: a line must never outlive its data. */
static void roll_back(data_out_t *d) {
    char why[1024];
    snprintf(why, sizeof why, "%s", status_message());
    if (!disk_cut(d->index_fd, d->index_path, d->index_end)) disk_cut(d->fd, d->path, d->file.end);
    status_fail(ST_FAIL, "%s", why);
}

/* Is there no place for one more segment behind n others that end at `end`? */
static bool file_full(const segment_size_t *size, int64_t n, int64_t end) {
    return n == DATA_SEGMENTS_MAX || (n && size->total > DATA_BYTES_MAX - end);
}

static status_t item_check(const data_out_t *d, const store_item_t *item, segment_size_t *size) {
    if (item->type != DT_F32 && item->type != DT_F16 && item->type != DT_BF16)
        return status_fail(ST_FAIL, "a segment of K/V type %s: the store takes f32, f16 and bf16; please report this",
                           dtype_name(item->type));
    if (item->first_pos < 0 || !segment_size(d->p, item->n_token, item->n_row, item->n_kept, size))
        return status_fail(ST_FAIL, "a segment of %" PRId64 " tokens in %" PRId64 " rows does not fit a store; please report this",
                           item->n_token, item->n_row);
    return ST_OK;
}

/* Of n items those that go into the open file, after a new one is begun where the first does not: sizes and places. */
static status_t group_place(data_out_t *d, const store_item_t *items, int64_t n, segment_size_t *sizes, store_segment_t *s,
                            int64_t *n_fit) {
    *n_fit = 0;
    status_t st = item_check(d, &items[0], &sizes[0]);
    if (!st && d->fd >= 0 && file_full(&sizes[0], d->file.n_segment, d->file.end)) st = data_finish(d);
    if (!st && !d->file.segments) st = mem_alloc(&d->file.segments, DATA_SEGMENTS_MAX, sizeof *s, "the segments of a file");
    if (!st && d->fd < 0) st = file_create(d);
    int64_t end = d->file.end;
    for (int64_t i = 0; i < n && !st; i++) {
        if ((st = item_check(d, &items[i], &sizes[i])) || file_full(&sizes[i], d->file.n_segment + i, end)) break;
        s[i] = (store_segment_t){.address = items[i].address,
                                 .n_row = items[i].n_row,
                                 .n_token = items[i].n_token,
                                 .n_kept = items[i].n_kept,
                                 .first_pos = items[i].first_pos,
                                 .tokens_offset = end};
        segment_place(&sizes[i], &s[i]);
        end += sizes[i].total;
        ++*n_fit;
    }
    return st;
}

/* It is committed. */
static void segment_add(data_out_t *d, const store_segment_t *s, const segment_size_t *size, int64_t *bytes) {
    d->file.segments[d->file.n_segment++] = *s;
    d->file.end += size->total;
    *bytes += size->total;
}

status_t data_append_some(data_out_t *d, const store_item_t *items, int64_t n, int64_t *n_done, int64_t *bytes) {
    segment_size_t *sizes = NULL;
    store_segment_t *s = NULL;
    int64_t fit = 0;
    *n_done = 0;
    status_t st = mem_alloc(&sizes, (size_t)n, sizeof *sizes, "a group of segments");
    if (!st) st = mem_alloc(&s, (size_t)n, sizeof *s, "a group of segments");
    if (!st) st = group_place(d, items, n, sizes, s, &fit);
    if (st) goto out;
    for (int64_t i = 0; i < fit && !st; i++) {
        segment_out_t out = out_of(d, &items[i], &sizes[i], &s[i]);
        st = segment_write(&out, NULL, 0, &s[i].checksum);
    }
    if (!st) st = group_commit(d, s, fit);
    if (st) {
        roll_back(d);
        goto out;
    }
    for (int64_t i = 0; i < fit; i++) segment_add(d, &s[i], &sizes[i], bytes);
    *n_done = fit;
out:
    mem_free(sizes);
    mem_free(s);
    return st;
}

status_t data_append(data_out_t *d, const store_item_t *item) {
    int64_t done, bytes = 0;
    return data_append_some(d, item, 1, &done, &bytes);
}

status_t data_open_segment(data_out_t *d, const store_item_t *item) {
    segment_size_t size;
    store_segment_t s;
    int64_t fit;
    d->came = 0;
    d->item = *item;
    status_t st = group_place(d, item, 1, &size, &s, &fit);
    if (st) return st;
    d->coming = out_of(d, &d->item, &size, &s);
    return disk_reserve(d->fd, d->path, s.tokens_offset, size.total);
}

status_t data_part(data_out_t *d, store_part_t part) {
    d->came += part.n_layer * part.n_row;
    return segment_part(&d->coming, part);
}

status_t data_close_segment(data_out_t *d, const store_part_t *last, int n, int64_t *bytes) {
    segment_out_t *out = &d->coming;
    int64_t all = d->p->n_layer * d->item.n_row;
    for (int i = 0; i < n; i++) d->came += last[i].n_layer * last[i].n_row;
    if (d->came != all)
        return status_fail(ST_FAIL, "a segment of %" PRId64 " rows of all layers, of which %" PRId64 " came; please report this", all,
                           d->came);
    status_t st = segment_write(out, last, n, &out->at.checksum);
    if (!st) st = group_commit(d, &out->at, 1);
    if (st)
        roll_back(d);
    else
        segment_add(d, &out->at, &out->size, bytes);
    return st;
}

/* ---- the end of a file -------------------------------------------------------------------------------------------- */

status_t data_remove(const char *dir, const store_file_t *f) {
    char data[FOLDER_PATH], part[FOLDER_PATH], index[FOLDER_PATH];
    status_t st = folder_file_path(dir, f, NAME_DATA, data);
    if (!st) st = folder_file_path(dir, f, NAME_PART, part);
    if (!st) st = folder_file_path(dir, f, NAME_INDEX, index);
    if (!st && file_exists(data)) st = disk_rename(dir, data, part); /* a .part without its index is a leftover, not damage */
    if (!st) st = disk_remove(index);
    if (!st) st = disk_sync_dir(dir);
    if (!st) st = disk_remove(part);
    return st ? st : disk_sync_dir(dir);
}

static status_t header_write(const char *path, const store_profile_t *p, const store_file_t *f) {
    char *header = NULL;
    int fd = -1;
    status_t st = data_header(p, f->segments, f->n_segment, &header);
    if (st) goto out;
    fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) st = disk_fail("cannot open", path);
    if (!st) st = disk_write_at(fd, path, 0, header, DATA_HEADER_BYTES);
    if (!st) st = disk_cut(fd, path, f->end);
    if (!st) st = disk_sync(fd, path);
out:
    if (fd >= 0) close(fd);
    mem_free(header);
    return st;
}

status_t data_complete(const char *dir, const store_profile_t *p, store_file_t *f) {
    char path[FOLDER_PATH], part[FOLDER_PATH];
    if (!f->n_segment) return data_remove(dir, f);
    status_t st = folder_file_path(dir, f, NAME_DATA, path);
    if (!st) st = folder_file_path(dir, f, NAME_PART, part);
    if (!st) st = header_write(part, p, f);
    if (!st) st = disk_rename(dir, part, path);
    if (!st) f->part = false;
    return st;
}

status_t data_finish(data_out_t *d) {
    if (d->fd < 0) return ST_OK;
    status_t st = data_complete(d->dir, d->p, &d->file);
    file_close(d); /* only now: the lock on the index goes with it */
    return st;
}

void data_end(data_out_t *d) {
    file_close(d);
    mem_free(d->file.segments);
    mem_free(d->buffer);
    d->file.segments = NULL;
    d->buffer = NULL;
}

/* ---- reading ------------------------------------------------------------------------------------------------------ */

status_t data_map(const char *dir, const store_file_t *f, file_map_t *out) {
    char path[FOLDER_PATH];
    store_file_t other = *f;
    status_t st = folder_data_path(dir, f, path);
    if (st) return st;
    if (!file_exists(path)) { /* completed since it was listed, or the other way round */
        other.part = !f->part;
        if ((st = folder_data_path(dir, &other, path))) return st;
        if (!file_exists(path)) folder_data_path(dir, f, path);
    }
    return file_map(path, out);
}

bool data_checksum(const store_profile_t *p, const file_map_t *map, const store_segment_t *s, hash_t *out) {
    segment_size_t size;
    if (!segment_size(p, s->n_token, s->n_row, s->n_kept, &size) || s->tokens_offset < 0) return false;
    if ((size_t)s->tokens_offset > map->bytes || (size_t)size.total > map->bytes - (size_t)s->tokens_offset) return false;
    *out = hash_bytes(map->data + s->tokens_offset, (size_t)size.total);
    return true;
}

status_t data_check(const char *dir, const store_profile_t *p, const store_file_t *f, const file_map_t *map, problems_t *found) {
    char path[FOLDER_PATH], *header = NULL;
    status_t st = folder_data_path(dir, f, path);
    if (st) return st;
    if (map->bytes != (size_t)f->end) return problem(found, "%s has %zu bytes, its index says %" PRId64, path, map->bytes, f->end);
    st = data_header(p, f->segments, f->n_segment, &header);
    if (!st && memcmp(map->data, header, DATA_HEADER_BYTES)) {
        size_t at = 0;
        while ((char)map->data[at] == header[at]) at++;
        st = problem(found, "%s: the header is damaged at byte %zu", path, at);
    }
    mem_free(header);
    return st;
}

/* Opening reads every index line once (some milliseconds for 10,000) and no data: files are mapped when a segment of theirs is asked for.
 */
#include "store/reader.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "store/profile.h"

/* ---- opening ------------------------------------------------------------------------------------------------------ */

status_t profile_need(const char *dir, store_profile_t *out) {
    profile_state_t state;
    status_t st = profile_read(dir, &state, out);
    return st ? st : state == PROFILE_GOOD ? ST_OK : ST_INPUT; /* worded by profile_read */
}

static int segment_compare(const void *a, const void *b) {
    const store_segment_t *x = a, *y = b;
    int c = hash_compare(x->address, y->address);
    if (c) return c;
    if (x->file != y->file) return x->file < y->file ? -1 : 1;
    return x->tokens_offset < y->tokens_offset ? -1 : x->tokens_offset > y->tokens_offset;
}

/* Of copies of a segment, which runs of a killed job or a cut-short prune can leave, the first file's counts. */
static status_t segments_gather(store_t *s) {
    int64_t n = 0, kept = 0;
    for (int i = 0; i < s->folder.n_file; i++) n += s->folder.files[i].n_segment;
    status_t st = mem_alloc(&s->segments, (size_t)n, sizeof *s->segments, "the index of the store");
    if (st || !n) return st;
    n = 0;
    for (int i = 0; i < s->folder.n_file; i++) {
        store_file_t *f = &s->folder.files[i];
        if (f->n_segment) memcpy(s->segments + n, f->segments, (size_t)f->n_segment * sizeof *f->segments);
        n += f->n_segment;
    }
    qsort(s->segments, (size_t)n, sizeof *s->segments, segment_compare);
    for (int64_t i = 0; i < n; i++)
        if (!kept || !hash_equal(s->segments[kept - 1].address, s->segments[i].address)) s->segments[kept++] = s->segments[i];
    s->n_segment = kept;
    return ST_OK;
}

status_t store_open(const char *dir, bool tolerate, store_t **out) {
    problems_t found = {.strict = !tolerate};
    store_t *s;
    status_t st = mem_zalloc(&s, 1, sizeof *s, "a store");
    *out = NULL;
    if (st) return st;
    pthread_mutex_init(&s->lock, NULL);
    st = profile_need(dir, &s->profile);
    if (!st) st = folder_load(dir, &s->profile, &found, &s->folder);
    if (!st) st = segments_gather(s);
    if (!st) st = documents_load(dir, false, &found, &s->documents);
    if (!st) st = mem_zalloc(&s->maps, (size_t)s->folder.n_file, sizeof *s->maps, "the maps of the store");
    s->n_damaged = found.n;
    if (st)
        store_close(s);
    else
        *out = s;
    return st;
}

void store_close(store_t *s) {
    if (!s) return;
    for (int i = 0; s->maps && i < s->folder.n_file; i++) file_unmap(&s->maps[i]);
    mem_free(s->maps);
    mem_free(s->segments);
    documents_free(&s->documents);
    folder_free(&s->folder);
    profile_free(&s->profile);
    pthread_mutex_destroy(&s->lock);
    mem_free(s);
}

/* ---- looking up --------------------------------------------------------------------------------------------------- */

const store_profile_t *store_profile(const store_t *s) { return &s->profile; }
int64_t store_n_damaged(const store_t *s) { return s->n_damaged; }
int64_t store_n_segment(const store_t *s) { return s->n_segment; }
const store_segment_t *store_segment(const store_t *s, int64_t i) { return i >= 0 && i < s->n_segment ? &s->segments[i] : NULL; }
int64_t store_n_document(const store_t *s) { return s->documents.n; }
const store_document_t *store_document(const store_t *s, int64_t i) {
    return i >= 0 && i < s->documents.n ? &s->documents.records[i].doc : NULL;
}

const store_segment_t *store_find(const store_t *s, hash_t address) {
    int64_t low = 0, high = s->n_segment;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (hash_compare(s->segments[middle].address, address) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low < s->n_segment && hash_equal(s->segments[low].address, address) ? &s->segments[low] : NULL;
}

/* ---- bytes -------------------------------------------------------------------------------------------------------- */

static status_t map_get(store_t *s, int file, file_map_t *out) {
    status_t st = ST_OK;
    pthread_mutex_lock(&s->lock);
    if (!s->maps[file].data) st = data_map(s->folder.dir, &s->folder.files[file], &s->maps[file]);
    *out = s->maps[file];
    pthread_mutex_unlock(&s->lock);
    return st;
}

static status_t segment_fail(const store_t *s, const store_segment_t *seg, const char *what) {
    char path[FOLDER_PATH], hex[HASH_HEX];
    status_t st = folder_data_path(s->folder.dir, &s->folder.files[seg->file], path);
    hash_hex(seg->address, hex);
    return st ? st : status_fail(ST_INPUT, "%s: segment %s %s; encode again with the settings of the store to repair it", path, hex, what);
}

/* Where the segment's bytes begin in memory. */
static status_t segment_map(store_t *s, const store_segment_t *seg, const uint8_t **file) {
    file_map_t map;
    segment_size_t size;
    status_t st = map_get(s, seg->file, &map);
    if (st) return st;
    if (!segment_size(&s->profile, seg->n_token, seg->n_row, seg->n_kept, &size) || seg->tokens_offset < 0 ||
        (size_t)seg->tokens_offset > map.bytes || (size_t)size.total > map.bytes - (size_t)seg->tokens_offset)
        return segment_fail(s, seg, "lies behind the end of the file, which was cut");
    *file = map.data;
    return ST_OK;
}

status_t store_map(store_t *s, const store_segment_t *seg, const int32_t **tokens, const void **k, const void **v) {
    const uint8_t *file = NULL;
    status_t st = segment_map(s, seg, &file);
    if (st) return st;
    if (tokens) *tokens = (const int32_t *)(const void *)(file + seg->tokens_offset);
    if (k) *k = file + seg->k_offset;
    if (v) *v = file + seg->v_offset;
    return ST_OK;
}

status_t store_map_kept(store_t *s, const store_segment_t *seg, const int32_t **kept) {
    const uint8_t *file = NULL;
    status_t st = segment_map(s, seg, &file);
    if (!st) *kept = seg->n_kept ? (const int32_t *)(const void *)(file + seg->kept_offset) : NULL;
    return st;
}

status_t store_verify(store_t *s, const store_segment_t *seg) {
    file_map_t map;
    hash_t now;
    status_t st = map_get(s, seg->file, &map);
    if (st) return st;
    if (!data_checksum(&s->profile, &map, seg, &now)) return segment_fail(s, seg, "lies behind the end of the file, which was cut");
    return hash_equal(now, seg->checksum) ? ST_OK : segment_fail(s, seg, "is damaged: its bytes do not match their checksum");
}

/* ---- digest ------------------------------------------------------------------------------------------------------- */

static status_t verify_all(store_t *s) {
    int64_t bad = s->n_segment, bytes = 0;
    for (int i = 0; i < s->folder.n_file; i++) bytes += s->folder.files[i].end;
#pragma omp parallel for schedule(dynamic, 1) reduction(min : bad) if (bytes > PARALLEL_BYTES)
    for (int64_t i = 0; i < s->n_segment; i++)
        if (store_verify(s, &s->segments[i]) && i < bad) bad = i;
    if (bad == s->n_segment) return ST_OK;
    status_t st = store_verify(s, &s->segments[bad]); /* again on this thread, for its message */
    return st ? st : segment_fail(s, &s->segments[bad], "did not match its checksum at first and then did: check the disk");
}

status_t store_digest(const char *dir, hash_t *out, int64_t *n_segment) {
    store_t *s;
    hash_state_t *h = NULL;
    status_t st = store_open(dir, false, &s);
    if (st) return st;
    if ((st = verify_all(s))) goto out;
    if (!(h = hash_create())) {
        st = status_fail(ST_FAIL, "out of memory for a digest; use a machine with more memory");
        goto out;
    }
    for (int64_t i = 0; i < s->n_segment; i++) {
        const hash_t pair[2] = {s->segments[i].address, s->segments[i].checksum}; /* which the bytes were just found to have */
        hash_add(h, pair, sizeof pair);
    }
    *out = hash_finish(h);
    if (n_segment) *n_segment = s->n_segment;
out:
    store_close(s);
    return st;
}

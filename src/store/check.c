/* Every byte of a store is vouched for: lines by their seals, segments by their checksums, headers by being what the index makes them,
 * lengths by the index. What a killed writer leaves (temporaries, .part files, a torn last line, bytes behind the last committed segment)
 * is no damage. */
#include <inttypes.h>

#include "base/mem.h"
#include "store/profile.h"
#include "store/reader.h"

/* Maps the file, checks its frame, then its segments. */
static status_t file_check(const char *dir, const store_profile_t *p, const store_file_t *f, problems_t *found, int64_t *n_bytes) {
    file_map_t map = {0};
    char path[FOLDER_PATH], hex[HASH_HEX], *bad = NULL;
    status_t st = ST_OK;
    if (f->foreign || !f->has_data || (f->part && !f->n_segment) || !f->has_index) return ST_OK; /* told already, or a leftover */
    if ((st = folder_data_path(dir, f, path)) || (st = mem_zalloc(&bad, (size_t)f->n_segment, 1, "a list of segments"))) return st;
    if ((st = data_map(dir, f, &map))) {
        if (st == ST_INPUT) st = problem(found, "%s", status_message());
        goto out;
    }
    if (!f->part && !f->n_bad) st = data_check(dir, p, f, &map, found);
#pragma omp parallel for schedule(dynamic, 1) if (f->end > PARALLEL_BYTES)
    for (int64_t i = 0; i < f->n_segment; i++) {
        hash_t now;
        bad[i] = !data_checksum(p, &map, &f->segments[i], &now) || !hash_equal(now, f->segments[i].checksum);
    }
    for (int64_t i = 0; !st && i < f->n_segment; i++) {
        hash_hex(f->segments[i].address, hex);
        if (bad[i]) st = problem(found, "%s: segment %s is damaged: its bytes do not match their checksum", path, hex);
    }
    *n_bytes += f->end;
out:
    file_unmap(&map);
    mem_free(bad);
    return st;
}

/* A folder without store.json: a store whose making was cut short, one that lost it, or no store. */
static status_t bare_check(const char *dir, problems_t *found) {
    folder_t folder;
    status_t st = folder_list(dir, &folder);
    if (st) return st;
    if (folder.n_file || folder.has_documents)
        st = problem(found, "%s/store.json is missing: what the segments are for is not known", dir);
    else if (folder.n_other && !folder.n_leftover)
        st = status_fail(ST_INPUT, "%s is no store: it has no store.json; name a folder that `precis encode --store` made", dir);
    folder_free(&folder);
    return st;
}

static status_t store_walk(const char *dir, problems_t *found, int64_t *n_segment, int64_t *n_bytes) {
    profile_state_t state;
    store_profile_t p;
    folder_t folder = {0};
    documents_t documents = {0};
    status_t st = profile_read(dir, &state, &p);
    if (st) return st;
    if (state == PROFILE_MISSING) return bare_check(dir, found);
    if (state == PROFILE_DAMAGED) return problem(found, "%s", status_message());
    st = folder_load(dir, &p, found, &folder);
    for (int i = 0; !st && i < folder.n_file; i++) {
        st = file_check(dir, &p, &folder.files[i], found, n_bytes);
        *n_segment += folder.files[i].n_segment;
    }
    if (!st) st = documents_load(dir, false, found, &documents);
    documents_free(&documents);
    folder_free(&folder);
    profile_free(&p);
    return st;
}

status_t store_check(const char *dir, void (*report)(void *ctx, const char *line), void *ctx, int64_t *n_segment, int64_t *n_bytes) {
    problems_t found = {.tell = report, .ctx = ctx};
    int64_t n = 0, bytes = 0;
    status_t st = store_walk(dir, &found, &n, &bytes);
    if (n_segment) *n_segment = n;
    if (n_bytes) *n_bytes = bytes;
    if (st || !found.n) return st;
    return status_fail(ST_INPUT, "%s: %" PRId64 " problems found; encode again with the settings of the store to repair it", dir, found.n);
}

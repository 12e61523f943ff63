/* store_prepare brings a folder into the state in which every file is complete and every line good, whatever happened to it before. */
#include "store/repair.h"

#include <fcntl.h>
#include <inttypes.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "store/document.h"
#include "store/profile.h"
#include "store/reader.h"

static void tell_log(void *ctx, const char *line) {
    (void)ctx;
    log_warn("%s", line);
}

/* ---- store.json --------------------------------------------------------------------------------------------------- */

/* Are all segments of this profile? Index heads tell. */
static status_t heads_check(const char *dir, const store_profile_t *p, int64_t *n_segment) {
    problems_t quiet = {0};
    folder_t folder;
    status_t st = folder_load(dir, p, &quiet, &folder);
    if (st) return st;
    for (int i = 0; !st && i < folder.n_file; i++) {
        *n_segment += folder.files[i].n_segment;
        if (folder.files[i].foreign)
            st = status_fail(
                ST_INPUT,
                "%s/store.json is lost, and rank%04d-%06d.index was made with other settings than these; use the settings it was made "
                "with, or another --store",
                dir, folder.files[i].writer, folder.files[i].number);
    }
    folder_free(&folder);
    return st;
}

/* A folder in use for something else: a store would mix its files with the user's, and take documents.jsonl for its own. */
static status_t vacant_check(const char *dir) {
    folder_t f;
    status_t st = folder_list(dir, &f);
    if (st) return st;
    if (!f.n_file && !f.n_leftover && (f.n_other || f.has_documents))
        st = status_fail(ST_INPUT, "%s holds other files and no store (no store.json); give --store a new folder, or an empty one", dir);
    folder_free(&f);
    return st;
}

static status_t profile_prepare(const char *dir, const store_profile_t *p, int64_t *n_repaired) {
    profile_state_t state;
    store_profile_t have;
    int64_t n_segment = 0;
    status_t st = profile_read(dir, &state, &have);
    if (!st && state == PROFILE_GOOD) {
        st = profile_compare(dir, &have, p);
        profile_free(&have);
        return st;
    }
    if (!st && state == PROFILE_MISSING) st = vacant_check(dir);
    if (!st) st = heads_check(dir, p, &n_segment);
    if (!st) st = profile_write(dir, p);
    if (!st && (state == PROFILE_DAMAGED || n_segment)) {
        log_warn("%s/store.json was %s: written again, its %" PRId64 " segments were made with these settings", dir,
                 state == PROFILE_DAMAGED ? "damaged" : "missing", n_segment);
        ++*n_repaired;
    }
    return st;
}

/* ---- files -------------------------------------------------------------------------------------------------------- */

static status_t index_cut(const char *dir, const store_file_t *f) {
    char path[FOLDER_PATH];
    status_t st = folder_file_path(dir, f, NAME_INDEX, path);
    if (st) return st;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return disk_fail("cannot open", path);
    st = disk_cut(fd, path, f->good_bytes);
    if (!st) st = disk_sync(fd, path);
    close(fd);
    return st;
}

static status_t frame_check(const folder_t *folder, const store_file_t *f, const store_profile_t *p, bool *good) {
    problems_t found = {.tell = tell_log};
    file_map_t map;
    status_t st = data_map(folder->dir, f, &map);
    if (st) return st;
    st = data_check(folder->dir, p, f, &map, &found);
    file_unmap(&map);
    *good = !found.n;
    return st;
}

static status_t file_repair(const folder_t *folder, int i, const store_profile_t *p, int64_t *n_repaired) {
    store_file_t *f = &folder->files[i];
    bool good = false;
    int64_t n_kept;
    status_t st = ST_OK;
    if (f->foreign)
        return status_fail(ST_INPUT, "%s: rank%04d-%06d.index is of another store or format version; move it and its data away",
                           folder->dir, f->writer, f->number);
    bool whole = f->n_segment && !f->n_bad && !f->holes;
    if (whole && !f->part && ((st = frame_check(folder, f, p, &good)) || good)) return st;
    ++*n_repaired;
    if (!f->n_segment) return data_remove(folder->dir, f);
    if (!whole || !f->part) return file_rewrite(folder, i, p, NULL, &n_kept);
    if (f->torn) st = index_cut(folder->dir, f);
    return st ? st : data_complete(folder->dir, p, f);
}

static status_t documents_repair(const char *dir, int64_t *n_repaired) {
    problems_t found = {.tell = tell_log};
    documents_t d;
    status_t st = documents_load(dir, false, &found, &d);
    if (st) return st;
    if (d.n_bad)
        st = documents_rewrite(dir, &d);
    else if (d.torn)
        st = documents_cut(dir, &d);
    *n_repaired += d.n_bad + d.torn;
    documents_free(&d);
    return st;
}

status_t store_prepare(const char *dir, const store_profile_t *p, int64_t *n_repaired) {
    problems_t found = {.tell = tell_log};
    folder_t folder = {0};
    int64_t n = 0;
    status_t st = profile_check(p, dir);
    if (!st) st = file_make_dirs(dir);
    if (!st) st = store_check_idle(dir, IDLE_WAIT_S);
    if (!st) st = profile_prepare(dir, p, &n);
    if (!st) st = folder_load(dir, p, &found, &folder);
    for (int i = 0; !st && i < folder.n_file; i++) st = file_repair(&folder, i, p, &n);
    folder_free(&folder);
    if (!st) st = documents_repair(dir, &n);
    if (!st) st = folder_remove_leftovers(dir, &n);
    if (n_repaired) *n_repaired = n;
    return st;
}

/* ---- dropping ----------------------------------------------------------------------------------------------------- */

static bool is_among(hash_t address, const hash_t *addresses, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (hash_equal(address, addresses[i])) return true;
    return false;
}

static status_t file_drop(const folder_t *folder, int i, const store_profile_t *p, const hash_t *addresses, int64_t n) {
    const store_file_t *f = &folder->files[i];
    int64_t n_kept, n_drop = 0;
    bool *keep;
    status_t st = mem_alloc(&keep, (size_t)f->n_segment, sizeof *keep, "a list of segments");
    if (st) return st;
    for (int64_t k = 0; k < f->n_segment; k++) n_drop += !(keep[k] = !is_among(f->segments[k].address, addresses, n));
    if (n_drop) st = file_rewrite(folder, i, p, keep, &n_kept);
    mem_free(keep);
    return st;
}

status_t store_drop(const char *dir, const hash_t *addresses, int64_t n) {
    problems_t quiet = {0};
    store_profile_t p;
    folder_t folder = {0};
    status_t st = profile_need(dir, &p);
    if (st) return st;
    st = store_check_idle(dir, IDLE_WAIT_S);
    if (!st) st = folder_load(dir, &p, &quiet, &folder);
    for (int i = 0; !st && i < folder.n_file; i++)
        if (!folder.files[i].foreign) st = file_drop(&folder, i, &p, addresses, n);
    folder_free(&folder);
    profile_free(&p);
    return st;
}

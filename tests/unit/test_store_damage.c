/* Kills, flipped bits, cut and removed files: what a kill leaves checks clean, what damage leaves is found, and encoding again makes the
 * store what it would have been. */
#include "store_fixture.h"

enum { CORPUS = 14 };

/* A child that encodes and is cut off before it completes its files. */
static void half_encode(const char *dir, const store_profile_t *p, int64_t n) {
    pid_t child = fork();
    if (!child) {
        static fix_segment_t s;
        store_writer_t *w;
        if (store_prepare(dir, p, NULL) || store_writer_open(dir, p, 0, &w)) _exit(1);
        for (int64_t i = 0; i < n; i++) {
            fix_segment(p, i, &s);
            if (store_append(w, &s.item) || store_writer_wait(w)) _exit(1);
        }
        _exit(0);
    }
    int status = 1;
    waitpid(child, &status, 0);
    CU_ASSERT_EQUAL(status, 0);
}

static void whole_store(char dir[FIX_PATH], const store_profile_t *p, int64_t n, hash_t *digest) {
    fix_dir(dir);
    CU_ASSERT_EQUAL(fix_encode(dir, p, n, 2), ST_OK);
    CU_ASSERT(fix_clean(dir, "whole"));
    *digest = fix_digest(dir);
}

static void check_repaired(const char *dir, const store_profile_t *p, int64_t n, hash_t want, const char *what) {
    status_t st = fix_encode(dir, p, n, 1);
    CU_ASSERT_EQUAL(st, ST_OK);
    if (st) printf("%s: %s\n", what, status_message());
    CU_ASSERT(fix_clean(dir, what));
    CU_ASSERT(hash_equal(fix_digest(dir), want));
    store_t *s;
    CU_ASSERT_EQUAL(store_open(dir, false, &s), ST_OK);
    CU_ASSERT_EQUAL(store_n_document(s), (n + 3) / 4);
    store_close(s);
}

/* Every state that a kill can leave behind: the index cut at every byte, the data anywhere behind what the lines that are left commit. */
static void test_torn(void) {
    char whole[FIX_PATH], half[FIX_PATH], dir[FIX_PATH], index[FIX_PATH + 160], part[FIX_PATH + 160];
    store_profile_t p = fix_profile();
    hash_t want;
    rng_t r = {7};
    store_t *s;
    whole_store(whole, &p, CORPUS, &want);
    fix_dir(half), fix_dir(dir);
    half_encode(half, &p, 5);
    fix_path(index, dir, "rank0000-000001.index");
    fix_path(part, dir, "rank0000-000001.safetensors.part");
    fix_copy(half, dir);
    CU_ASSERT(fix_clean(dir, "killed"));
    int64_t index_size = fix_size(index), part_size = fix_size(part);
    CU_ASSERT(index_size > 1000 && part_size > 1 << 18);
    for (int64_t cut = index_size; cut >= 0; cut--) {
        bool repair = cut % 24 == 0; /* not every cut needs a repair of its own */
        fix_copy(half, dir);
        CU_ASSERT_EQUAL(truncate(index, cut), 0);
        CU_ASSERT(fix_clean(dir, "torn index"));
        CU_ASSERT_EQUAL(store_open(dir, false, &s), ST_OK);
        int64_t n = store_n_segment(s), end = 1 << 18;
        for (int64_t i = 0; i < n; i++) { /* the segments are the first n of the corpus; the end of the last one follows from its V */
            const store_segment_t *g = store_segment(s, i);
            CU_ASSERT_EQUAL(store_verify(s, g), ST_OK);
            end = i64_max(end, g->v_offset + (p.n_layer * p.n_kv_head * g->n_row * p.d_head * 2 + 63) / 64 * 64);
        }
        store_close(s);
        CU_ASSERT_EQUAL(truncate(part, end + rng_below(&r, part_size - end + 1)), 0);
        CU_ASSERT(fix_clean(dir, "torn index and data"));
        if (repair) check_repaired(dir, &p, CORPUS, want, "torn");
    }
    fix_remove(whole), fix_remove(half), fix_remove(dir);
}

/* Kills at random moments of the whole job, again and again on the same folder. */
static void test_kill(void) {
    char whole[FIX_PATH], dir[FIX_PATH];
    store_profile_t p = fix_profile();
    hash_t want;
    rng_t r = {clock_s() * 1e6};
    int killed = 0, finished = 0;
    p.n_layer = 16; /* segments large enough to be cut short */
    whole_store(whole, &p, 60, &want);
    fix_dir(dir);
    for (int i = 0; i < 100; i++) {
        pid_t child = fork();
        if (!child) {
            log_setup(0, 1, LOG_ERROR);
            _exit(fix_encode(dir, &p, 60, 1 + i % 3));
        }
        usleep((useconds_t)rng_below(&r, i % 5 ? 9000 : 40000));
        int status = 0;
        kill(child, SIGKILL);
        waitpid(child, &status, 0);
        CU_ASSERT(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
        CU_ASSERT(fix_clean(dir, "killed"));
        if (WIFSIGNALED(status)) {
            killed++;
        } else {
            finished++;
            CU_ASSERT(hash_equal(fix_digest(dir), want));
            fix_empty(dir);
        }
    }
    check_repaired(dir, &p, 60, want, "killed often");
    printf("store: %d killed, %d finished\n", killed, finished);
    fix_remove(whole), fix_remove(dir);
}

/* Kills while segments are being taken out of files. */
static void test_kill_prune(void) {
    char whole[FIX_PATH], dir[FIX_PATH];
    store_profile_t p = fix_profile();
    hash_t want, drop[20];
    rng_t r = {clock_s() * 1e6};
    static fix_segment_t s;
    whole_store(whole, &p, 60, &want);
    fix_dir(dir);
    for (int i = 0; i < 40; i++) {
        for (int k = 0; k < 20; k++) {
            fix_segment(&p, 1 + (i + k * 3) % 59, &s);
            drop[k] = s.item.address;
        }
        fix_copy(whole, dir);
        pid_t child = fork();
        if (!child) _exit(store_drop(dir, drop, 20) || store_prune(dir, NULL, NULL));
        usleep((useconds_t)rng_below(&r, 3000));
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        CU_ASSERT(fix_clean(dir, "killed while pruning"));
        if (i % 4 == 0) check_repaired(dir, &p, 60, want, "killed while pruning");
    }
    fix_remove(whole), fix_remove(dir);
}

static void flip_check(const char *dir, const char *path, int64_t at, int bit) {
    fix_flip(path, at, bit);
    if (store_check(dir, NULL, NULL, NULL, NULL) != ST_INPUT) {
        CU_FAIL("a flipped bit was not found");
        printf("%s: bit %d of byte %lld was not found\n", path, bit, (long long)at);
    }
    fix_flip(path, at, bit);
}

/* A flipped bit anywhere in any file is found. */
static void test_flip_found(void) {
    char dir[FIX_PATH], names[FIX_FILES][FIX_NAME], path[FIX_PATH + 160];
    store_profile_t p = fix_profile();
    hash_t want;
    rng_t r = {clock_s() * 1e6};
    p.d_head = 5; /* with padding behind K and V */
    whole_store(dir, &p, CORPUS, &want);
    int n = fix_list(dir, names);
    CU_ASSERT_EQUAL(n, 6);
    for (int i = 0; i < n; i++) {
        fix_path(path, dir, names[i]);
        int64_t size = fix_size(path), body = i64_min(size, size - (1 << 18) > 0 ? size - (1 << 18) : size);
        for (int bit = 0; bit < 8; bit++) { /* ends, where newlines are; the header's length */
            flip_check(dir, path, size - 1, bit);
            flip_check(dir, path, 0, bit);
            flip_check(dir, path, 7, bit);
        }
        for (int k = 0; k < 150; k++) flip_check(dir, path, rng_below(&r, size), (int)rng_below(&r, 8));
        for (int k = 0; k < 150; k++) flip_check(dir, path, size - 1 - rng_below(&r, body), (int)rng_below(&r, 8));
    }
    strcpy(names[0], "store.json"); /* every bit of the smallest file */
    fix_path(path, dir, names[0]);
    for (int64_t at = 0, size = fix_size(path); at < size; at++)
        for (int bit = 0; bit < 8; bit++) flip_check(dir, path, at, bit);
    CU_ASSERT(fix_clean(dir, "flipped back"));
    CU_ASSERT(hash_equal(fix_digest(dir), want));
    fix_remove(dir);
}

/* Whatever file is hurt in whatever way: check says so (a bit), or says so or finds the rest valid (cut, removed), and encoding again
 * repairs it. */
static void test_repair(void) {
    char whole[FIX_PATH], dir[FIX_PATH], names[FIX_FILES][FIX_NAME], path[FIX_PATH + 160];
    store_profile_t p = fix_profile();
    hash_t want, other;
    rng_t r = {clock_s() * 1e6};
    int found = 0, passed = 0;
    log_setup(0, 1, LOG_ERROR);
    whole_store(whole, &p, CORPUS, &want);
    fix_dir(dir);
    int n = fix_list(whole, names);
    for (int k = 0; k < 120; k++) {
        char what[80];
        const char *name = names[k % n];
        int how = k / n % 4; /* flip, flip near the end, cut, remove */
        fix_copy(whole, dir);
        fix_path(path, dir, name);
        int64_t size = fix_size(path), at = how == 1 ? size - 1 - rng_below(&r, size > 3000 ? 3000 : size) : rng_below(&r, size);
        snprintf(what, sizeof what, "%.40s: %s at %lld", name, how < 2 ? "flip" : how == 2 ? "cut" : "removed", (long long)at);
        if (how < 2) fix_flip(path, at, (int)rng_below(&r, 8));
        if (how == 2) CU_ASSERT_EQUAL(truncate(path, at), 0);
        if (how == 3) unlink(path);
        status_t st = store_check(dir, NULL, NULL, NULL, NULL);
        CU_ASSERT(st == ST_INPUT || (st == ST_OK && how >= 2));
        st ? found++ : passed++;
        if (st == ST_OK && store_digest(dir, &other, NULL)) CU_FAIL("passed the check and has no digest");
        check_repaired(dir, &p, CORPUS, want, what);
    }
    printf("store: %d injuries found, %d harmless\n", found, passed);
    log_setup(0, 1, LOG_INFO);
    fix_remove(whole), fix_remove(dir);
}

/* Opening names the damaged place, or leaves it out and counts when told to. */
static void test_open_damaged(void) {
    char dir[FIX_PATH], index[FIX_PATH + 160], data[FIX_PATH + 160];
    store_profile_t p = fix_profile();
    hash_t want;
    store_t *s;
    whole_store(dir, &p, CORPUS, &want);
    fix_path(index, dir, "rank0001-000001.index");
    fix_path(data, dir, "rank0000-000001.safetensors");
    fix_flip(index, 500, 0);
    CU_ASSERT_EQUAL(store_open(dir, false, &s), ST_INPUT);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_message(), "rank0001-000001.index line "));
    CU_ASSERT_EQUAL_FATAL(store_open(dir, true, &s), ST_OK);
    CU_ASSERT(store_n_damaged(s) == 1 && store_n_segment(s) == CORPUS - 1);
    store_close(s);
    fix_flip(index, 500, 0);
    CU_ASSERT_EQUAL(truncate(data, fix_size(data) - 1), 0);
    CU_ASSERT_EQUAL(store_open(dir, false, &s), ST_INPUT);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_message(), "rank0000-000001.safetensors is cut"));
    CU_ASSERT_EQUAL_FATAL(store_open(dir, true, &s), ST_OK);
    CU_ASSERT(store_n_damaged(s) == 1 && store_n_segment(s) == CORPUS - 1);
    store_close(s);
    unlink(data);
    CU_ASSERT_EQUAL(store_open(dir, false, &s), ST_INPUT);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_message(), "rank0000-000001.safetensors is missing"));
    CU_ASSERT_EQUAL(store_digest(dir, &want, NULL), ST_INPUT);
    fix_remove(dir);
}

/* A store.json that is lost is written again for the same settings, and for no others. */
static void test_lost_profile(void) {
    char dir[FIX_PATH], path[FIX_PATH + 160];
    store_profile_t p = fix_profile(), q = fix_profile();
    hash_t want;
    log_setup(0, 1, LOG_ERROR);
    whole_store(dir, &p, CORPUS, &want);
    fix_path(path, dir, "store.json");
    q.segment = 65;
    unlink(path);
    CU_ASSERT_EQUAL(store_check(dir, NULL, NULL, NULL, NULL), ST_INPUT);
    CU_ASSERT_EQUAL(store_prepare(dir, &q, NULL), ST_INPUT);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_message(), "other settings"));
    check_repaired(dir, &p, CORPUS, want, "lost store.json");
    log_setup(0, 1, LOG_INFO);
    fix_remove(dir);
}

/* Another store's files, and another version's, are refused and left alone. */
static void test_foreign(void) {
    char dir[FIX_PATH], other[FIX_PATH], from[FIX_PATH + 160], to[FIX_PATH + 160];
    store_profile_t p = fix_profile(), q = fix_profile();
    hash_t want;
    q.segment = 63;
    whole_store(dir, &p, CORPUS, &want);
    whole_store(other, &q, CORPUS, &want);
    fix_path(from, other, "rank0000-000001.index"), fix_path(to, dir, "rank0009-000001.index");
    CU_ASSERT_EQUAL(rename(from, to), 0);
    fix_path(from, other, "rank0000-000001.safetensors"), fix_path(to, dir, "rank0009-000001.safetensors");
    CU_ASSERT_EQUAL(rename(from, to), 0);
    CU_ASSERT_EQUAL(store_check(dir, NULL, NULL, NULL, NULL), ST_INPUT);
    CU_ASSERT_EQUAL(store_prepare(dir, &p, NULL), ST_INPUT);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_message(), "rank0009-000001.index"));
    CU_ASSERT(fix_size(to) > 0);
    fix_remove(dir), fix_remove(other);
}

UNIT_MAIN("store_damage", {"torn", test_torn}, {"kill", test_kill}, {"kill_prune", test_kill_prune}, {"flip_found", test_flip_found},
          {"repair", test_repair}, {"open_damaged", test_open_damaged}, {"lost_profile", test_lost_profile}, {"foreign", test_foreign})

/* A pretended encoder for the store's tests: segment i of a corpus has tokens and K/V that follow from i alone, so that any two stores of
 * the same corpus must agree. */
#ifndef TESTS_STORE_FIXTURE_H
#define TESTS_STORE_FIXTURE_H

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "io/file.h"
#include "scratch.h"
#include "store/store.h"
#include "unit.h"

enum { FIX_PATH = SCRATCH_PATH, FIX_TOKENS = 64, FIX_VALUES = 1 << 16, FIX_FILES = 64, FIX_NAME = 256 };

static const int32_t FIX_SINK[3] = {11, 12, 13};

static inline store_profile_t fix_profile(void) {
    return (store_profile_t){.model_name = "tiny",
                             .model_fingerprint = "00112233445566778899aabbccddeeff",
                             .n_layer = 2,
                             .n_kv_head = 1,
                             .d_head = 8,
                             .n_vocab = 1000,
                             .layout = "pce",
                             .segment = FIX_TOKENS,
                             .align = "even",
                             .n_sink = 3,
                             .sink = FIX_SINK,
                             .kv_type = DT_BF16,
                             .act = DT_F32,
                             .backend = "ref"};
}

/* ---- folders ---- */
static inline void fix_dir(char dir[FIX_PATH]) { scratch_dir(dir, SCRATCH_MEMORY); }
static inline int fix_list(const char *dir, char names[FIX_FILES][FIX_NAME]) {
    int n = 0;
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));)
        if (e->d_name[0] != '.' && n < FIX_FILES) snprintf(names[n++], FIX_NAME, "%s", e->d_name);
    if (d) closedir(d);
    for (int i = 1; i < n; i++) /* readdir's order is nobody's */
        for (int k = i; k > 0 && strcmp(names[k - 1], names[k]) > 0; k--) {
            char t[FIX_NAME];
            memcpy(t, names[k], FIX_NAME);
            memcpy(names[k], names[k - 1], FIX_NAME);
            memcpy(names[k - 1], t, FIX_NAME);
        }
    return n;
}
static inline void fix_path(char out[FIX_PATH + 160], const char *dir, const char *name) {
    snprintf(out, FIX_PATH + 160, "%s/%.150s", dir, name);
}
static inline void fix_empty(const char *dir) {
    char names[FIX_FILES][FIX_NAME], path[FIX_PATH + 160];
    int n;
    while ((n = fix_list(dir, names)) > 0)
        for (int i = 0; i < n; i++) {
            fix_path(path, dir, names[i]);
            unlink(path);
        }
}
static inline void fix_remove(const char *dir) {
    fix_empty(dir);
    rmdir(dir);
}
static inline void fix_copy(const char *from, const char *to) {
    char names[FIX_FILES][FIX_NAME], a[FIX_PATH + 160], b[FIX_PATH + 160], *text;
    size_t bytes;
    fix_empty(to);
    for (int n = fix_list(from, names), i = 0; i < n; i++) {
        fix_path(a, from, names[i]);
        fix_path(b, to, names[i]);
        CU_ASSERT_EQUAL(file_read_text(a, 1 << 30, &text, &bytes), ST_OK);
        int fd = open(b, O_CREAT | O_WRONLY | O_TRUNC, 0644);
        CU_ASSERT(fd >= 0 && !file_write_all(fd, b, text, bytes));
        close(fd);
        mem_free(text);
    }
}
static inline int64_t fix_size(const char *path) {
    struct stat s;
    return stat(path, &s) ? -1 : (int64_t)s.st_size;
}
static inline void fix_flip(const char *path, int64_t at, int bit) {
    unsigned char c = 0;
    int fd = open(path, O_RDWR);
    CU_ASSERT(pread(fd, &c, 1, at) == 1);
    c ^= (unsigned char)(1 << bit);
    CU_ASSERT(pwrite(fd, &c, 1, at) == 1);
    close(fd);
}

/* ---- the corpus ---- */
typedef struct {
    store_item_t item;
    int32_t tokens[FIX_TOKENS], kept[FIX_TOKENS];
    float k[FIX_VALUES], v[FIX_VALUES];
} fix_segment_t;

static inline void fix_segment(const store_profile_t *p, int64_t i, fix_segment_t *s) {
    rng_t r = {(uint64_t)i + 1000};
    int64_t n = 1 + i * 5 % (p->segment < FIX_TOKENS ? p->segment : FIX_TOKENS), values = p->n_layer * p->n_kv_head * n * p->d_head;
    for (int64_t k = 0; k < n; k++) s->tokens[k] = (int32_t)rng_below(&r, p->n_vocab);
    for (int64_t k = 0; k < FIX_TOKENS; k++) s->kept[k] = (int32_t)(i + 2 * k);
    if (values > FIX_VALUES) values = 0;
    for (int64_t k = 0; k < values; k++) {
        s->k[k] = (float)rng_uniform(&r) - 0.5f;
        s->v[k] = (float)rng_uniform(&r) * 8;
    }
    s->item = (store_item_t){.address = store_address(p, s->tokens, n, NULL),
                             .n_token = n,
                             .n_row = n,
                             .n_kept = i % 3 == 2 ? 1 + i % 20 : 0, /* some have a list of kept rows */
                             .kept = s->kept,
                             .first_pos = p->n_sink,
                             .tokens = s->tokens,
                             .type = DT_F32,
                             .k = s->k,
                             .v = s->v};
}

/* Drops what does not verify, as the encoder does before it relies on a store. */
static inline status_t fix_verify(const char *dir) {
    store_t *s;
    hash_t bad[1024];
    int64_t n = 0;
    status_t st = store_open(dir, false, &s);
    if (st) return st;
    for (int64_t i = 0; i < store_n_segment(s) && n < 1024; i++)
        if (store_verify(s, store_segment(s, i))) bad[n++] = store_segment(s, i)->address;
    store_close(s);
    return n ? store_drop(dir, bad, n) : ST_OK;
}

static inline status_t fix_documents(const char *dir, const store_profile_t *p, int64_t n) {
    static fix_segment_t s;
    status_t st = ST_OK;
    for (int64_t i = 0; i < n && !st; i += 4) { /* documents of four segments */
        hash_t h[4];
        char id[32];
        int64_t m = n - i < 4 ? n - i : 4;
        for (int64_t k = 0; k < m; k++) {
            fix_segment(p, i + k, &s);
            h[k] = s.item.address;
        }
        snprintf(id, sizeof id, "doc %d \"\xc3\xa9\"\n", (int)(i / 4));
        st = store_add_documents(dir,
                                 &(store_document_t){.id = id,
                                                     .source = "corpus.txt",
                                                     .text_hash = hash_bytes(id, strlen(id)),
                                                     .n_token = 9,
                                                     .n_segment = m,
                                                     .segments = h},
                                 1);
    }
    return st;
}

/* The whole job, resuming what is there: segments 0 .. n, by `writers` ranks in turn. */
static inline status_t fix_encode(const char *dir, const store_profile_t *p, int64_t n, int writers) {
    static fix_segment_t s[8]; /* borrowed by the writers while in flight */
    store_writer_t *w[8] = {0};
    store_t *have = NULL;
    status_t st = store_prepare(dir, p, NULL), end;
    if (!st) st = fix_verify(dir);
    if (!st) st = store_open(dir, false, &have);
    for (int i = 0; i < writers && !st; i++) st = store_writer_open(dir, p, i, &w[i]);
    for (int64_t i = 0; i < n && !st; i++) {
        int at = (int)(i % writers);
        if ((st = store_writer_wait(w[at]))) break;
        fix_segment(p, i, &s[at]);
        if (!store_find(have, s[at].item.address)) st = store_append(w[at], &s[at].item);
    }
    char message[512];
    snprintf(message, sizeof message, "%s", status_message());
    for (int i = 0; i < writers; i++)
        if (w[i] && (end = store_writer_close(w[i])) && !st) {
            st = end;
            snprintf(message, sizeof message, "%s", status_message());
        }
    store_close(have);
    if (!st) return fix_documents(dir, p, n);
    return status_fail(st, "%s", message);
}

/* The same by one writer of several threads, six segments at a time; those that the store holds are written again. */
static inline status_t fix_encode_threads(const char *dir, const store_profile_t *p, int64_t n, int threads) {
    enum { GROUP = 6 };
    static fix_segment_t s[GROUP];
    store_item_t items[GROUP];
    store_writer_t *w = NULL;
    status_t st = store_prepare(dir, p, NULL), end;
    if (!st) st = store_writer_open(dir, p, 0, &w);
    if (!st) st = store_writer_threads(w, threads);
    for (int64_t i = 0; i < n && !st; i += GROUP) {
        int64_t some = i64_min(GROUP, n - i);
        for (int64_t k = 0; k < some; k++) fix_segment(p, i + k, &s[k]), items[k] = s[k].item;
        st = store_append_group(w, items, some);
        if (!st) st = store_writer_wait(w); /* the segments are used again */
    }
    char message[512];
    snprintf(message, sizeof message, "%s", status_message());
    if (w && (end = store_writer_close(w)) && !st) return end;
    return st ? status_fail(st, "%s", message) : fix_documents(dir, p, n);
}

/* The same by threads, of segments whose rows come in three stretches, the middle one last; K/V become known with their stretch alone. */
static inline status_t fix_encode_rows(const char *dir, const store_profile_t *p, int64_t n, int threads) {
    static fix_segment_t s, whole;
    store_writer_t *w = NULL;
    status_t st = store_prepare(dir, p, NULL), end;
    if (!st) st = store_writer_open(dir, p, 0, &w);
    if (!st) st = store_writer_threads(w, threads);
    for (int64_t i = 0; i < n && !st; i++) {
        if ((st = store_writer_wait(w))) break;
        fix_segment(p, i, &whole);
        fix_segment(p, i, &s);
        memset(s.k, 0, sizeof s.k), memset(s.v, 0, sizeof s.v);
        int64_t rows = s.item.n_row, edge[4] = {0, rows / 3, rows - rows / 4, rows}, order[3] = {0, 2, 1};
        st = store_open_segment(w, &s.item);
        for (int x = 0; x < 3 && !st; x++) {
            int64_t first = edge[order[x]], m = edge[order[x] + 1] - first;
            for (int64_t h = 0; h < p->n_layer * p->n_kv_head; h++) {
                int64_t at = (h * rows + first) * p->d_head;
                memcpy(s.k + at, whole.k + at, (size_t)(m * p->d_head) * sizeof *s.k);
                memcpy(s.v + at, whole.v + at, (size_t)(m * p->d_head) * sizeof *s.v);
            }
            int64_t half = x % 2 ? p->n_layer / 2 : 0; /* or the upper layers first */
            store_part_t parts[2] = {{half, p->n_layer - half, first, m}, {0, half, first, m}};
            if (x == 2)
                st = store_close_segment(w, parts, m ? 1 : 0);
            else if (m)
                st = store_part(w, parts[0]);
            if (x == 1 && half && m && !st) st = store_part(w, parts[1]);
        }
    }
    char message[512];
    snprintf(message, sizeof message, "%s", status_message());
    if (w && (end = store_writer_close(w)) && !st) return end;
    return st ? status_fail(st, "%s", message) : fix_documents(dir, p, n);
}

static inline hash_t fix_digest(const char *dir) {
    hash_t h = {0, 0};
    int64_t n;
    status_t st = store_digest(dir, &h, &n);
    CU_ASSERT_EQUAL(st, ST_OK);
    if (st) printf("digest: %s\n", status_message());
    return h;
}

static inline void fix_tell(void *ctx, const char *line) {
    if (ctx) printf("%s: %s\n", (const char *)ctx, line);
}
static inline bool fix_clean(const char *dir, const char *when) {
    return store_check(dir, fix_tell, (void *)(uintptr_t)when, NULL, NULL) == ST_OK;
}

#endif

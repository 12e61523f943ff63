#include <pthread.h>

#include "store/repair.h"
#include "store_fixture.h"

static bool near(float a, float b) { return a - b < 0.01f * (b < 0 ? -b : b) + 1e-6f && b - a < 0.01f * (b < 0 ? -b : b) + 1e-6f; }

/* Same profile and tokens, same address; anything else in it, another one; names and backends are no part of it. */
static void test_address(void) {
    int32_t tokens[] = {1, 2, 3}, other[] = {1, 2, 4}, sink[] = {11, 12, 14};
    store_profile_t p = fix_profile(), q;
    hash_t a = store_address(&p, tokens, 3, NULL), before = {1, 2};
    char hex[HASH_HEX];
    hash_hex(a, hex);
    CU_ASSERT_STRING_EQUAL(hex, "fbb47535be06f2d917b815b4b34f6de6"); /* part of the format: stores on disk depend on it */
    CU_ASSERT(!hash_equal(a, store_address(&p, other, 3, NULL)));
    CU_ASSERT(!hash_equal(a, store_address(&p, tokens, 2, NULL)));
    CU_ASSERT(!hash_equal(a, store_address(&p, tokens, 3, &before)));
    CU_ASSERT(!hash_equal(store_address(&p, tokens, 3, &(hash_t){0, 0}), a));
    q = p, q.backend[0] = 'x', q.model_name[0] = 'x';
    CU_ASSERT(hash_equal(a, store_address(&q, tokens, 3, NULL)));
#define DIFFERS(change)                                                                                                                    \
    q = p, change;                                                                                                                         \
    CU_ASSERT(!hash_equal(a, store_address(&q, tokens, 3, NULL)))
    DIFFERS(q.model_fingerprint[0] = 'f');
    DIFFERS(q.n_layer++);
    DIFFERS(q.n_kv_head++);
    DIFFERS(q.d_head++);
    DIFFERS(q.n_vocab++);
    DIFFERS(q.layout[0] = 'x');
    DIFFERS(q.segment++);
    DIFFERS(q.align[0] = 'x');
    DIFFERS(q.n_sink--);
    DIFFERS(q.sink = sink);
    DIFFERS(q.kv_type = DT_F16);
    DIFFERS(q.act = DT_BF16);
    q = p, q.n_sink = 0, q.sink = NULL;
    CU_ASSERT(!hash_equal(a, store_address(&q, tokens, 3, NULL)));
}

/* What was put in comes out, in every stored type and with sizes that need padding. */
static void test_round_trip(void) {
    static fix_segment_t s;
    const dtype_t types[] = {DT_F32, DT_F16, DT_BF16};
    const int64_t heads[] = {8, 5};
    for (int t = 0; t < 6; t++) {
        char dir[FIX_PATH];
        store_profile_t p = fix_profile();
        store_writer_t *w;
        store_t *r;
        int64_t repaired = 9, n_segment, n_bytes;
        p.kv_type = types[t % 3];
        p.d_head = heads[t / 3];
        fix_dir(dir);
        CU_ASSERT_EQUAL(store_prepare(dir, &p, &repaired), ST_OK);
        CU_ASSERT_EQUAL(repaired, 0);
        CU_ASSERT_EQUAL(store_writer_open(dir, &p, 3, &w), ST_OK);
        for (int64_t i = 0; i < 20; i++) {
            CU_ASSERT_EQUAL(store_writer_wait(w), ST_OK);
            fix_segment(&p, i, &s);
            CU_ASSERT_EQUAL(store_append(w, &s.item), ST_OK);
        }
        CU_ASSERT_EQUAL(store_writer_wait(w), ST_OK);
        CU_ASSERT(store_writer_bytes(w) > 0);
        CU_ASSERT_EQUAL(store_open(dir, false, &r), ST_OK); /* beside a writer */
        CU_ASSERT_EQUAL(store_n_segment(r), 20);
        CU_ASSERT_EQUAL(store_writer_close(w), ST_OK);
        for (int64_t i = 0; i < 20; i++) {
            const int32_t *tokens;
            const void *k, *v;
            fix_segment(&p, i, &s);
            const store_segment_t *g = store_find(r, s.item.address);
            CU_ASSERT_PTR_NOT_NULL_FATAL(g);
            CU_ASSERT(g->n_row == s.item.n_row && g->n_token == s.item.n_token && g->first_pos == 3);
            CU_ASSERT_EQUAL_FATAL(store_map(r, g, &tokens, &k, &v), ST_OK);
            CU_ASSERT_EQUAL(((uintptr_t)tokens | (uintptr_t)k | (uintptr_t)v) % 64, 0);
            CU_ASSERT(!memcmp(tokens, s.tokens, (size_t)g->n_token * 4));
            CU_ASSERT_EQUAL_FATAL(store_map_kept(r, g, &tokens), ST_OK);
            CU_ASSERT(g->n_kept == s.item.n_kept && !tokens == !g->n_kept);
            CU_ASSERT(!g->n_kept || !memcmp(tokens, s.kept, (size_t)g->n_kept * 4));
            int64_t n = p.n_layer * g->n_row * p.d_head;
            float *back = malloc((size_t)n * 4);
            dtype_convert(DT_F32, back, p.kv_type, k, (size_t)n);
            for (int64_t j = 0; j < n; j++) CU_ASSERT(near(back[j], s.k[j]));
            dtype_convert(DT_F32, back, p.kv_type, v, (size_t)n);
            for (int64_t j = 0; j < n; j++) CU_ASSERT(near(back[j], s.v[j]));
            free(back);
            CU_ASSERT_EQUAL(store_verify(r, g), ST_OK);
        }
        for (int64_t i = 1; i < 20; i++) CU_ASSERT(hash_compare(store_segment(r, i - 1)->address, store_segment(r, i)->address) < 0);
        CU_ASSERT_PTR_NULL(store_find(r, (hash_t){1, 1}));
        store_close(r);
        CU_ASSERT_EQUAL(store_check(dir, fix_tell, "round trip", &n_segment, &n_bytes), ST_OK);
        CU_ASSERT(n_segment == 20 && n_bytes > 0);
        fix_remove(dir);
    }
    CU_ASSERT_EQUAL(mem_now_bytes(), 0);
}

/* One writer, three writers, two runs: equal digests. A copy in two files counts once. */
static void test_digest(void) {
    char a[FIX_PATH], b[FIX_PATH], c[FIX_PATH];
    store_profile_t p = fix_profile();
    int64_t n;
    hash_t h;
    fix_dir(a), fix_dir(b), fix_dir(c);
    CU_ASSERT_EQUAL(fix_encode(a, &p, 30, 1), ST_OK);
    CU_ASSERT_EQUAL(fix_encode(b, &p, 30, 3), ST_OK);
    CU_ASSERT_EQUAL(fix_encode(c, &p, 11, 2), ST_OK);
    CU_ASSERT(!hash_equal(fix_digest(a), fix_digest(c)));
    CU_ASSERT_EQUAL(fix_encode(c, &p, 30, 4), ST_OK);
    CU_ASSERT(hash_equal(fix_digest(a), fix_digest(b)));
    CU_ASSERT(hash_equal(fix_digest(a), fix_digest(c)));
    static fix_segment_t s; /* once more, by a writer that does not look */
    store_writer_t *w;
    CU_ASSERT_EQUAL(store_writer_open(c, &p, 2, &w), ST_OK);
    fix_segment(&p, 7, &s);
    CU_ASSERT_EQUAL(store_append(w, &s.item), ST_OK);
    CU_ASSERT_EQUAL(store_writer_close(w), ST_OK);
    CU_ASSERT_EQUAL(store_digest(c, &h, &n), ST_OK);
    CU_ASSERT(n == 30 && hash_equal(h, fix_digest(a)));
    CU_ASSERT(fix_clean(c, "copies"));
    int64_t removed = -1, freed = -1;
    CU_ASSERT_EQUAL(store_prune(c, &removed, &freed), ST_OK);
    CU_ASSERT(removed == 1 && freed > 0 && hash_equal(h, fix_digest(c)));
    fix_remove(a), fix_remove(b), fix_remove(c);
}

/* A finished store is not touched by the next run, nor by a second prepare. */
static void test_again(void) {
    char dir[FIX_PATH], path[FIX_PATH + 160], before[FIX_FILES][FIX_NAME], after[FIX_FILES][FIX_NAME];
    store_profile_t p = fix_profile();
    int64_t bytes = 0, repaired;
    fix_dir(dir);
    CU_ASSERT_EQUAL(fix_encode(dir, &p, 30, 2), ST_OK);
    int n = fix_list(dir, before);
    for (int i = 0; i < n; i++) fix_path(path, dir, before[i]), bytes += fix_size(path);
    CU_ASSERT_EQUAL(n, 6);
    CU_ASSERT_EQUAL(store_prepare(dir, &p, &repaired), ST_OK);
    CU_ASSERT_EQUAL(repaired, 0);
    CU_ASSERT_EQUAL(fix_encode(dir, &p, 30, 3), ST_OK);
    CU_ASSERT_EQUAL(fix_list(dir, after), n);
    for (int i = 0; i < n; i++) {
        fix_path(path, dir, after[i]);
        bytes -= fix_size(path);
        CU_ASSERT_STRING_EQUAL(before[i], after[i]);
    }
    CU_ASSERT_EQUAL(bytes, 0);
    fix_remove(dir);
}

/* More segments than fit one file. */
static void test_rotation(void) {
    char dir[FIX_PATH], names[FIX_FILES][FIX_NAME];
    store_profile_t p = fix_profile();
    fix_dir(dir);
    CU_ASSERT_EQUAL(fix_encode(dir, &p, 600, 1), ST_OK);
    CU_ASSERT_EQUAL(fix_list(dir, names), 2 + 2 * 3);
    CU_ASSERT(fix_clean(dir, "rotation"));
    fix_remove(dir);
}

static void test_wrong_profile(void) {
    static const struct {
        const char *words[3];
    } say[] = {{{"model", "0011", "f011"}},       {{"layers", " 2", " 3"}},      {{"--layout", "pce", "xce"}},
               {{"--segment", "64", "65"}},       {{"--align", "even", "xven"}}, {{"sink", " 3", " 2"}},
               {{"sink", "token 2 is 13", "14"}}, {{"K/V type", "bf16", "f16"}}, {{"--dtype", "f32", "bf16"}},
               {{"vocabulary", "1000", "1001"}},  {{"K/V heads", " 1", " 2"}},   {{"head size", " 8", " 9"}}};
    char dir[FIX_PATH];
    store_profile_t p = fix_profile(), q[12];
    int32_t sink[] = {11, 12, 14};
    for (int i = 0; i < 12; i++) q[i] = p;
    q[0].model_fingerprint[0] = 'f', q[1].n_layer = 3, q[2].layout[0] = 'x', q[3].segment = 65, q[4].align[0] = 'x', q[5].n_sink = 2,
    q[6].sink = sink;
    q[7].kv_type = DT_F16, q[8].act = DT_BF16, q[9].n_vocab = 1001, q[10].n_kv_head = 2, q[11].d_head = 9;
    fix_dir(dir);
    CU_ASSERT_EQUAL(store_prepare(dir, &p, NULL), ST_OK);
    CU_ASSERT_EQUAL(store_prepare(dir, &p, NULL), ST_OK);
    for (int i = 0; i < 12; i++) {
        CU_ASSERT_EQUAL(store_prepare(dir, &q[i], NULL), ST_INPUT);
        for (int k = 0; k < 3; k++) CU_ASSERT_PTR_NOT_NULL(strstr(status_message(), say[i].words[k]));
        CU_ASSERT_PTR_NOT_NULL(strstr(status_message(), dir));
    }
    q[0] = p, strcpy(q[0].backend, "cuda"), strcpy(q[0].model_name, "another name");
    CU_ASSERT_EQUAL(store_prepare(dir, &q[0], NULL), ST_OK);
    store_t *s;
    CU_ASSERT_EQUAL(store_open(dir, false, &s), ST_OK);
    const store_profile_t *r = store_profile(s);
    CU_ASSERT_STRING_EQUAL(r->model_name, "tiny");
    CU_ASSERT_STRING_EQUAL(r->backend, "ref");
    CU_ASSERT(r->n_sink == 3 && r->sink[2] == 13 && r->kv_type == DT_BF16 && r->act == DT_F32 && r->segment == 64);
    store_close(s);
    q[0] = p, q[0].d_head = 0;
    CU_ASSERT_EQUAL(store_prepare(dir, &q[0], NULL), ST_INPUT);
    CU_ASSERT_EQUAL(store_open("/nonexistent/store", false, &s), ST_INPUT);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_message(), "/nonexistent/store"));
    CU_ASSERT_EQUAL(store_check("/nonexistent/store", NULL, NULL, NULL, NULL), ST_INPUT);
    fix_remove(dir);
}

static status_t add(const char *dir, const char *id, uint64_t text, const hash_t *segments, int64_t n) {
    store_document_t d = {
        .id = (char *)(uintptr_t)id, .source = "s", .text_hash = {text, 0}, .n_token = n, .n_segment = n, .segments = segments};
    return store_add_documents(dir, &d, 1);
}

static void test_documents(void) {
    char dir[FIX_PATH], path[FIX_PATH + 160];
    store_profile_t p = fix_profile();
    store_t *s;
    const hash_t h[3] = {{1, 2}, {3, 4}, {5, 6}};
    fix_dir(dir);
    fix_path(path, dir, "documents.jsonl");
    CU_ASSERT_EQUAL(store_prepare(dir, &p, NULL), ST_OK);
    CU_ASSERT_EQUAL(store_add_documents(dir, NULL, 0), ST_OK);
    CU_ASSERT_EQUAL(fix_size(path), -1);
    CU_ASSERT_EQUAL(add(dir, "a", 1, h, 2), ST_OK);
    CU_ASSERT_EQUAL(add(dir, "b \"\\\n\t\xc3\xa9 \xff", 2, h + 1, 2), ST_OK);
    CU_ASSERT_EQUAL(add(dir, "", 3, NULL, 0), ST_OK);
    int64_t size = fix_size(path);
    CU_ASSERT_EQUAL(add(dir, "a", 1, h, 2), ST_OK); /* nothing new, also under an id that was no UTF-8 */
    CU_ASSERT_EQUAL(add(dir, "b \"\\\n\t\xc3\xa9 \xff", 2, h + 1, 2), ST_OK);
    CU_ASSERT_EQUAL(fix_size(path), size);
    CU_ASSERT_EQUAL(add(dir, "a", 7, h, 3), ST_OK);
    CU_ASSERT(fix_size(path) > size);
    store_document_t batch[3] = {{.id = "c", .source = "s", .n_token = 1},
                                 {.id = "a", .source = "s", .n_token = 2},
                                 {.id = "c", .source = "s", .n_token = 3}};
    CU_ASSERT_EQUAL(store_add_documents(dir, batch, 3), ST_OK);
    CU_ASSERT_EQUAL(store_open(dir, false, &s), ST_OK);
    CU_ASSERT_EQUAL_FATAL(store_n_document(s), 4);
    CU_ASSERT_STRING_EQUAL(store_document(s, 0)->id, "a");
    CU_ASSERT(store_document(s, 0)->n_token == 2 && store_document(s, 0)->n_segment == 0);
    CU_ASSERT_STRING_EQUAL(store_document(s, 1)->id, "b \"\\\n\t\xc3\xa9 \xef\xbf\xbd");
    CU_ASSERT(store_document(s, 1)->n_segment == 2 && hash_equal(store_document(s, 1)->segments[1], h[2]) &&
              store_document(s, 1)->text_hash.lo == 2);
    CU_ASSERT_STRING_EQUAL(store_document(s, 2)->id, "");
    CU_ASSERT(store_document(s, 3)->n_token == 3);
    CU_ASSERT_PTR_NULL(store_document(s, 4));
    store_close(s);
    size = fix_size(path);
    for (int64_t cut = size - 1; cut > size - 60; cut--) { /* a torn tail is cut off by the next record */
        CU_ASSERT_EQUAL(truncate(path, cut), 0);
        CU_ASSERT(fix_clean(dir, "torn documents"));
        CU_ASSERT_EQUAL(store_add_documents(dir, batch, 3), ST_OK);
        CU_ASSERT_EQUAL(fix_size(path), size);
    }
    fix_remove(dir);
}

/* Edited documents leave segments behind; prune removes those and no other. */
static void test_prune(void) {
    static fix_segment_t s;
    char dir[FIX_PATH], small[FIX_PATH];
    store_profile_t p = fix_profile();
    store_t *r;
    hash_t kept[10];
    int64_t removed, freed;
    fix_dir(dir), fix_dir(small);
    CU_ASSERT_EQUAL(store_prepare(dir, &p, NULL), ST_OK);
    store_writer_t *w;
    CU_ASSERT_EQUAL(store_writer_open(dir, &p, 0, &w), ST_OK);
    for (int64_t i = 0; i < 10; i++) {
        fix_segment(&p, i, &s);
        kept[i] = s.item.address;
        CU_ASSERT_EQUAL(store_append(w, &s.item), ST_OK);
        CU_ASSERT_EQUAL(store_writer_wait(w), ST_OK);
    }
    CU_ASSERT_EQUAL(store_writer_close(w), ST_OK);
    CU_ASSERT_EQUAL(store_prune(dir, &removed, &freed), ST_INPUT); /* not before documents are known */
    CU_ASSERT_EQUAL(add(dir, "a", 1, kept + 5, 5), ST_OK);
    CU_ASSERT_EQUAL(add(dir, "b", 1, kept + 2, 2), ST_OK);
    CU_ASSERT_EQUAL(add(dir, "a", 2, kept, 1), ST_OK);
    CU_ASSERT_EQUAL(add(dir, "c", 1, kept + 9, 1), ST_OK);
    CU_ASSERT_EQUAL(store_prune(dir, &removed, &freed), ST_OK);
    CU_ASSERT(removed == 6 && freed > 0);
    CU_ASSERT(fix_clean(dir, "pruned"));
    CU_ASSERT_EQUAL(store_open(dir, false, &r), ST_OK);
    CU_ASSERT_EQUAL(store_n_segment(r), 4);
    CU_ASSERT_EQUAL(store_n_document(r), 3);
    for (int i = 0; i < 10; i++) CU_ASSERT_EQUAL(store_find(r, kept[i]) != NULL, i == 0 || i == 2 || i == 3 || i == 9);
    store_close(r);
    CU_ASSERT_EQUAL(store_prepare(small, &p, NULL), ST_OK);
    CU_ASSERT_EQUAL(store_writer_open(small, &p, 5, &w), ST_OK);
    for (int64_t i = 9; i >= 0; i--) {
        if (!(i == 0 || i == 2 || i == 3 || i == 9)) continue;
        CU_ASSERT_EQUAL(store_writer_wait(w), ST_OK);
        fix_segment(&p, i, &s);
        CU_ASSERT_EQUAL(store_append(w, &s.item), ST_OK);
    }
    CU_ASSERT_EQUAL(store_writer_close(w), ST_OK);
    CU_ASSERT(hash_equal(fix_digest(dir), fix_digest(small)));
    CU_ASSERT_EQUAL(store_prune(dir, &removed, &freed), ST_OK);
    CU_ASSERT(removed == 0 && freed == 0);
    CU_ASSERT_EQUAL(store_drop(dir, kept, 10), ST_OK); /* all of it */
    CU_ASSERT(fix_clean(dir, "dropped"));
    CU_ASSERT_EQUAL(store_open(dir, false, &r), ST_OK);
    CU_ASSERT_EQUAL(store_n_segment(r), 0);
    store_close(r);
    fix_remove(dir), fix_remove(small);
}

/* Threads of one writer: the same store in more files, one or more each. */
static void test_threads(void) {
    char dir[FIX_PATH], other[FIX_PATH];
    store_profile_t p = fix_profile();
    folder_t f;
    fix_dir(dir), fix_dir(other);
    CU_ASSERT_EQUAL(fix_encode(dir, &p, 20, 1), ST_OK);
    for (int threads = 1; threads <= 8; threads *= 2) {
        CU_ASSERT_EQUAL(fix_encode_threads(other, &p, 20, threads), ST_OK);
        CU_ASSERT(fix_clean(other, "threads"));
        CU_ASSERT(hash_equal(fix_digest(dir), fix_digest(other)));
        CU_ASSERT_EQUAL_FATAL(folder_list(other, &f), ST_OK);
        CU_ASSERT_EQUAL(f.n_file, threads < 6 ? threads : 6); /* of six segments at a time */
        folder_free(&f);
        fix_remove(other);
        CU_ASSERT_EQUAL(mkdir(other, 0755), 0);
    }
    fix_remove(dir), fix_remove(other);
}

/* Rows that come little by little, of segments converted or not: the same bytes. A segment that is opened and not closed is not there, and
 * one with rows missing is refused. */
static void test_rows(void) {
    static fix_segment_t s;
    char dir[FIX_PATH], other[FIX_PATH];
    store_profile_t p = fix_profile();
    store_writer_t *w;
    int64_t n;
    hash_t h;
    for (int t = 0; t < 4; t++) {
        p.kv_type = t % 2 ? DT_BF16 : DT_F32;
        p.d_head = t / 2 ? 5 : 8;
        p.n_layer = 16;
        fix_dir(dir), fix_dir(other);
        CU_ASSERT_EQUAL(fix_encode(dir, &p, 20, 1), ST_OK);
        CU_ASSERT_EQUAL(fix_encode_rows(other, &p, 20, 1 + t), ST_OK);
        CU_ASSERT(fix_clean(other, "rows"));
        CU_ASSERT(hash_equal(fix_digest(dir), fix_digest(other)));
        CU_ASSERT_EQUAL(store_writer_open(other, &p, 0, &w), ST_OK);
        fix_segment(&p, 30, &s);
        CU_ASSERT_EQUAL(store_open_segment(w, &s.item), ST_OK);
        CU_ASSERT_EQUAL(store_part(w, (store_part_t){0, p.n_layer, 0, s.item.n_row - 1}), ST_OK);
        if (t == 3) {
            CU_ASSERT_EQUAL(store_close_segment(w, NULL, 0), ST_OK);
            CU_ASSERT_EQUAL(store_writer_wait(w), ST_FAIL);
            CU_ASSERT_PTR_NOT_NULL(strstr(status_message(), "rows of all layers, of which"));
        } else if (t == 2) {
            fix_segment(&p, 7, &s); /* another takes its place */
            CU_ASSERT_EQUAL(store_append(w, &s.item), ST_OK);
        }
        CU_ASSERT_EQUAL(store_writer_close(w), t == 3 ? ST_FAIL : ST_OK);
        CU_ASSERT(fix_clean(other, "rows that did not come"));
        CU_ASSERT_EQUAL(store_digest(other, &h, &n), ST_OK);
        CU_ASSERT(n == 20 && hash_equal(h, fix_digest(dir)));
        fix_remove(dir), fix_remove(other);
    }
    CU_ASSERT_EQUAL(mem_now_bytes(), 0);
}

/* A segment of many pieces, by any number of threads: its checksum is that of its bytes, which are the same. */
static void test_large(void) {
    store_profile_t p = fix_profile();
    enum { ROWS = 3001, VALUES = ROWS * 16 * 2 * 24 };
    float *k = malloc(VALUES * sizeof *k), *v = malloc(VALUES * sizeof *v);
    int32_t *tokens = malloc(ROWS * sizeof *tokens);
    hash_t first[2] = {{0, 0}, {0, 0}};
    p.n_layer = 16, p.n_kv_head = 2, p.d_head = 24, p.segment = ROWS;
    for (int i = 0; i < VALUES; i++) k[i] = (float)i, v[i] = (float)(i % 1000);
    for (int i = 0; i < ROWS; i++) tokens[i] = i % 1000;
    store_item_t item = {
        .address = store_address(&p, tokens, ROWS, NULL), .n_token = ROWS, .n_row = ROWS, .tokens = tokens, .type = DT_F32, .k = k, .v = v};
    for (int t = 0; t < 12; t++) {
        char dir[FIX_PATH];
        store_writer_t *w;
        int converted = t % 2;
        p.kv_type = converted ? DT_BF16 : DT_F32;
        item.address = store_address(&p, tokens, ROWS, NULL);
        fix_dir(dir);
        CU_ASSERT_EQUAL(store_prepare(dir, &p, NULL), ST_OK);
        CU_ASSERT_EQUAL_FATAL(store_writer_open(dir, &p, 0, &w), ST_OK);
        CU_ASSERT_EQUAL(store_writer_threads(w, 1 + t / 4), ST_OK);
        if (t / 2 % 2) {
            CU_ASSERT_EQUAL(store_open_segment(w, &item), ST_OK);
            store_part_t last[2] = {{0, 16, 2000, 1}, {0, 16, 2001, ROWS - 2001}};
            for (int at = 0; at < 2000; at += 1000) CU_ASSERT_EQUAL(store_part(w, (store_part_t){0, 16, at, 1000}), ST_OK);
            CU_ASSERT_EQUAL(store_close_segment(w, last, 2), ST_OK);
        } else {
            CU_ASSERT_EQUAL(store_append(w, &item), ST_OK);
        }
        CU_ASSERT_EQUAL(store_writer_close(w), ST_OK);
        CU_ASSERT(fix_clean(dir, "large"));
        if (t < 2) first[converted] = fix_digest(dir);
        CU_ASSERT(hash_equal(fix_digest(dir), first[converted]));
        fix_remove(dir);
    }
    free(k), free(v), free(tokens);
}

/* Killed while its threads write: what is committed is whole, in every thread's file, and the next run completes the store. */
static void test_killed(void) {
    char dir[FIX_PATH], alone[FIX_PATH];
    store_profile_t p = fix_profile();
    store_t *s;
    int status, between = 0;
    p.n_layer = 16;
    fix_dir(alone);
    CU_ASSERT_EQUAL(fix_encode(alone, &p, 240, 1), ST_OK);
    for (int k = 0; k < 24; k++) {
        fix_dir(dir);
        pid_t child = fork();
        if (!child) _exit((k % 2 ? fix_encode_threads : fix_encode_rows)(dir, &p, 240, 4));
        usleep((useconds_t)(1000 * (k + 1)));
        kill(child, SIGKILL);
        waitpid(child, &status, 0);
        int64_t had = 0;
        if (store_open(dir, false, &s) == ST_OK) {
            had = store_n_segment(s);
            for (int64_t i = 0; i < had; i++) CU_ASSERT_EQUAL(store_verify(s, store_segment(s, i)), ST_OK);
            store_close(s);
        }
        between += had > 0 && had < 240;
        CU_ASSERT_EQUAL(fix_encode(dir, &p, 240, 1), ST_OK);
        CU_ASSERT(fix_clean(dir, "killed"));
        CU_ASSERT(hash_equal(fix_digest(alone), fix_digest(dir)));
        fix_remove(dir);
    }
    printf("store: killed %d times between the first segment and the last\n", between);
    fix_remove(alone);
}

static void *close_later(void *w) {
    usleep(100000);
    CU_ASSERT_EQUAL(store_writer_close(w), ST_OK);
    return NULL;
}

/* A second run beside a live writer is told so, after it has waited a little. */
static void test_busy(void) {
    static fix_segment_t s;
    char dir[FIX_PATH];
    store_profile_t p = fix_profile();
    store_writer_t *w;
    pthread_t thread;
    int64_t repaired = 9;
    fix_dir(dir);
    CU_ASSERT_EQUAL(store_prepare(dir, &p, NULL), ST_OK);
    CU_ASSERT_EQUAL(store_writer_open(dir, &p, 0, &w), ST_OK);
    fix_segment(&p, 1, &s);
    CU_ASSERT_EQUAL(store_append(w, &s.item), ST_OK);
    CU_ASSERT_EQUAL(store_writer_wait(w), ST_OK);
    CU_ASSERT_EQUAL(store_check_idle(dir, 0), ST_FAIL);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_message(), "rank0000-000001.index is being written by another run"));
    CU_ASSERT_EQUAL(pthread_create(&thread, NULL, close_later, w), 0);
    CU_ASSERT_EQUAL(store_prepare(dir, &p, &repaired), ST_OK); /* waits for it */
    CU_ASSERT_EQUAL(repaired, 0);
    pthread_join(thread, NULL);
    fix_remove(dir);
}

static pid_t writer_start(const char *dir, const store_profile_t *p, int writer, int64_t n) {
    pid_t child = fork();
    if (child) return child;
    static fix_segment_t s[2];
    store_writer_t *w;
    if (store_writer_open(dir, p, writer, &w)) _exit(1);
    for (int64_t i = writer; i < n; i += 2) {
        fix_segment(p, i, &s[i / 2 % 2]); /* the next is made while one is written */
        if (store_append(w, &s[i / 2 % 2].item)) _exit(1);
    }
    _exit(store_writer_close(w));
}

/* Two processes write; a third opens, verifies and checks all the while and never finds fault. */
static void test_side_by_side(void) {
    char dir[FIX_PATH], alone[FIX_PATH];
    store_profile_t p = fix_profile();
    store_t *s;
    int64_t last = 0;
    int status, looks = 0, left = 2;
    fix_dir(dir), fix_dir(alone);
    p.n_layer = 16;
    CU_ASSERT_EQUAL(store_prepare(dir, &p, NULL), ST_OK);
    writer_start(dir, &p, 0, 600), writer_start(dir, &p, 1, 600);
    while (left) {
        if (waitpid(-1, &status, WNOHANG) > 0) {
            left--;
            CU_ASSERT_EQUAL(status, 0);
        }
        CU_ASSERT_EQUAL_FATAL(store_open(dir, false, &s), ST_OK);
        CU_ASSERT(store_n_segment(s) >= last);
        last = store_n_segment(s);
        for (int64_t i = 0; i < last; i += 7) CU_ASSERT_EQUAL(store_verify(s, store_segment(s, i)), ST_OK);
        store_close(s);
        CU_ASSERT(fix_clean(dir, "side by side"));
        looks++;
    }
    CU_ASSERT_EQUAL(fix_encode(alone, &p, 600, 1), ST_OK);
    CU_ASSERT(hash_equal(fix_digest(dir), fix_digest(alone)));
    printf("store: looked %d times beside two writers\n", looks);
    fix_remove(dir), fix_remove(alone);
}

/* Every allocation fails in turn: a clean refusal, nothing lost, nothing leaked. `fresh`: each time into an empty folder, since what is
 * stored is written again. */
static void torture(status_t (*encode)(const char *, const store_profile_t *, int64_t, int), int many, bool fresh) {
    char dir[FIX_PATH];
    store_profile_t p = fix_profile();
    fix_dir(dir);
    int n = 1;
    for (status_t st = ST_FAIL; st && n < 5000; n++) {
        if (fresh) fix_empty(dir);
        mem_fail_at(n);
        st = encode(dir, &p, 9, many);
        mem_fail_at(0);
        CU_ASSERT(st == ST_OK || st == ST_FAIL);
        CU_ASSERT(fix_clean(dir, "torture"));
        CU_ASSERT_EQUAL(mem_now_bytes(), 0);
    }
    CU_ASSERT(n > 20 && n < 5000);
    fix_remove(dir);
}

static void test_torture(void) {
    log_setup(0, 1, LOG_ERROR);
    torture(fix_encode, 2, false);
    torture(fix_encode_threads, 4, true);
    torture(fix_encode_rows, 4, true);
    log_setup(0, 1, LOG_INFO);
}

UNIT_MAIN("store", {"address", test_address}, {"round_trip", test_round_trip}, {"digest", test_digest}, {"again", test_again},
          {"rotation", test_rotation}, {"wrong_profile", test_wrong_profile}, {"documents", test_documents}, {"prune", test_prune},
          {"threads", test_threads}, {"rows", test_rows}, {"large", test_large}, {"killed", test_killed}, {"busy", test_busy},
          {"side_by_side", test_side_by_side}, {"torture", test_torture})

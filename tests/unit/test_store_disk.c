/* A full disk, many segments, and the bytes of the format. */
#include <errno.h>
#include <stdlib.h>
#include <sys/mount.h>

#include "store/index.h"
#include "store_fixture.h"

/* A mount of `kib` KiB, or a reason to skip. */
static bool small_disk(const char *dir, int kib) {
    char options[32];
    snprintf(options, sizeof options, "size=%dk", kib);
    if (!mount("tmpfs", dir, "tmpfs", 0, options)) return true;
    printf("store: full disk skipped: cannot mount a small tmpfs (%s)\n", strerror(errno));
    return false;
}

/* On a full disk: words about space, what was committed stays, and with more room the job finishes as if nothing had been. The disk is full
 * at many different places. */
static void test_full(void) {
    char dir[FIX_PATH], whole[FIX_PATH], store[FIX_PATH + 160], options[32];
    store_profile_t p = fix_profile();
    hash_t want, got;
    store_t *s;
    fix_dir(dir), fix_dir(whole);
    p.n_layer = 8;
    CU_ASSERT_EQUAL(fix_encode(whole, &p, 40, 2), ST_OK);
    want = fix_digest(whole);
    for (int kib = 4; kib < 900; kib += kib < 300 ? 20 : 60) {
        if (!small_disk(dir, kib)) break;
        fix_path(store, dir, "store");
        status_t st = fix_encode(store, &p, 40, 2);
        CU_ASSERT(st == ST_FAIL && strstr(status_message(), "no space left on"));
        CU_ASSERT(file_is_dir(store) == false || fix_clean(store, "full"));
        st = fix_encode(store, &p, 40, 2); /* still full */
        CU_ASSERT(st == ST_FAIL && strstr(status_message(), "no space left on"));
        int64_t had = 0;
        if (store_open(store, false, &s) == ST_OK) had = store_n_segment(s), store_close(s);
        CU_ASSERT(had > 0 || kib < 700);
        snprintf(options, sizeof options, "size=%dk", 16 << 10);
        CU_ASSERT_EQUAL(mount("tmpfs", dir, "tmpfs", MS_REMOUNT, options), 0);
        CU_ASSERT_EQUAL(fix_encode(store, &p, 40, 2), ST_OK);
        CU_ASSERT(fix_clean(store, "no longer full"));
        CU_ASSERT_EQUAL(store_digest(store, &got, NULL), ST_OK);
        CU_ASSERT(hash_equal(want, got));
        CU_ASSERT_EQUAL(umount2(dir, MNT_DETACH), 0);
    }
    fix_remove(whole);
    rmdir(dir);
}

/* The same with threads, each of which writes files of its own: the first to fail is told, and what the others committed stays. */
static void test_full_threads(void) {
    char dir[FIX_PATH], whole[FIX_PATH], store[FIX_PATH + 160];
    store_profile_t p = fix_profile();
    store_t *s;
    fix_dir(dir), fix_dir(whole);
    p.n_layer = 8;
    CU_ASSERT_EQUAL(fix_encode(whole, &p, 40, 2), ST_OK);
    for (int kib = 300; kib < 1800; kib += 100) {
        if (!small_disk(dir, kib)) break;
        fix_path(store, dir, "store");
        bool rows = kib / 100 % 2; /* one file */
        status_t st = (rows ? fix_encode_rows : fix_encode_threads)(store, &p, 40, 3);
        CU_ASSERT(st == ST_OK || (st == ST_FAIL && strstr(status_message(), "no space left on")));
        CU_ASSERT(st == ST_FAIL || kib > (rows ? 500 : 1000));
        CU_ASSERT(fix_clean(store, "full"));
        int64_t had = 0;
        if (store_open(store, false, &s) == ST_OK) had = store_n_segment(s), store_close(s);
        CU_ASSERT(st == ST_OK ? had == 40 : had < 40);
        CU_ASSERT_EQUAL(mount("tmpfs", dir, "tmpfs", MS_REMOUNT, "size=16384k"), 0);
        CU_ASSERT_EQUAL(fix_encode(store, &p, 40, 2), ST_OK);
        CU_ASSERT(fix_clean(store, "no longer full"));
        CU_ASSERT(hash_equal(fix_digest(whole), fix_digest(store)));
        CU_ASSERT_EQUAL(umount2(dir, MNT_DETACH), 0);
    }
    fix_remove(whole);
    rmdir(dir);
}

/* A store of 10,000 segments opens in well under a second. */
static void test_many(void) {
    char dir[FIX_PATH];
    store_profile_t p = fix_profile();
    store_writer_t *w;
    store_t *s;
    static int32_t tokens[4];
    static float zeros[64];
    const int64_t n = 10000;
    p.n_layer = 1;
    fix_dir(dir);
    CU_ASSERT_EQUAL(store_prepare(dir, &p, NULL), ST_OK);
    CU_ASSERT_EQUAL(store_writer_open(dir, &p, 0, &w), ST_OK);
    for (int64_t i = 0; i < n; i++) {
        CU_ASSERT_EQUAL(store_writer_wait(w), ST_OK);
        tokens[0] = (int32_t)i;
        store_item_t item = {.address = store_address(&p, tokens, 4, NULL),
                             .n_token = 4,
                             .n_row = 4,
                             .tokens = tokens,
                             .type = DT_F32,
                             .k = zeros,
                             .v = zeros};
        CU_ASSERT_EQUAL(store_append(w, &item), ST_OK);
    }
    CU_ASSERT_EQUAL(store_writer_close(w), ST_OK);
    double t0 = clock_s();
    CU_ASSERT_EQUAL_FATAL(store_open(dir, false, &s), ST_OK);
    double t1 = clock_s();
    CU_ASSERT_EQUAL(store_n_segment(s), n);
    for (int64_t i = 0; i < n; i++) {
        tokens[0] = (int32_t)i;
        CU_ASSERT_PTR_NOT_NULL(store_find(s, store_address(&p, tokens, 4, NULL)));
    }
    store_close(s);
    printf("store: %d segments opened in %.1f ms\n", (int)n, (t1 - t0) * 1e3);
    CU_ASSERT(t1 - t0 < 1.0);
    fix_remove(dir);
}

/* A hash by sums of blocks, made in any order, is the library's. */
static void test_hash(void) {
    enum { MOST = 70 << 10, BLOCKS = MOST / HASH_BLOCK };
    static unsigned char bytes[MOST];
    static hash_sum_t sums[BLOCKS];
    rng_t r = {5};
    for (int i = 0; i < MOST; i++) bytes[i] = (unsigned char)rng_below(&r, 256);
    for (size_t n = 256; n <= MOST; n += n < 5000 ? HASH_STRIPE : HASH_STRIPE * 37) {
        size_t last = (n - 1) / HASH_BLOCK, body = n - HASH_STRIPE, cut = body / 3 / HASH_STRIPE * HASH_STRIPE, block = cut / HASH_BLOCK;
        hash_chain_t chain;
        memset(sums, 0, sizeof sums);
        hash_sum(sums + block, cut - block * HASH_BLOCK, bytes + cut, body - cut);
        hash_sum(sums, 0, bytes, cut);
        hash_chain_begin(&chain);
        hash_chain_add(&chain, sums, last / 2);
        hash_chain_add(&chain, sums + last / 2, last - last / 2);
        CU_ASSERT(hash_equal(hash_chain_end(&chain, &sums[last], bytes + body, n), hash_bytes(bytes, n)));
    }
}

/* The bytes of the format, so that no change of the code changes it unnoticed. */
static void test_format(void) {
    store_profile_t p = fix_profile();
    store_segment_t s = {
        .address = {2, 1}, .n_row = 3, .n_token = 3, .first_pos = 4, .checksum = {4, 3}, .tokens_offset = DATA_HEADER_BYTES};
    segment_size_t size;
    char line[INDEX_LINE_MAX], *header;
    CU_ASSERT(segment_size(&p, 3, 3, 0, &size));
    CU_ASSERT(size.token_rows == 16 && size.kv == 96 && size.pad == 32 && size.total == 64 + 2 * 128);
    segment_place(&size, &s);
    CU_ASSERT(s.k_offset == s.tokens_offset + 64 && s.v_offset == s.k_offset + 128);
    line[index_segment_line(&p, &s, line)] = 0;
    CU_ASSERT_STRING_EQUAL(
        line, "{\"address\":\"00000000000000010000000000000002\",\"tokens\":3,\"rows\":3,\"pos\":4,\"offset\":262144,\"bytes\":320,"
              "\"checksum\":\"00000000000000030000000000000004\",\"xxh3\":\"f1ba35171ad34a381057843480c2f509\"}\n");
    s.n_kept = 6; /* blockselect's list of kept rows */
    CU_ASSERT(segment_size(&p, 3, 3, 6, &size) && size.kept_rows == 16 && size.total == 2 * 64 + 2 * 128);
    segment_place(&size, &s);
    CU_ASSERT(s.kept_offset == s.tokens_offset + 64 && s.k_offset == s.tokens_offset + 128);
    line[index_segment_line(&p, &s, line)] = 0;
    CU_ASSERT_PTR_NOT_NULL(strstr(line, "\"rows\":3,\"kept\":6,\"pos\":4,\"offset\":262144,\"bytes\":384,"));
    CU_ASSERT_EQUAL_FATAL(data_header(&p, &s, 1, &header), ST_OK);
    CU_ASSERT_PTR_NOT_NULL(strstr(header + 8, ".kept\":{\"dtype\":\"I32\",\"shape\":[16],\"data_offsets\":[64,128]},"));
    mem_free(header);
    s.n_kept = 0;
    CU_ASSERT(segment_size(&p, 3, 3, 0, &size));
    segment_place(&size, &s);
    line[index_head_line((hash_t){6, 5}, line)] = 0;
    CU_ASSERT_STRING_EQUAL(line, "{\"precis\":\"index\",\"version\":1,\"profile\":\"00000000000000050000000000000006\",\"header\":262144,"
                                 "\"xxh3\":\"5f817bf50d09a0c17d46a9c54629c42f\"}\n");
    CU_ASSERT_EQUAL_FATAL(data_header(&p, &s, 1, &header), ST_OK);
    static const char want[] =
        "{\"__metadata__\":{\"format\":\"precis-store-1\",\"profile\":\"0fb06279df6fbb3e8762ddcd13b11d33\"},\"0000000000"
        "0000010000000000000002.tokens\":{\"dtype\":\"I32\",\"shape\":[16],\"data_offsets\":[0,64]},\"00000000000000010"
        "000000000000002.k\":{\"dtype\":\"BF16\",\"shape\":[2,1,3,8],\"data_offsets\":[64,160]},\"000000000000000100000"
        "00000000002.pad_k\":{\"dtype\":\"U8\",\"shape\":[32],\"data_offsets\":[160,192]},\"000000000000000100000000000"
        "00002.v\":{\"dtype\":\"BF16\",\"shape\":[2,1,3,8],\"data_offsets\":[192,288]},\"000000000000000100000000000000"
        "02.pad_v\":{\"dtype\":\"U8\",\"shape\":[32],\"data_offsets\":[288,320]}}";
    CU_ASSERT(!memcmp(header + 8, want, sizeof want - 1));
    for (size_t i = 8 + sizeof want - 1; i < DATA_HEADER_BYTES; i++) CU_ASSERT_EQUAL(header[i], ' ');
    mem_free(header);
    p.d_head = 1 << 20, p.n_layer = 1 << 20, p.n_kv_head = 1 << 20; /* sizes that no integer holds */
    CU_ASSERT(!segment_size(&p, 1, (int64_t)1 << 31, 0, &size));
    CU_ASSERT(!segment_size(&p, 0, 1, 0, &size) && !segment_size(&p, 1, -1, 0, &size) && segment_size(&p, 1, 0, 0, &size) &&
              !segment_size(&p, -1, 1, 0, &size) && !segment_size(&p, 1, 1, -1, &size) && !segment_size(&p, 1, 1, INT64_MAX, &size));
}

/* Lines: whole, torn, hurt. */
static void test_lines(void) {
    char text[256] = "{\"a\":1";
    size_t n = line_seal(text, 6);
    line_t line;
    for (size_t cut = 0; cut <= n; cut++) {
        lines_t l = {text, cut, 0, 0};
        CU_ASSERT_EQUAL(lines_next(&l, &line), cut == 0 ? LINE_END : cut < n ? LINE_TORN : LINE_GOOD);
        CU_ASSERT_EQUAL(lines_next(&l, &line), LINE_END);
    }
    for (size_t at = 0; at < n; at++)
        for (int bit = 0; bit < 8; bit++) {
            lines_t l = {text, n, 0, 0};
            text[at] = (char)(text[at] ^ 1 << bit);
            CU_ASSERT_EQUAL(lines_next(&l, &line), LINE_BAD);
            text[at] = (char)(text[at] ^ 1 << bit);
        }
    static const struct {
        const char *text;
        bool ok;
        int64_t v;
    } ints[] = {{"0", true, 0},
                {"7", true, 7},
                {"9007199254740992", true, (int64_t)1 << 53},
                {"9007199254740993", false, 0},
                {"99999999999999999999999", false, 0},
                {"", false, 0},
                {"-1", false, 0},
                {"01", false, 0},
                {"x", false, 0}};
    for (size_t i = 0; i < sizeof ints / sizeof *ints; i++) {
        scan_t s = {ints[i].text, ints[i].text + strlen(ints[i].text), true};
        CU_ASSERT_EQUAL(scan_int(&s), ints[i].v);
        CU_ASSERT_EQUAL(scan_done(&s), ints[i].ok);
    }
}

/* Names of files. */
static void test_names(void) {
    static const struct {
        const char *name;
        name_kind_t kind;
        int writer, number;
    } names[] = {{"rank0003-000001.safetensors", NAME_DATA, 3, 1},
                 {"rank0003-000001.safetensors.part", NAME_PART, 3, 1},
                 {"rank12345-000070.index", NAME_INDEX, 12345, 70},
                 {"rank3-1.index", NAME_OTHER, 0, 0},
                 {"rank0003-000001.inde", NAME_OTHER, 0, 0},
                 {"rank0003-000001.index.tmp-9-0", NAME_LEFTOVER, 0, 0},
                 {"rank99999999999-000001.index", NAME_OTHER, 0, 0},
                 {"store.json", NAME_OTHER, 0, 0},
                 {"store.json.tmp-1-2", NAME_LEFTOVER, 0, 0},
                 {"documents.jsonl.tmp-1-2", NAME_LEFTOVER, 0, 0},
                 {"rank", NAME_OTHER, 0, 0},
                 {"readme", NAME_OTHER, 0, 0},
                 {"rank-000001.index", NAME_OTHER, 0, 0}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        int w = 0, n = 0;
        name_kind_t kind = folder_name_kind(names[i].name, &w, &n);
        CU_ASSERT_EQUAL(kind, names[i].kind);
        if (kind < NAME_OTHER) CU_ASSERT(w == names[i].writer && n == names[i].number);
    }
}

UNIT_MAIN("store_disk", {"full", test_full}, {"full_threads", test_full_threads}, {"many", test_many}, {"hash", test_hash},
          {"format", test_format}, {"lines", test_lines}, {"names", test_names})

/* Small GGUF files built by hand: good ones, and one for each way of being bad. */
#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/mem.h"
#include "bytes.h"
#include "io/gguf.h"
#include "scratch.h"
#include "unit.h"

enum { U8, I8, U16, I16, U32, I32, F32, BOOL, STR, ARR, U64, I64, F64 };

static bytes_t b;

static void head(uint32_t version, uint64_t n_tensor, uint64_t n_kv) {
    b.n = 0;
    put(&b, "GGUF", 4);
    put_u32(&b, version);
    put_u64(&b, n_tensor);
    put_u64(&b, n_kv);
}
static void key(const char *name, uint32_t type) {
    put_str(&b, name);
    put_u32(&b, type);
}
static void tensor(const char *name, uint32_t type, uint32_t n_dim, uint64_t d0, uint64_t d1, uint64_t offset) {
    uint64_t d[16] = {d0, d1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    put_str(&b, name);
    put_u32(&b, n_dim);
    put(&b, d, 8 * n_dim);
    put_u32(&b, type);
    put_u64(&b, offset);
}
static void data(size_t n, size_t align) {
    pad(&b, align);
    for (size_t i = 0; i < n; i++) put_u8(&b, (uint8_t)i);
}

/* Parses what is in b; "" when good, else the message; the status must be ST_INPUT, and nothing may stay allocated. */
static const char *verdict(void) {
    gguf_t *g;
    size_t before = mem_now_bytes();
    uint8_t *exact = malloc(b.n ? b.n : 1); /* so that a sanitizer sees a byte too far */
    memcpy(exact, b.data, b.n);
    status_t st = gguf_parse(exact, b.n, "t.gguf", &g);
    CU_ASSERT(st == ST_OK || st == ST_INPUT);
    CU_ASSERT((st == ST_OK) == (g != NULL));
    gguf_close(g);
    free(exact);
    CU_ASSERT_EQUAL(mem_now_bytes(), before);
    return st ? status_message() : "";
}
static void expect(const char *words) { CU_ASSERT(verdict_is(verdict(), words, "t.gguf")); }

static void good_file(void) {
    head(3, 2, 10);
    key("a.u8", U8), put_u8(&b, 200);
    key("a.i16", I16), put(&b, "\xfe\xff", 2);
    key("a.u64", U64), put_u64(&b, UINT64_MAX);
    key("a.f32", F32), put(&b, &(float){0.5f}, 4);
    key("a.f64", F64), put(&b, &(double){0.25}, 8);
    key("a.yes", BOOL), put_u8(&b, 1);
    key("general.alignment", U32), put_u32(&b, 64);
    key("s", STR), put_str(&b, "h\xc3\xa9\n");
    key("words", ARR), put_u32(&b, STR), put_u64(&b, 3), put_str(&b, "one"), put_str(&b, ""), put_str(&b, "three");
    key("ints", ARR), put_u32(&b, I8), put_u64(&b, 2), put(&b, "\x01\xff", 2);
    tensor("w", 0, 2, 4, 2, 64);
    tensor("v", 8, 1, 32, 0, 0);
    data(96, 64);
}

static void test_reads(void) {
    gguf_t *g;
    int64_t i;
    double d;
    bool yes;
    const char *s;
    size_t n;
    good_file();
    CU_ASSERT_EQUAL_FATAL(gguf_parse(b.data, b.n, "t.gguf", &g), ST_OK);
    CU_ASSERT(gguf_get_i64(g, "a.u8", &i) && i == 200);
    CU_ASSERT(gguf_get_i64(g, "a.i16", &i) && i == -2);
    CU_ASSERT(!gguf_get_i64(g, "a.u64", &i)); /* does not fit */
    CU_ASSERT(!gguf_get_i64(g, "a.f32", &i) && !gguf_get_i64(g, "a.yes", &i) && !gguf_get_i64(g, "none", &i));
    CU_ASSERT(gguf_get_f64(g, "a.f32", &d) && d == 0.5);
    CU_ASSERT(gguf_get_f64(g, "a.f64", &d) && d == 0.25);
    CU_ASSERT(gguf_get_bool(g, "a.yes", &yes) && yes);
    CU_ASSERT(gguf_get_str(g, "s", &s, &n) && n == 4 && !memcmp(s, "h\xc3\xa9\n", 4));
    CU_ASSERT_EQUAL(gguf_array_n(g, "words"), 3);
    CU_ASSERT_EQUAL(gguf_array_n(g, "s"), -1);
    CU_ASSERT(gguf_array_str(g, "words", 2, &s, &n) && n == 5 && !memcmp(s, "three", 5));
    CU_ASSERT(gguf_array_str(g, "words", 1, &s, &n) && n == 0);
    CU_ASSERT(!gguf_array_str(g, "words", 3, &s, &n) && !gguf_array_str(g, "words", -1, &s, &n) && !gguf_array_str(g, "ints", 0, &s, &n));
    CU_ASSERT(gguf_array_i64(g, "ints", 1, &i) && i == -1);
    CU_ASSERT(!gguf_array_f64(g, "ints", 1, &d) && !gguf_array_f64(g, "words", 1, &d) && !gguf_array_i64(g, "words", 1, &i));
    const tensor_t *w = gguf_find(g, "w"), *v = gguf_find(g, "v");
    CU_ASSERT_FATAL(w && v && !gguf_find(g, "x") && gguf_count(g) == 2 && gguf_at(g, 0) == w && !gguf_at(g, 2));
    CU_ASSERT(w->n_dim == 2 && w->dims[0] == 2 && w->dims[1] == 4 && w->bytes == 32 && w->data[0] == 64);
    CU_ASSERT(v->enc == ENC_Q8_0 && v->bytes == 34 && v->data[0] == 0);
    gguf_close(g);
}

static void test_key_text(void) {
    static const char *const want[] = {
        "200",           "-2", "18446744073709551615", "0.5", "0.25", "true", "64", "\"h\xc3\xa9?\"", "3 x str [\"one\", \"\", \"three\"]",
        "2 x i8 [1, -1]"};
    gguf_t *g;
    good_file();
    CU_ASSERT_EQUAL_FATAL(gguf_parse(b.data, b.n, "t.gguf", &g), ST_OK);
    CU_ASSERT_EQUAL_FATAL(gguf_keys(g), 10);
    for (int64_t i = 0; i < 10; i++) {
        const char *k;
        size_t k_n;
        char text[200];
        gguf_key_text(g, i, &k, &k_n, text, sizeof text);
        CU_ASSERT_STRING_EQUAL(text, want[i]);
    }
    gguf_close(g);
}

static void test_versions(void) {
    static const struct {
        uint32_t version;
        const char *words;
    } table[] = {{2, ""}, {3, ""}, {1, "version 1"}, {4, "version 4"}, {0, "version 0"}, {0x03000000, "big-endian"}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        head(table[i].version, 0, 0);
        expect(table[i].words);
    }
    b.n = 0, expect("needs 4 bytes");
    put(&b, "GGML", 4), put_u32(&b, 3), expect("not a GGUF file");
}

static void test_cut_anywhere(void) {
    good_file();
    for (size_t n = b.n; n-- > 0;) {
        b.n = n;
        expect("t.gguf"); /* refused, whatever the reason */
    }
}

static void test_hostile_counts(void) {
    static const uint64_t huge[] = {1ull << 63, UINT64_MAX, 1ull << 61, 1ull << 32, 100};
    for (size_t i = 0; i < sizeof huge / sizeof *huge; i++) {
        head(3, 0, huge[i]), expect("keys cannot be in a file");
        head(3, huge[i], 0), expect("tensors cannot be in a file");
        head(3, 0, 1), key("a", ARR), put_u32(&b, STR), put_u64(&b, huge[i]), expect("strings cannot be in a file");
        head(3, 0, 1), key("a", ARR), put_u32(&b, F64), put_u64(&b, huge[i]), expect("array items cannot be in a file");
        head(3, 0, 1), key("a", STR), put_u64(&b, huge[i]), expect("needs");
        head(3, 0, 1), put_u64(&b, huge[i]), data(8, 1), expect("a key");
    }
}

static void test_hostile_values(void) {
    head(3, 0, 1), key("a", 13), put_u64(&b, 0), expect("type 13 is unknown");
    head(3, 0, 1), key("a", ARR), put_u32(&b, ARR), put_u64(&b, 1), put_u32(&b, U8), put_u64(&b, 0), expect("nested array");
    head(3, 0, 1), key("a", ARR), put_u32(&b, 99), put_u64(&b, 0), expect("type 99");
    head(3, 0, 2), key("a", U8), put_u8(&b, 1), key("a", U8), put_u8(&b, 1), expect("key a is there twice");
    head(3, 0, 1), put_u64(&b, 2), put(&b, "a\0", 2), put_u32(&b, U8), put_u8(&b, 0), expect("NUL");
    static const struct {
        uint32_t align;
        const char *words;
    } table[] = {{0, "alignment"}, {3, "alignment"}, {1, ""}, {4096, ""}, {1u << 31, "alignment"}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        head(3, 0, 1), key("general.alignment", U32), put_u32(&b, table[i].align), expect(table[i].words);
    }
    head(3, 0, 1), key("general.alignment", STR), put_str(&b, "32"), expect("alignment");
}

static void test_hostile_tensors(void) {
    head(3, 1, 0), tensor("w", 0, 4, 1, 1, 0), data(4, 32), expect("");
    head(3, 1, 0), tensor("w", 0, 9, 1, 1, 0), data(4, 32), expect("9 dimensions");
    head(3, 1, 0), tensor("w", 0, 5, 1, 1, 0), data(4, 32), expect("5 dimensions");
    head(3, 1, 0), tensor("w", 4, 1, 32, 1, 0), data(64, 32), expect("type 4 is unknown");
    head(3, 1, 0), tensor("w", 4000, 1, 32, 1, 0), data(64, 32), expect("type 4000 is unknown");
    head(3, 1, 0), tensor("w", 2, 1, 31, 1, 0), data(64, 32), expect("block of 32");
    head(3, 1, 0), tensor("w", 0, 1, 1ull << 63, 1, 0), data(64, 32), expect("dimension 0");
    head(3, 1, 0), tensor("w", 0, 2, 1ull << 62, 4, 0), data(64, 32), expect("larger than can be addressed");
    head(3, 1, 0), tensor("w", 0, 2, 1ull << 40, 1ull << 40, 0), data(64, 32), expect("larger than can be addressed");
    head(3, 1, 0), tensor("w", 0, 2, 0, UINT64_MAX >> 1, 0), data(64, 32), expect(""); /* empty */
    head(3, 1, 0), tensor("w", 0, 1, 17, 1, 0), data(64, 32), expect("data section has 64");
    head(3, 1, 0), tensor("w", 0, 1, 1, 1, 64), data(64, 32), expect("data section has 64");
    head(3, 1, 0), tensor("w", 0, 1, 1, 1, UINT64_MAX - 31), data(64, 32), expect("data section has 64");
    head(3, 1, 0), tensor("w", 0, 1, 1, 1, 16), data(64, 32), expect("multiple of the alignment");
    head(3, 2, 0), tensor("w", 0, 1, 16, 1, 0), tensor("v", 0, 1, 1, 1, 32), data(64, 32), expect("lie on one another");
    head(3, 2, 0), tensor("w", 0, 1, 8, 1, 32), tensor("v", 0, 1, 8, 1, 0), data(64, 32), expect("");
    head(3, 2, 0), tensor("w", 0, 1, 8, 1, 0), tensor("w", 0, 1, 8, 1, 32), data(64, 32), expect("tensor w is there twice");
    head(3, 1, 0), put_u64(&b, 2), put(&b, "\0w", 2), put_u32(&b, 0), put_u32(&b, 0), put_u64(&b, 0), data(64, 32), expect("NUL");
    char name[300];
    memset(name, 'n', 299), name[299] = 0;
    head(3, 1, 0), tensor(name, 0, 1, 1, 1, 0), data(64, 32), expect("299 bytes, at most 255");
}

static void write_part(const char *folder, int no, int count, int said_no, const char *name, int total) {
    char path[PATH_MAX];
    head(3, 1, 3);
    key("split.no", U16), put(&b, &(uint16_t){(uint16_t)said_no}, 2);
    key("split.count", U16), put(&b, &(uint16_t){(uint16_t)count}, 2);
    key("split.tensors.count", I32), put_u32(&b, (uint32_t)total);
    tensor(name, 0, 1, 4, 1, 0);
    data(16, 32);
    snprintf(path, sizeof path, "%s/m-%05d-of-%05d.gguf", folder, no + 1, count);
    CU_ASSERT_EQUAL(file_write_atomic(path, b.data, b.n), ST_OK);
}

static void expect_open(const char *path, const char *words) {
    gguf_t *g;
    status_t st = gguf_open(path, &g);
    CU_ASSERT_EQUAL(st, *words ? ST_INPUT : ST_OK);
    CU_ASSERT(!*words || strstr(status_message(), words));
    if (!st) CU_ASSERT(gguf_count(g) == 3 && gguf_find(g, "a") && gguf_find(g, "c") && gguf_find(g, "c")->data[3] == 3);
    gguf_close(g);
}

static void test_split(void) {
    char folder[SCRATCH_PATH], first[PATH_MAX], second[PATH_MAX], third[PATH_MAX], other[PATH_MAX];
    scratch_dir(folder, SCRATCH_DISK);
    size_t before = mem_now_bytes();
    snprintf(first, sizeof first, "%s/m-00001-of-00003.gguf", folder);
    snprintf(second, sizeof second, "%s/m-00002-of-00003.gguf", folder);
    snprintf(third, sizeof third, "%s/m-00003-of-00003.gguf", folder);
    snprintf(other, sizeof other, "%s/other.gguf", folder);
    write_part(folder, 0, 3, 0, "a", 3), write_part(folder, 1, 3, 1, "b", 3);
    expect_open(first, "no such file");
    write_part(folder, 2, 3, 2, "c", 3);
    expect_open(first, "");
    expect_open(second, "give the first part");
    write_part(folder, 2, 3, 1, "c", 3), expect_open(first, "part 2 of 3");
    write_part(folder, 2, 3, 2, "a", 3), expect_open(first, "tensor a is there twice");
    write_part(folder, 2, 3, 2, "c", 3), write_part(folder, 0, 3, 0, "a", 7), expect_open(first, "says 7");
    CU_ASSERT_EQUAL(rename(first, other), 0);
    expect_open(other, "must end in -00001-of-00003.gguf");
    CU_ASSERT_EQUAL(mem_now_bytes(), before);
}

static void test_no_memory(void) {
    gguf_t *g;
    good_file();
    status_t st = ST_FAIL;
    size_t before = mem_now_bytes();
    for (int n = 1; st && n < 100; n++) {
        mem_fail_at(n);
        st = gguf_parse(b.data, b.n, "t.gguf", &g);
        CU_ASSERT(st == ST_OK || st == ST_FAIL);
        if (st) CU_ASSERT_EQUAL(mem_now_bytes(), before);
    }
    mem_fail_at(0);
    CU_ASSERT_EQUAL(st, ST_OK);
    gguf_close(g);
}

UNIT_MAIN("gguf", {"reads", test_reads}, {"key_text", test_key_text}, {"versions", test_versions}, {"cut_anywhere", test_cut_anywhere},
          {"hostile_counts", test_hostile_counts}, {"hostile_values", test_hostile_values}, {"hostile_tensors", test_hostile_tensors},
          {"split", test_split}, {"no_memory", test_no_memory})

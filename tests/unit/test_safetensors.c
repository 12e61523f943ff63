/* safetensors: headers written by hand, one for each rule, and the writer read back. */
#include <stdlib.h>

#include "base/mem.h"
#include "bytes.h"
#include "io/safetensors.h"
#include "unit.h"

static bytes_t b;

static void file(const char *header, size_t data_bytes) {
    b.n = 0;
    put_u64(&b, strlen(header));
    put(&b, header, strlen(header));
    for (size_t i = 0; i < data_bytes; i++) put_u8(&b, (uint8_t)i);
}

static const char *verdict(void) {
    safetensors_t *s;
    size_t before = mem_now_bytes();
    uint8_t *exact = malloc(b.n ? b.n : 1);
    memcpy(exact, b.data, b.n);
    status_t st = safetensors_parse(exact, b.n, "t.st", &s);
    CU_ASSERT(st == ST_OK || st == ST_INPUT);
    CU_ASSERT((st == ST_OK) == (s != NULL));
    safetensors_close(s);
    free(exact);
    CU_ASSERT_EQUAL(mem_now_bytes(), before);
    return st ? status_message() : "";
}
static void expect(const char *words) { CU_ASSERT(verdict_is(verdict(), words, "t.st")); }

static void test_reads(void) {
    safetensors_t *s;
    file("{\"b\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[4,12]},\"__metadata__\":{\"format\":\"pt\"},"
         "\"a\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[0,4]},\"e\":{\"dtype\":\"I64\",\"shape\":[0,7],\"data_offsets\":[12,12]"
         "},"
         "\"s\":{\"shape\":[],\"data_offsets\":[12,13],\"dtype\":\"BOOL\"}}   ",
         13);
    CU_ASSERT_EQUAL_FATAL(safetensors_parse(b.data, b.n, "t.st", &s), ST_OK);
    CU_ASSERT_EQUAL(safetensors_count(s), 4);
    CU_ASSERT_STRING_EQUAL(safetensors_at(s, 0)->name, "a");
    CU_ASSERT_PTR_NULL(safetensors_at(s, 4));
    const tensor_t *t = safetensors_find(s, "b");
    CU_ASSERT_FATAL(t != NULL);
    CU_ASSERT(t->enc == ENC_F32 && t->n_dim == 2 && t->dims[0] == 2 && t->dims[1] == 1 && t->bytes == 8 && t->data[0] == 4);
    CU_ASSERT(safetensors_find(s, "s")->n_dim == 0 && safetensors_find(s, "s")->enc == ENC_OTHER && safetensors_find(s, "e")->bytes == 0);
    CU_ASSERT_STRING_EQUAL(safetensors_find(s, "s")->enc_name, "BOOL");
    CU_ASSERT_PTR_NULL(safetensors_find(s, "__metadata__"));
    CU_ASSERT_STRING_EQUAL(safetensors_meta(s, "format"), "pt");
    CU_ASSERT_PTR_NULL(safetensors_meta(s, "other"));
    CU_ASSERT_EQUAL(safetensors_data_offset(s), b.n - 13);
    safetensors_close(s);
    file("{}", 0), expect("");
}

static void test_hostile(void) {
#define A(dtype, shape, offsets) "{\"a\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}}"
    static const struct {
        const char *header;
        size_t data;
        const char *words;
    } table[] = {
        {A("F32", "[2]", "[0,8]"), 8, ""},
        {A("F32", "[2]", "[0,8]"), 7, "the file has 7 bytes"},
        {A("F32", "[2]", "[0,8]"), 9, "1 bytes follow"},
        {A("F32", "[2]", "[4,12]"), 12, "begins at offset 4"},
        {A("F32", "[2]", "[0,4]"), 4, "do not fit its shape"},
        {A("F32", "[2]", "[8,0]"), 8, "data_offsets"},
        {A("F32", "[2]", "[-8,0]"), 8, "data_offsets"},
        {A("F32", "[2]", "[0,8.5]"), 8, "data_offsets"},
        {A("F32", "[2]", "[0,8,8]"), 8, "data_offsets"},
        {A("F32", "[2]", "[0,1e300]"), 8, "data_offsets"},
        {A("F32", "[2]", "[0,9007199254740992]"), 8, "the file has 8 bytes"},
        {A("F32", "[2]", "8"), 8, "data_offsets"},
        {A("F32", "[-2]", "[0,8]"), 8, "no whole number"},
        {A("F32", "[1.5]", "[0,6]"), 6, "no whole number"},
        {A("F32", "[\"2\"]", "[0,8]"), 8, "no whole number"},
        {A("F32", "2", "[0,8]"), 8, "no \"shape\""},
        {A("F32", "[1,1,1,1,1,1,1,1,2]", "[0,8]"), 8, "more than 8 dimensions"},
        {A("F32", "[9007199254740992,9007199254740992]", "[0,8]"), 8, "do not fit its shape"},
        {A("F32", "[4294967296,4294967296]", "[0,0]"), 0, "do not fit its shape"},
        {A("F4", "[3]", "[0,1]"), 1, "do not fit its shape"},
        {A("F4", "[4]", "[0,2]"), 2, ""},
        {A("F99", "[2]", "[0,8]"), 8, "F99 is unknown"},
        {"{\"a\":{\"dtype\":3,\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "unknown"},
        {"{\"a\":[]}", 0, "no object"},
        {"{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "twice"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}", 2,
         "twice"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}", 3,
         "begins at offset 1"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[2,3]}}", 3,
         "begins at offset 2"},
        {"{\"__metadata__\":{\"k\":1}}", 0, "no map of strings"},
        {"{\"__metadata__\":[]}", 0, "no map of strings"},
        {"{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}}", 0, "twice"},
        {"[]", 0, "does not begin with '{'"},
        {" {}", 0, "does not begin with '{'"},
        {"{", 0, "not valid JSON"},
        {"{}x", 0, "more after the end"},
        {"{\"a\\u0000b\":1}", 0, "NUL"},
        {"{\"\xff\":1}", 0, "not UTF-8"},
        {"", 0, "does not begin"},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        file(table[i].header, table[i].data);
        expect(table[i].words);
    }
}

static void test_hostile_length(void) {
    static const uint64_t length[] = {3, 1ull << 63, UINT64_MAX, UINT64_MAX - 7, 100000001};
    for (size_t i = 0; i < sizeof length / sizeof *length; i++) {
        b.n = 0, put_u64(&b, length[i]), put(&b, "{}", 2);
        expect("a header of");
    }
    for (b.n = 0; b.n < 8; put_u8(&b, 0)) expect("too few");
}

static void test_nesting_bomb(void) {
    b.n = 0;
    put_u64(&b, 40005);
    put(&b, "{\"a\":", 5);
    for (int i = 0; i < 40000; i++) put_u8(&b, '[');
    expect("nested deeper");
}

static void test_cut_anywhere(void) {
    file("{\"a\":{\"dtype\":\"U8\",\"shape\":[5],\"data_offsets\":[0,5]}}", 5);
    for (size_t n = b.n; n-- > 0;) {
        b.n = n;
        expect("t.st");
    }
}

static void test_writes(void) {
    static const st_entry_t entries[] = {{"x\"1", "BF16", 2, {3, 4}, 24},
                                         {"y", "F32", 0, {0}, 4},
                                         {"z", "I32", 1, {0}, 0},
                                         {"\xc3\xa9", "U8", 1, {7}, 7}};
    static const char *const meta[] = {"format", "pt", "note", "a\nb", NULL};
    static const size_t padded[] = {0, 512, 8192};
    for (int i = 0; i < 3; i++) {
        char *head;
        size_t n;
        safetensors_t *s;
        CU_ASSERT_EQUAL_FATAL(safetensors_header(entries, 4, meta, padded[i], &head, &n), ST_OK);
        CU_ASSERT_EQUAL(n, padded[i] ? padded[i] : 4096);
        b.n = 0, put(&b, head, n);
        mem_free(head);
        for (int k = 0; k < 35; k++) put_u8(&b, (uint8_t)k);
        CU_ASSERT_EQUAL_FATAL(safetensors_parse(b.data, b.n, "t.st", &s), ST_OK);
        CU_ASSERT_EQUAL(safetensors_data_offset(s), n);
        CU_ASSERT_EQUAL(safetensors_count(s), 4);
        const tensor_t *x = safetensors_find(s, "x\"1"), *u = safetensors_find(s, "\xc3\xa9");
        CU_ASSERT(x && x->enc == ENC_BF16 && x->n_dim == 2 && x->dims[1] == 4 && x->data[0] == 0);
        CU_ASSERT(u && u->bytes == 7 && u->data[0] == 28);
        CU_ASSERT_STRING_EQUAL(safetensors_meta(s, "note"), "a\nb");
        safetensors_close(s);
    }
}

static void test_writer_refuses(void) {
    st_entry_t e = {"x", "F32", 1, {3}, 12};
    void *head;
    size_t n;
    CU_ASSERT_EQUAL(safetensors_header(&e, 1, NULL, 40, &head, &n), ST_FAIL); /* too narrow */
    CU_ASSERT_PTR_NULL(head);
    e.bytes = 13;
    CU_ASSERT_EQUAL(safetensors_header(&e, 1, NULL, 0, &head, &n), ST_FAIL);
    e.bytes = 12, e.dtype = "F33";
    CU_ASSERT_EQUAL(safetensors_header(&e, 1, NULL, 0, &head, &n), ST_FAIL);
    CU_ASSERT_EQUAL(safetensors_header(NULL, 0, NULL, 64, &head, &n), ST_OK);
    CU_ASSERT_EQUAL(n, 64);
    mem_free(head);
}

UNIT_MAIN("safetensors", {"reads", test_reads}, {"hostile", test_hostile}, {"hostile_length", test_hostile_length},
          {"nesting_bomb", test_nesting_bomb}, {"cut_anywhere", test_cut_anywhere}, {"writes", test_writes},
          {"writer_refuses", test_writer_refuses})

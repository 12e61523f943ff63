/* The tokenizer's steps one by one: normalising against the library's own, cutting by patterns, merging against the plain definition. */
#include <stdlib.h>
#include <utf8proc.h>

#include "base/mem.h"
#include "base/rng.h"
#include "tests/unit.h"
#include "text/bpe.h"
#include "text/split.h"
#include "text/tokenizer_impl.h"
#include "text/unicode.h"

/* ---- normalising and cutting ---- */

static bool nfc_agrees(const char *s, size_t n) {
    utf8_t got = {0};
    utf8proc_uint8_t *want = NULL;
    utf8proc_ssize_t want_n = utf8proc_map((const uint8_t *)s, (utf8proc_ssize_t)n, &want, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    bool same = unicode_nfc(s, n, &got) == ST_OK && want_n >= 0 && got.n == (size_t)want_n && (!got.n || !memcmp(got.s, want, got.n));
    if (!unicode_may_change(s, n)) same = same && got.n == n && (!n || !memcmp(got.s, s, n));
    mem_free(got.s);
    free(want);
    return same;
}

/* Every character by itself and between others; then rows of marks, letters and jamo. */
static void test_nfc(void) {
    static const int32_t some[] = {'a',    'o',    0xe9,   0x300,  0x301,  0x323, 0x327,  0x345, 0x5b0,
                                   0x1100, 0x1161, 0x11a8, 0xac00, 0x212b, 0x958, 0x1e69, 0x4e00};
    rng_t r = {5};
    char s[400];
    int bad = 0;
    for (int32_t c = 1; c < 0x30000; c++) {
        if (c >= 0xd800 && c < 0xe000) continue;
        size_t n = 1;
        s[0] = 'e';
        n += (size_t)utf8proc_encode_char(c, (uint8_t *)s + n);
        n += (size_t)utf8proc_encode_char(0x301, (uint8_t *)s + n);
        bad += !nfc_agrees(s + 1, n - 3) + !nfc_agrees(s, n);
    }
    for (int round = 0; round < 3000; round++) {
        size_t n = 0;
        for (int i = (int)rng_below(&r, 90); i >= 0; i--)
            n += (size_t)utf8proc_encode_char(some[rng_below(&r, round % 2 ? 17 : 9)], (uint8_t *)s + n);
        bad += !nfc_agrees(s, n);
    }
    CU_ASSERT_EQUAL(bad, 0);
}

static status_t note_piece(void *ctx, const uint8_t *piece, size_t n) {
    snprintf((char *)ctx + strlen(ctx), 64, "[%.*s]", (int)n, (const char *)piece);
    return ST_OK;
}

static void cuts(const char *pattern, bool matches_only, const char *text, const char *want) {
    split_t s = {0};
    split_work_t *w = NULL;
    char got[512] = "";
    CU_ASSERT_EQUAL_FATAL(split_add(&s, pattern, strlen(pattern), matches_only, "t"), ST_OK);
    CU_ASSERT_EQUAL_FATAL(split_work_create(&w), ST_OK);
    CU_ASSERT_EQUAL(split_run(&s, w, text, strlen(text), note_piece, got), ST_OK);
    CU_ASSERT_STRING_EQUAL(got, want);
    split_work_free(w);
    split_free(&s);
}

/* A pattern that tries all ways is given up soon, and long runs do not count as such. */
static void test_costly(void) {
    enum { LONG = 12 << 20 };
    static const char costly[] = "(?:a+)+[bc]";
    split_t s = {0};
    split_work_t *w = NULL;
    char got[512] = "", *text = malloc(LONG);
    memset(text, 'a', LONG);
    CU_ASSERT_EQUAL_FATAL(split_add(&s, costly, strlen(costly), false, "t"), ST_OK);
    CU_ASSERT_EQUAL_FATAL(split_work_create(&w), ST_OK);
    CU_ASSERT_EQUAL(split_run(&s, w, text, 3000, note_piece, got), ST_INPUT);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_message(), "limit"));
    split_free(&s);
    memset(text, ' ', LONG);
    text[LONG - 1] = 'a';
    CU_ASSERT_EQUAL_FATAL(split_add(&s, SPLIT_QWEN2, strlen(SPLIT_QWEN2), false, "t"), ST_OK);
    CU_ASSERT_EQUAL(split_run(&s, w, text, LONG, note_piece, got), ST_OK);
    split_work_free(w);
    split_free(&s);
    free(text);
}

static void test_cuts(void) {
    cuts(SPLIT_GPT2, false, "I'll go  home\n\n", "[I]['ll][ go][ ][ home][\n\n]");
    cuts(SPLIT_LLAMA3, false, "x=12345;\n\n  y", "[x][=][123][45][;\n\n][ ][ y]");
    cuts(SPLIT_QWEN2, false, "a12 'LLM", "[a][1][2][ '][LLM]");
    cuts(SPLIT_DIGIT, false, "ab12c", "[ab][1][2][c]");
    cuts(SPLIT_DIGITS, false, "ab12c", "[ab][12][c]");
    cuts("[a-c]+", true, "abxcab", "[ab][cab]");
    cuts("x*", false, "axxb\u00e9", "[a][xx][b][\u00e9]");
    cuts("\\s", false, "\u180e\u2003a", "[\u180e][\u2003][a]"); /* U+180E is no white space */
    cuts("[^\\S\\n]+", false, "a \t\nb", "[a][ \t][\nb]");
}

/* ---- merging ---- */

/* The definition, as slow as it is plain. */
static size_t merge_plainly(const vocabulary_t *v, const uint8_t *p, size_t n, int32_t *ids) {
    size_t k = 0;
    for (size_t i = 0; i < n; i++)
        if (v->byte_id[p[i]] >= 0) ids[k++] = v->byte_id[p[i]];
    for (;;) {
        const merge_slot_t *best = NULL, *m;
        size_t at = 0;
        for (size_t i = 0; i + 1 < k; i++)
            if ((m = vocabulary_pair(v, ids[i], ids[i + 1])) && (!best || m->rank < best->rank)) best = m, at = i;
        if (!best) return k;
        ids[at] = best->id;
        memmove(ids + at + 1, ids + at + 2, (--k - at - 1) * sizeof *ids);
    }
}

static void test_merges(void) {
    static const char letters[] = "etaoinshrdl uth\x80\x01";
    tokenizer_t *t = NULL;
    CU_ASSERT_EQUAL_FATAL(tokenizer_from_json("tests/golden/tokens/smollm.json", &t), ST_OK);
    bpe_work_t w = {0};
    rng_t r = {1};
    uint8_t p[300];
    int32_t want[300];
    int bad = 0;
    for (int round = 0; round < 600; round++) {
        ids_t got = {0};
        size_t n = 1 + (size_t)round % 300;
        for (size_t i = 0; i < n; i++) p[i] = (uint8_t)letters[rng_below(&r, 16)];
        size_t k = merge_plainly(&t->vocabulary, p, n, want);
        CU_ASSERT_EQUAL(bpe_encode(&t->vocabulary, false, &w, p, n, &got), ST_OK);
        bad += (size_t)got.n != k || (k && memcmp(got.ids, want, k * sizeof *want));
        ids_free(&got);
    }
    CU_ASSERT_EQUAL(bad, 0);
    bpe_work_free(&w);
    tokenizer_free(t);
}

UNIT_MAIN("pieces", {"nfc", test_nfc}, {"cuts", test_cuts}, {"costly", test_costly}, {"merges", test_merges})

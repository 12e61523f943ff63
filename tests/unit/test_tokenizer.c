/* The tokenizer against HF's, on small vocabularies of every family.
 *
 * tests/golden/tokens holds, for each family, a tokenizer.json and the ids that HF `tokenizers` gives for the same texts
 * (make_tokens.py renews them). Run from the project's root.
 */
#include <pthread.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "io/corpus.h"
#include "io/file.h"
#include "io/json.h"
#include "io/utf8.h"
#include "tests/unit.h"
#include "tokenizer_golden.h"

static const char *const FAMILY[] = {"smollm", "gpt2", "llama3", "qwen2", "llama2", "llama2n", "mistral3", "metaspace", "never", "gemma"};
enum { FAMILIES = sizeof FAMILY / sizeof *FAMILY };

static void test_golden(void) {
    golden_t g = golden_open();
    for (int f = 0; f < FAMILIES; f++) {
        tokenizer_t *t = load(FAMILY[f]);
        CU_ASSERT_EQUAL(differences(t, FAMILY[f], &g, true), 0);
        tokenizer_free(t);
    }
    golden_close(&g);
}

/* The same model as a GGUF file; ids are SentencePiece's own, decoding is as HF's. */
static void test_golden_spm(void) {
    golden_t g = golden_open();
    gguf_t *f = NULL;
    tokenizer_t *t = NULL;
    CU_ASSERT_EQUAL_FATAL(gguf_open(GOLDEN "spm.gguf", &f), ST_OK);
    CU_ASSERT_EQUAL_FATAL(tokenizer_from_gguf(f, "spm.gguf", &t), ST_OK);
    gguf_close(f);
    CU_ASSERT_EQUAL(differences(t, "spm", &g, false), 0);
    CU_ASSERT_EQUAL(differences(t, "llama2", &g, true), 0);
    CU_ASSERT_STRING_EQUAL(tokenizer_family(t), "SentencePiece BPE, whole text");
    CU_ASSERT_EQUAL(tokenizer_bos(t), 1);
    CU_ASSERT_TRUE(tokenizer_adds_bos(t));
    tokenizer_free(t);
    golden_close(&g);
}

/* The golden ids one at a time, and ids at random: whole characters only, together what decoding gives. */
static bool streams(const tokenizer_t *t, const ids_t *ids, bool specials) {
    tokenizer_stream_t d;
    const char *part;
    char *text = NULL;
    size_t n = 0, k, at = 0;
    bool same = tokenizer_decode(t, ids->ids, ids->n, specials, &text, &n) == ST_OK;
    tokenizer_stream_begin(&d, t, specials);
    for (int round = 0; round < 2 && same; round++) { /* a stream that has ended begins another text */
        at = 0;
        for (int64_t i = 0; i <= ids->n && same; i++) {
            status_t st = i < ids->n ? tokenizer_stream_put(&d, ids->ids[i], &part, &k) : tokenizer_stream_end(&d, &part, &k);
            same = st == ST_OK && k <= n - at && !memcmp(text + at, part, k) && !part[k] && utf8_valid_bytes(part, k) == k;
            at += k;
        }
        same = same && at == n;
    }
    tokenizer_stream_free(&d);
    mem_free(text);
    return same;
}

static void test_streams(void) {
    golden_t g = golden_open();
    rng_t r = {5};
    for (int f = 0; f < FAMILIES; f++) {
        tokenizer_t *t = load(FAMILY[f]);
        int bad = 0;
        for (int i = 0; i < g.n; i++) {
            ids_t ids = {0};
            for (const cJSON *x = field(g.record[i], FAMILY[f], "")->child; x; x = x->next) ids_push(&ids, x->valueint);
            bad += !streams(t, &ids, true) || !streams(t, &ids, false);
            ids.n = 0;
            for (int k = 0; k < 30; k++) ids_push(&ids, (int32_t)rng_below(&r, k % 3 ? 300 : tokenizer_n_vocab(t)));
            bad += !streams(t, &ids, true) || !streams(t, &ids, false);
            ids_free(&ids);
        }
        CU_ASSERT_EQUAL(bad, 0);
        tokenizer_free(t);
    }
    golden_close(&g);
}

/* A character of four byte tokens shows with the next token, not before; a run that is no UTF-8 is one U+FFFD a byte. */
static void test_stream_bytes(void) {
    tokenizer_t *t = load("llama2");
    tokenizer_stream_t d;
    const char *text;
    size_t n;
    static const int face[] = {0xf0, 0x9f, 0x98, 0x80};
    tokenizer_stream_begin(&d, t, false);
    for (int i = 0; i < 4; i++) {
        CU_ASSERT_EQUAL(tokenizer_stream_put(&d, 3 + face[i], &text, &n), ST_OK); /* ids 3 .. 258 are the bytes */
        CU_ASSERT_EQUAL(n, 0);
    }
    CU_ASSERT_EQUAL(tokenizer_stream_put(&d, tokenizer_find(t, "a"), &text, &n), ST_OK);
    CU_ASSERT_STRING_EQUAL(text, "\U0001f600a");
    CU_ASSERT_EQUAL(tokenizer_stream_put(&d, 3 + 0xff, &text, &n), ST_OK);
    CU_ASSERT_EQUAL(tokenizer_stream_put(&d, 3 + 'b', &text, &n), ST_OK);
    CU_ASSERT_EQUAL(tokenizer_stream_end(&d, &text, &n), ST_OK);
    CU_ASSERT_STRING_EQUAL(text, "\ufffd\ufffd");
    tokenizer_stream_free(&d);
    CU_ASSERT_EQUAL(*tokenizer_piece(t, 3 + '\n', &n), '\n');
    CU_ASSERT_EQUAL(n, 1);
    CU_ASSERT_EQUAL(tokenizer_find(t, "\n"), 3 + '\n');
    CU_ASSERT_EQUAL(memcmp(tokenizer_piece(t, tokenizer_find(t, " the"), &n), " the", 4), 0);
    CU_ASSERT_EQUAL(n, 4);
    tokenizer_free(t);
}

static void *differences_thread(void *t) {
    golden_t g = golden_open();
    intptr_t bad = differences(t, "llama3", &g, true);
    golden_close(&g);
    return (void *)bad;
}

static void test_threads(void) {
    tokenizer_t *t = load("llama3");
    pthread_t thread[4];
    void *bad;
    for (int i = 0; i < 4; i++) CU_ASSERT_EQUAL_FATAL(pthread_create(thread + i, NULL, differences_thread, t), 0);
    for (int i = 0; i < 4; i++) {
        pthread_join(thread[i], &bad);
        CU_ASSERT_PTR_NULL(bad);
    }
    tokenizer_free(t);
}

static void test_describes(void) {
    tokenizer_t *t = load("llama3");
    const int32_t *eos;
    size_t n;
    CU_ASSERT_STRING_EQUAL(tokenizer_family(t), "byte-level BPE, llama-bpe pre-tokeniser");
    CU_ASSERT_EQUAL(tokenizer_bos(t), tokenizer_find(t, "<|begin_of_text|>"));
    CU_ASSERT_TRUE(tokenizer_adds_bos(t));
    CU_ASSERT_EQUAL(tokenizer_eos(t, &eos), 2);
    CU_ASSERT_EQUAL(eos[0], tokenizer_find(t, "<|eot_id|>"));
    CU_ASSERT_TRUE(tokenizer_is_special(t, eos[0]));
    CU_ASSERT_STRING_EQUAL(tokenizer_piece(t, eos[0], &n), "<|eot_id|>");
    CU_ASSERT_EQUAL(n, 10);
    CU_ASSERT_EQUAL(memcmp(tokenizer_piece(t, tokenizer_find(t, " the"), &n), " the", 4), 0);
    CU_ASSERT_EQUAL(n, 4);
    CU_ASSERT_EQUAL(tokenizer_find(t, "no such token"), -1);
    tokenizer_piece(t, -1, &n);
    CU_ASSERT_EQUAL(n, 0);
    tokenizer_piece(t, (int32_t)tokenizer_n_vocab(t), &n);
    CU_ASSERT_EQUAL(n, 0);
    tokenizer_free(t);
    t = load("qwen2");
    CU_ASSERT_STRING_EQUAL(tokenizer_family(t), "byte-level BPE, qwen2 pre-tokeniser");
    CU_ASSERT_FALSE(tokenizer_adds_bos(t));
    CU_ASSERT_FALSE(tokenizer_is_special(t, tokenizer_find(t, "<tool_call>")));
    CU_ASSERT_PTR_NULL(tokenizer_chat_family(t));
    tokenizer_free(t);
}

static void test_repairs(void) {
    static const char *const bad[] = {"\xff",         "a\xe2\x82", "\xe2\x82z", "\xf0\x9f\x98",
                                      "\xed\xa0\x80", "\xc0\xaf",  "x\x80y",    "\xf4\x90\x80\x80"};
    for (int f = 1; f < FAMILIES; f++) {
        tokenizer_t *t = load(FAMILY[f]);
        bool shows = !t->vocabulary.textual || t->vocabulary.shows_bytes; /* else bytes are shown as "<0xEF>", as HF does */
        for (size_t i = 0; i < sizeof bad / sizeof *bad && shows; i++) {
            ids_t ids = {0};
            char *text = NULL, *want = NULL;
            size_t n = 0, want_n = 0;
            int64_t count;
            CU_ASSERT_EQUAL(utf8_repair(bad[i], strlen(bad[i]), &want, &want_n, &count), ST_OK);
            CU_ASSERT_EQUAL(tokenizer_encode(t, bad[i], strlen(bad[i]), true, &ids), ST_OK);
            CU_ASSERT_EQUAL(tokenizer_decode(t, ids.ids, ids.n, true, &text, &n), ST_OK);
            CU_ASSERT(n == want_n && !memcmp(text, want, n));
            mem_free(text);
            mem_free(want);
            ids_free(&ids);
        }
        int32_t stray[3] = {-1, 1 << 30, tokenizer_find(t, "a")}; /* ids that are no token give nothing */
        char *text = NULL;
        size_t n = 0;
        CU_ASSERT_EQUAL(tokenizer_decode(t, stray, 3, true, &text, &n), ST_OK);
        CU_ASSERT_STRING_EQUAL(text, "a");
        mem_free(text);
        tokenizer_free(t);
    }
}

/* ---- long pieces ---- */

static void test_long_runs(void) {
    enum { LONG = 1000000 };
    static const char *const unit[] = {"a", " ", "\n", "ab", "the", "=", "\u00e9", "e\u0301\u0323", "\u0323\u0301", "9", "\U0001f600"};
    char *s = malloc(LONG + 16);
    for (int f = 0; f < FAMILIES; f++) {
        tokenizer_t *t = load(FAMILY[f]);
        for (size_t u = 0; u < sizeof unit / sizeof *unit; u++) {
            size_t n = 0, k = strlen(unit[u]);
            ids_t ids = {0};
            for (; n < LONG; n += k) memcpy(s + n, unit[u], k);
            double begin = clock_s();
            CU_ASSERT_EQUAL(tokenizer_encode(t, s, n, true, &ids), ST_OK);
            CU_ASSERT(ids.n > 0);
            CU_ASSERT(clock_s() - begin < 20); /* quadratic would be hours */
            ids_free(&ids);
        }
        tokenizer_free(t);
    }
    free(s);
}

/* ---- every allocation fails in turn ---- */

static void torture(const char *path) {
    static const char text[] =
        "caf e\u0301 12 <|im_end|> \xff aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    size_t before = mem_now_bytes();
    status_t st = ST_FAIL;
    int n = 0, good = 0;
    while (good < 20 && n < 5000) { /* the JIT compiler goes without what it cannot have, so one success does not mean that none failed */
        tokenizer_t *t = NULL;
        ids_t ids = {0};
        char *back = NULL;
        size_t bytes;
        mem_fail_at(++n);
        st = tokenizer_from_json(path, &t);
        if (!st) st = tokenizer_encode(t, text, sizeof text - 1, true, &ids);
        if (!st) st = tokenizer_decode(t, ids.ids, ids.n, true, &back, &bytes);
        mem_fail_at(0);
        good = st ? 0 : good + 1;
        CU_ASSERT_FATAL(st == ST_OK || st == ST_FAIL);
        mem_free(back);
        ids_free(&ids);
        tokenizer_free(t);
        CU_ASSERT_EQUAL_FATAL(mem_now_bytes(), before);
    }
    CU_ASSERT_EQUAL(st, ST_OK);
    CU_ASSERT(n > 40);
}

static void test_torture(void) {
    torture(GOLDEN "qwen2.json");
    torture(GOLDEN "llama2n.json");
    torture(GOLDEN "mistral3.json");
}

UNIT_MAIN("tokenizer", {"golden", test_golden}, {"golden_spm", test_golden_spm}, {"streams", test_streams},
          {"stream_bytes", test_stream_bytes}, {"threads", test_threads}, {"describes", test_describes}, {"repairs", test_repairs},
          {"long_runs", test_long_runs}, {"torture", test_torture})

/* The tokenizer against HF's, on small vocabularies of every family.
 *
 * tests/golden/tokens holds, for each family, a tokenizer.json and the ids that HF `tokenizers` gives for the same texts
 * (make_tokens.py renews them). Run from the project's root.
 */
#include <math.h>
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
#include "text/tokenizer_impl.h"

#define GOLDEN "tests/golden/tokens/"
#define SPACE  "\xe2\x96\x81"
static const char *const FAMILY[] = {"smollm", "gpt2", "llama3", "qwen2", "llama2", "llama2n", "mistral3", "metaspace", "never", "gemma"};
enum { FAMILIES = sizeof FAMILY / sizeof *FAMILY, TEXT_MAX = 4096 };

static tokenizer_t *load(const char *family) {
    char path[128];
    tokenizer_t *t = NULL;
    snprintf(path, sizeof path, GOLDEN "%s.json", family);
    CU_ASSERT_EQUAL_FATAL(tokenizer_from_json(path, &t), ST_OK);
    return t;
}

/* ---- the golden texts ---- */

typedef struct {
    cJSON **record;
    int n;
} golden_t;

static golden_t golden_open(void) {
    golden_t g = {NULL, 0};
    char *all = NULL, *line, *rest;
    size_t n;
    CU_ASSERT_EQUAL_FATAL(file_read_text(GOLDEN "texts.jsonl", 1 << 22, &all, &n), ST_OK);
    CU_ASSERT_EQUAL_FATAL(mem_alloc(&g.record, 4096, sizeof *g.record, "golden texts"), ST_OK);
    for (rest = all; g.n < 4096 && (line = strtok_r(rest, "\n", &rest)); g.n++)
        CU_ASSERT_EQUAL_FATAL(json_parse(line, strlen(line), "texts.jsonl", &g.record[g.n]), ST_OK);
    mem_free(all);
    CU_ASSERT_FATAL(g.n >= 300);
    return g;
}

static void golden_close(golden_t *g) {
    for (int i = 0; i < g->n; i++) cJSON_Delete(g->record[i]);
    mem_free(g->record);
}

static size_t from_hex(const char *hex, char *out) {
    size_t n = 0;
    for (; hex[0] && hex[1] && n + 1 < TEXT_MAX; hex += 2, n++) {
        char digits[3] = {hex[0], hex[1], 0};
        out[n] = (char)strtol(digits, NULL, 16);
    }
    out[n] = '\0';
    return n;
}

static size_t text_of(const cJSON *r, char *out) {
    const char *hex = json_get_str(r, "hex"), *text = json_get_str(r, "text");
    if (hex) return from_hex(hex, out);
    snprintf(out, TEXT_MAX, "%s", text);
    return strlen(out);
}

static const cJSON *field(const cJSON *r, const char *family, const char *suffix) {
    char key[64];
    snprintf(key, sizeof key, "%s%s", family, suffix);
    return json_get(r, key);
}

static bool ids_are(const ids_t *ids, const cJSON *want) {
    int64_t i = 0;
    for (const cJSON *x = want ? want->child : NULL; x; x = x->next, i++)
        if (i >= ids->n || ids->ids[i] != x->valueint) return false;
    return i == ids->n;
}

static bool encodes_to(const tokenizer_t *t, const char *s, size_t n, bool specials, const cJSON *want) {
    ids_t ids = {0};
    bool same = tokenizer_encode(t, s, n, specials, &ids) == ST_OK && ids_are(&ids, want);
    ids_free(&ids);
    return same;
}

static bool decodes_to(const tokenizer_t *t, const cJSON *list, bool specials, const char *want, size_t want_n) {
    ids_t ids = {0};
    char *text = NULL;
    size_t n = 0;
    bool same = true;
    for (const cJSON *x = list->child; x; x = x->next) same = same && !ids_push(&ids, x->valueint);
    same = same && tokenizer_decode(t, ids.ids, ids.n, specials, &text, &n) == ST_OK && n == want_n && !memcmp(text, want, n);
    mem_free(text);
    ids_free(&ids);
    return same;
}

/* Records of the golden texts that t does not treat as HF does. decoding: also the way back. */
static int differences(const tokenizer_t *t, const char *family, const golden_t *g, bool decoding) {
    char text[TEXT_MAX], shown[TEXT_MAX], clean[TEXT_MAX];
    int bad = 0;
    for (int i = 0; i < g->n; i++) {
        const cJSON *r = g->record[i], *ids = field(r, family, ""), *plain = field(r, family, "_plain"), *x;
        size_t n = text_of(r, text), shown_n = n, clean_n;
        memcpy(shown, text, n + 1);
        if ((x = field(r, family, "_text"))) shown_n = from_hex(x->valuestring, shown);
        memcpy(clean, shown, clean_n = shown_n);
        if ((x = field(r, family, "_clean"))) clean_n = from_hex(x->valuestring, clean);
        bool good = encodes_to(t, text, n, true, ids) && encodes_to(t, text, n, false, plain ? plain : ids);
        if (decoding) good = good && decodes_to(t, ids, true, shown, shown_n) && decodes_to(t, ids, false, clean, clean_n);
        if (!good && bad++ < 3) fprintf(stderr, "%s: record %d differs: %.60s\n", family, i + 1, text);
    }
    return bad;
}

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

/* ---- GGUF ---- */

typedef struct {
    uint8_t b[1 << 18];
    size_t n;
    uint64_t keys;
} image_t;

static void put(image_t *m, const void *p, size_t n) {
    CU_ASSERT_FATAL(m->n + n <= sizeof m->b);
    memcpy(m->b + m->n, p, n);
    m->n += n;
}
static void put32(image_t *m, uint32_t x) { put(m, &x, 4); }
static void put64(image_t *m, uint64_t x) { put(m, &x, 8); }
static void put_str(image_t *m, const char *s) { put64(m, strlen(s)), put(m, s, strlen(s)); }
static void put_key(image_t *m, const char *key, uint32_t type) { put_str(m, key), put32(m, type), m->keys++; }
static void put_key_str(image_t *m, const char *key, const char *s) { put_key(m, key, 8), put_str(m, s); }
static void put_key_array(image_t *m, const char *key, uint32_t type, uint64_t n) { put_key(m, key, 9), put32(m, type), put64(m, n); }

/* The metadata that a conversion of the family's tokenizer.json would have. */
static void image_of(image_t *m, const char *family, const char *pre, int bos) {
    static const char *token[4096];
    char path[128], *text = NULL;
    uint32_t type[4096], n = 0;
    size_t bytes;
    cJSON *root = NULL;
    snprintf(path, sizeof path, GOLDEN "%s.json", family);
    CU_ASSERT_EQUAL_FATAL(file_read_text(path, 1 << 22, &text, &bytes), ST_OK);
    CU_ASSERT_EQUAL_FATAL(json_parse(text, bytes, path, &root), ST_OK);
    for (int i = 0; i < 4096; i++) token[i] = "", type[i] = 5;
    for (const cJSON *x = json_get(json_get(root, "model"), "vocab")->child; x; x = x->next) {
        token[x->valueint] = x->string, type[x->valueint] = 1;
        if ((uint32_t)x->valueint >= n) n = (uint32_t)x->valueint + 1;
    }
    for (const cJSON *x = json_get(root, "added_tokens")->child; x; x = x->next) {
        int id = json_get(x, "id")->valueint;
        token[id] = json_get_str(x, "content"), type[id] = cJSON_IsTrue(json_get(x, "special")) ? 3 : 4;
        if ((uint32_t)id >= n) n = (uint32_t)id + 1;
    }
    m->n = m->keys = 0;
    put(m, "GGUF\3\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 24);
    put_key_str(m, "tokenizer.ggml.model", "gpt2");
    if (pre) put_key_str(m, "tokenizer.ggml.pre", pre);
    put_key_array(m, "tokenizer.ggml.tokens", 8, n);
    for (uint32_t i = 0; i < n; i++) put_str(m, token[i]);
    put_key_array(m, "tokenizer.ggml.token_type", 5, n);
    for (uint32_t i = 0; i < n; i++) put32(m, type[i]);
    const cJSON *merges = json_get(json_get(root, "model"), "merges");
    put_key_array(m, "tokenizer.ggml.merges", 8, (uint64_t)cJSON_GetArraySize(merges));
    for (const cJSON *x = merges->child; x; x = x->next) {
        char line[256];
        if (cJSON_IsArray(x))
            snprintf(line, sizeof line, "%s %s", x->child->valuestring, x->child->next->valuestring);
        else
            snprintf(line, sizeof line, "%s", x->valuestring);
        put_str(m, line);
    }
    put_key(m, "tokenizer.ggml.bos_token_id", 4), put32(m, (uint32_t)bos);
    put_key(m, "tokenizer.ggml.eos_token_id", 4), put32(m, 2);
    put_key_str(m, "tokenizer.chat_template", "<|im_start|>system\nX<|im_end|><|start_header_id|>");
    memcpy(m->b + 16, &m->keys, 8);
    cJSON_Delete(root);
    mem_free(text);
}

static status_t from_image(const image_t *m, tokenizer_t **t) {
    gguf_t *g = NULL;
    *t = NULL;
    status_t st = gguf_parse(m->b, m->n, "t.gguf", &g);
    CU_ASSERT_EQUAL_FATAL(st, ST_OK);
    st = tokenizer_from_gguf(g, "t.gguf", t);
    gguf_close(g);
    return st;
}

static void test_gguf(void) {
    static image_t m;
    golden_t g = golden_open();
    tokenizer_t *t;
    image_of(&m, "smollm", "smollm", 1);
    CU_ASSERT_EQUAL_FATAL(from_image(&m, &t), ST_OK);
    CU_ASSERT_EQUAL(differences(t, "smollm", &g, true), 0);
    CU_ASSERT_EQUAL(tokenizer_bos(t), 1);
    CU_ASSERT_FALSE(tokenizer_adds_bos(t));
    CU_ASSERT_STRING_EQUAL(tokenizer_chat_family(t), "chatml");
    tokenizer_free(t);
    image_of(&m, "llama3", "llama-bpe", 801);
    CU_ASSERT_EQUAL_FATAL(from_image(&m, &t), ST_OK);
    CU_ASSERT_EQUAL(differences(t, "llama3", &g, true), 0);
    CU_ASSERT_TRUE(tokenizer_adds_bos(t));
    tokenizer_free(t);
    golden_close(&g);
}

static void test_gguf_refuses(void) {
    static image_t m;
    tokenizer_t *t;
    image_of(&m, "smollm", "mystery", 1);
    CU_ASSERT_EQUAL(from_image(&m, &t), ST_INPUT);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_message(), "mystery"));
    image_of(&m, "smollm", NULL, 1);
    CU_ASSERT_EQUAL(from_image(&m, &t), ST_INPUT);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_message(), "tokenizer.ggml.pre"));
    image_of(&m, "smollm", "smollm", 1);
    memcpy(memmem(m.b, m.n, "gpt2", 4), "bert", 4);
    CU_ASSERT_EQUAL(from_image(&m, &t), ST_INPUT);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_message(), "bert"));
    image_of(&m, "smollm", "smollm", 1 << 30); /* an id outside the vocabulary is no id */
    CU_ASSERT_EQUAL_FATAL(from_image(&m, &t), ST_OK);
    CU_ASSERT_EQUAL(tokenizer_bos(t), -1);
    tokenizer_free(t);
    char *types = memmem(m.b, m.n, "token_type", 10);
    types[10 + 4 + 4 + 8] = 9;
    CU_ASSERT_EQUAL(from_image(&m, &t), ST_INPUT);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_message(), "unknown type 9"));
}

/* A GGUF file of SentencePiece's kind: refused where the scores say nothing. */
static void spm_image(image_t *m, const char *squeeze, int n_score, float step) {
    static const char *const token[] = {"<unk>", "<s>", "</s>", "<0x0A>", SPACE, "a", SPACE "a", SPACE "aa"};
    static const uint32_t type[] = {2, 3, 3, 6, 1, 1, 1, 1};
    m->n = m->keys = 0;
    put(m, "GGUF\3\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 24);
    put_key_str(m, "tokenizer.ggml.model", "llama");
    put_key_array(m, "tokenizer.ggml.tokens", 8, 8);
    for (int i = 0; i < 8; i++) put_str(m, token[i]);
    put_key_array(m, "tokenizer.ggml.token_type", 5, 8);
    for (int i = 0; i < 8; i++) put32(m, type[i]);
    put_key_array(m, "tokenizer.ggml.scores", 6, (uint64_t)n_score);
    for (int i = 0; i < n_score; i++) put(m, &(float){-(float)i * step}, 4);
    if (squeeze) put_key(m, squeeze, 7), put(m, "\1", 1);
    memcpy(m->b + 16, &m->keys, 8);
}

static void test_gguf_spm(void) {
    static image_t m;
    static const struct {
        const char *squeeze;
        int n_score;
        float step;
        const char *word; /* of the refusal */
    } bad[] = {{"tokenizer.ggml.remove_extra_whitespaces", 8, 1, "remove_extra_whitespaces"},
               {NULL, 7, 1, "7 scores"},
               {NULL, 8, 0, "all tokens have the score"},
               {NULL, 8, HUGE_VALF, "no number"}};
    tokenizer_t *t;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        spm_image(&m, bad[i].squeeze, bad[i].n_score, bad[i].step);
        CU_ASSERT_EQUAL(from_image(&m, &t), ST_INPUT);
        CU_ASSERT_PTR_NOT_NULL(strstr(status_message(), bad[i].word));
    }
    spm_image(&m, NULL, 8, 1);
    CU_ASSERT_EQUAL_FATAL(from_image(&m, &t), ST_OK);
    ids_t ids = {0};
    CU_ASSERT_EQUAL(tokenizer_encode(t, "aa\n<s>a", 7, true, &ids), ST_OK); /* the prefix goes before each text between control tokens */
    static const int32_t want[] = {7, 3, 1, 6};
    CU_ASSERT(ids.n == 4 && !memcmp(ids.ids, want, sizeof want));
    ids_free(&ids);
    tokenizer_free(t);
}

static void test_gguf_mutated(void) {
    static const char text[] = "the caf\u00e9 <|im_end|> 12";
    static image_t good, m;
    rng_t r = {11};
    int loaded = 0;
    image_of(&good, "smollm", "smollm", 1);
    for (int round = 0; round < 400; round++) {
        gguf_t *g = NULL;
        tokenizer_t *t = NULL;
        ids_t ids = {0};
        memcpy(m.b, good.b, m.n = good.n);
        for (int i = 0; i < 1 + round % 4; i++) m.b[24 + rng_below(&r, (int64_t)m.n - 24)] = (uint8_t)rng_next(&r);
        status_t st = gguf_parse(m.b, m.n, "t.gguf", &g);
        if (!st) st = tokenizer_from_gguf(g, "t.gguf", &t);
        if (!st) st = tokenizer_encode(t, text, sizeof text - 1, true, &ids);
        CU_ASSERT(st == ST_OK || (st == ST_INPUT && *status_message()));
        loaded += st == ST_OK;
        ids_free(&ids);
        tokenizer_free(t);
        gguf_close(g);
    }
    CU_ASSERT(loaded > 0 && loaded < 400);
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
          {"long_runs", test_long_runs}, {"gguf", test_gguf}, {"gguf_refuses", test_gguf_refuses}, {"gguf_spm", test_gguf_spm},
          {"gguf_mutated", test_gguf_mutated}, {"torture", test_torture})

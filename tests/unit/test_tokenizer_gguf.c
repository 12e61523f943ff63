/* The tokenizer in a GGUF file's metadata: the same ids as from tokenizer.json, and refusals. Run from the project's root. */
#include <math.h>

#include "base/rng.h"
#include "bytes.h"
#include "tests/unit.h"
#include "tokenizer_golden.h"

#define SPACE "\xe2\x96\x81"

typedef struct {
    bytes_t b;
    uint64_t keys;
} image_t;

static void put_key(image_t *m, const char *key, uint32_t type) { put_str(&m->b, key), put_u32(&m->b, type), m->keys++; }
static void put_key_str(image_t *m, const char *key, const char *s) { put_key(m, key, 8), put_str(&m->b, s); }
static void put_key_array(image_t *m, const char *key, uint32_t type, uint64_t n) {
    put_key(m, key, 9), put_u32(&m->b, type), put_u64(&m->b, n);
}

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
    m->b.n = m->keys = 0;
    put(&m->b, "GGUF\3\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 24);
    put_key_str(m, "tokenizer.ggml.model", "gpt2");
    if (pre) put_key_str(m, "tokenizer.ggml.pre", pre);
    put_key_array(m, "tokenizer.ggml.tokens", 8, n);
    for (uint32_t i = 0; i < n; i++) put_str(&m->b, token[i]);
    put_key_array(m, "tokenizer.ggml.token_type", 5, n);
    for (uint32_t i = 0; i < n; i++) put_u32(&m->b, type[i]);
    const cJSON *merges = json_get(json_get(root, "model"), "merges");
    put_key_array(m, "tokenizer.ggml.merges", 8, (uint64_t)cJSON_GetArraySize(merges));
    for (const cJSON *x = merges->child; x; x = x->next) {
        char line[256];
        if (cJSON_IsArray(x))
            snprintf(line, sizeof line, "%s %s", x->child->valuestring, x->child->next->valuestring);
        else
            snprintf(line, sizeof line, "%s", x->valuestring);
        put_str(&m->b, line);
    }
    put_key(m, "tokenizer.ggml.bos_token_id", 4), put_u32(&m->b, (uint32_t)bos);
    put_key(m, "tokenizer.ggml.eos_token_id", 4), put_u32(&m->b, 2);
    put_key_str(m, "tokenizer.chat_template", "<|im_start|>system\nX<|im_end|><|start_header_id|>");
    memcpy(m->b.data + 16, &m->keys, 8);
    cJSON_Delete(root);
    mem_free(text);
}

static status_t from_image(const image_t *m, tokenizer_t **t) {
    gguf_t *g = NULL;
    *t = NULL;
    status_t st = gguf_parse(m->b.data, m->b.n, "t.gguf", &g);
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
    memcpy(memmem(m.b.data, m.b.n, "gpt2", 4), "bert", 4);
    CU_ASSERT_EQUAL(from_image(&m, &t), ST_INPUT);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_message(), "bert"));
    image_of(&m, "smollm", "smollm", 1 << 30); /* an id outside the vocabulary is no id */
    CU_ASSERT_EQUAL_FATAL(from_image(&m, &t), ST_OK);
    CU_ASSERT_EQUAL(tokenizer_bos(t), -1);
    tokenizer_free(t);
    char *types = memmem(m.b.data, m.b.n, "token_type", 10);
    types[10 + 4 + 4 + 8] = 9;
    CU_ASSERT_EQUAL(from_image(&m, &t), ST_INPUT);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_message(), "unknown type 9"));
}

/* A GGUF file of SentencePiece's kind: refused where the scores say nothing. */
static void spm_image(image_t *m, const char *squeeze, int n_score, float step) {
    static const char *const token[] = {"<unk>", "<s>", "</s>", "<0x0A>", SPACE, "a", SPACE "a", SPACE "aa"};
    static const uint32_t type[] = {2, 3, 3, 6, 1, 1, 1, 1};
    m->b.n = m->keys = 0;
    put(&m->b, "GGUF\3\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 24);
    put_key_str(m, "tokenizer.ggml.model", "llama");
    put_key_array(m, "tokenizer.ggml.tokens", 8, 8);
    for (int i = 0; i < 8; i++) put_str(&m->b, token[i]);
    put_key_array(m, "tokenizer.ggml.token_type", 5, 8);
    for (int i = 0; i < 8; i++) put_u32(&m->b, type[i]);
    put_key_array(m, "tokenizer.ggml.scores", 6, (uint64_t)n_score);
    for (int i = 0; i < n_score; i++) put(&m->b, &(float){-(float)i * step}, 4);
    if (squeeze) put_key(m, squeeze, 7), put(&m->b, "\1", 1);
    memcpy(m->b.data + 16, &m->keys, 8);
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
        m = good;
        for (int i = 0; i < 1 + round % 4; i++) m.b.data[24 + rng_below(&r, (int64_t)m.b.n - 24)] = (uint8_t)rng_next(&r);
        status_t st = gguf_parse(m.b.data, m.b.n, "t.gguf", &g);
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

UNIT_MAIN("tokenizer_gguf", {"gguf", test_gguf}, {"gguf_refuses", test_gguf_refuses}, {"gguf_spm", test_gguf_spm},
          {"gguf_mutated", test_gguf_mutated})

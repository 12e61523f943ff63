/* Golden texts for the tokenizer's tests: tests/golden/tokens holds, for each family, a tokenizer.json and the ids that HF `tokenizers`
 * gives for the same texts (make_tokens.py renews them). Paths are from the project's root. */
#ifndef TESTS_UNIT_TOKENIZER_GOLDEN_H
#define TESTS_UNIT_TOKENIZER_GOLDEN_H

#include <stdlib.h>

#include "base/mem.h"
#include "io/file.h"
#include "io/json.h"
#include "text/tokenizer_impl.h"
#include "unit.h"

#define GOLDEN "tests/golden/tokens/"
enum { TEXT_MAX = 4096 };

static inline tokenizer_t *load(const char *family) {
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

static inline golden_t golden_open(void) {
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

static inline void golden_close(golden_t *g) {
    for (int i = 0; i < g->n; i++) cJSON_Delete(g->record[i]);
    mem_free(g->record);
}

static inline size_t from_hex(const char *hex, char *out) {
    size_t n = 0;
    for (; hex[0] && hex[1] && n + 1 < TEXT_MAX; hex += 2, n++) {
        char digits[3] = {hex[0], hex[1], 0};
        out[n] = (char)strtol(digits, NULL, 16);
    }
    out[n] = '\0';
    return n;
}

static inline size_t text_of(const cJSON *r, char *out) {
    const char *hex = json_get_str(r, "hex"), *text = json_get_str(r, "text");
    if (hex) return from_hex(hex, out);
    snprintf(out, TEXT_MAX, "%s", text);
    return strlen(out);
}

static inline const cJSON *field(const cJSON *r, const char *family, const char *suffix) {
    char key[64];
    snprintf(key, sizeof key, "%s%s", family, suffix);
    return json_get(r, key);
}

static inline bool ids_are(const ids_t *ids, const cJSON *want) {
    int64_t i = 0;
    for (const cJSON *x = want ? want->child : NULL; x; x = x->next, i++)
        if (i >= ids->n || ids->ids[i] != x->valueint) return false;
    return i == ids->n;
}

static inline bool encodes_to(const tokenizer_t *t, const char *s, size_t n, bool specials, const cJSON *want) {
    ids_t ids = {0};
    bool same = tokenizer_encode(t, s, n, specials, &ids) == ST_OK && ids_are(&ids, want);
    ids_free(&ids);
    return same;
}

static inline bool decodes_to(const tokenizer_t *t, const cJSON *list, bool specials, const char *want, size_t want_n) {
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
static inline int differences(const tokenizer_t *t, const char *family, const golden_t *g, bool decoding) {
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

#endif

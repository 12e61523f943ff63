/* Any bytes as text: first byte the family (low bits) and whether special tokens are recognised, the rest the text.
 *
 * Decoding the ids must give the text back: repaired, in NFC where the family normalises, without the bytes that the vocabulary lacks.
 * Vocabularies are those of tests/golden/tokens; run from the project's root.
 */
#include <utf8proc.h>

#include "base/mem.h"
#include "fuzz.h"
#include "io/corpus.h"
#include "text/tokenizer_impl.h"
#include "text/unicode.h"

static const char *const PATH[] = {"tests/golden/tokens/smollm.json", "tests/golden/tokens/gpt2.json", "tests/golden/tokens/llama3.json",
                                   "tests/golden/tokens/qwen2.json"};

static const tokenizer_t *family(int i) {
    static tokenizer_t *loaded[4];
    if (!loaded[i]) FUZZ_CHECK(tokenizer_from_json(PATH[i], &loaded[i]) == ST_OK);
    return loaded[i];
}

/* Tokens that strip the text around them, or whose written form decodes to other bytes (as in HF), do not give it back. */
static bool gives_back(const tokenizer_t *t, const ids_t *ids) {
    for (int64_t i = 0; i < ids->n; i++) {
        const added_token_t *a = t->added_of[ids->ids[i]];
        if (a && (a->lstrip || a->rstrip || t->vocabulary.piece[a->id].n != a->n)) return false;
    }
    return true;
}

/* What decoding must give; caller's. */
static void expect(const tokenizer_t *t, const char *s, size_t n, utf8_t *want) {
    char *clean;
    size_t k = 0;
    int64_t bad;
    FUZZ_CHECK(utf8_repair(s, n, &clean, &n, &bad) == ST_OK);
    if (normal_has(&t->normal, NORMAL_NFC)) {
        utf8proc_uint8_t *normal = NULL;
        utf8proc_ssize_t len = utf8proc_map((uint8_t *)clean, (utf8proc_ssize_t)n, &normal, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
        FUZZ_CHECK(len >= 0);
        FUZZ_CHECK(unicode_nfc(clean, n, want) == ST_OK);
        FUZZ_CHECK(want->n == (size_t)len && (len == 0 || !memcmp(want->s, normal, want->n)));
        free(normal);
    } else {
        FUZZ_CHECK(mem_alloc(&want->s, n + 1, 1, "expected text") == ST_OK);
        memcpy(want->s, clean, want->n = n);
    }
    for (size_t i = 0; i < want->n; i++)
        if (t->vocabulary.byte_id[(uint8_t)want->s[i]] >= 0) want->s[k++] = want->s[i];
    want->n = k;
    mem_free(clean);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 1 || size > 1 << 16) return 0;
    const tokenizer_t *t = family(data[0] & 3);
    bool specials = data[0] & 4;
    const char *s = (const char *)data + 1;
    ids_t ids = {0};
    utf8_t want = {0};
    char *text;
    size_t n;
    FUZZ_CHECK(tokenizer_encode(t, s, size - 1, specials, &ids) == ST_OK);
    for (int64_t i = 0; i < ids.n; i++) {
        FUZZ_CHECK(ids.ids[i] >= 0 && ids.ids[i] < tokenizer_n_vocab(t));
        FUZZ_CHECK(specials || !tokenizer_is_special(t, ids.ids[i]));
    }
    FUZZ_CHECK(tokenizer_decode(t, ids.ids, ids.n, true, &text, &n) == ST_OK);
    expect(t, s, size - 1, &want);
    FUZZ_CHECK(!gives_back(t, &ids) || (n == want.n && (n == 0 || !memcmp(text, want.s, n))));
    mem_free(text);
    mem_free(want.s);
    ids_free(&ids);
    return 0;
}

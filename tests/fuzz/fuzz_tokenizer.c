/* Any bytes as text, or as ids. The first byte: the family (low four bits), 16: special tokens are recognised, 32: the rest are ids, two
 * bytes each; else they are the text.
 *
 * Decoding the ids of a text must give the text back: repaired, in NFC where the family normalises, without the bytes that the vocabulary
 * lacks. Decoding any ids gives UTF-8, the same in one go and as a stream, which shows whole characters only. Vocabularies are those of
 * tests/golden/tokens; run from the project's root.
 */
#include <utf8proc.h>

#include "base/mem.h"
#include "fuzz.h"
#include "io/corpus.h"
#include "io/utf8.h"
#include "text/tokenizer_impl.h"
#include "text/unicode.h"

#define FAMILY(name) "tests/golden/tokens/" name ".json"
static const char *const PATH[] = {FAMILY("smollm"),  FAMILY("gpt2"),     FAMILY("llama3"),    FAMILY("qwen2"), FAMILY("llama2"),
                                   FAMILY("llama2n"), FAMILY("mistral3"), FAMILY("metaspace"), FAMILY("never"), FAMILY("gemma")};
enum { FAMILIES = sizeof PATH / sizeof *PATH };

static const tokenizer_t *family(int i) {
    static tokenizer_t *loaded[FAMILIES];
    if (!loaded[i]) FUZZ_CHECK(tokenizer_from_json(PATH[i], &loaded[i]) == ST_OK);
    return loaded[i];
}

/* Tokens that strip the text around them, or whose written form decodes to other bytes (as in HF), do not give it back. */
static bool gives_back(const tokenizer_t *t, const ids_t *ids) {
    if (t->vocabulary.textual && (!t->vocabulary.shows_bytes || t->ignore_merges)) return false; /* bytes shown as such, or lacking */
    for (int64_t i = 0; i < ids->n; i++) {
        const added_token_t *a = t->added_of[ids->ids[i]];
        if (a && (t->vocabulary.textual || a->lstrip || a->rstrip || t->vocabulary.piece[a->id].n != a->n)) return false;
    }
    return true;
}

/* U+2581 reads as a blank; a blank at the head goes where it stands for the one that is put there. */
static void expect_textual(const tokenizer_t *t, utf8_t *want) {
    size_t k = 0;
    bool unprefixed = t->metaspace.on && t->metaspace.prefix != PREFIX_ALWAYS;
    for (size_t i = 0; i < want->n; i++) {
        bool blank = want->n - i >= 3 && !memcmp(want->s + i, VOCABULARY_BLANK, 3);
        char c = blank ? ' ' : want->s[i];
        if (i > 0 || c != ' ' || !unprefixed) want->s[k++] = c;
        if (blank) i += 2;
    }
    want->n = k;
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
    if (t->vocabulary.textual)
        expect_textual(t, want);
    else {
        for (size_t i = 0; i < want->n; i++)
            if (t->vocabulary.byte_id[(uint8_t)want->s[i]] >= 0) want->s[k++] = want->s[i];
        want->n = k;
    }
    mem_free(clean);
}

static void check_decoding(const tokenizer_t *t, const ids_t *ids, bool show, char **text, size_t *n) {
    tokenizer_stream_t d;
    const char *part;
    size_t k, at = 0;
    FUZZ_CHECK(tokenizer_decode(t, ids->ids, ids->n, show, text, n) == ST_OK);
    FUZZ_CHECK(utf8_valid_bytes(*text, *n) == *n && (*text)[*n] == 0);
    tokenizer_stream_begin(&d, t, show);
    for (int64_t i = 0; i <= ids->n; i++) {
        status_t st = i < ids->n ? tokenizer_stream_put(&d, ids->ids[i], &part, &k) : tokenizer_stream_end(&d, &part, &k);
        FUZZ_CHECK(st == ST_OK && part[k] == 0 && utf8_valid_bytes(part, k) == k);
        FUZZ_CHECK(k <= *n - at && !memcmp(*text + at, part, k));
        at += k;
    }
    FUZZ_CHECK(at == *n);
    tokenizer_stream_free(&d);
}

static void decode_any(const tokenizer_t *t, bool show, const uint8_t *p, size_t n) {
    ids_t ids = {0};
    char *text;
    size_t k;
    for (size_t i = 0; i + 1 < n; i += 2) FUZZ_CHECK(ids_push(&ids, (p[i] | p[i + 1] << 8) % 1000 - 1) == ST_OK);
    check_decoding(t, &ids, show, &text, &k);
    mem_free(text);
    ids_free(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 1 || size > 1 << 16) return 0;
    const tokenizer_t *t = family((data[0] & 15) % FAMILIES);
    bool specials = data[0] & 16;
    if (data[0] & 32) return decode_any(t, specials, data + 1, size - 1), 0;
    const char *s = (const char *)data + 1;
    ids_t ids = {0};
    utf8_t want = {0};
    char *text;
    size_t n;
    FUZZ_CHECK(tokenizer_encode(t, s, size - 1, specials, &ids) == ST_OK);
    for (int64_t i = 0; i < ids.n; i++) {
        FUZZ_CHECK(ids.ids[i] >= 0 && ids.ids[i] < tokenizer_n_vocab(t));
        FUZZ_CHECK(specials || ids.ids[i] == t->vocabulary.unk || !tokenizer_is_special(t, ids.ids[i]));
    }
    check_decoding(t, &ids, true, &text, &n);
    expect(t, s, size - 1, &want);
    FUZZ_CHECK(!gives_back(t, &ids) || (n == want.n && (n == 0 || !memcmp(text, want.s, n))));
    mem_free(text);
    mem_free(want.s);
    ids_free(&ids);
    return 0;
}

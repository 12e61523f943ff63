/* A tokenizer from a GGUF file's metadata.
 *
 *     tokenizer.ggml.model       "gpt2": byte-level BPE; "llama": SentencePiece's BPE
 *     tokenizer.ggml.pre         which pre-tokeniser: a name that stands for a pattern, a normaliser and habits (the table below);
 *                                byte-level only
 *     tokenizer.ggml.tokens, .token_type, .*_token_id, .add_bos_token, tokenizer.chat_template
 *     tokenizer.ggml.merges      byte-level
 *     tokenizer.ggml.scores      SentencePiece's: what merges first (scored.c)
 *     tokenizer.ggml.add_space_prefix, .remove_extra_whitespaces
 *
 * Tokens of type control and user-defined are what HF calls added tokens; the file does not keep their flags (strip, single word), which no
 * family of the table sets. SentencePiece's blank goes before every text between added tokens, as the library's own converters have it.
 */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "text/tokenizer_impl.h"

enum { TYPE_NORMAL = 1, TYPE_UNKNOWN = 2, TYPE_CONTROL = 3, TYPE_USER = 4, TYPE_UNUSED = 5, TYPE_BYTE = 6 };

typedef struct {
    const char *pre, *first, *second; /* name in the file; patterns of the steps */
    bool nfc, ignore_merges, adds_bos;
} pre_t;

static const pre_t PRE[] = {
    {"smollm", SPLIT_DIGIT, SPLIT_GPT2, false, false, false}, {"gpt-2", SPLIT_GPT2, NULL, false, false, false},
    {"llama-bpe", SPLIT_LLAMA3, NULL, false, true, true},     {"llama3", SPLIT_LLAMA3, NULL, false, true, true},
    {"llama-v3", SPLIT_LLAMA3, NULL, false, true, true},      {"qwen2", SPLIT_QWEN2, NULL, true, false, false},
};

/* NULL: SentencePiece's. */
static status_t pre_find(const gguf_t *g, const char *name, const pre_t **out) {
    const char *s;
    size_t n;
    if (!gguf_get_str(g, "tokenizer.ggml.model", &s, &n))
        return status_fail(ST_INPUT, "%s: no tokenizer in the file (key tokenizer.ggml.model); use a file that has one", name);
    *out = NULL;
    if (n == 5 && !memcmp(s, "llama", 5)) return ST_OK;
    if (n != 4 || memcmp(s, "gpt2", 4))
        return status_fail(ST_INPUT,
                           "%s: tokenizer model \"%.*s\" is not supported (gpt2, byte-level BPE, and llama, SentencePiece, are); "
                           "use another model",
                           name, n > 40 ? 40 : (int)n, s);
    if (!gguf_get_str(g, "tokenizer.ggml.pre", &s, &n))
        return status_fail(ST_INPUT,
                           "%s: the file does not say how text is cut before merging (key tokenizer.ggml.pre); convert the model again",
                           name);
    for (size_t i = 0; i < sizeof PRE / sizeof *PRE; i++)
        if (strlen(PRE[i].pre) == n && !memcmp(PRE[i].pre, s, n)) return *out = PRE + i, ST_OK;
    return status_fail(ST_INPUT, "%s: pre-tokeniser \"%.*s\" is not supported (smollm, gpt-2, llama-bpe, qwen2 are); use another model",
                       name, n > 40 ? 40 : (int)n, s);
}

static status_t read_token(tokenizer_t *t, const gguf_t *g, const char *name, int64_t id, bool typed) {
    const char *s;
    size_t n;
    int64_t type = TYPE_NORMAL;
    if (!gguf_array_str(g, "tokenizer.ggml.tokens", id, &s, &n) || (typed && !gguf_array_i64(g, "tokenizer.ggml.token_type", id, &type)))
        return status_fail(ST_INPUT, "%s: token %lld cannot be read; get the file again", name, (long long)id);
    if (type == TYPE_UNUSED) return ST_OK;
    if (type == TYPE_NORMAL || type == TYPE_BYTE) return vocabulary_set(&t->vocabulary, id, s, n, true);
    if (type != TYPE_CONTROL && type != TYPE_USER && type != TYPE_UNKNOWN)
        return status_fail(ST_INPUT, "%s: token %lld has the unknown type %lld; get the file again", name, (long long)id, (long long)type);
    added_token_t a = {.text = s, .n = n, .id = (int32_t)id, .special = type != TYPE_USER};
    status_t st = vocabulary_set(&t->vocabulary, id, s, n, false);
    return st ? st : added_put(&t->added_raw, &a, name);
}

static int32_t special_id(const tokenizer_t *t, const gguf_t *g, const char *key) {
    int64_t id;
    return gguf_get_i64(g, key, &id) && id >= 0 && id < t->vocabulary.n ? (int32_t)id : -1;
}

static void read_ends(tokenizer_t *t, const gguf_t *g) {
    static const char *const key[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"};
    for (size_t i = 0; i < sizeof key / sizeof *key; i++) tokenizer_add_eos(t, special_id(t, g, key[i]));
    tokenizer_add_family_eos(t);
}

static status_t read_merges(tokenizer_t *t, const gguf_t *g, const char *name) {
    const char *s;
    size_t n;
    int64_t n_merge = gguf_array_n(g, "tokenizer.ggml.merges");
    if (n_merge < 0) return status_fail(ST_INPUT, "%s: no merges (key tokenizer.ggml.merges); get the file again", name);
    status_t st = vocabulary_reserve_merges(&t->vocabulary, n_merge);
    for (int64_t i = 0; i < n_merge && !st; i++) {
        if (!gguf_array_str(g, "tokenizer.ggml.merges", i, &s, &n))
            return status_fail(ST_INPUT, "%s: merge %lld cannot be read; get the file again", name, (long long)i);
        st = vocabulary_merge_line(&t->vocabulary, i, s, n);
    }
    return st;
}

static status_t read_scores(tokenizer_t *t, const gguf_t *g, const char *name) {
    double *score = NULL;
    int64_t n = t->vocabulary.n, n_score = gguf_array_n(g, "tokenizer.ggml.scores");
    if (n_score != n)
        return status_fail(ST_INPUT, "%s: %lld tokens with %lld scores (key tokenizer.ggml.scores); get the file again", name, (long long)n,
                           (long long)n_score);
    status_t st = mem_alloc(&score, (size_t)n, sizeof *score, "the scores of the vocabulary");
    for (int64_t i = 0; i < n && !st; i++)
        if (!gguf_array_f64(g, "tokenizer.ggml.scores", i, score + i))
            st = status_fail(ST_INPUT, "%s: the score of token %lld cannot be read; get the file again", name, (long long)i);
    if (!st) st = vocabulary_merge_scored(&t->vocabulary, score);
    mem_free(score);
    return st;
}

static status_t byte_level(tokenizer_t *t, const gguf_t *g, const pre_t *pre, const char *name) {
    vocabulary_index_bytes(&t->vocabulary, false);
    status_t st = read_merges(t, g, name);
    if (!st) st = split_add(&t->split, pre->first, strlen(pre->first), false, name);
    if (!st && pre->second) st = split_add(&t->split, pre->second, strlen(pre->second), false, name);
    if (!st && pre->nfc) st = normal_add(&t->normal, NORMAL_NFC, NULL, NULL, name);
    t->ignore_merges = pre->ignore_merges;
    t->adds_bos = pre->adds_bos;
    snprintf(t->family, sizeof t->family, "byte-level BPE, %s pre-tokeniser", pre->pre);
    return st;
}

static status_t sentencepiece(tokenizer_t *t, const gguf_t *g, const char *name) {
    bool prefix = true, squeezes = false;
    int64_t unk = -1;
    gguf_get_bool(g, "tokenizer.ggml.add_space_prefix", &prefix);
    gguf_get_bool(g, "tokenizer.ggml.remove_extra_whitespaces", &squeezes);
    if (squeezes) return status_fail(ST_INPUT, "%s: tokenizer.ggml.remove_extra_whitespaces is not supported; use another model", name);
    vocabulary_index_bytes(&t->vocabulary, true);
    status_t st = read_scores(t, g, name);
    if (!st && prefix) st = normal_add(&t->normal, NORMAL_PREPEND, NULL, VOCABULARY_BLANK, name);
    if (!st) st = normal_add(&t->normal, NORMAL_REPLACE, " ", VOCABULARY_BLANK, name);
    if (gguf_get_i64(g, "tokenizer.ggml.unknown_token_id", &unk) && unk >= 0 && unk < t->vocabulary.n) t->vocabulary.unk = (int32_t)unk;
    t->vocabulary.fuse_unk = true;
    t->decode.strip = prefix;
    t->adds_bos = true;
    vocabulary_find_cuts(&t->vocabulary);
    snprintf(t->family, sizeof t->family, "SentencePiece BPE, whole text");
    return st;
}

static status_t read_tokens(tokenizer_t *t, const gguf_t *g, bool textual, const char *name) {
    vocabulary_t like = {.textual = textual, .shows_blank = textual, .shows_bytes = textual};
    int64_t n = gguf_array_n(g, "tokenizer.ggml.tokens"), n_type = gguf_array_n(g, "tokenizer.ggml.token_type");
    if (n_type != n && (n_type >= 0 || textual))
        return status_fail(ST_INPUT, "%s: %lld tokens with %lld types (key tokenizer.ggml.token_type); get the file again", name,
                           (long long)n, (long long)n_type);
    status_t st = vocabulary_create(&t->vocabulary, &like, n, 0, name);
    for (int64_t i = 0; i < n && !st; i++) st = read_token(t, g, name, i, n_type >= 0);
    return st;
}

status_t tokenizer_from_gguf(const gguf_t *g, const char *name, tokenizer_t **out) {
    tokenizer_t *t = NULL;
    const pre_t *pre = NULL;
    const char *s;
    size_t n;
    *out = NULL;
    status_t st = pre_find(g, name, &pre);
    if (st) return st;
    if ((st = tokenizer_create(&t))) return st;
    if ((st = read_tokens(t, g, !pre, name))) goto out;
    if ((st = pre ? byte_level(t, g, pre, name) : sentencepiece(t, g, name))) goto out;
    gguf_get_bool(g, "tokenizer.ggml.add_bos_token", &t->adds_bos);
    t->bos = special_id(t, g, "tokenizer.ggml.bos_token_id");
    if (t->bos < 0) t->adds_bos = false;
    if (gguf_get_str(g, "tokenizer.chat_template", &s, &n) && (st = chat_recognise(&t->chat, s, n))) goto out;
    if ((st = tokenizer_ready(t, name))) goto out;
    read_ends(t, g);
    *out = t;
    t = NULL;
out:
    tokenizer_free(t);
    return st;
}

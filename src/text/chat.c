/* chatml:  <|im_start|>system\n...<|im_end|>\n<|im_start|>user\n...<|im_end|>\n<|im_start|>assistant\n
 * llama3:
 * <|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n...<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n...<|eot_id|>
 *          <|start_header_id|>assistant<|end_header_id|>\n\n
 *
 * Marks go in as ids and what people wrote as ordinary text, so that a prompt cannot forge a turn. Text between two marks is encoded by
 * itself, as HF does, which cuts at added tokens first.
 */
#include "text/chat.h"

#include <string.h>

#include "base/mem.h"
#include "io/corpus.h"
#include "text/tokenizer_impl.h"
#include "text/unicode.h"

/* Llama 3.1's and later templates put these lines at the head of the system turn; where the model's makers take today's date we keep the
 * one that their template falls back to, so that the same prompt has the same ids every day. */
static const char DATES[] = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n";
static const char DATES_MARK[] = "Cutting Knowledge Date: December 2023";

static const char *find(const char *s, size_t n, const char *word) { return n ? memmem(s, n, word, strlen(word)) : NULL; }

/* The default system text stands in a chatml template between "<|im_start|>system\n" and "<|im_end|>" with no code between (the newline as
 * itself or as \n). */
static status_t chatml_default(chat_t *c, const char *s, size_t n) {
    static const char open[] = "<|im_start|>system", close[] = "<|im_end|>";
    const char *end = s + n;
    while ((s = find(s, (size_t)(end - s), open))) {
        s += sizeof open - 1;
        if (s < end && *s == '\n')
            s++;
        else if (end - s >= 2 && s[0] == '\\' && s[1] == 'n')
            s += 2;
        else
            continue;
        const char *stop = find(s, (size_t)(end - s), close);
        if (!stop) break;
        size_t len = (size_t)(stop - s);
        if (len == 0 || memchr(s, '\'', len) || memchr(s, '"', len) || memchr(s, '{', len) || memchr(s, '\\', len)) continue;
        status_t st = mem_alloc(&c->system, len + 1, 1, "the default system text");
        if (st) return st;
        memcpy(c->system, s, len);
        c->system[len] = '\0';
        break;
    }
    return ST_OK;
}

status_t chat_recognise(chat_t *c, const char *text, size_t n) {
    if (c->family != CHAT_NONE || n > CHAT_TEMPLATE_MAX) return ST_OK;
    if (find(text, n, "<|start_header_id|>") && find(text, n, "<|eot_id|>")) {
        c->family = CHAT_LLAMA3;
        c->dated = find(text, n, DATES_MARK);
    } else if (find(text, n, "<|im_start|>") && find(text, n, "<|im_end|>")) {
        c->family = CHAT_CHATML;
        return chatml_default(c, text, n);
    }
    return ST_OK;
}

void chat_free(chat_t *c) {
    mem_free(c->system);
    memset(c, 0, sizeof *c);
}

const char *tokenizer_chat_family(const tokenizer_t *t) {
    static const char *const name[] = {NULL, "chatml", "llama3"};
    return name[t->chat.family];
}

static status_t mark(const tokenizer_t *t, const char *token, ids_t *out) {
    int32_t id = tokenizer_find(t, token);
    if (id < 0)
        return status_fail(ST_INPUT, "the model's chat template needs the token %s, which its vocabulary lacks; ask without --chat", token);
    return ids_push(out, id);
}

static status_t plain(const tokenizer_t *t, const char *a, const char *b, size_t b_n, ids_t *out) { /* a then b, as one text */
    size_t a_n = strlen(a);
    char *both;
    status_t st = mem_alloc(&both, a_n + b_n + 1, 1, "a chat prompt");
    if (st) return st;
    memcpy(both, a, a_n);
    memcpy(both + a_n, b, b_n);
    st = tokenizer_encode(t, both, a_n + b_n, false, out);
    mem_free(both);
    return st;
}

static status_t chatml_turn(const tokenizer_t *t, const char *role, const char *text, ids_t *out) {
    status_t st = mark(t, "<|im_start|>", out);
    if (!st) st = plain(t, role, text, strlen(text), out);
    if (!st) st = mark(t, "<|im_end|>", out);
    return st ? st : tokenizer_encode(t, "\n", 1, false, out);
}

static status_t chatml(const tokenizer_t *t, const char *system, const char *user, ids_t *out) {
    status_t st = ST_OK;
    if (!system) system = t->chat.system;
    if (system) st = chatml_turn(t, "system\n", system, out);
    if (!st) st = chatml_turn(t, "user\n", user, out);
    if (!st) st = mark(t, "<|im_start|>", out);
    return st ? st : tokenizer_encode(t, "assistant\n", 10, false, out);
}

static bool trimmed(int32_t c) { return unicode_is_space(c) || (c >= 0x1c && c <= 0x1f); } /* what str.strip() of Python takes off */

static void trim(const char **s, size_t *n) {
    size_t k;
    while (*n && trimmed(unicode_at(*s, &k))) *s += k, *n -= k;
    while (*n && trimmed(unicode_before(*s, *n, &k))) *n -= k;
}

static status_t llama3_head(const tokenizer_t *t, const char *role, ids_t *out) {
    status_t st = mark(t, "<|start_header_id|>", out);
    if (!st) st = tokenizer_encode(t, role, strlen(role), false, out);
    return st ? st : mark(t, "<|end_header_id|>", out);
}

static status_t llama3_turn(const tokenizer_t *t, const char *role, const char *before, const char *text, ids_t *out) {
    char *clean = NULL; /* trimming looks at characters, so the text must be UTF-8 */
    size_t n;
    int64_t bad;
    status_t st = utf8_repair(text, strlen(text), &clean, &n, &bad);
    const char *s = clean;
    if (st) return st;
    trim(&s, &n);
    char open[2 + sizeof DATES] = "\n\n";
    strcat(open, before);
    st = llama3_head(t, role, out);
    if (!st) st = plain(t, open, s, n, out);
    if (!st) st = mark(t, "<|eot_id|>", out);
    mem_free(clean);
    return st;
}

static status_t llama3(const tokenizer_t *t, const char *system, const char *user, ids_t *out) {
    status_t st = mark(t, "<|begin_of_text|>", out);
    if (!st && (system || t->chat.dated)) st = llama3_turn(t, "system", t->chat.dated ? DATES : "", system ? system : "", out);
    if (!st) st = llama3_turn(t, "user", "", user, out);
    if (!st) st = llama3_head(t, "assistant", out);
    return st ? st : tokenizer_encode(t, "\n\n", 2, false, out);
}

status_t tokenizer_chat(const tokenizer_t *t, const char *system, const char *user, ids_t *out) {
    switch (t->chat.family) {
    case CHAT_CHATML:
        return chatml(t, system, user, out);
    case CHAT_LLAMA3:
        return llama3(t, system, user, out);
    default:
        return status_fail(ST_INPUT, "the model has no chat template that is known (chatml, llama3); ask without --chat");
    }
}

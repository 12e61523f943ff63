/* chatml:  <|im_start|>system\n...<|im_end|>\n<|im_start|>user\n...<|im_end|>\n<|im_start|>assistant\n
 * llama3:  <|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n...<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n...
 *          <|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n
 * llama2:  <s>[INST] <<SYS>>\n...\n<</SYS>>\n\n... [/INST]
 * mistral: <s>[INST] ...\n\n... [/INST]          with or without the blanks, as the template has it
 * zephyr:  <|system|>\n...</s>\n<|user|>\n...</s>\n<|assistant|>\n
 *
 * The prompt is written as a text, as HF does, and encoded with special tokens recognised in the template's words but not in what people
 * wrote, so that a prompt cannot forge a turn (where turns are marked by tokens; "[INST]" is ordinary text in older models).
 */
#include "text/chat.h"

#include <string.h>

#include "base/mem.h"
#include "io/corpus.h"
#include "text/tokenizer_impl.h"

/* Llama 3.1's and later templates put these lines at the head of the system turn; where the model's makers take today's date we keep the
 * one that their template falls back to, so that the same prompt has the same ids every day. */
static const char DATES[] = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n";

const char *tokenizer_chat_family(const tokenizer_t *t) {
    static const char *const name[] = {NULL, "chatml", "llama3", "llama2", "mistral", "zephyr"};
    return name[t->chat.family];
}

/* ---- the prompt as a text ---- */

typedef struct {
    const tokenizer_t *t;
    utf8_t text;
    own_words_t own[OWN_WORDS_MAX];
    int n_own;
    status_t st; /* the first that went wrong; what comes after does nothing */
} prompt_t;

static void put(prompt_t *p, const char *s, size_t n) {
    if (p->st) return;
    if (n > p->text.cap - p->text.n) {
        size_t cap = 2 * p->text.cap + n + 64;
        if ((p->st = mem_grow(&p->text.s, cap, 1, "a chat prompt"))) return;
        p->text.cap = cap;
    }
    memcpy(p->text.s + p->text.n, s, n);
    p->text.n += n;
}

static void words(prompt_t *p, const char *s) { put(p, s, strlen(s)); }

/* A token of the template. */
static void mark(prompt_t *p, const char *token) {
    if (!p->st && tokenizer_find(p->t, token) < 0)
        p->st =
            status_fail(ST_INPUT, "the model's chat template needs the token %s, which its vocabulary lacks; ask without --chat", token);
    words(p, token);
}

static void id_mark(prompt_t *p, int32_t id, const char *what) {
    size_t n;
    if (!p->st && id < 0)
        p->st = status_fail(ST_INPUT, "the model's chat template needs the model's %s token, which is not known; ask without --chat", what);
    if (p->st) return;
    const char *s = tokenizer_piece(p->t, id, &n);
    put(p, s, n);
}

static bool trimmed(int32_t c) { return unicode_is_space(c) || (c >= 0x1c && c <= 0x1f); } /* what str.strip() of Python takes off */

static void trim(const char **s, size_t *n, bool left, bool right) {
    size_t k;
    while (left && *n && trimmed(unicode_at(*s, &k))) *s += k, *n -= k;
    while (right && *n && trimmed(unicode_before(*s, *n, &k))) *n -= k;
}

/* What people wrote. */
static void own(prompt_t *p, const char *s, bool left, bool right) {
    char *clean = NULL; /* trimming looks at characters, so the text must be UTF-8 */
    size_t n;
    int64_t bad;
    if (!p->st) p->st = utf8_repair(s, strlen(s), &clean, &n, &bad);
    if (p->st) return;
    const char *from = clean;
    trim(&from, &n, left, right);
    size_t begin = p->text.n;
    put(p, from, n);
    if (p->n_own < OWN_WORDS_MAX) p->own[p->n_own++] = (own_words_t){begin, p->text.n};
    mem_free(clean);
}

/* ---- families ---- */

static void chatml_turn(prompt_t *p, const char *role, const char *text) {
    mark(p, "<|im_start|>");
    words(p, role);
    own(p, text, false, false);
    mark(p, "<|im_end|>");
    words(p, "\n");
}

static void chatml(prompt_t *p, const char *system, const char *user) {
    if (!system) system = p->t->chat.system;
    if (system) chatml_turn(p, "system\n", system);
    chatml_turn(p, "user\n", user);
    mark(p, "<|im_start|>");
    words(p, "assistant\n");
}

static void llama3_head(prompt_t *p, const char *role) {
    mark(p, "<|start_header_id|>");
    words(p, role);
    mark(p, "<|end_header_id|>");
    words(p, "\n\n");
}

static void llama3_turn(prompt_t *p, const char *role, const char *before, const char *text) {
    llama3_head(p, role);
    words(p, before);
    own(p, text, true, true);
    mark(p, "<|eot_id|>");
}

static void llama3(prompt_t *p, const char *system, const char *user) {
    bool dated = p->t->chat.dated;
    mark(p, "<|begin_of_text|>");
    if (system || dated) llama3_turn(p, "system", dated ? DATES : "", system ? system : "");
    llama3_turn(p, "user", "", user);
    llama3_head(p, "assistant");
}

/* A user's text of nothing leaves the end of what stands before it to be trimmed. */
static void trim_end(prompt_t *p, size_t least) {
    size_t k;
    while (!p->st && p->text.n > least && trimmed(unicode_before(p->text.s, p->text.n, &k))) p->text.n -= k;
    for (int i = 0; i < p->n_own; i++) {
        if (p->own[i].begin > p->text.n) p->own[i].begin = p->text.n;
        if (p->own[i].end > p->text.n) p->own[i].end = p->text.n;
    }
}

/* Trimming takes the blanks off the turn as a whole: with a system text before it, off the user's right end alone. */
static void inst(prompt_t *p, const char *system, const char *user) {
    const chat_t *c = &p->t->chat;
    bool sys = c->family == CHAT_LLAMA2;
    if (system && !c->has_system && !p->st)
        p->st = status_fail(ST_INPUT, "the model's chat template has no place for a system text; ask without --system");
    if (c->bos) id_mark(p, p->t->bos, "BOS");
    words(p, c->open);
    size_t turn = p->text.n;
    if (system) {
        words(p, sys ? "<<SYS>>\n" : "");
        own(p, system, c->trims && !sys, false);
        words(p, sys ? "\n<</SYS>>\n\n" : "\n\n");
    }
    own(p, user, c->trims && !system, c->trims);
    if (c->trims) trim_end(p, turn);
    words(p, c->close);
}

static void zephyr_turn(prompt_t *p, const char *head, const char *text) {
    words(p, head);
    own(p, text, false, false);
    id_mark(p, p->t->n_eos ? p->t->eos[0] : -1, "EOS");
    words(p, p->t->chat.turn_line ? "\n" : "");
}

static void zephyr(prompt_t *p, const char *system, const char *user) {
    if (system) zephyr_turn(p, "<|system|>\n", system);
    zephyr_turn(p, "<|user|>\n", user);
    words(p, p->t->chat.last_line ? "<|assistant|>\n" : "<|assistant|>");
}

status_t tokenizer_chat(const tokenizer_t *t, const char *system, const char *user, ids_t *out) {
    static void (*const family[])(prompt_t *, const char *, const char *) = {NULL, chatml, llama3, inst, inst, zephyr};
    prompt_t p = {.t = t};
    if (!family[t->chat.family])
        return status_fail(ST_INPUT, "the model has no chat template that is known (chatml, llama3, llama2, mistral, zephyr); "
                                     "ask without --chat");
    family[t->chat.family](&p, system, user);
    if (!p.st) p.st = tokenizer_encode_around(t, p.text.s, p.text.n, p.own, p.n_own, out);
    mem_free(p.text.s);
    return p.st;
}

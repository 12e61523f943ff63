/* Which family a template is of. A template is taken only when the words that make the prompt's text are found in it as they are known;
 * one that spells them in two ways, or has its own, is of no family.
 */
#include <string.h>

#include "base/mem.h"
#include "text/chat.h"

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

static bool is_quote(char c) { return c == '\'' || c == '"'; }

/* The string of the template that is `mark` with blanks around it. false when there is none, or when two differ. */
static bool mark_literal(const char *s, size_t n, const char *mark, char out[CHAT_MARK_MAX]) {
    const char *at = s, *end = s + n;
    size_t len = strlen(mark);
    out[0] = '\0';
    while ((at = find(at, (size_t)(end - at), mark))) {
        const char *from = at, *to = at + len;
        at = to;
        while (from > s && from[-1] == ' ') from--;
        while (to < end && *to == ' ') to++;
        size_t k = (size_t)(to - from);
        if (from == s || to == end || !is_quote(from[-1]) || from[-1] != *to || k >= CHAT_MARK_MAX) return false;
        if (*out && (strlen(out) != k || memcmp(out, from, k))) return false;
        memcpy(out, from, k);
        out[k] = '\0';
    }
    return *out;
}

/* Without blanks outside strings, templates of one family differ by quotes only: 'a' + "\n" against "a"+'\n'. word has no blanks, and Q for
 * a quote. */
static bool has_code(const char *s, size_t n, const char *word) {
    for (size_t i = 0; i < n; i++) {
        size_t at = i, k = 0;
        while (word[k] && at < n) {
            if (word[k] == 'Q' ? is_quote(s[at]) : s[at] == word[k])
                k++, at++;
            else if (k && (s[at] == ' ' || s[at] == '\t'))
                at++;
            else
                break;
        }
        if (!word[k]) return true;
    }
    return false;
}

static void inst(chat_t *c, const char *s, size_t n) {
    if (!mark_literal(s, n, "[INST]", c->open) || !mark_literal(s, n, "[/INST]", c->close)) return;
    if (has_code(s, n, "setsystem_message=Q")) return; /* a default of its own */
    c->bos = find(s, n, "bos_token");
    c->trims = has_code(s, n, "content.strip()") || has_code(s, n, "content|trim") || has_code(s, n, "message[QcontentQ]|trim");
    if (find(s, n, "<<SYS>>")) {
        c->has_system = has_code(s, n, "Q<<SYS>>\\nQ+system_message+Q\\n<</SYS>>\\n\\nQ+message[QcontentQ]") ||
                        has_code(s, n, "Q<<SYS>>\nQ+system_message+Q\n<</SYS>>\n\nQ+message[QcontentQ]");
        if (c->has_system) c->family = CHAT_LLAMA2;
        return;
    }
    c->has_system =
        has_code(s, n, "system_message+Q\\n\\nQ+message[QcontentQ]") || has_code(s, n, "system_message+Q\n\nQ+message[QcontentQ]");
    if (has_code(s, n, "+message[QcontentQ]+Q")) c->family = CHAT_MISTRAL;
}

static bool zephyr(chat_t *c, const char *s, size_t n) {
    static const char head[] = "'<|assistant|>'";
    if (!has_code(s, n, "Q<|user|>\\nQ+message[QcontentQ]+eos_token}}") && !has_code(s, n, "Q<|user|>\nQ+message[QcontentQ]+eos_token}}"))
        return false;
    if (!has_code(s, n, "Q<|system|>\\nQ+message[QcontentQ]+eos_token}}") &&
        !has_code(s, n, "Q<|system|>\nQ+message[QcontentQ]+eos_token}}"))
        return false;
    const char *last = find(s, n, head);
    if (!last) return false;
    c->last_line = has_code(last, (size_t)(s + n - last), "Q<|assistant|>Q}}\n");
    c->turn_line = has_code(s, n, "+eos_token}}\n");
    c->family = CHAT_ZEPHYR;
    return true;
}

status_t chat_recognise(chat_t *c, const char *text, size_t n) {
    if (c->family != CHAT_NONE || n > CHAT_TEMPLATE_MAX) return ST_OK;
    if (find(text, n, "<|start_header_id|>") && find(text, n, "<|eot_id|>")) {
        c->family = CHAT_LLAMA3;
        c->dated = find(text, n, DATES_MARK);
    } else if (find(text, n, "<|im_start|>") && find(text, n, "<|im_end|>")) {
        c->family = CHAT_CHATML;
        return chatml_default(c, text, n);
    } else if (find(text, n, "[INST]")) {
        inst(c, text, n);
    } else {
        zephyr(c, text, n);
    }
    return ST_OK;
}

void chat_free(chat_t *c) {
    mem_free(c->system);
    memset(c, 0, sizeof *c);
}

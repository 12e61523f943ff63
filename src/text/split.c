#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/split.h"

#include <pcre2.h>
#include <string.h>

#include "base/mem.h"
#include "text/pattern.h"

const char SPLIT_GPT2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
const char SPLIT_LLAMA3[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const char SPLIT_QWEN2[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const char SPLIT_DIGIT[] = "\\p{N}";
const char SPLIT_DIGITS[] = "\\p{N}+";

/* Steps that one match may take: some for each byte of the text, as a run of blanks is gone through a few times from end to end. A pattern
 * that takes more is one that tries all ways, and would take hours. */
enum { STEPS_LEAST = 1000 * 1000, STEPS_PER_BYTE = 8 };

/* The library allocates through us, so that its memory is counted and can be made to fail. */
static void *take(size_t n, void *unused) {
    void *p;
    (void)unused;
    return mem_alloc(&p, n, 1, "patterns of the pre-tokeniser") ? NULL : p;
}
static void give(void *p, void *unused) {
    (void)unused;
    mem_free(p);
}

struct split_work {
    pcre2_match_data *match;
    pcre2_match_context *limits;
};

static status_t compile(const char *pattern, pcre2_general_context *memory, const char *name, void **out) {
    int error;
    PCRE2_SIZE at;
    char why[160];
    pcre2_compile_context *context = pcre2_compile_context_create(memory);
    if (!context) return ST_FAIL; /* take() has worded it */
    pcre2_code *code =
        pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &at, context);
    pcre2_compile_context_free(context);
    *out = code;
    if (code) {
        pcre2_jit_compile(code, PCRE2_JIT_COMPLETE); /* where there is no JIT, matching is slower and the same */
        return ST_OK;
    }
    if (error == PCRE2_ERROR_HEAP_FAILED) return ST_FAIL;
    pcre2_get_error_message(error, (PCRE2_UCHAR *)why, sizeof why);
    return status_fail(ST_INPUT, "%s: the pre-tokeniser's pattern cannot be used: %s (at %zu of %.200s)", name, why, (size_t)at, pattern);
}

status_t split_add(split_t *s, const char *pattern, size_t n, bool matches_only, const char *name) {
    char rewritten[8 * SPLIT_PATTERN_MAX];
    if (s->n == SPLIT_STEPS_MAX)
        return status_fail(ST_INPUT, "%s: more than %d pre-tokeniser steps are not supported; use another model", name, SPLIT_STEPS_MAX);
    status_t st = pattern_to_pcre(pattern, n, rewritten, sizeof rewritten, name);
    if (st) return st;
    pcre2_general_context *memory = pcre2_general_context_create(take, give, NULL);
    if (!memory) return ST_FAIL;
    st = compile(rewritten, memory, name, &s->step[s->n].code);
    pcre2_general_context_free(memory);
    if (!st) s->step[s->n++].matches_only = matches_only;
    return st;
}

void split_free(split_t *s) {
    for (int i = 0; i < s->n; i++) pcre2_code_free(s->step[i].code);
    s->n = 0;
}

status_t split_work_create(split_work_t **out) {
    pcre2_general_context *memory = pcre2_general_context_create(take, give, NULL);
    status_t st = memory ? mem_zalloc(out, 1, sizeof **out, "matching patterns") : ST_FAIL;
    if (!st) {
        (*out)->match = pcre2_match_data_create(1, memory);
        (*out)->limits = pcre2_match_context_create(memory);
        if (!(*out)->match || !(*out)->limits) {
            split_work_free(*out);
            *out = NULL;
            st = ST_FAIL;
        }
    }
    pcre2_general_context_free(memory);
    return st;
}

void split_work_free(split_work_t *w) {
    if (!w) return;
    pcre2_match_data_free(w->match);
    pcre2_match_context_free(w->limits);
    mem_free(w);
}

/* [*begin, *end) is the next match at or after `at`; *found false when there is none. */
static status_t match_next(pcre2_code *code, split_work_t *w, const uint8_t *p, size_t n, size_t at, bool *found, size_t *begin,
                           size_t *end) {
    int rc = pcre2_match(code, p, n, at, PCRE2_NO_UTF_CHECK, w->match, w->limits);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) rc = pcre2_match(code, p, n, at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, w->match, w->limits);
    *found = rc >= 0;
    if (rc >= 0) {
        const PCRE2_SIZE *match = pcre2_get_ovector_pointer(w->match);
        *begin = match[0];
        *end = match[1];
        return ST_OK;
    }
    if (rc == PCRE2_ERROR_NOMATCH) return ST_OK;
    if (rc == PCRE2_ERROR_NOMEMORY) return ST_FAIL;
    char why[160];
    pcre2_get_error_message(rc, (PCRE2_UCHAR *)why, sizeof why);
    return status_fail(ST_INPUT, "the pre-tokeniser's pattern failed on a text of %zu bytes (%s); cut the document", n, why);
}

typedef struct {
    const split_t *split;
    split_work_t *work;
    split_fn fn;
    void *ctx;
} run_t;

static status_t step_run(const run_t *r, int step, const uint8_t *p, size_t n) {
    if (n == 0) return ST_OK;
    if (step == r->split->n) return r->fn(r->ctx, p, n);
    status_t st;
    bool found, gaps = !r->split->step[step].matches_only;
    size_t done = 0, at = 0, begin = 0, end = 0;
    while (at < n) {
        if ((st = match_next(r->split->step[step].code, r->work, p, n, at, &found, &begin, &end))) return st;
        if (!found) break;
        if (gaps && (st = step_run(r, step + 1, p + done, begin - done))) return st;
        if ((st = step_run(r, step + 1, p + begin, end - begin))) return st;
        done = at = end;
        if (begin == end) /* an empty match cuts, and the search goes on one character further */
            do at++;
            while (at < n && (p[at] & 0xc0) == 0x80);
    }
    return gaps ? step_run(r, step + 1, p + done, n - done) : ST_OK;
}

status_t split_run(const split_t *s, split_work_t *w, const char *text, size_t n, split_fn fn, void *ctx) {
    size_t steps = n < (UINT32_MAX - STEPS_LEAST) / STEPS_PER_BYTE ? STEPS_LEAST + STEPS_PER_BYTE * n : UINT32_MAX;
    pcre2_set_match_limit(w->limits, (uint32_t)steps);
    return step_run(&(run_t){s, w, fn, ctx}, 0, (const uint8_t *)text, n);
}

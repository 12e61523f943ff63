/* Each stage is {"type": ..., settings}, or null, or a Sequence of such. What is here: NFC; Split by a regular expression, Digits,
 * ByteLevel; ByteLevel to decode; ByteLevel (which adds nothing to the ids) and TemplateProcessing after. All else is refused by its name.
 */
#include "text/pipeline_json.h"

#include <stdio.h>
#include <string.h>

static bool absent(const cJSON *o) { return !o || cJSON_IsNull(o); }

static const char *type_of(const cJSON *stage) {
    const char *type = json_get_str(stage, "type");
    return type ? type : "(no type)";
}

static status_t refuse(const char *name, const char *stage, const char *what) {
    return status_fail(ST_INPUT, "%s: %s \"%.60s\" is not supported; use another model", name, stage, what);
}

static bool is(const cJSON *stage, const char *type) { return !strcmp(type_of(stage), type); }

static status_t normalizer(tokenizer_t *t, const cJSON *o, const char *name) {
    status_t st = ST_OK;
    if (absent(o)) return ST_OK;
    if (is(o, "NFC")) return t->nfc = true, ST_OK;
    if (!is(o, "Sequence")) return refuse(name, "normalizer", type_of(o));
    const cJSON *list = json_get(o, "normalizers");
    for (const cJSON *x = list ? list->child : NULL; x && !st; x = x->next) st = normalizer(t, x, name);
    return st;
}

/* ---- pre-tokeniser ---- */

typedef struct {
    tokenizer_t *t;
    const char *name;
    const char *first, *second; /* patterns of the steps so far, to find the family's name */
    bool byte_level;
} steps_t;

static status_t step(steps_t *s, const char *pattern, bool matches_only) {
    if (s->t->split.n == 0) s->first = pattern;
    if (s->t->split.n == 1) s->second = pattern;
    return split_add(&s->t->split, pattern, strlen(pattern), matches_only, s->name);
}

static status_t split_step(steps_t *s, const cJSON *o) {
    const char *pattern = json_get_str(json_get(o, "pattern"), "Regex"), *behavior = json_get_str(o, "behavior");
    bool invert = false;
    json_get_bool(o, "invert", &invert);
    if (!pattern) return refuse(s->name, "pre_tokenizer Split", "pattern that is no Regex");
    if (!behavior) behavior = "(none)";
    if (!strcmp(behavior, "Isolated")) return step(s, pattern, false);
    if (!strcmp(behavior, "Removed") && invert) return step(s, pattern, true);
    return refuse(s->name, "pre_tokenizer Split with behavior", behavior);
}

static status_t byte_level_step(steps_t *s, const cJSON *o) {
    bool prefix = true, regex = true;
    json_get_bool(o, "add_prefix_space", &prefix);
    json_get_bool(o, "use_regex", &regex);
    if (prefix) return refuse(s->name, "pre_tokenizer ByteLevel with", "add_prefix_space");
    s->byte_level = true;
    return regex ? step(s, SPLIT_GPT2, false) : ST_OK;
}

static status_t pre_tokenizer(steps_t *s, const cJSON *o) {
    status_t st = ST_OK;
    bool each = false;
    if (absent(o)) return ST_OK;
    if (is(o, "Sequence")) {
        const cJSON *list = json_get(o, "pretokenizers");
        for (const cJSON *x = list ? list->child : NULL; x && !st; x = x->next) st = pre_tokenizer(s, x);
        return st;
    }
    if (s->byte_level) return refuse(s->name, "a pre_tokenizer after ByteLevel,", type_of(o));
    if (is(o, "ByteLevel")) return byte_level_step(s, o);
    if (is(o, "Split")) return split_step(s, o);
    if (!is(o, "Digits")) return refuse(s->name, "pre_tokenizer", type_of(o));
    json_get_bool(o, "individual_digits", &each);
    return step(s, each ? SPLIT_DIGIT : SPLIT_DIGITS, false);
}

static const char *family_of(const steps_t *s) {
    static const struct {
        const char *name, *first, *second;
    } known[] = {{"smollm", SPLIT_DIGIT, SPLIT_GPT2},
                 {"gpt-2", SPLIT_GPT2, NULL},
                 {"llama-bpe", SPLIT_LLAMA3, NULL},
                 {"qwen2", SPLIT_QWEN2, NULL}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        int n = known[i].second ? 2 : 1;
        if (s->t->split.n == n && !strcmp(s->first, known[i].first) && (n == 1 || !strcmp(s->second, known[i].second)))
            return known[i].name;
    }
    return "its own";
}

status_t pipeline_read(tokenizer_t *t, const cJSON *root, const char *name) {
    steps_t s = {.t = t, .name = name};
    const cJSON *decoder = json_get(root, "decoder");
    status_t st = normalizer(t, json_get(root, "normalizer"), name);
    if (!st) st = pre_tokenizer(&s, json_get(root, "pre_tokenizer"));
    if (st) return st;
    if (!s.byte_level) return refuse(name, "a tokenizer without the pre_tokenizer", "ByteLevel");
    if (absent(decoder) || !is(decoder, "ByteLevel")) return refuse(name, "decoder", absent(decoder) ? "null" : type_of(decoder));
    snprintf(t->family, sizeof t->family, "byte-level BPE, %s pre-tokeniser", family_of(&s));
    return ST_OK;
}

/* ---- post-processor ---- */

static status_t post_processor(const cJSON *o, const char *name, const char **token) {
    status_t st = ST_OK;
    if (absent(o) || is(o, "ByteLevel")) return ST_OK;
    if (is(o, "Sequence")) {
        const cJSON *list = json_get(o, "processors");
        for (const cJSON *x = list ? list->child : NULL; x && !st; x = x->next) st = post_processor(x, name, token);
        return st;
    }
    if (!is(o, "TemplateProcessing")) return refuse(name, "post_processor", type_of(o));
    const cJSON *single = json_get(o, "single"), *special = single && single->child ? json_get(single->child, "SpecialToken") : NULL;
    if (special) *token = json_get_str(special, "id");
    return ST_OK;
}

status_t pipeline_bos(const cJSON *root, const char *name, const char **token) {
    *token = NULL;
    return post_processor(json_get(root, "post_processor"), name, token);
}

/* Each stage is {"type": ..., settings}, or null, or a Sequence of such. What is here:
 *
 *                       byte-level families                             SentencePiece's families
 *     normalizer        NFC, Prepend, Replace of a text                 the same
 *     pre_tokenizer     Split by a regular expression, Digits, last     none; Metaspace alone; a Split at blanks, of which the
 *                       ByteLevel                                       normalizer has left none
 *     decoder           ByteLevel                                       Replace, ByteFallback, Fuse, Strip; or Metaspace
 *     post_processor    ByteLevel (which adds nothing to the ids), TemplateProcessing
 *
 * All else is refused by its name.
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
    if (is(o, "NFC")) return normal_add(&t->normal, NORMAL_NFC, NULL, NULL, name);
    if (is(o, "Prepend")) return normal_add(&t->normal, NORMAL_PREPEND, NULL, json_get_str(o, "prepend"), name);
    if (is(o, "Replace")) {
        const char *from = json_get_str(json_get(o, "pattern"), "String"), *to = json_get_str(o, "content");
        if (!from || !to) return refuse(name, "normalizer Replace with", "a pattern that is no String");
        return normal_add(&t->normal, NORMAL_REPLACE, from, to, name);
    }
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
    bool byte_level, at_blanks; /* at_blanks: a Split at blanks, which textual families may have */
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
    const char *text = json_get_str(json_get(o, "pattern"), "String");
    if (text && !strcmp(text, " ") && s->t->split.n == 0) return s->at_blanks = true, ST_OK;
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

static status_t metaspace_step(steps_t *s, const cJSON *o) {
    static const char *const schemes[] = {"never", "first", "always"};
    const char *blank = json_get_str(o, "replacement"), *scheme = json_get_str(o, "prepend_scheme");
    bool prefix = true;
    json_get_bool(o, "add_prefix_space", &prefix); /* older files have it in place of the scheme */
    if (!blank || strcmp(blank, VOCABULARY_BLANK)) return refuse(s->name, "Metaspace with the replacement", blank ? blank : "(none)");
    if (!scheme) scheme = prefix ? "always" : "never";
    for (int i = 0; i < 3; i++) {
        if (strcmp(scheme, schemes[i])) continue;
        if (!prefix && i != PREFIX_NEVER) return refuse(s->name, "Metaspace without add_prefix_space, with prepend_scheme", scheme);
        s->t->metaspace.on = s->t->metaspace.split = true;
        s->t->metaspace.prefix = (prefix_t)i;
        json_get_bool(o, "split", &s->t->metaspace.split);
        return ST_OK;
    }
    return refuse(s->name, "Metaspace with prepend_scheme", scheme);
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
    if (s->t->metaspace.on) return refuse(s->name, "a pre_tokenizer after Metaspace,", type_of(o));
    if (s->at_blanks) return refuse(s->name, "a pre_tokenizer after Split at blanks,", type_of(o));
    if (is(o, "Metaspace") && s->t->split.n == 0) return metaspace_step(s, o);
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

/* ---- decoder ---- */

static bool text_is(const cJSON *o, const char *key, const char *want) {
    const char *s = json_get_str(o, key);
    return s && !strcmp(s, want);
}

/* Later ones stand further down the list; *at is the place of the last. */
static status_t decoder_step(tokenizer_t *t, const cJSON *o, const char *name, int *at) {
    static const char *const order[] = {"Replace", "Metaspace", "ByteFallback", "Fuse", "Strip"};
    int k = 0;
    while (k < 5 && !is(o, order[k])) k++;
    if (k == 5) return refuse(name, "decoder", type_of(o));
    if (k <= *at || (k == 1 && *at == 0)) return refuse(name, "decoder in this place,", type_of(o));
    if (k == 0 && !(text_is(json_get(o, "pattern"), "String", VOCABULARY_BLANK) && text_is(o, "content", " ")))
        return refuse(name, "decoder Replace of other than", VOCABULARY_BLANK);
    if (k < 2) t->vocabulary.shows_blank = true;
    if (k == 1) {
        steps_t s = {.t = t, .name = name};
        bool on = t->metaspace.on, split = t->metaspace.split;
        prefix_t prefix = t->metaspace.prefix;
        status_t st = metaspace_step(&s, o);
        if (st) return st;
        t->decode.bare_first = t->metaspace.prefix != PREFIX_NEVER;
        t->metaspace.on = on, t->metaspace.split = split, t->metaspace.prefix = prefix;
    }
    if (k == 2) t->vocabulary.shows_bytes = true;
    if (k == 4) {
        int64_t start = 0, stop = 0;
        bool good = *at == 3 && text_is(o, "content", " ") && json_get_i64(o, "start", &start) && json_get_i64(o, "stop", &stop);
        if (!good || start < 0 || start > 1000 || stop != 0) return refuse(name, "decoder of this form,", "Strip");
        t->decode.strip = (int)start;
    }
    *at = k;
    return ST_OK;
}

static status_t decoder_textual(tokenizer_t *t, const cJSON *o, const char *name) {
    int at = -1;
    status_t st = ST_OK;
    if (absent(o)) return refuse(name, "decoder", "null");
    if (!is(o, "Sequence")) return decoder_step(t, o, name, &at);
    const cJSON *list = json_get(o, "decoders");
    for (const cJSON *x = list ? list->child : NULL; x && !st; x = x->next) st = decoder_step(t, x, name, &at);
    return st;
}

/* ---- all ---- */

static bool blanks_replaced(const normal_t *z) {
    return z->n && z->step[z->n - 1].kind == NORMAL_REPLACE && !strcmp(z->step[z->n - 1].from, " ") && !strchr(z->step[z->n - 1].to, ' ');
}

static status_t textual(steps_t *s, const cJSON *decoder) {
    tokenizer_t *t = s->t;
    if (t->split.n || !(t->metaspace.on || blanks_replaced(&t->normal)))
        return refuse(s->name, "a tokenizer without the pre_tokenizer", "ByteLevel or Metaspace");
    if (t->metaspace.on && normal_has(&t->normal, NORMAL_PREPEND))
        return refuse(s->name, "pre_tokenizer Metaspace with the normalizer", "Prepend");
    t->vocabulary.textual = true;
    snprintf(t->family, sizeof t->family, "SentencePiece BPE, %s", t->metaspace.on ? "Metaspace" : "whole text");
    return decoder_textual(t, decoder, s->name);
}

status_t pipeline_read(tokenizer_t *t, const cJSON *root, const char *name) {
    steps_t s = {.t = t, .name = name};
    const cJSON *decoder = json_get(root, "decoder");
    status_t st = normalizer(t, json_get(root, "normalizer"), name);
    if (!st) st = pre_tokenizer(&s, json_get(root, "pre_tokenizer"));
    if (st) return st;
    if (!s.byte_level) return textual(&s, decoder);
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

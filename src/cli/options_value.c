/* One value as text becomes one setting, or a refusal that says what the option accepts. */
#include "cli/options_value.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

/* Digits with an optional minus, then a unit when `units`. Returns what is wrong, or NULL. */
static const char *whole(const char *s, size_t n, bool units, int64_t *out) {
    static const char unit[] = "KMGT";
    size_t i = n > 0 && s[0] == '-', first = i;
    int64_t v = 0;
    bool big = false;
    for (; i < n && isdigit((unsigned char)s[i]); i++)
        if (!big && (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, s[i] - '0', &v))) big = true;
    if (i == first) return "is no number";
    if (i < n && units) {
        const char *u = strchr(unit, toupper((unsigned char)s[i]));
        if (u) {
            i++;
            for (const char *k = unit; k <= u && !big; k++) big = __builtin_mul_overflow(v, 1024, &v);
            if (n - i == 2 && s[i] == 'i' && s[i + 1] == 'B')
                i += 2;
            else if (n - i == 1 && s[i] == 'B')
                return "has a unit that is 1000 to some and 1024 to others";
        } else if (n - i == 1 && s[i] == 'B')
            i++;
    }
    if (i < n) return units ? "has a unit that is not known" : "is no whole number";
    if (big) return s[0] == '-' ? "is far too small" : "is far too large";
    *out = s[0] == '-' ? -v : v;
    return NULL;
}

static const char *within(const option_t *opt, double v) { return v < opt->min ? "is too small" : v > opt->max ? "is too large" : NULL; }

static const char *list(const option_t *opt, value_t *v) {
    int n = 1;
    for (const char *c = v->text; *c; c++) n += *c == ',';
    if (mem_alloc(&v->items, (size_t)n, sizeof *v->items, "a list of settings")) return "is too long a list";
    for (const char *s = v->text; v->n_item < n; s += strcspn(s, ",") + 1) {
        size_t len = strcspn(s, ",");
        const char *wrong = whole(s, len, true, &v->items[v->n_item]);
        if (!wrong) wrong = within(opt, (double)v->items[v->n_item]);
        if (wrong) return len ? wrong : "has an empty item";
        v->n_item++;
    }
    return NULL;
}

static const char *real(const option_t *opt, value_t *v) {
    char *end;
    errno = 0;
    v->real = strtod(v->text, &end);
    if (end == v->text || *end || !isfinite(v->real)) return "is no number";
    return within(opt, v->real);
}

bool option_has_choice(const option_t *opt, const char *word) {
    size_t n = strlen(word);
    for (const char *c = opt->choices; n && *c; c += strcspn(c, "|"), c += *c == '|')
        if (strcspn(c, "|") == n && !strncmp(c, word, n)) return true;
    return false;
}

static const char *choice(const option_t *opt, const value_t *v) { return option_has_choice(opt, v->text) ? NULL : "is not known"; }

static const char *flag(value_t *v) {
    static const char *const words[] = {"no", "yes", "off", "on", "false", "true", "0", "1"};
    for (int i = 0; i < 8; i++)
        if (!strcmp(v->text, words[i])) {
            v->whole = i & 1;
            return NULL;
        }
    return "is neither yes nor no";
}

void value_clear(value_t *v) {
    mem_free(v->text);
    mem_free(v->items);
    *v = (value_t){0};
}

status_t value_set(value_t *v, const option_t *opt, const char *text, source_t from, const char *where) {
    value_t new = {.from = from};
    const char *wrong = NULL;
    char accepts[256];
    new.text = mem_strdup(text);
    if (!new.text) return status_fail(ST_FAIL, "out of memory for the options");
    switch (opt->type) {
    case OPT_INT:
    case OPT_SIZE:
        wrong = whole(text, strlen(text), opt->type == OPT_SIZE, &new.whole);
        if (!wrong) wrong = within(opt, (double)new.whole);
        break;
    case OPT_REAL:
        wrong = real(opt, &new);
        break;
    case OPT_CHOICE:
        wrong = choice(opt, &new);
        break;
    case OPT_FLAG:
        wrong = flag(&new);
        break;
    case OPT_INT_LIST:
        wrong = list(opt, &new);
        break;
    case OPT_TEXT:
        wrong = *text ? NULL : "is empty";
        break;
    }
    if (wrong) {
        value_clear(&new);
        option_accepts(opt, accepts, sizeof accepts);
        return status_fail(ST_USAGE, "%s: \"%.80s\" %s; give %s", where, text, wrong, accepts);
    }
    value_clear(v);
    *v = new;
    return ST_OK;
}

/* Options: defaults < --config file < PRECIS_* environment < flags.
 *
 * The four sources are read in that order and a later one replaces an earlier one, so what counts is simply what was set last. The flags
 * are walked twice: once for --config alone, because the file comes before the environment.
 */
#include "cli/options.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "cli/commands.h"
#include "cli/options_value.h"

static const char COMMON_KEYS[] = "quiet verbose config print-config";
enum { KEYS_MAX = 1024, WHERE_MAX = 512 };

struct options {
    const command_spec_t *cmd;
    int n;           /* rows of the table */
    value_t *values; /* [n] */
    bool *taken;     /* [n] does this command take it? */
    bool *required;  /* [n] */
    const char **args;
    int n_arg;
};

extern char **environ;

static int index_of(const options_t *o, const char *key) {
    const option_t *t = option_table(&(int){0});
    for (int i = 0; i < o->n; i++)
        if (!strcmp(t[i].key, key)) return i;
    return -1;
}

/* Reads the command's keys: which are taken, required, or have a default of their own. */
static status_t read_keys(options_t *o, const char *keys) {
    const option_t *t = option_table(&(int){0});
    status_t st = ST_OK;
    for (const char *k = keys; !st && *(k += strspn(k, " "));) {
        size_t end = strcspn(k, " "), n = strcspn(k, " !=");
        char key[64], fallback[64];
        snprintf(key, sizeof key, "%.*s", (int)n, k);
        snprintf(fallback, sizeof fallback, "%.*s", k[n] == '=' ? (int)(end - n - 1) : 0, k + n + (k[n] == '='));
        int i = index_of(o, key);
        if (i < 0)
            return status_fail(ST_FAIL, "the command %s names a key \"%s\" that is not in the table: a mistake in the program",
                               o->cmd->name, key);
        const char *text = k[n] == '=' ? fallback : t[i].fallback;
        o->taken[i] = true;
        o->required[i] = k[n] == '!';
        if (text) st = value_set(&o->values[i], &t[i], text, FROM_DEFAULT, key);
        k += end;
    }
    return st;
}

static void all_keys(const options_t *o, char *out, size_t cap) { snprintf(out, cap, "%s %s", o->cmd->keys, COMMON_KEYS); }

static status_t unknown_flag(const options_t *o, const char *key, int n) {
    char word[128], near[64], keys[KEYS_MAX];
    snprintf(word, sizeof word, "%.*s", n, key);
    const char *plain = strncmp(word, "no-", 3) ? word : word + 3;
    if (option_find(plain) && command_takers(plain, keys, sizeof keys))
        return status_fail(ST_USAGE, "--%s is no option of precis %s but of %s; precis %s --help lists its own", word, o->cmd->name, keys,
                           o->cmd->name);
    all_keys(o, keys, sizeof keys);
    if (option_nearest(word, keys, near, sizeof near))
        return status_fail(ST_USAGE, "--%s is no option of precis %s; did you mean --%s? (precis %s --help lists them)", word, o->cmd->name,
                           near, o->cmd->name);
    return status_fail(ST_USAGE, "--%s is no option of precis %s; precis %s --help lists them", word, o->cmd->name, o->cmd->name);
}

/* ---- the file and the environment: keys of other commands are checked and left alone, so that one file may serve several
 * ------------------------- */

static status_t set_elsewhere(options_t *o, int i, const char *text, source_t from, const char *where) {
    value_t unused = {0};
    const option_t *t = option_table(&(int){0});
    status_t st = value_set(o->taken[i] ? &o->values[i] : &unused, &t[i], text, from, where);
    value_clear(&unused);
    return st;
}

/* All keys of the table, for the nearest one. */
static void table_keys(char *out, size_t cap) {
    int n;
    const option_t *t = option_table(&n);
    size_t at = 0;
    for (int i = 0; i < n && at < cap; i++) at += (size_t)snprintf(out + at, cap - at, "%s ", t[i].key);
}

static status_t set_from_file(void *ctx, const char *path, int line, const char *key, const char *value) {
    options_t *o = ctx;
    char where[WHERE_MAX], keys[KEYS_MAX], near[64] = "";
    int i = index_of(o, key);
    if (i < 0) {
        table_keys(keys, sizeof keys);
        bool found = option_nearest(key, keys, near, sizeof near);
        return status_fail(ST_USAGE, "%s line %d: \"%.60s\" is no setting; %s%s", path, line, key,
                           found ? "did you mean " : "precis COMMAND --help lists them", near);
    }
    if (!strcmp(key, "config") || !strcmp(key, "print-config"))
        return status_fail(ST_USAGE, "%s line %d: %s cannot be set in a file; give it as a flag", path, line, key);
    snprintf(where, sizeof where, "%s line %d: %s", path, line, key);
    return set_elsewhere(o, index_of(o, option_meant(key, value)), value, FROM_FILE, where);
}

/* PRECIS_MAX_TOKENS -> max-tokens; false when the variable is not ours. */
static bool environment_key(const char *entry, char *key, size_t cap) {
    static const char prefix[] = "PRECIS_";
    if (strncmp(entry, prefix, sizeof prefix - 1)) return false;
    size_t n = 0;
    for (const char *c = entry + sizeof prefix - 1; *c && *c != '=' && n + 1 < cap; c++)
        key[n++] = *c == '_' ? '-' : (char)tolower((unsigned char)*c);
    key[n] = 0;
    return n > 0 && strchr(entry, '=');
}

static status_t read_environment(options_t *o) {
    char key[64], where[WHERE_MAX], keys[KEYS_MAX], near[64];
    status_t st = ST_OK;
    table_keys(keys, sizeof keys);
    for (char **e = environ; !st && *e; e++) {
        if (!environment_key(*e, key, sizeof key)) continue;
        const char *value = strchr(*e, '=') + 1;
        int i = index_of(o, key);
        snprintf(where, sizeof where, "%.*s in the environment", (int)(value - 1 - *e), *e);
        if (i >= 0)
            st = set_elsewhere(o, index_of(o, option_meant(key, value)), value, FROM_ENVIRONMENT, where);
        else if (strcmp(key, "cache") && option_nearest(key, keys, near, sizeof near))
            log_warn("%s is no setting; the nearest is %s", where, near);
    }
    return st;
}

/* ---- flags
 * ------------------------------------------------------------------------------------------------------------------------------------ */

typedef struct {
    int i;
    const char *value;
    int used;
} flag_t; /* row of the table, its text, words taken */

/* The flag in argv[0]: --key value, --key=value, --flag, --no-flag. */
static status_t read_flag(const options_t *o, int argc, char **argv, flag_t *out) {
    const option_t *t = option_table(&(int){0});
    const char *word = argv[0] + 2, *equals = strchr(word, '=');
    int n = equals ? (int)(equals - word) : (int)strlen(word);
    char key[64];
    snprintf(key, sizeof key, "%.*s", n, word);
    int i = index_of(o, option_meant(key, equals ? equals + 1 : argc > 1 ? argv[1] : NULL));
    if (i >= 0 && !o->taken[i] && !strcmp(key, "score")) i = index_of(o, "keep-by"); /* a word that is none of its choices */
    *out = (flag_t){.i = i, .value = equals ? equals + 1 : NULL, .used = 1};
    int flag = i < 0 && !equals && !strncmp(word, "no-", 3) ? index_of(o, word + 3) : -1;
    if (flag >= 0 && o->taken[flag] && t[flag].type == OPT_FLAG) {
        *out = (flag_t){.i = flag, .value = "no", .used = 1};
        return ST_OK;
    }
    if (i < 0 || !o->taken[i]) return unknown_flag(o, word, n);
    if (out->value) return ST_OK;
    if (t[i].type == OPT_FLAG) {
        out->value = "yes";
        return ST_OK;
    }
    if (argc < 2 || (!strncmp(argv[1], "--", 2) && argv[1][2])) {
        char accepts[256];
        option_accepts(&t[i], accepts, sizeof accepts);
        return status_fail(ST_USAGE, "--%s needs a value%s%s; give %s", key, argc < 2 ? "" : " but is followed by ",
                           argc < 2 ? "" : argv[1], accepts);
    }
    out->value = argv[1];
    out->used = 2;
    return ST_OK;
}

/* One walk over the words. only >= 0: sets that row and nothing else. */
static status_t read_flags(options_t *o, int argc, char **argv, int only) {
    const option_t *t = option_table(&(int){0});
    char where[WHERE_MAX];
    status_t st = ST_OK;
    bool ended = false;
    o->n_arg = 0;
    for (int a = 0; !st && a < argc;) {
        flag_t f = {.used = 1};
        bool is_flag = !ended && argv[a][0] == '-' && argv[a][1];
        if (is_flag && !strcmp(argv[a], "--"))
            ended = true;
        else if (is_flag && argv[a][1] != '-')
            st = status_fail(ST_USAGE, "%s: options have two dashes and a whole word; precis %s --help lists them", argv[a], o->cmd->name);
        else if (is_flag) {
            st = read_flag(o, argc - a, argv + a, &f);
            snprintf(where, sizeof where, "--%s", st ? "" : t[f.i].key);
            if (!st && (only < 0 || only == f.i)) st = value_set(&o->values[f.i], &t[f.i], f.value, FROM_FLAG, where);
        } else
            o->args[o->n_arg++] = argv[a];
        a += f.used;
    }
    return st;
}

/* ---- what the command asks for
 * -------------------------------------------------------------------------------------------------------------- */

static status_t check_required(const options_t *o) {
    const option_t *t = option_table(&(int){0});
    char missing[256];
    size_t n = 0;
    for (int i = 0; i < o->n; i++)
        if (o->required[i] && o->values[i].from == FROM_NOWHERE && n < sizeof missing)
            n += (size_t)snprintf(missing + n, sizeof missing - n, "%s--%s", n ? " and " : "", t[i].key);
    if (n) return status_fail(ST_USAGE, "precis %s needs %s; usage: %s", o->cmd->name, missing, o->cmd->usage);
    if (o->n_arg < o->cmd->min_args)
        return status_fail(ST_USAGE, "precis %s: something is missing; usage: %s", o->cmd->name, o->cmd->usage);
    if (o->cmd->max_args >= 0 && o->n_arg > o->cmd->max_args)
        return status_fail(ST_USAGE, "precis %s: \"%s\" is one word too many; usage: %s", o->cmd->name, o->args[o->cmd->max_args],
                           o->cmd->usage);
    return ST_OK;
}

status_t options_parse(const command_spec_t *cmd, int argc, char **argv, options_t **out) {
    status_t st;
    options_t *o = NULL;
    int config;
    *out = NULL;
    if ((st = mem_zalloc(&o, 1, sizeof *o, "the options"))) return st;
    o->cmd = cmd;
    option_table(&o->n);
    if ((st = mem_zalloc(&o->values, (size_t)o->n, sizeof *o->values, "the options"))) goto out;
    if ((st = mem_zalloc(&o->taken, (size_t)o->n, sizeof *o->taken, "the options"))) goto out;
    if ((st = mem_zalloc(&o->required, (size_t)o->n, sizeof *o->required, "the options"))) goto out;
    if ((st = mem_zalloc(&o->args, (size_t)argc + 1, sizeof *o->args, "the options"))) goto out;
    if ((st = read_keys(o, cmd->keys)) || (st = read_keys(o, COMMON_KEYS))) goto out;
    config = index_of(o, "config");
    if (getenv("PRECIS_CONFIG"))
        st = value_set(&o->values[config], option_find("config"), getenv("PRECIS_CONFIG"), FROM_ENVIRONMENT, "PRECIS_CONFIG");
    if (st || (st = read_flags(o, argc, argv, config))) goto out;
    if (o->values[config].text && (st = config_read(o->values[config].text, set_from_file, o))) goto out;
    if ((st = read_environment(o)) || (st = read_flags(o, argc, argv, -1))) goto out;
    if (!opt_flag(o, "print-config")) st = check_required(o);
    if (!st && !cmd->csv && opt_flagged(o, "format") && !strcmp(opt_text(o, "format"), "csv")) /* a file may be one for eval as well */
        st = status_fail(ST_USAGE, "--format csv: precis %s prints no table; use text or json", cmd->name);
out:
    if (st)
        options_free(o);
    else
        *out = o;
    return st;
}

void options_free(options_t *o) {
    if (!o) return;
    for (int i = 0; o->values && i < o->n; i++) value_clear(&o->values[i]);
    mem_free(o->values);
    mem_free(o->taken);
    mem_free(o->required);
    mem_free(o->args);
    mem_free(o);
}

bool options_wants_help(int argc, char **argv) {
    for (int i = 0; i < argc && strcmp(argv[i], "--"); i++)
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) return true;
    return false;
}

/* The same form that --config reads. */
void options_print_config(const options_t *o, FILE *f) {
    static const char *const from[] = {"", "default", "file", "environment", "flag"};
    const option_t *t = option_table(&(int){0});
    fprintf(f, "# precis %s\n", o->cmd->name);
    for (int i = 0; i < o->n; i++) {
        const char *s = o->values[i].text;
        if (!o->taken[i] || !strcmp(t[i].key, "config") || !strcmp(t[i].key, "print-config")) continue;
        if (!s) {
            fprintf(f, "# %s is not set%s\n", t[i].key, o->required[i] ? ", and must be" : "");
            continue;
        }
        fprintf(f, "%s = ", t[i].key);
        if (s[strcspn(s, "\n\t\"\\#")] || isspace((unsigned char)s[0]) || isspace((unsigned char)s[strlen(s) - 1])) {
            fputc('"', f);
            for (; *s; s++) {
                if (strchr("\n\t\"\\", *s)) fputc('\\', f);
                fputc(*s == '\n' ? 'n' : *s == '\t' ? 't' : *s, f);
            }
            fputc('"', f);
        } else
            fputs(s, f);
        fprintf(f, "  # %s\n", from[o->values[i].from]);
    }
}

/* ---- questions
 * ------------------------------------------------------------------------------------------------------------------------------- */

static const value_t *value(const options_t *o, const char *key) {
    static const value_t none;
    int i = index_of(o, key);
    return i < 0 || !o->taken[i] ? &none : &o->values[i];
}

int64_t opt_int(const options_t *o, const char *key) { return value(o, key)->whole; }
double opt_real(const options_t *o, const char *key) { return value(o, key)->real; }
const char *opt_text(const options_t *o, const char *key) { return value(o, key)->text; }
bool opt_flag(const options_t *o, const char *key) { return value(o, key)->whole != 0; }
bool opt_flagged(const options_t *o, const char *key) { return value(o, key)->from == FROM_FLAG; }
bool opt_given(const options_t *o, const char *key) { return value(o, key)->from > FROM_DEFAULT; }
const command_spec_t *options_command(const options_t *o) { return o->cmd; }

int opt_list(const options_t *o, const char *key, const int64_t **items) {
    *items = value(o, key)->items;
    return value(o, key)->n_item;
}

int opt_args(const options_t *o, const char *const **args) {
    *args = o->args;
    return o->n_arg;
}

/* The list of commands, in the order of `precis --help`. */
#include "cli/commands.h"

#include <stdio.h>
#include <string.h>

static const command_t *const table[] = {
    &cmd_encode,       &cmd_edit_encode, &cmd_query,       &cmd_edit_query, &cmd_eval_ppl, &cmd_eval_agree,
    &cmd_plan,         &cmd_tokenize,    &cmd_inspect,     &cmd_store,      &cmd_logits,   &cmd_bench_ops,
    &cmd_bench_encode, &cmd_bench_query, &cmd_bench_shard, &cmd_version,    &cmd_help,
};

const command_t *const *command_table(int *n) {
    *n = (int)(sizeof table / sizeof *table);
    return table;
}

/* Is `name` made of the first words of argv? Returns how many, or 0. */
static int words_match(const char *name, int argc, char **argv) {
    int used = 0;
    for (; used < argc; name += *name == ' ') {
        size_t n = strcspn(name, " ");
        if (strlen(argv[used]) != n || strncmp(name, argv[used], n)) return 0;
        used++;
        name += n;
        if (!*name) return used;
    }
    return 0;
}

const command_t *command_find(int argc, char **argv, int *used) {
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if ((*used = words_match(table[i]->spec.name, argc, argv))) return table[i];
    return NULL;
}

const command_t *command_group(const char *word) {
    size_t n = strlen(word);
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (!strncmp(table[i]->spec.name, word, n) && (!table[i]->spec.name[n] || table[i]->spec.name[n] == ' ')) return table[i];
    return NULL;
}

static bool key_among(const char *key, const char *keys) {
    size_t n = strlen(key);
    for (const char *k = keys; *(k += strspn(k, " ")); k += strcspn(k, " "))
        if (strcspn(k, " !=") == n && !strncmp(k, key, n)) return true;
    return false;
}

bool command_takers(const char *key, char *out, size_t cap) {
    size_t at = 0;
    *out = 0;
    for (size_t i = 0; i < sizeof table / sizeof *table && at < cap; i++)
        if (key_among(key, table[i]->spec.keys))
            at += (size_t)snprintf(out + at, cap - at, "%sprecis %s", at ? ", " : "", table[i]->spec.name);
    return at;
}

/* "edit" alone, or with a second word that is none of edit's. */
static status_t group_unknown(int argc, char **argv) {
    char names[256] = "", near[64];
    size_t at = 0, n = strlen(argv[0]);
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (!strncmp(table[i]->spec.name, argv[0], n) && table[i]->spec.name[n] == ' ')
            at += (size_t)snprintf(names + at, sizeof names - at, "%s%s", at ? " " : "", table[i]->spec.name + n + 1);
    if (argc < 2 || *argv[1] == '-') return status_fail(ST_USAGE, "precis %s: a word is missing; add one of: %s", argv[0], names);
    if (option_nearest(argv[1], names, near, sizeof near))
        return status_fail(ST_USAGE, "precis %s %s: no such command; did you mean precis %s %s?", argv[0], argv[1], argv[0], near);
    return status_fail(ST_USAGE, "precis %s %s: no such command; it is one of: %s", argv[0], argv[1], names);
}

status_t command_unknown(int argc, char **argv) {
    char names[256] = "", near[64];
    size_t at = 0;
    if (command_group(argv[0])) return group_unknown(argc, argv);
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        const char *name = table[i]->spec.name;
        at += (size_t)snprintf(names + at, sizeof names - at, "%.*s ", (int)strcspn(name, " "), name);
    }
    if (option_nearest(argv[0], names, near, sizeof near))
        return status_fail(ST_USAGE, "\"%s\" is no command; did you mean precis %s? (precis --help lists them)", argv[0], near);
    return status_fail(ST_USAGE, "\"%s\" is no command; precis --help lists them", argv[0]);
}

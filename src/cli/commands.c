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

status_t command_unknown(int argc, char **argv) {
    char names[256] = "", near[64];
    const command_t *group = command_group(argv[0]);
    size_t at = 0;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        const char *name = table[i]->spec.name;
        at += (size_t)snprintf(names + at, sizeof names - at, "%.*s ", (int)strcspn(name, " "), name);
    }
    if (group)
        return status_fail(ST_USAGE, "precis %s %s: no such command; did you mean precis %s?", argv[0], argc > 1 ? argv[1] : "",
                           group->spec.name);
    if (option_nearest(argv[0], names, near, sizeof near))
        return status_fail(ST_USAGE, "\"%s\" is no command; did you mean precis %s? (precis --help lists them)", argv[0], near);
    return status_fail(ST_USAGE, "\"%s\" is no command; precis --help lists them", argv[0]);
}

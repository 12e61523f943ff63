/* A command is its specification and the function that does it. Each cmd_*.c exports one; commands.c lists them in the order that help
 * shows them.
 *
 * main parses the options, opens the context (ranks, threads, log) and calls run. A status that is not ST_OK is reported by main (on the
 * lowest rank that has it) and becomes the exit code, so run only returns it.
 */
#ifndef CLI_COMMANDS_H
#define CLI_COMMANDS_H

#include "cli/context.h"
#include "cli/options.h"

typedef struct {
    command_spec_t spec;
    bool ranks; /* true: every rank runs it, together; false: it is one process's work and other ranks leave at once */
    status_t (*run)(const options_t *o, context_t *c);
} command_t;

/* Edits run through the same jobs as other text (cmd_edit.c). */
status_t encode_run(const options_t *o, context_t *c);
status_t query_run(const options_t *o, context_t *c);

extern const command_t cmd_edit_encode, cmd_edit_query;
extern const command_t cmd_encode, cmd_query, cmd_eval_ppl, cmd_eval_agree, cmd_plan; /* the jobs */
extern const command_t cmd_bench_ops, cmd_bench_encode, cmd_bench_query, cmd_bench_shard;
extern const command_t cmd_tokenize, cmd_inspect, cmd_store, cmd_logits, cmd_version, cmd_help; /* the tools */

const command_t *const *command_table(int *n);
/* The command that argv[0..] begins with ("eval ppl" is two words): *used words belong to its name. NULL when there is none. */
const command_t *command_find(int argc, char **argv, int *used);
/* The first command whose name begins with this word ("eval" for "eval ppl"), or NULL. */
const command_t *command_group(const char *word);
/* The commands that take this option, as "precis query, precis plan"; false when none does. */
bool command_takers(const char *key, char *out, size_t cap);
/* ST_USAGE that names the nearest command. */
status_t command_unknown(int argc, char **argv);

/* The list of commands (precis, precis --help), the man page and the bash completion, all from the tables. */
void help_overview(FILE *f);
void help_man_page(FILE *f);
void help_bash_completion(FILE *f);

#endif

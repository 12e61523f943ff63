/* The one option table: key, type, default, unit, bounds, help. It feeds  defaults < --config file < PRECIS_* environment < flags,
 * and --help, --print-config and the man page.
 *
 * A command lists the keys it takes; anything else is refused with the nearest key named (exit 2). Sizes take K M G (1024) and KiB MiB GiB;
 * "4X" is refused.
 */
#ifndef CLI_OPTIONS_H
#define CLI_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/status.h"

typedef enum { OPT_INT, OPT_SIZE, OPT_REAL, OPT_TEXT, OPT_CHOICE, OPT_FLAG, OPT_INT_LIST } option_type_t;

typedef struct {
    const char *key; /* "max-tokens": the flag is --max-tokens, the file's key max-tokens, the environment's PRECIS_MAX_TOKENS */
    option_type_t type;
    const char *fallback; /* default as text; NULL: none (must be given where a command requires it) */
    double min, max;      /* bounds of numbers (and of each item of a list) */
    const char *choices;  /* "full|pce" */
    const char *unit;     /* "tokens", "rows", "" */
    const char *help;     /* one line */
} option_t;

typedef struct {
    const char *name;    /* "encode", "eval ppl" */
    const char *summary; /* one line for the list of commands */
    const char *usage;   /* "precis encode --model M --store DIR [options] INPUT..." */
    const char *text;    /* what it does, for --help */
    const char *examples;
    const char *keys; /* blank-separated keys it takes: "key", "key!" (required) or "key=default" in place of the table's default. quiet,
                       * verbose, config and print-config go without saying */
    int min_args, max_args; /* positional arguments; -1: any number */
    bool csv;               /* what it prints is a table: --format csv, too */
} command_spec_t;

typedef struct options options_t;

/* argv[0] is the first word after the command's name. --help is handled by the caller through options_wants_help. ST_USAGE with the flag,
 * the value, why, and what is accepted. */
bool options_wants_help(int argc, char **argv); /* --help or -h before a "--" */
status_t options_parse(const command_spec_t *cmd, int argc, char **argv, options_t **out);
void options_free(options_t *o);
void options_help(const command_spec_t *cmd, FILE *f);
void options_print_config(const options_t *o, FILE *f); /* key = value  # default | file | environment | flag */

int64_t opt_int(const options_t *o, const char *key); /* OPT_INT and OPT_SIZE; 0 when not given and no default */
double opt_real(const options_t *o, const char *key);
const char *opt_text(const options_t *o, const char *key); /* NULL when not given and no default; OPT_CHOICE too */
bool opt_flag(const options_t *o, const char *key);
bool opt_given(const options_t *o, const char *key);   /* anywhere but the default */
bool opt_flagged(const options_t *o, const char *key); /* on the command line, not in a file that several commands share */
int opt_list(const options_t *o, const char *key, const int64_t **items);
int opt_args(const options_t *o, const char *const **args); /* positional */

/* Asking for a key that the command does not take gives 0, NULL or false, so that helpers may serve several commands. */
const command_spec_t *options_command(const options_t *o);

/* The whole table, for tests and the man page. */
const option_t *option_table(int *n);
const option_t *option_find(const char *key); /* NULL when there is none */
/* The word of `words` (blank-separated, marks after '!' and '=' left out) that is nearest to `word`, into out; false when none is near. */
bool option_nearest(const char *word, const char *words, char *out, size_t cap);
/* The option that a value given to `key` is for: --score knorm says --keep-by knorm. */
const char *option_meant(const char *key, const char *value);
bool option_has_choice(const option_t *opt, const char *word);
/* "whole number from 1 to 16M, in tokens (K, M, G are powers of 1024)": what an option accepts, for messages and help. */
void option_accepts(const option_t *opt, char *out, size_t cap);

#endif

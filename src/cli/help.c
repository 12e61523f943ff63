/* Help, from the tables: the overview, and one page for each command. */
#include <stdio.h>
#include <string.h>

#include "cli/commands.h"

void help_overview(FILE *f) {
    int n;
    const command_t *const *commands = command_table(&n);
    fprintf(f, "precis: encode a long corpus once, over as many ranks as there are, and answer questions from what was kept.\n\n"
               "usage: precis COMMAND [options]            mpirun -n 4 precis COMMAND ...            srun --mpi=pmix precis COMMAND ...\n\n"
               "commands\n");
    for (int i = 0; i < n; i++) fprintf(f, "  %-12s %s\n", commands[i]->spec.name, commands[i]->spec.summary);
    fprintf(f, "\nfirst steps\n"
               "  precis inspect model.gguf                                     what is in the model\n"
               "  precis encode --model model.gguf --store book.store book.txt  encode; run it again and it encodes nothing\n"
               "  precis query --model model.gguf --store book.store --chat --prompt \"Who is the narrator?\"\n\n"
               "precis COMMAND --help explains a command with examples. Settings may also come from --config FILE and PRECIS_* variables.\n"
               "exit codes: 0 good, 1 run failed, 2 usage, 3 bad input, 75 stopped with work saved (run it again)\n");
}

/* Behind `indent` columns, wrapped at about 100 bytes; a blank line in the text begins a new one. */
static void print_wrapped(FILE *f, int indent, const char *text) {
    enum { WIDTH = 100 };
    int column = indent;
    for (const char *w = text; *(w += strspn(w, " \n"));) {
        int n = (int)strcspn(w, " \n");
        bool new_line = w - text >= 2 && w[-1] == '\n' && w[-2] == '\n';
        if (new_line || (column > indent && column + 1 + n > WIDTH)) {
            fprintf(f, "\n%*s", indent, "");
            column = indent;
        }
        column += fprintf(f, "%s%.*s", column > indent ? " " : "", n, w);
        w += n;
    }
    fputc('\n', f);
}

static void help_option(const option_t *o, bool required, const char *fallback, FILE *f) {
    char name[96], text[640];
    static const char *const kind[] = {" N", " SIZE", " X", " TEXT", "", "", " N,N,.."};
    snprintf(name, sizeof name, "--%s%s", o->key, o->type == OPT_CHOICE ? " WORD" : kind[o->type]);
    size_t n = (size_t)snprintf(text, sizeof text, "%s", o->help);
    if (o->type == OPT_CHOICE) n += (size_t)snprintf(text + n, sizeof text - n, " (%s)", o->choices);
    if (required)
        n += (size_t)snprintf(text + n, sizeof text - n, " [required]");
    else if (fallback && !(o->type == OPT_FLAG && !strcmp(fallback, "no")))
        n += (size_t)snprintf(text + n, sizeof text - n, " [%s]", fallback);
    fprintf(f, "  %-22s ", name);
    print_wrapped(f, 25, text);
}

static bool among(const char *key, size_t n, const char *keys) {
    for (const char *k = keys; *(k += strspn(k, " ")); k += strcspn(k, " "))
        if (strcspn(k, " !=") == n && !strncmp(k, key, n)) return true;
    return false;
}

/* The options named by `keys` but not by `done`. */
static void help_keys(const char *keys, const char *done, FILE *f) {
    for (const char *k = keys; *(k += strspn(k, " "));) {
        size_t end = strcspn(k, " "), n = strcspn(k, " !=");
        char key[64], fallback[64];
        snprintf(key, sizeof key, "%.*s", (int)n, k);
        snprintf(fallback, sizeof fallback, "%.*s", k[n] == '=' ? (int)(end - n - 1) : 0, k + n + (k[n] == '='));
        const option_t *o = option_find(key);
        if (o && !among(key, n, done)) help_option(o, k[n] == '!', k[n] == '=' ? fallback : o->fallback, f);
        k += end;
    }
}

void options_help(const command_spec_t *cmd, FILE *f) {
    fprintf(f, "precis %s: %s\n\nusage: %s\n\n", cmd->name, cmd->summary, cmd->usage);
    print_wrapped(f, 0, cmd->text);
    size_t n = strlen(cmd->examples);
    fprintf(f, "\nexamples\n%s%s\noptions\n", cmd->examples, n && cmd->examples[n - 1] == '\n' ? "" : "\n");
    help_keys(cmd->keys, "", f);
    help_keys("config print-config quiet verbose", cmd->keys, f);
    fprintf(
        f,
        "\nSizes take K, M, G, T (powers of 1024). exit codes: 0 good, 1 run failed, 2 usage, 3 bad input, 75 stopped with work saved\n");
}

/* ---- the command
 * -------------------------------------------------------------------------------------------------------------------------------- */

static status_t help_run(const options_t *o, context_t *c) {
    const char *const *args;
    int n = opt_args(o, &args), used;
    char *words[2];
    (void)c;
    if (n == 0)
        help_overview(stdout);
    else if (n == 1 && !strcmp(args[0], "man"))
        help_man_page(stdout);
    else if (n == 1 && !strcmp(args[0], "completion"))
        help_bash_completion(stdout);
    else {
        for (int i = 0; i < n; i++) words[i] = (char *)(uintptr_t)args[i];
        const command_t *cmd = command_find(n, words, &used);
        if (!cmd) return command_unknown(n, words);
        options_help(&cmd->spec, stdout);
    }
    return ST_OK;
}

const command_t cmd_help = {
    .spec = {.name = "help",
             .summary = "explain a command; the man page; the completion for bash",
             .usage = "precis help [COMMAND | man | completion]",
             .text = "Explains a command with examples, as COMMAND --help does. `man` prints the manual page in the form that man(1) "
                     "reads, `completion`\n"
                     "a script that teaches bash to complete commands and options. make install puts both in their places.",
             .examples = "  precis help encode\n"
                         "  precis help man | man -l -\n"
                         "  source <(precis help completion)",
             .keys = "",
             .min_args = 0,
             .max_args = 2},
    .run = help_run,
};

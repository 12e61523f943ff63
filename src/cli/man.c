/* The manual page and the bash completion, both from the tables, so that they cannot go stale. */
#include <stdio.h>
#include <string.h>

#include "cli/commands.h"
#include "version.h"

/* roff: a backslash and a leading dot or quote mean something. */
static void roff(FILE *f, const char *s) {
    for (bool start = true; *s; s++) {
        if (start && (*s == '.' || *s == '\'')) fputs("\\&", f);
        if (*s == '\\')
            fputs("\\e", f);
        else if (*s == '-')
            fputs("\\-", f);
        else
            fputc(*s, f);
        start = *s == '\n';
    }
}

static void man_command(FILE *f, const command_spec_t *cmd) {
    fprintf(f, ".SS ");
    roff(f, cmd->name);
    fprintf(f, "\n.PP\n");
    roff(f, cmd->text);
    fprintf(f, "\n.PP\n.nf\n");
    roff(f, cmd->usage);
    fprintf(f, "\n.fi\n.PP\nExamples:\n.PP\n.nf\n");
    roff(f, cmd->examples);
    fprintf(f, "\n.fi\n.PP\nOptions:");
    for (const char *k = cmd->keys; *(k += strspn(k, " ")); k += strcspn(k, " ")) {
        char key[64];
        snprintf(key, sizeof key, " --%.*s", (int)strcspn(k, " !="), k);
        roff(f, key);
        if (k[strcspn(k, " !=")] == '!') fputs(" (required)", f);
    }
    fputs("\n", f);
}

static void man_options(FILE *f) {
    int n;
    const option_t *t = option_table(&n);
    char accepts[256];
    for (int i = 0; i < n; i++) {
        fprintf(f, ".TP\n.B ");
        char name[64];
        snprintf(name, sizeof name, "--%s", t[i].key);
        roff(f, name);
        fputs("\n", f);
        roff(f, t[i].help);
        if (t[i].type != OPT_FLAG && t[i].type != OPT_TEXT) {
            option_accepts(&t[i], accepts, sizeof accepts);
            fputs(". Takes ", f);
            roff(f, accepts);
        }
        if (t[i].fallback) {
            fputs(". Default: ", f);
            roff(f, t[i].fallback);
        }
        fputs(".\n", f);
    }
}

void help_man_page(FILE *f) {
    int n;
    const command_t *const *commands = command_table(&n);
    fputs(".TH PRECIS 1 \"\" \"precis " PRECIS_VERSION
          "\" \"User Commands\"\n.SH NAME\nprecis \\- distributed long-context encoder\n.SH SYNOPSIS\n"
          ".B precis\n.I COMMAND\n[options]\n.br\n.B mpirun \\-n\n.I N\n.B precis\n.I COMMAND\n[options]\n.SH DESCRIPTION\n"
          "Encodes a corpus with a decoder-only language model over any number of ranks, keeps the keys and values in a store on disk, and "
          "answers "
          "questions from it.\n.SH COMMANDS\n",
          f);
    for (int i = 0; i < n; i++) man_command(f, &commands[i]->spec);
    fputs(".SH OPTIONS\nA command takes those that its entry above names, and the last four.\n", f);
    man_options(f);
    fputs(".SH CONFIGURATION\nA setting comes from the default, then the file of\n.B \\-\\-config\n(lines key = value, # comments, "
          "\"text\\en\" in quotes with "
          "escapes), then the environment (PRECIS_MAX_TOKENS for max\\-tokens), then the flags; the last one counts.\n"
          ".SH EXIT STATUS\n0 good, 1 the run failed, 2 usage, 3 bad input, 75 stopped by a signal or a time limit with the work saved: "
          "run the same command "
          "again.\n.SH ENVIRONMENT\n.TP\n.B PRECIS_*\nsettings, see CONFIGURATION.\n.TP\n.B OMP_NUM_THREADS, SLURM_CPUS_PER_TASK\nthreads "
          "of a rank where "
          "\\-\\-threads is not given.\n.TP\n.B PRECIS_CACHE\nwhere make demo keeps the model.\n",
          f);
}

void help_bash_completion(FILE *f) {
    int n;
    const command_t *const *commands = command_table(&n);
    fputs("# bash completion for precis; from `precis help completion`\n_precis() {\n    local cur=${COMP_WORDS[COMP_CWORD]} "
          "prev=${COMP_WORDS[COMP_CWORD-1]} "
          "keys=\n    case ${COMP_WORDS[1]} in\n",
          f);
    for (int i = 0; i < n; i++) {
        const command_spec_t *cmd = &commands[i]->spec;
        fprintf(f, "    %.*s) keys=\"", (int)strcspn(cmd->name, " "), cmd->name);
        for (const char *k = cmd->keys; *(k += strspn(k, " ")); k += strcspn(k, " ")) fprintf(f, "--%.*s ", (int)strcspn(k, " !="), k);
        fputs("--config --print-config --quiet --verbose --help\" ;;\n", f);
    }
    fputs("    esac\n    case $prev in\n", f);
    int n_option;
    const option_t *t = option_table(&n_option);
    for (int i = 0; i < n_option; i++) {
        if (t[i].type != OPT_CHOICE) continue;
        fprintf(f, "    --%s) COMPREPLY=($(compgen -W \"", t[i].key);
        for (const char *c = t[i].choices; *c; c++) fputc(*c == '|' ? ' ' : *c, f);
        fputs("\" -- \"$cur\")); return ;;\n", f);
    }
    fputs("    esac\n    if [ \"$COMP_CWORD\" = 1 ]; then COMPREPLY=($(compgen -W \"", f);
    for (int i = 0; i < n; i++) fprintf(f, "%.*s ", (int)strcspn(commands[i]->spec.name, " "), commands[i]->spec.name);
    fputs("\" -- \"$cur\"))\n    elif [[ $cur == -* ]]; then COMPREPLY=($(compgen -W \"$keys\" -- \"$cur\"))\n    else "
          "COMPREPLY=($(compgen -f -- \"$cur\")); fi\n"
          "}\ncomplete -o filenames -F _precis precis\n",
          f);
}

/* precis: find the command, read its options, open its context, run it, report once.
 *
 * Help and mistakes on the command line are answered before MPI starts, so they work on a login node, and by rank 0 alone.
 * Exit codes are the values of status_t: 0 good, 1 the run failed, 2 usage, 3 bad input, 75 stopped with work saved (run the same command
 * again).
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "cli/commands.h"
#include "cli/registry.h"

/* Results may still sit in the buffer: a full disk shows itself only here. */
static status_t flush_results(void) {
    if (fflush(stdout) == 0 && !ferror(stdout)) return ST_OK;
    return status_fail(ST_FAIL, "standard output: %s; what was printed is not complete", strerror(errno));
}

static status_t run(const command_t *cmd, const options_t *o) {
    context_t c;
    status_t st = context_open(o, cmd->ranks, &c);
    if (!st) {
        st = cmd->run(o, &c);
        if (!st) st = flush_results();
        st = comm_agree(c.comm, st);
    }
    if (c.comm && c.comm->rank != 0) { /* rank 0 speaks and returns the code: a launcher that sees others fail would kill it */
        context_close(&c);
        return ST_OK;
    }
    if (st) log_error("%s", status_message());
    context_close(&c);
    return st;
}

static status_t main_command(int argc, char **argv, int rank) {
    int used;
    options_t *o = NULL;
    const command_t *cmd = command_find(argc, argv, &used);
    if (options_wants_help(argc - used, argv + used) && (cmd || (cmd = command_group(argv[0])))) {
        if (rank == 0) options_help(&cmd->spec, stdout);
        return flush_results();
    }
    status_t st = cmd ? ST_OK : command_unknown(argc, argv);
    if (!st) st = options_parse(&cmd->spec, argc - used, argv + used, &o);
    if (st) {
        if (rank == 0) log_error("%s", status_message());
        return st;
    }
    if (opt_flag(o, "print-config")) {
        if (rank == 0) options_print_config(o, stdout);
        st = flush_results();
    } else if (rank == 0 || cmd->ranks)
        st = run(cmd, o);
    options_free(o);
    return st;
}

int main(int argc, char **argv) {
    int rank, size;
    static char version[] = "version";
    static char *version_argv[] = {version};
    setvbuf(stdout, NULL, _IOLBF, 1 << 16); /* whole lines, also through a launcher's pipe */
    registry_launch(&rank, &size);
    if (argc > 1 && !strcmp(argv[1], "--version")) return (int)main_command(1, version_argv, rank);
    if (argc > 1 && strcmp(argv[1], "--help") && strcmp(argv[1], "-h")) return (int)main_command(argc - 1, argv + 1, rank);
    if (rank == 0) help_overview(argc > 1 ? stdout : stderr);
    return argc > 1 ? ST_OK : ST_USAGE;
}

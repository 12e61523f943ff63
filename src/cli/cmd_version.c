/* precis version: which program is this, and what was it built with. Paste it into a report of a problem. */
#include <stdio.h>

#include "cli/commands.h"
#include "cli/registry.h"
#include "version.h"

static status_t version_run(const options_t *o, context_t *c) {
    (void)o;
    (void)c;
    printf("precis " PRECIS_VERSION " (" PRECIS_COMMIT ")\n");
    registry_describe(stdout);
    return ST_OK;
}

const command_t cmd_version = {
    .spec = {.name = "version",
             .summary = "version, compiler, backends, libraries found",
             .usage = "precis version",
             .text = "Prints the version and commit, and then a line each for the compiler, the backends, the instruction sets of this "
                     "CPU, MPI, oneDNN and the\n"
                     "other libraries that the program was built with.",
             .examples = "  precis version\n"
                         "  precis version | grep MPI      is this build able to run on many ranks?",
             .keys = "",
             .min_args = 0,
             .max_args = 0},
    .run = version_run,
};

/* What a command runs in: its ranks, threads, number type, backend and model, opened from the options in that order and closed together.
 *
 *     main:     context_open(o, ranks, &c)                 ranks, log level, threads, dtype
 *     command:  context_open_file(&c)                      --model, --adapter: mapped and checked; cheap
 *               context_open_backend(&c)                   --backend, --dtype, --threads
 *               context_load_model(&c)                     does what is missing of the two above, then packs the weights; collective
 *     main:     context_close(&c)
 */
#ifndef CLI_CONTEXT_H
#define CLI_CONTEXT_H

#include "backend/backend.h"
#include "cli/options.h"
#include "comm/comm.h"
#include "model/adapter.h"
#include "model/model.h"

typedef struct {
    const options_t *options;
    comm_t *comm;       /* one rank or many; open always */
    int n_threads;      /* of this rank */
    int gpu;            /* which of its node's GPUs is this rank's, were there enough: counted over ranks that take one */
    dtype_t dtype;      /* DT_F32 or DT_BF16, the same on all ranks; DT_F32 for commands without --dtype */
    backend_t *backend; /* the rest is NULL until asked for */
    model_file_t *file;
    adapter_t *adapter; /* --adapter, opened with the file; NULL: none */
    model_t *model;
} context_t;

/* Collective when `ranks`; else one rank. Zeroes c first; after a failure context_close is still right. */
status_t context_open(const options_t *o, bool ranks, context_t *c);
status_t context_open_file(context_t *c);    /* not collective: the caller agrees */
status_t context_open_backend(context_t *c); /* not collective */
status_t context_load_model(context_t *c);   /* collective; all ranks get the same status */
void context_close(context_t *c);            /* collective */

/* Threads of this rank: --threads, else OMP_NUM_THREADS, else SLURM_CPUS_PER_TASK, else its share of the CPUs it may run on, where a CPU
 * that several ranks of the node may run on is shared evenly. Collective over the node. */
status_t threads_choose(const options_t *o, comm_t *comm, int *out);

/* Progress lines wanted on this rank? --progress and --quiet. */
bool context_progress(const context_t *c);

/* Warns when a text of the command line is not UTF-8. NULL: there is none. */
void context_warn_text(const char *where, const char *text);
/* --sink as text: TEXT, @FILE read whole, none or nothing given: NULL. *text is the caller's (mem_free). */
status_t context_sink_text(const options_t *o, char **text);

#endif

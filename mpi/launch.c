/* Reading the launcher's traces in the environment, starting MPI once, and the two mistakes that cost users most: ranks that do not know of
 * each other, and threads squeezed onto one core by the launcher's binding. */
#include "mpi/launch.h"

#include <mpi.h>
#include <sched.h>
#include <stdlib.h>

#include "base/log.h"
#include "mpi/comm_mpi.h"
#ifdef HAVE_NCCL
#include "mpi/comm_nccl.h"
#endif

static bool began_mpi;

/* What launchers leave behind for their children. Alone, any of these means "initialise MPI". */
static const char *const launcher_names[] = {
    "OMPI_COMM_WORLD_SIZE", /* Open MPI's mpirun */
    "PMIX_RANK",            /* PMIx servers: srun --mpi=pmix, prrte */
    "PMI_RANK",             /* PMI-1 and PMI-2: MPICH's and Intel's mpiexec, srun --mpi=pmi2 */
    "PMI_ID",               /* older PMI-1 */
    "MV2_COMM_WORLD_RANK",  /* MVAPICH2 */
    "MPI_LOCALRANKID",      /* Intel MPI */
};

bool launch_under_mpi(void) {
    for (size_t i = 0; i < sizeof launcher_names / sizeof *launcher_names; i++) {
        const char *v = getenv(launcher_names[i]);
        if (v && *v) return true;
    }
    return false;
}

status_t launch_comm(comm_t **out) {
    int began = 0, level = MPI_THREAD_SINGLE;
    *out = NULL;
    MPI_Initialized(&began);
    if (!began) {
        if (MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &level) != MPI_SUCCESS)
            return status_fail(ST_FAIL,
                               "MPI could not start; try the same command under plain mpirun -n 1, and compare the MPI it was built with");
        began_mpi = true;
    } else {
        MPI_Query_thread(&level);
    }
    if (level < MPI_THREAD_FUNNELED)
        return status_fail(ST_FAIL, "this MPI library has no support for threaded programs (MPI_THREAD_FUNNELED); load another MPI module");
    return comm_mpi_create(out);
}

void launch_finalize(void) {
    if (!began_mpi) return;
    MPI_Finalize();
    began_mpi = false;
}

/* A positive int, or 0. */
static int env_count(const char *name) {
    const char *v = getenv(name);
    long n = v ? strtol(v, NULL, 10) : 0;
    return n > 0 && n < 1 << 30 ? (int)n : 0;
}

void launch_warn_alone(const comm_t *c) {
    /* Slurm's words for the step this process is in. mpirun inside a job starts daemons through a step of their own, whose numbers are not
     * about us. */
    if (c->size > 1 || getenv("OMPI_COMM_WORLD_SIZE")) return;
    int n = env_count("SLURM_STEP_NUM_TASKS");
    if (n > 1)
        log_warn("Slurm started %d tasks, but this one sees no other: each would do all of the work. Use srun --mpi=pmix (srun --mpi=list "
                 "shows the types), "
                 "or mpirun",
                 n);
}

int launch_n_cpu(void) {
    int n = 0;
    for (int cap = 1024; cap <= 1 << 20; cap *= 4) { /* the kernel refuses a set smaller than its own */
        cpu_set_t *set = CPU_ALLOC(cap);
        if (!set) break;
        size_t bytes = CPU_ALLOC_SIZE(cap);
        CPU_ZERO_S(bytes, set);
        if (sched_getaffinity(0, bytes, set) == 0) n = CPU_COUNT_S(bytes, set);
        CPU_FREE(set);
        if (n > 0) break;
    }
    return n > 0 ? n : 1;
}

void launch_warn_threads(const comm_t *c, int threads) {
    int n_cpu = launch_n_cpu();
    if (c->node_rank != 0 || threads <= n_cpu) return;
    log_warn("%d threads on %d CPU%s: this process may not use more%s", threads, n_cpu, n_cpu == 1 ? "" : "s",
             c->size > 1 ? "; let the launcher give each rank more (mpirun --map-by slot:PE=N or --bind-to none; srun --cpus-per-task=N), "
                           "or use --threads"
                         : "; use a smaller --threads");
}

#ifdef HAVE_NCCL
status_t launch_device(comm_t *comm, int device, void *stream, int n_cta, comm_device_t **out) {
    return comm_nccl_create(comm, device, stream, n_cta, out);
}
#endif

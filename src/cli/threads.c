/* How many threads a rank takes when nobody says.
 *
 * The launcher may have bound ranks to CPUs of their own, to overlapping sets, or to nothing at all. Each rank of a node shows the others
 * its CPUs; a CPU that k of them may use counts 1/k for each. Then 2 unbound ranks on 16 CPUs take 8 each, and 2 ranks bound to 8 CPUs each
 * take 8 as well.
 */
#include <ctype.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "cli/context.h"

static int first_number(const char *name) {
    const char *s = getenv(name); /* OMP_NUM_THREADS may be a list, one number a nesting level */
    long v = s && isdigit((unsigned char)*s) ? strtol(s, NULL, 10) : 0;
    return v > 0 && v <= 4096 ? (int)v : 0;
}

static int share_of_cpus(const cpu_set_t *masks, int rank, int size) {
    double share = 0;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        int users = 0;
        if (!CPU_ISSET(cpu, &masks[rank])) continue;
        for (int r = 0; r < size; r++) users += CPU_ISSET(cpu, &masks[r]) != 0;
        share += 1.0 / users;
    }
    return share < 1 ? 1 : (int)(share + 1e-6);
}

status_t threads_choose(const options_t *o, comm_t *comm, int *out) {
    cpu_set_t *masks = NULL, mine;
    int wish = (int)opt_int(o, "threads");
    if (!wish) wish = first_number("OMP_NUM_THREADS");
    if (!wish) wish = first_number("SLURM_CPUS_PER_TASK");
    *out = wish ? wish : 1;
    CPU_ZERO(&mine);
    if (sched_getaffinity(0, sizeof mine, &mine)) { /* more CPUs than a cpu_set_t holds */
        long n = sysconf(_SC_NPROCESSORS_ONLN);
        for (long i = 0; i < n && i < CPU_SETSIZE; i++) CPU_SET((int)i, &mine);
    }
    /* Ranks with a wish take part all the same: the others must see their CPUs. */
    status_t st = comm->ops->shared_alloc(comm, (size_t)comm->node_size * sizeof *masks, &masks);
    if (st) return st;
    masks[comm->node_rank] = mine;
    st = comm->ops->node_barrier(comm);
    if (!st && !wish) *out = share_of_cpus(masks, comm->node_rank, comm->node_size);
    if (!st) st = comm->ops->node_barrier(comm);
    comm->ops->shared_free(comm, masks);
    return st;
}

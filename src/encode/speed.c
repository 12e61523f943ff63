/* How fast ranks are beside each other, so that those with GPUs and those with CPUs end a round together. Said by --speed, or measured once
 * where backends are unlike: the rate of a large matrix product, which is what encoding spends its time on.
 */
#include <stdio.h>

#include "base/log.h"
#include "base/mem.h"
#include "encode/job.h"

/* Given on all ranks or on none; the messages name a rank that has it and one that lacks it. */
static status_t given_alike(comm_t *comm, double speed, bool *given) {
    int64_t v[2] = {speed > 0 ? comm->rank : -1, speed > 0 ? -1 : comm->rank};
    status_t st = comm->ops->max_i64(comm, v, 2);
    *given = v[0] >= 0;
    if (!st && v[0] >= 0 && v[1] >= 0)
        st = status_fail(ST_USAGE, "--speed is given to rank %lld and not to rank %lld; give it to all programs of the job, or to none",
                         (long long)v[0], (long long)v[1]);
    return st;
}

static void speeds_say(const job_t *j) {
    double sum = 0;
    char text[256] = "";
    size_t at = 0;
    for (int r = 0; r < j->comm->size; r++) sum += j->speed[r];
    for (int r = 0; r < j->comm->size && at < sizeof text - 16; r++)
        at += (size_t)snprintf(text + at, sizeof text - at, "%s%.2f", r ? ", " : "", 100 * j->speed[r] / sum);
    log_info("shares of the encoding by rank, %%: %s%s", text, at < sizeof text - 16 ? "" : " ...");
}

/* Products that grow until one takes long enough: a GPU needs large ones, and the reference would take minutes for these. */
static status_t rate_measure(backend_t *be, double *flops) {
    enum { SIDE_MIN = 256, SIDE_MAX = 4096, TRIES = 4 };
    static const double LONG_S = 5e-3;
    status_t st = ST_OK;
    *flops = 0;
    for (double side = SIDE_MIN; !st && side <= SIDE_MAX; side *= 2) {
        st = backend_product_rate(be, (int64_t)side, TRIES, flops);
        if (2 * side * side * side / *flops > LONG_S) break;
    }
    return st;
}

status_t speed_find(job_t *j) {
    comm_t *comm = j->comm;
    double mine = j->spec->speed;
    int64_t *each = NULL;
    bool given;
    status_t st = given_alike(comm, mine, &given);
    if (st || (!given && !model_mixed(j->model))) return st;
    if (!given) st = rate_measure(j->be, &mine);
    if (!st) st = mem_alloc(&j->speed, (size_t)comm->size, sizeof *j->speed, "the ranks' speeds");
    if (!st) st = mem_alloc(&each, (size_t)comm->size, sizeof *each, "the ranks' speeds");
    st = comm_agree(comm, st);
    for (int r = 0; r < comm->size && !st; r++) each[r] = sizeof mine;
    if (!st) st = comm->ops->all_gather(comm, &mine, j->speed, each);
    mem_free(each);
    if (!st) speeds_say(j);
    return comm_agree(comm, st);
}

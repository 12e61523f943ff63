/* Who answers which prompts: all ranks together all of them, each attending to its segments; or prompts are dealt: each rank reads all of
 * the context and answers its own prompts, as one rank alone would, so with the same bits.
 *
 *     prompts   0 1 2 3 4 5 ..   block by block      rank 0: 0 3 ..   rank 1: 1 4 ..   rank 2: 2 5 ..
 *
 * After each block the answers come to rank 0, which prints them in order.
 */
#include <string.h>

#include "base/mem.h"
#include "cli/job_options.h"
#include "cli/query_job.h"
#include "query/interleave.h"

enum { TURNS = 4 }; /* prompts a slot answers in a block, so that few slots wait for the longest answer */

/* An answer on its way; its tokens and evidence follow. */
typedef struct {
    int64_t number, n_id, n_mass, n_prompt, n_forward, ended;
    double edits, entropy, first_token_s, total_s;
} packed_t;

static size_t packed_bytes(const query_job_t *j, const generation_t *g) {
    size_t mass = g->mass ? (size_t)j->kv.n_segment * sizeof(double) : 0;
    return sizeof(packed_t) + mass + size_round_up((size_t)g->ids.n * sizeof(int32_t), sizeof(double));
}

static char *pack(const query_job_t *j, const generation_t *g, char *to) {
    packed_t p = {.number = g->number,
                  .n_id = g->ids.n,
                  .n_mass = g->mass ? j->kv.n_segment : 0,
                  .n_prompt = g->n_prompt,
                  .n_forward = g->n_forward,
                  .ended = g->ended,
                  .edits = g->edits,
                  .entropy = g->entropy,
                  .first_token_s = g->first_token_s,
                  .total_s = g->total_s};
    char *at = to + sizeof p;
    memcpy(to, &p, sizeof p);
    if (p.n_mass) memcpy(at, g->mass, (size_t)p.n_mass * sizeof(double));
    if (p.n_id) memcpy(at + (size_t)p.n_mass * sizeof(double), g->ids.ids, (size_t)p.n_id * sizeof(int32_t));
    return to + packed_bytes(j, g);
}

static status_t unpack(query_job_t *j, const char **from) {
    packed_t p;
    memcpy(&p, *from, sizeof p);
    generation_t *g = &j->gen[p.number];
    const char *mass = *from + sizeof p, *ids = mass + (size_t)p.n_mass * sizeof(double);
    status_t st = ST_OK;
    g->ended = p.ended != 0;
    g->n_forward = p.n_forward;
    g->edits = p.edits;
    g->entropy = p.entropy;
    g->first_token_s = p.first_token_s;
    g->total_s = p.total_s;
    if (p.n_mass && !(st = mem_alloc(&g->mass, (size_t)p.n_mass, sizeof *g->mass, "evidence")))
        memcpy(g->mass, mass, (size_t)p.n_mass * sizeof *g->mass);
    for (int64_t i = 0; i < p.n_id && !st; i++) {
        int32_t id;
        memcpy(&id, ids + (size_t)i * sizeof id, sizeof id);
        st = ids_push(&g->ids, id);
    }
    j->done[p.number] = true;
    *from = ids + size_round_up((size_t)p.n_id * sizeof(int32_t), sizeof(double));
    return st;
}

/* A block's answers, from all ranks to rank 0. */
static status_t answers_gather(query_job_t *j, const generation_t *mine, int64_t n) {
    comm_t *comm = j->c->comm;
    size_t size = (size_t)comm->size;
    int64_t *bytes = NULL, *eight = NULL, own = 0, all = 0;
    char *send = NULL, *recv = NULL, *at;
    status_t st = mem_alloc(&bytes, size, sizeof *bytes, "answers");
    if (!st) st = mem_alloc(&eight, size, sizeof *eight, "answers");
    for (int64_t i = 0; i < n; i++) own += (int64_t)packed_bytes(j, &mine[i]);
    if (!st) st = mem_alloc(&send, (size_t)own, 1, "answers");
    at = send;
    for (int64_t i = 0; i < n && !st; i++) at = pack(j, &mine[i], at);
    for (size_t r = 0; r < size && !st; r++) eight[r] = sizeof own;
    if ((st = comm_agree(comm, st))) goto out;
    if ((st = comm->ops->all_gather(comm, &own, bytes, eight))) goto out;
    for (size_t r = 0; r < size; r++) all += bytes[r];
    if (comm->rank == 0) st = mem_alloc(&recv, (size_t)all, 1, "answers of all ranks");
    if ((st = comm_agree(comm, st))) goto out;
    st = comm->ops->gather(comm, 0, send, recv, bytes);
    for (const char *from = recv; comm->rank == 0 && !st && from < recv + all;) st = unpack(j, &from);
out:
    mem_free(bytes);
    mem_free(eight);
    mem_free(send);
    mem_free(recv);
    return comm_agree(comm, st);
}

/* Collective over j->comm. */
static status_t answer(query_job_t *j, const generate_spec_t *how, generation_t *gen, int64_t n, generated_fn done) {
    const int32_t *end;
    int n_end = tokenizer_eos(j->tokenizer, &end);
    if (j->store || j->layout != LAYOUT_UNIGIST) return generate(j->c->model, j->comm, &j->kv, how, end, n_end, gen, n, done, j);
    interleave_spec_t spec = {.kept = &j->kept, .sink = j->sink.ids, .n_sink = j->sink.n, .max_row = how->max_row};
    if (!j->next) job_warn_untrained(j->o, &j->kept);
    return interleave_generate(j->c->model, j->comm, &spec, how, end, n_end, gen, n, done, j);
}

static status_t nothing_yet(void *self, generation_t *g) {
    (void)self, (void)g;
    return ST_OK;
}

static status_t answer_dealt(query_job_t *j, const generate_spec_t *how) {
    comm_t *comm = j->c->comm;
    int64_t block = how->batch * TURNS * comm->size;
    generation_t *mine = NULL;
    status_t st = comm_agree(comm, mem_zalloc(&mine, (size_t)(how->batch * TURNS), sizeof *mine, "prompts of a rank"));
    for (int64_t first = 0; first < j->n && !st; first += block) {
        int64_t n = 0, end = i64_min(first + block, j->n);
        for (int64_t i = first + comm->rank; i < end; i += comm->size) mine[n++] = j->gen[i];
        st = comm_agree(comm, n ? answer(j, how, mine, n, nothing_yet) : ST_OK);
        if (!st) st = answers_gather(j, mine, n);
        for (int64_t i = 0; i < n; i++) {
            ids_free(&mine[i].ids);
            mem_free(mine[i].mass);
        }
        if (!st) st = comm_agree(comm, comm->rank == 0 ? query_print(j) : ST_OK);
    }
    mem_free(mine);
    return st;
}

status_t query_answer(query_job_t *j, const generate_spec_t *how) {
    return j->dealt ? answer_dealt(j, how) : answer(j, how, j->gen, j->n, query_done);
}

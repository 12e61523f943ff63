/* Inside of the query command: cmd_query.c reads prompts, opens the context and runs; query_answers.c prints what became of them,
 * query_deal.c deals prompts to ranks. */
#ifndef CLI_QUERY_JOB_H
#define CLI_QUERY_JOB_H

#include "cli/commands.h"
#include "encode/encoder.h"
#include "io/json.h"
#include "query/generate.h"
#include "query/sources.h"

typedef struct {
    const options_t *o;
    context_t *c;
    comm_t *comm; /* who divides the context: all ranks, or each one alone when prompts are dealt */
    bool dealt;
    const tokenizer_t *tokenizer;
    store_t *store;
    sources_t sources;
    encoder_t *encoder; /* keeps the sink */
    context_kv_t kv;
    layout_method_t layout; /* of the store */
    bool joined;            /* its segments' keys move to positions one after another */
    /* prompts, and what became of them */
    generation_t *gen;
    ids_t *prompts;
    cJSON **ids; /* as they were read */
    bool *done;
    int64_t n, cap, next; /* next to be printed */
    bool json;            /* JSON lines, else text */
    tokenizer_stream_t stream;
    bool streams; /* one answer as text: it is printed while it is made */
    /* --layout unigist without a store: prompt and answer are one sequence */
    kept_t kept;
    ids_t sink;
} query_job_t;

/* The store is a pool of edits. */
static inline bool query_edits(const query_job_t *j) { return j->store && layout_info(j->layout)->edits; }

/* query_answers.c, as generate() calls them (self: a query_job_t): a token of a streamed answer, on rank 0; a generation that has ended, on
 * every rank. */
status_t query_token(void *self, int64_t i, int32_t id);
status_t query_done(void *self, generation_t *g);
/* Answers whose turn it is are printed, by rank 0, and freed. */
status_t query_print(query_job_t *j);

/* query_deal.c: all prompts, by all ranks together or each by the rank that it is dealt to. Collective over all ranks. */
status_t query_answer(query_job_t *j, const generate_spec_t *how);

#endif

/* One round after another:
 *
 *   rank 0: read, tokenise, cut, address  ->  all: the round  ->  each: encode own segments, append  ->  all: committed?  ->  rank 0:
 * record documents
 *
 * While encoding nothing is on the wire but notes: progress to rank 0, and a request to stop, which rank 0 passes on.
 */
#include "encode/encode.h"

#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/stop.h"
#include "encode/job.h"
#include "encode/reader.h"
#include "layout/assign.h"
#include "layout/shard.h"

enum { WRITE_THREADS = 8, SEGMENTS_PER_RANK = 16, WHOLE_TOKENS = 1 << 16, ROUND_MIN = 1 << 20, ROUND_MAX = 1 << 26 };

int64_t encode_round_tokens(int n_rank, int64_t segment) {
    int64_t want = (int64_t)n_rank * SEGMENTS_PER_RANK * i64_min(segment, ROUND_MAX / SEGMENTS_PER_RANK);
    return i64_max(ROUND_MIN, i64_min(want, ROUND_MAX));
}

/* ---- one round ------------------------------------------------------------------------------------------------------------ */
/* Units of assignment: a segment, or under full attention a whole document with anything to do. Fills unit -> first item and its cost. */
static status_t units_make(const job_t *j, const round_t *r, int64_t **units, double **costs, int64_t *n_unit) {
    const model_config_t *c = j->config;
    assign_cost_t cost = {.row = model_flops_row(c) / 2,
                          .key = 2.0 * (double)(c->n_layer * c->n_head * c->d_head),
                          .n_sink = j->spec->profile.n_sink + j->spec->kept.n_blank,
                          .window = j->spec->kept.keep == KEEP_TAIL ? j->spec->kept.gist.window + j->spec->kept.gist.ratio : c->window};
    bool chained = j->chained;
    status_t st = mem_alloc(units, (size_t)r->n_item, sizeof **units, "a round's plan");
    if (!st) st = mem_alloc(costs, (size_t)r->n_item, sizeof **costs, "a round's plan");
    *n_unit = 0;
    for (int64_t i = 0; !st && i < r->n_item;) {
        int64_t n = r->items[i].n, next = i + 1;
        bool todo = r->items[i].todo;
        while (chained && next < r->n_item && r->items[next].slice) {
            n += r->items[next].n;
            todo |= r->items[next++].todo != 0;
        }
        if (todo) {
            (*units)[*n_unit] = i;
            (*costs)[(*n_unit)++] = assign_cost(&cost, n);
        }
        i = next;
    }
    return st;
}

/* A round that ran to its end has all its segments committed: its documents are recorded. After a stop or a failure they are not; the next
 * run finds the segments that did make it, encodes the rest and records them then. */
static status_t record_documents(job_t *j, const round_t *r) {
    if (j->comm->rank || !r->n_doc) return ST_OK;
    return store_add_documents(j->spec->store_dir, r->docs, r->n_doc);
}

/* Takes out of the units those that all ranks share, and encodes them, one after another. Collective. */
static status_t documents_run(job_t *j, const round_t *r, int64_t *units, double *costs, int64_t *n_unit) {
    const layout_info_t *info = layout_info(j->spec->layout);
    int64_t left = 0, n = *n_unit, size = j->comm->size;
    double sum = 0;
    status_t st = ST_OK;
    bool apart = j->spec->shard == SHARD_NONE || (j->spec->shard == SHARD_AUTO && model_mixed(j->model));
    if (size == 1 || apart || !layout_shards(info, j->spec->kept.compact, model_config(j->model)->window)) return ST_OK;
    for (int64_t u = 0; u < n; u++) sum += costs[u];
    for (int64_t u = 0; u < n && !st; u++) {
        int64_t tokens = 0, first = units[u], next = first;
        do tokens += r->items[next++].n;
        while (next < r->n_item && r->items[next].slice);
        bool large = costs[u] > sum / (double)size && tokens >= SHARD_ROWS * size, shared = large || j->spec->shard != SHARD_AUTO;
        if (shared) {
            if ((st = notes_take(j))) break;
            int64_t stopping = j->stopping;
            if ((st = j->comm->ops->max_i64(j->comm, &stopping, 1)) || stopping) break;
            st = share_document(j, r, first, &shared);
        }
        j->report->n_sharded += shared && !j->stopping;
        if (shared) continue;
        units[left] = first;
        costs[left++] = costs[u];
    }
    *n_unit = left;
    return st;
}

static status_t round_run(job_t *j, round_t *r) {
    int64_t *units = NULL, n_unit = 0;
    double *costs = NULL;
    assign_t plan = {0};
    status_t st = comm_agree(j->comm, units_make(j, r, &units, &costs, &n_unit));
    int64_t todo = 0;
    for (int64_t i = 0; i < r->n_item; i++) todo += r->items[i].todo ? r->items[i].n : 0;
    j->progress.total += todo;
    if (!st) st = documents_run(j, r, units, costs, &n_unit);
    if (!st) st = assign_segments_by_speed(costs, j->speed, n_unit, j->comm->size, &plan);
    st = comm_agree(j->comm, st);
    if (st) goto out;
    int64_t *mine = plan.item + plan.begin[j->comm->rank], n_mine = plan.begin[j->comm->rank + 1] - plan.begin[j->comm->rank];
    for (int64_t i = 0; i < n_mine; i++) mine[i] = units[mine[i]]; /* units to their first items */
    st = share_encode(j, r, mine, n_mine);
    status_t settled = notes_settle(j);
    if (!st) st = settled;
    st = comm_agree(j->comm, st);
    int64_t stopped = j->stopping;
    if (!st) st = j->comm->ops->max_i64(j->comm, &stopped, 1);
    j->stopping = stopped != 0;
    if (!st && !j->stopping) st = comm_agree(j->comm, record_documents(j, r));
    if (!st) {
        j->report->n_document += r->n_doc;
        for (int64_t i = 0; i < r->n_item; i++) {
            j->report->n_segment++;
            j->report->tokens_total += r->items[i].n;
            if (!r->items[i].todo) j->report->n_reused++;
        }
    }
out:
    mem_free(units);
    mem_free(costs);
    assign_free(&plan);
    return st;
}

/* ---- the job -------------------------------------------------------------------------------------------------------------- */
static status_t job_open(job_t *j, const tokenizer_t *tokenizer) {
    const encode_spec_t *s = j->spec;
    int64_t repaired = 0, bad = 0;
    status_t st = j->comm->rank == 0 ? store_prepare(s->store_dir, &s->profile, &repaired) : ST_OK;
    st = comm_agree(j->comm, st);
    if (!st) st = known_verify(j, &bad);
    if (!st && j->comm->rank == 0) st = store_open(s->store_dir, false, &j->before);
    st = comm_agree(j->comm, st);
    j->report->n_repaired = repaired + bad;
    if (!st && j->report->n_repaired)
        log_warn("%s: %lld leftovers or damaged segments repaired; what is missing is encoded again", s->store_dir,
                 (long long)j->report->n_repaired);
    if (st || (st = speed_find(j))) return st;
    encoder_spec_t e = {.sink = s->profile.sink,
                        .n_sink = s->profile.n_sink,
                        .n_blank = s->kept.n_blank,
                        .align = j->chained ? ALIGN_SEQUENTIAL : s->align,
                        .gist = s->kept.gist,
                        .gist_init = s->kept.init,
                        .gist_token = s->kept.token,
                        .reserve = s->profile.segment,
                        .max_row = s->max_row,
                        .recurrent = s->kept.recurrent,
                        .compact = s->kept.compact,
                        .evict = s->kept.keep == KEEP_TAIL};
    if ((st = encoder_create(j->model, j->comm, &e, &j->encoder))) return st;
    if (s->kept.select.ratio) st = tokenizer_encode(tokenizer, score_repeat_text, strlen(score_repeat_text), false, &j->repeat);
    if ((st = comm_agree(j->comm, st))) return st;
    st = store_writer_open(s->store_dir, &s->profile, j->comm->rank, &j->writer);
    if (!st && !j->be->host_memory) st = store_writer_threads(j->writer, WRITE_THREADS); /* the cores have nothing else to do */
    return comm_agree(j->comm, st);
}

static status_t totals(job_t *j) {
    encode_report_t *rep = j->report;
    int64_t root = j->comm->rank == 0, sums[5] = {root * j->tokens_done, j->writer ? store_writer_bytes(j->writer) : 0,
                                                  root * j->segments_done, j->kv_sent, j->kv_sent_plan};
    status_t st = j->comm->ops->sum_i64(j->comm, sums, 5);
    rep->kv_sent = sums[3];
    rep->kv_sent_plan = sums[4];
    rep->tokens_encoded = sums[0];
    rep->bytes_written = sums[1];
    rep->n_encoded = sums[2];
    rep->seconds = clock_s() - j->watch.begin_s;
    rep->stopped = j->stopping;
    return st;
}

status_t encode_corpus(model_t *m, const tokenizer_t *tokenizer, comm_t *comm, const encode_spec_t *spec, encode_report_t *report) {
    job_t j = {.model = m,
               .be = model_backend(m),
               .config = model_config(m),
               .comm = comm,
               .spec = spec,
               .report = report,
               .chained = layout_info(spec->layout)->chained};
    bool whole = layout_info(spec->layout)->whole;
    round_spec_t rs = {.tokenizer = tokenizer,
                       .profile = &spec->profile,
                       .segment = spec->profile.segment,
                       .budget = spec->round_tokens ? spec->round_tokens
                                                    : encode_round_tokens(comm->size, whole ? WHOLE_TOKENS : spec->profile.segment),
                       .split = spec->split,
                       .chained = layout_info(spec->layout)->chained,
                       .parse_special = spec->parse_special,
                       .max_id = j.config->n_vocab};
    round_t round = {0};
    corpus_t *corpus = NULL;
    *report = (encode_report_t){0};
    status_t st = comm->rank == 0 ? corpus_open(spec->inputs, spec->n_input, "text", &corpus) : ST_OK;
    reader_t reader = {.spec = &rs, .corpus = corpus};
    st = comm_agree(comm, st);
    if (!st) st = job_open(&j, tokenizer);
    watch_begin(&j);
    progress_begin(&j.progress, "encode", "tokens", 0, spec->progress && comm->rank == 0);
    while (!st && !round.last && !j.stopping) {
        status_t mine = ST_OK;
        double asked_s = clock_s();
        if (comm->rank == 0) mine = reader_take(&reader, &round);
        if (comm->rank == 0 && !mine) mine = known_mark(&j, &round);
        if (comm->rank == 0 && !mine) mine = names_mark(&j.names, &round);
        st = comm_agree(comm, mine);
        if (st == ST_STOPPED) { /* while waiting for input that comes through a pipe */
            j.stopping = true;
            st = ST_OK;
            break;
        }
        if (!st) st = comm_agree(comm, round_share(comm, &round));
        j.watch.tokens_s += clock_s() - asked_s;
        if (!st && comm->rank == 0 && !round.last && !j.be->host_memory) reader_ahead(&reader); /* a CPU encodes with all its cores */
        if (!st) st = round_run(&j, &round);
    }
    progress_end(&j.progress);
    if (!st) st = totals(&j);
    if (!st) st = watch_report(&j);
    if (j.writer) {
        char held[STATUS_BYTES];
        status_hold(held);
        status_t closed = store_writer_close(j.writer);
        if (st)
            status_fail(st, "%s", held);
        else
            st = closed;
    }
    st = comm_agree(comm, st);
    picker_free(j.picker);
    ids_free(&j.repeat);
    encoder_free(j.encoder);
    room_free(&j);
    for (int i = 0; i < 2; i++) mem_free(j.lists[i]);
    store_close(j.before);
    mem_free(j.added);
    names_free(&j.names);
    mem_free(j.speed);
    mem_free(j.watch.marks);
    reader_end(&reader);
    corpus_close(corpus);
    round_free(&round);
    if (!st && j.stopping)
        st = status_fail(ST_STOPPED, "stopped (%s); everything encoded is in %s: run the same command again to go on",
                         *stop_reason() ? stop_reason() : "asked by another rank", spec->store_dir);
    return st;
}

/* One round after another:
 *
 *   rank 0: read, tokenise, cut, address  ->  all: the round  ->  each: encode own segments, append  ->  all: committed?  ->  rank 0:
 * record documents
 *
 * While encoding nothing is on the wire but notes: progress to rank 0, and a request to stop, which rank 0 passes on.
 */
#include "encode/encode.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/progress.h"
#include "base/stop.h"
#include "layout/assign.h"

enum { SEGMENTS_PER_RANK = 16, ROUND_MIN = 1 << 20, ROUND_MAX = 1 << 26 };

typedef struct {
    model_t *model;
    backend_t *be;
    const model_config_t *config;
    comm_t *comm;
    const encode_spec_t *spec;
    encode_report_t *report;
    encoder_t *encoder;
    store_writer_t *writer;
    store_t *before; /* rank 0: what the store held at the start */
    hash_t *added;   /* rank 0: sorted addresses that this run has met */
    int64_t n_added, cap_added;
    kv_pool_t buffer[2]; /* K/V of the batch being encoded and of the one being written: [rows] of all pieces one after another */
    int64_t buffer_rows;
    kv_pool_t scratch; /* rows that are computed but not kept: raw ones, or gists */
    bool chained;      /* segments continue those before them in their document */
    int turn;
    char *host[2]; /* host copies of K/V when the backend's memory is not ours */
    progress_t progress;
    bool stopping, failed_elsewhere;
    int64_t done_ranks, tokens_done, segments_done;
    bool released;
} job_t;

int64_t encode_round_tokens(int n_rank, int64_t segment) {
    int64_t want = (int64_t)n_rank * SEGMENTS_PER_RANK * i64_min(segment, ROUND_MAX / SEGMENTS_PER_RANK);
    return i64_max(ROUND_MIN, i64_min(want, ROUND_MAX));
}

/* ---- what is new? (rank 0) ----------------------------------------------------------------------------------------- */
static int by_address(const void *a, const void *b) { return hash_compare(*(const hash_t *)a, *(const hash_t *)b); }

/* Items that the store holds, or that came earlier, need no encoding. */
static status_t mark_known(job_t *j, round_t *r) {
    int64_t fresh = 0;
    for (int64_t i = 0; i < r->n_item; i++) {
        round_item_t *it = &r->items[i];
        if (store_find(j->before, it->address) ||
            (j->n_added && bsearch(&it->address, j->added, (size_t)j->n_added, sizeof(hash_t), by_address)))
            it->todo = 0;
        fresh += it->todo;
    }
    if (!fresh) return ST_OK;
    if (j->n_added + fresh > j->cap_added) {
        int64_t cap = i64_max(2 * j->cap_added, j->n_added + fresh);
        status_t st = mem_grow(&j->added, (size_t)cap, sizeof *j->added, "known addresses");
        if (st) return st;
        j->cap_added = cap;
    }
    /* sort the round's own to find twins inside it: the first of them stays */
    hash_t *mine = j->added + j->n_added;
    int64_t n = 0;
    for (int64_t i = 0; i < r->n_item; i++)
        if (r->items[i].todo) mine[n++] = r->items[i].address;
    qsort(mine, (size_t)n, sizeof *mine, by_address);
    int64_t unique = 0;
    for (int64_t i = 0; i < n; i++)
        if (!i || !hash_equal(mine[i], mine[i - 1])) mine[unique++] = mine[i];
    if (unique < n) {
        uint8_t *seen = NULL;
        status_t st = mem_zalloc(&seen, (size_t)unique, 1, "twins");
        if (st) return st;
        for (int64_t i = 0; i < r->n_item; i++) {
            if (!r->items[i].todo) continue;
            hash_t *at = bsearch(&r->items[i].address, mine, (size_t)unique, sizeof *mine, by_address);
            if (seen[at - mine]++) r->items[i].todo = 0;
        }
        mem_free(seen);
    }
    j->n_added += unique;
    qsort(j->added, (size_t)j->n_added, sizeof *j->added, by_address);
    return ST_OK;
}

/* ---- notes ------------------------------------------------------------------------------------------------------------ */
static status_t note_all(job_t *j, note_kind_t kind) {
    status_t st = ST_OK;
    for (int to = 1; to < j->comm->size && !st; to++) st = j->comm->ops->note_send(j->comm, to, (note_t){.kind = kind, .from = 0});
    return st;
}

static status_t ask_to_stop(job_t *j) {
    if (j->stopping) return ST_OK;
    j->stopping = true;
    if (j->comm->rank == 0) return note_all(j, NOTE_STOP);
    return j->comm->ops->note_send(j->comm, 0, (note_t){.kind = NOTE_STOP, .from = j->comm->rank});
}

static status_t notes_take(job_t *j) {
    note_t n;
    status_t st = ST_OK;
    while (!st && j->comm->ops->note_poll(j->comm, &n)) {
        if (n.kind == NOTE_PROGRESS) {
            j->tokens_done += n.a;
            j->segments_done += n.b;
        }
        if (n.kind == NOTE_DONE && j->comm->rank == 0) j->done_ranks++;
        if (n.kind == NOTE_DONE && j->comm->rank) j->released = true;
        if (n.kind == NOTE_STOP && j->comm->rank == 0) st = ask_to_stop(j);
        if (n.kind == NOTE_STOP && j->comm->rank) j->stopping = true;
    }
    if (!st && stop_requested()) st = ask_to_stop(j);
    if (j->comm->rank == 0) progress_update(&j->progress, j->tokens_done);
    return st;
}

static status_t report_done(job_t *j, int64_t tokens, int64_t segments) {
    if (j->comm->rank)
        return j->comm->ops->note_send(j->comm, 0, (note_t){.kind = NOTE_PROGRESS, .from = j->comm->rank, .a = tokens, .b = segments});
    j->tokens_done += tokens;
    j->segments_done += segments;
    return ST_OK;
}

/* Nobody enters the round's collectives before all are there: ranks that are done sleep, they do not spin. */
static status_t notes_settle(job_t *j) {
    comm_t *c = j->comm;
    status_t st = ST_OK;
    if (c->size == 1) return notes_take(j);
    if (c->rank) st = c->ops->note_send(c, 0, (note_t){.kind = NOTE_DONE, .from = c->rank});
    while (!st && (c->rank ? !j->released : j->done_ranks < c->size - 1)) {
        if (!(st = notes_take(j))) usleep(1000);
    }
    if (!st && c->rank == 0) st = note_all(j, NOTE_DONE);
    j->released = false;
    j->done_ranks = 0;
    return st;
}

/* ---- encoding of this rank's share --------------------------------------------------------------------------------------- */
static status_t buffer_fit(job_t *j, int64_t rows) {
    if (rows <= j->buffer_rows) return ST_OK;
    status_t st = j->writer ? store_writer_wait(j->writer) : ST_OK; /* the writer may still read the old one */
    int n = j->chained ? 1 : 2;                                     /* a chain is written before the next one begins */
    for (int i = 0; i < n && !st; i++) {
        kv_free(j->be, &j->buffer[i]);
        mem_free(j->host[i]);
        j->host[i] = NULL;
        st = kv_alloc(j->be, j->config, j->be->act, rows, "K/V of segments being encoded", &j->buffer[i]);
        if (!st && !j->be->host_memory) st = mem_alloc(&j->host[i], 2 * kv_bytes(j->config, j->be->act, rows), 1, "K/V on the host");
    }
    j->buffer_rows = st ? 0 : rows;
    return st;
}

/* The part of buffer `b` that holds n rows from row `at`: pieces lie one after another, each contiguous in itself. */
static kv_pool_t buffer_piece(job_t *j, int b, int64_t at, int64_t n) {
    size_t skip = kv_bytes(j->config, j->be->act, at);
    return kv_view(j->config, j->be->act, n, (char *)j->buffer[b].k + skip, (char *)j->buffer[b].v + skip);
}

/* A segment's raw and gist pools: in the buffer where they are kept, else in the scratch rows from *spare on. */
static void piece_pools(job_t *j, const kv_pool_t *kept, int64_t n, int64_t *spare, piece_t *p) {
    const kept_t *k = &j->spec->kept;
    int64_t gists = gist_count(&k->gist, n);
    if (k->keep == KEEP_GIST) {
        p->pool = kept_part(&j->scratch, *spare, n);
        *spare += n;
    } else {
        p->pool = kept_part(kept, kept_gists(k, n), n);
    }
    if (k->keep == KEEP_RAW) {
        p->gist_pool = kept_part(&j->scratch, *spare, gists);
        *spare += gists;
    } else {
        p->gist_pool = kept_part(kept, 0, gists);
    }
}

/* Scratch rows for segments of `tokens` tokens in all. */
static status_t scratch_fit(job_t *j, int64_t tokens) {
    const kept_t *k = &j->spec->kept;
    int64_t rows = !k->gist.ratio || k->keep == KEEP_BOTH ? 0 : k->keep == KEEP_GIST ? tokens : tokens / k->gist.ratio + 1;
    if (rows <= j->scratch.n_row) return ST_OK;
    kv_free(j->be, &j->scratch);
    return kv_alloc(j->be, j->config, j->be->act, rows, "K/V rows that are not kept", &j->scratch);
}

static status_t append(job_t *j, const round_t *r, const round_item_t *it, const kv_pool_t *pool, int b) {
    const void *k = pool->k, *v = pool->v;
    int64_t rows = kept_rows(&j->spec->kept, it->n);
    size_t bytes = kv_bytes(j->config, pool->type, rows), skip = (size_t)((char *)pool->k - (char *)j->buffer[b].k);
    if (!j->be->host_memory) {
        char *hk = j->host[b] + skip, *hv = j->host[b] + kv_bytes(j->config, pool->type, j->buffer_rows) + skip;
        status_t st = j->be->ops->copy_out(j->be, hk, pool->k, bytes);
        if (!st) st = j->be->ops->copy_out(j->be, hv, pool->v, bytes);
        if (st) return st;
        k = hk;
        v = hv;
    }
    int64_t pos = layout_position(j->spec->align, j->spec->profile.n_sink, 0, it->n, j->spec->profile.segment, it->before);
    if (it->slice) pos = j->spec->profile.n_sink + it->before;
    store_item_t item = {.address = it->address,
                         .n_token = it->n,
                         .n_row = rows,
                         .first_pos = pos,
                         .tokens = r->tokens.ids + it->begin,
                         .type = pool->type,
                         .k = k,
                         .v = v};
    return store_append(j->writer, &item);
}

/* Independent segments: as many small ones as fit a pass go together; encoding the next batch overlaps writing this one. */
static status_t encode_batch(job_t *j, const round_t *r, const int64_t *mine, int64_t n) {
    piece_t *pieces = NULL;
    kv_pool_t *kept = NULL;
    int64_t at = 0, tokens = 0, spare = 0;
    int b = j->turn;
    for (int64_t i = 0; i < n; i++) tokens += r->items[mine[i]].n;
    status_t st = mem_alloc(&pieces, (size_t)n, sizeof *pieces, "a batch of segments");
    if (!st) st = mem_alloc(&kept, (size_t)n, sizeof *kept, "a batch of segments");
    if (!st) st = scratch_fit(j, tokens);
    for (int64_t i = 0; i < n && !st; i++) {
        const round_item_t *it = &r->items[mine[i]];
        int64_t rows = kept_rows(&j->spec->kept, it->n);
        kept[i] = buffer_piece(j, b, at, rows);
        pieces[i] = (piece_t){.tokens = r->tokens.ids + it->begin, .n = it->n, .before = it->before};
        piece_pools(j, &kept[i], it->n, &spare, &pieces[i]);
        at += rows;
    }
    if (!st) st = encoder_run(j->encoder, pieces, (int)n);
    for (int64_t i = 0; i < n && !st; i++) st = append(j, r, &r->items[mine[i]], &kept[i], b);
    j->turn = 1 - b;
    mem_free(pieces);
    mem_free(kept);
    return st ? st : report_done(j, tokens, n);
}

/* Segments of one document that continue each other. What later ones see of earlier ones stays in memory until the document ends: all raw
 * rows (full attention over a document in slices), or gists. */
static status_t encode_chain(job_t *j, const round_t *r, int64_t first, int64_t n_slice) {
    const kept_t *keep = &j->spec->kept;
    kv_pool_t *seen = NULL;
    int64_t rows = 0, at = 0, longest = 0;
    for (int64_t s = 0; s < n_slice; s++) {
        rows += kept_rows(keep, r->items[first + s].n);
        longest = i64_max(longest, r->items[first + s].n);
    }
    status_t st = buffer_fit(j, rows);
    if (!st) st = scratch_fit(j, longest);
    if (!st) st = mem_alloc(&seen, (size_t)n_slice, sizeof *seen, "slices of a document");
    if (!st) st = store_writer_wait(j->writer);
    for (int64_t s = 0; s < n_slice && !st && !j->stopping; s++) {
        const round_item_t *it = &r->items[first + s];
        int64_t n = kept_rows(keep, it->n), spare = 0;
        kv_pool_t kept = buffer_piece(j, 0, at, n);
        piece_t piece = {.tokens = r->tokens.ids + it->begin, .n = it->n, .before = it->before, .chain = seen, .n_chain = (int)s};
        piece_pools(j, &kept, it->n, &spare, &piece);
        st = encoder_run(j->encoder, &piece, 1);
        seen[s] = keep->gist.ratio ? piece.gist_pool : piece.pool;
        if (!st && it->todo) st = append(j, r, it, &kept, 0);
        if (!st) st = report_done(j, it->n, it->todo);
        if (!st) st = notes_take(j);
        at += n;
    }
    status_t waited = store_writer_wait(j->writer);
    mem_free(seen);
    return st ? st : waited;
}

static status_t encode_share(job_t *j, const round_t *r, const int64_t *mine, int64_t n) {
    status_t st = ST_OK;
    for (int64_t at = 0; at < n && !st;) {
        if ((st = notes_take(j)) || j->stopping) break;
        if (j->chained) {
            int64_t first = mine[at], slices = 1;
            while (first + slices < r->n_item && r->items[first + slices].slice) slices++;
            st = encode_chain(j, r, first, slices);
            at++;
            continue;
        }
        int64_t pass = 0, kept = 0, upto = at; /* rows that go through the model, and rows that stay */
        while (upto < n) {
            int64_t tokens = r->items[mine[upto]].n, more = tokens + gist_count(&j->spec->kept.gist, tokens);
            if (upto > at && pass + more > j->spec->max_row) break;
            pass += more;
            kept += kept_rows(&j->spec->kept, tokens);
            upto++;
        }
        st = buffer_fit(j, kept);
        if (!st) st = encode_batch(j, r, mine + at, upto - at);
        at = upto;
    }
    status_t waited = store_writer_wait(j->writer);
    if (!st) st = waited;
    if (st) { /* the others need not go on */
        char message[1024];
        strncpy(message, status_message(), sizeof message - 1);
        message[sizeof message - 1] = 0;
        ask_to_stop(j);
        status_fail(st, "%s", message);
    }
    return st;
}

/* ---- one round ------------------------------------------------------------------------------------------------------------ */
/* Units of assignment: a segment, or under full attention a whole document with anything to do. Fills unit -> first item and its cost. */
static status_t units_make(const job_t *j, const round_t *r, int64_t **units, double **costs, int64_t *n_unit) {
    const model_config_t *c = j->config;
    assign_cost_t cost = {.row = model_flops_row(c) / 2,
                          .key = 2.0 * (double)(c->n_layer * c->n_head * c->d_head),
                          .n_sink = j->spec->profile.n_sink,
                          .window = c->window};
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

static status_t round_run(job_t *j, round_t *r) {
    int64_t *units = NULL, n_unit = 0;
    double *costs = NULL;
    assign_t plan = {0};
    status_t st = units_make(j, r, &units, &costs, &n_unit);
    if (!st) st = assign_segments(costs, n_unit, j->comm->size, &plan);
    st = comm_agree(j->comm, st);
    if (st) goto out;
    int64_t todo = 0;
    for (int64_t i = 0; i < r->n_item; i++) todo += r->items[i].todo ? r->items[i].n : 0;
    j->progress.total += todo;
    int64_t *mine = plan.item + plan.begin[j->comm->rank], n_mine = plan.begin[j->comm->rank + 1] - plan.begin[j->comm->rank];
    for (int64_t i = 0; i < n_mine; i++) mine[i] = units[mine[i]]; /* units to their first items */
    st = encode_share(j, r, mine, n_mine);
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
/* Every rank reads back its part of what is stored; segments whose bytes changed are dropped and so encoded again. */
static status_t verify_store(job_t *j, int64_t *n_bad) {
    store_t *s = NULL;
    comm_t *c = j->comm;
    status_t st = store_open(j->spec->store_dir, true, &s);
    int64_t n = st ? 0 : store_n_segment(s), bad = 0, *counts = NULL;
    hash_t *mine = NULL, *all = NULL;
    if (!st) st = mem_alloc(&mine, (size_t)n, sizeof *mine, "damaged segments");
    if (!st) st = mem_zalloc(&counts, (size_t)c->size, sizeof *counts, "damaged segments");
    if (!st && j->spec->verify) {
#pragma omp parallel for schedule(dynamic)
        for (int64_t i = c->rank; i < n; i += c->size)
            if (store_verify(s, store_segment(s, i))) {
#pragma omp critical
                mine[bad++] = store_segment(s, i)->address;
            }
    }
    if (!st) counts[c->rank] = bad * (int64_t)sizeof *mine;
    st = comm_agree(c, st);
    if (!st) st = c->ops->sum_i64(c, counts, c->size);
    int64_t total = 0;
    for (int r = 0; !st && r < c->size; r++) total += counts[r];
    *n_bad = total / (int64_t)sizeof *mine;
    if (!st) st = mem_alloc(&all, (size_t)i64_max(total, 1), 1, "damaged segments");
    if (!st) st = c->ops->gather(c, 0, mine, all, counts);
    store_close(s);
    if (!st && total && c->rank == 0) st = store_drop(j->spec->store_dir, all, *n_bad);
    mem_free(mine);
    mem_free(all);
    mem_free(counts);
    return comm_agree(c, st);
}

static status_t job_open(job_t *j) {
    const encode_spec_t *s = j->spec;
    int64_t repaired = 0, bad = 0;
    status_t st = j->comm->rank == 0 ? store_prepare(s->store_dir, &s->profile, &repaired) : ST_OK;
    st = comm_agree(j->comm, st);
    if (!st) st = verify_store(j, &bad);
    if (!st && j->comm->rank == 0) st = store_open(s->store_dir, false, &j->before);
    st = comm_agree(j->comm, st);
    j->report->n_repaired = repaired + bad;
    if (!st && j->report->n_repaired)
        log_warn("%s: %lld leftovers or damaged segments repaired; what is missing is encoded again", s->store_dir,
                 (long long)j->report->n_repaired);
    if (st) return st;
    encoder_spec_t e = {.sink = s->profile.sink,
                        .n_sink = s->profile.n_sink,
                        .align = j->chained ? ALIGN_SEQUENTIAL : s->align,
                        .gist = s->kept.gist,
                        .gist_init = s->kept.init,
                        .gist_token = s->kept.token,
                        .reserve = s->profile.segment,
                        .max_row = s->max_row};
    if ((st = encoder_create(j->model, j->comm, &e, &j->encoder))) return st;
    return comm_agree(j->comm, store_writer_open(s->store_dir, &s->profile, j->comm->rank, &j->writer));
}

static status_t totals(job_t *j, double begin_s) {
    encode_report_t *rep = j->report;
    int64_t root = j->comm->rank == 0,
            sums[3] = {root * j->tokens_done, j->writer ? store_writer_bytes(j->writer) : 0, root * j->segments_done};
    status_t st = j->comm->ops->sum_i64(j->comm, sums, 3);
    rep->tokens_encoded = sums[0];
    rep->bytes_written = sums[1];
    rep->n_encoded = sums[2];
    rep->seconds = clock_s() - begin_s;
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
    round_spec_t rs = {.tokenizer = tokenizer,
                       .profile = &spec->profile,
                       .segment = spec->profile.segment,
                       .budget = spec->round_tokens ? spec->round_tokens : encode_round_tokens(comm->size, spec->profile.segment),
                       .split = spec->split,
                       .chained = layout_info(spec->layout)->chained,
                       .parse_special = spec->parse_special,
                       .max_id = j.config->n_vocab};
    round_t round = {0};
    corpus_t *corpus = NULL;
    *report = (encode_report_t){0};
    status_t st = comm->rank == 0 ? corpus_open(spec->inputs, spec->n_input, "text", &corpus) : ST_OK;
    st = comm_agree(comm, st);
    if (!st) st = job_open(&j);
    double begin_s = clock_s();
    progress_begin(&j.progress, "encode", "tokens", 0, spec->progress && comm->rank == 0);
    while (!st && !round.last && !j.stopping) {
        status_t mine = ST_OK;
        if (comm->rank == 0) mine = round_read(&rs, corpus, &round);
        if (comm->rank == 0 && !mine) mine = mark_known(&j, &round);
        st = comm_agree(comm, mine);
        if (!st) st = comm_agree(comm, round_share(comm, &round));
        if (!st) st = round_run(&j, &round);
    }
    progress_end(&j.progress);
    status_t counted = st ? st : totals(&j, begin_s);
    if (!st) st = counted;
    if (j.writer) {
        char message[1024];
        strncpy(message, status_message(), sizeof message - 1);
        message[sizeof message - 1] = 0;
        status_t closed = store_writer_close(j.writer);
        if (st)
            status_fail(st, "%s", message);
        else
            st = closed;
    }
    st = comm_agree(comm, st);
    encoder_free(j.encoder);
    for (int i = 0; i < 2; i++) {
        kv_free(j.be, &j.buffer[i]);
        mem_free(j.host[i]);
    }
    kv_free(j.be, &j.scratch);
    store_close(j.before);
    mem_free(j.added);
    corpus_close(corpus);
    round_free(&round);
    if (!st && j.stopping)
        st = status_fail(ST_STOPPED, "stopped at a segment's end (%s); everything encoded is in %s: run the same command again to go on",
                         *stop_reason() ? stop_reason() : "asked by another rank", spec->store_dir);
    return st;
}

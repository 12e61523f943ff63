/* precis query: questions over an encoded context, or over the prompt alone. */
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "cli/commands.h"
#include "cli/job_options.h"
#include "cli/query_job.h"
#include "io/corpus.h"
#include "model/rope.h"
#include "query/edits.h"

enum { MAX_PROMPTS = 1 << 20 };

/* ---- prompts ---------------------------------------------------------------------------------------------------------- */
static status_t prompt_add(query_job_t *j, const char *text, size_t bytes, const cJSON *id) {
    if (j->n == j->cap) {
        int64_t cap = j->cap ? 2 * j->cap : 16;
        status_t st = mem_grow(&j->prompts, (size_t)cap, sizeof *j->prompts, "prompts");
        if (!st) st = mem_grow(&j->ids, (size_t)cap, sizeof *j->ids, "prompts");
        if (st) return st;
        j->cap = cap;
    }
    ids_t *p = &j->prompts[j->n];
    *p = (ids_t){0};
    j->ids[j->n] = id ? cJSON_Duplicate(id, true) : NULL;
    j->n++;
    status_t st = ST_OK;
    bool bos = opt_given(j->o, "bos") ? opt_flag(j->o, "bos") : !j->store && tokenizer_adds_bos(j->tokenizer) && !opt_flag(j->o, "chat");
    if (bos && tokenizer_bos(j->tokenizer) >= 0) st = ids_push(p, tokenizer_bos(j->tokenizer));
    if (!st && opt_flag(j->o, "chat"))
        st = tokenizer_chat(j->tokenizer, opt_text(j->o, "system"), text, p);
    else if (!st)
        st = tokenizer_encode(j->tokenizer, text, bytes, opt_flag(j->o, "special"), p);
    if (!st) st = ids_check(p, 0, model_file_config(j->c->file)->n_vocab, "the prompt");
    if (!st && !p->n) st = status_fail(ST_INPUT, "the prompt is empty; write some text");
    return st;
}

static status_t prompts_read(query_job_t *j) {
    const char *one = opt_text(j->o, "prompt"), *file = opt_text(j->o, "prompts");
    context_warn_text("--prompt", one);
    context_warn_text("--system", opt_text(j->o, "system"));
    if (one) return prompt_add(j, one, strlen(one), NULL);
    corpus_t *in = NULL;
    status_t st = corpus_open(&file, 1, "prompt", &in);
    for (bool got = true; !st && got;) {
        document_t doc;
        if ((st = corpus_next(in, &doc, &got)) || !got) break;
        if (j->n == MAX_PROMPTS)
            st = status_fail(ST_INPUT, "%s: more than %d prompts; split the file", file, MAX_PROMPTS);
        else if ((st = prompt_add(j, doc.text, doc.bytes, json_get(doc.record, "id"))))
            doc.line ? status_prefix(st, "%s line %lld: ", file, (long long)doc.line) : status_prefix(st, "%s: ", file);
    }
    if (!st && !j->n) st = status_fail(ST_INPUT, "%s: no prompt in it; write {\"prompt\":\"...\"}, one a line", file);
    corpus_close(in);
    return st;
}

/* Standard input belongs to rank 0: it reads, the others get the token ids. */
static status_t prompts_share(query_job_t *j) {
    comm_t *comm = j->c->comm;
    status_t st = comm_agree(comm, comm->rank == 0 ? prompts_read(j) : ST_OK);
    if (st || comm->size == 1) return st;
    st = comm->ops->bcast(comm, 0, &j->n, sizeof j->n);
    if (!st && comm->rank) st = mem_zalloc(&j->prompts, (size_t)j->n, sizeof *j->prompts, "prompts");
    if (!st && comm->rank) st = mem_zalloc(&j->ids, (size_t)j->n, sizeof *j->ids, "prompts");
    for (int64_t i = 0; i < j->n && !st; i++) {
        ids_t *p = &j->prompts[i];
        st = comm->ops->bcast(comm, 0, &p->n, sizeof p->n);
        if (!st && comm->rank) st = mem_alloc(&p->ids, (size_t)p->n, sizeof *p->ids, "a prompt");
        if (!st) st = comm->ops->bcast(comm, 0, p->ids, p->n * (int64_t)sizeof *p->ids);
    }
    return comm_agree(comm, st);
}

/* ---- the context -------------------------------------------------------------------------------------------------------- */
static status_t adapter_matches(const query_job_t *j, const char *dir) {
    const char *made = store_profile(j->store)->adapter;
    char mine[HASH_HEX] = "";
    if (j->c->adapter) hash_hex(adapter_hash(j->c->adapter), mine);
    if (!strcmp(mine, made)) return ST_OK;
    return status_fail(ST_INPUT,
                       "%s: was encoded with %s%s, but %s%s is given; use the same --adapter, or encode again into another folder", dir,
                       *made ? "the adapter of hash " : "no adapter", made, *mine ? "one of hash " : "none", mine);
}

static status_t store_matches(const query_job_t *j, const char *dir) {
    char mine[HASH_HEX];
    const store_profile_t *p = store_profile(j->store);
    hash_hex(model_file_fingerprint(j->c->file), mine);
    if (!strcmp(mine, p->model_fingerprint)) return adapter_matches(j, dir);
    return status_fail(
        ST_INPUT,
        "%s: was encoded by model %s (fingerprint %s), but %s has fingerprint %s; use that model%s, or encode again into another folder",
        dir, p->model_name, p->model_fingerprint, model_file_path(j->c->file), mine,
        rope_limit(model_file_config(j->c->file)) ? " and the same --rope-length" : "");
}

/* --positions global, or a layout that is always read so. Only keys of left-aligned segments that stand apart can be moved. */
static status_t joined_option(query_job_t *j, const store_profile_t *p) {
    const char *name = opt_text(j->o, "positions");
    const layout_info_t *info = layout_info(j->layout);
    j->joined = info->joined || (name && !strcmp(name, "global"));
    bool may = !info->chained && !info->whole && !strcmp(p->align, "left");
    if (!name || !strcmp(name, info->joined ? "global" : "reused") || (may && !strcmp(name, "global"))) return ST_OK;
    return status_fail(ST_USAGE, "--positions %s: not with a store of --layout %s, --align %s; leave it out", name, info->name, p->align);
}

/* Where the segments' rows stand, for a model with a sliding window. Rows of layouts that do not have it all lie inside (check_positions).
 */
static status_t places_fill(query_job_t *j, int64_t n_sink) {
    const store_profile_t *p = store_profile(j->store);
    const sources_t *s = &j->sources;
    layout_method_t layout;
    place_t *places = NULL;
    align_t align = ALIGN_LEFT;
    if (!model_config(j->c->model)->window || !layout_find(p->layout, &layout) || !layout_windows(layout)) return ST_OK;
    if (layout_info(layout)->chained || j->joined)
        align = ALIGN_SEQUENTIAL;
    else if (!job_align_find(p->align, &align))
        return status_fail(ST_INPUT, "%s: positions are aligned \"%s\", which this program does not know; use the program that wrote it",
                           opt_text(j->o, "store"), p->align);
    status_t st = mem_alloc(&places, (size_t)i64_max(1, s->n), sizeof *places, "places of segments");
    for (int64_t i = 0; i < s->n && !st; i++) places[i] = (place_t){align, n_sink, s->segments[i]->n_token, p->segment, s->before[i]};
    if (!st) st = context_places(&j->kv, places);
    mem_free(places);
    return st;
}

static status_t context_open_edits(query_job_t *j, attend_spec_t *attend) {
    int64_t all = j->sources.n;
    status_t st = edits_unique(j->sources.segments, &j->sources.n);
    if (!st) st = edits_open(j->c->model, j->comm, j->store, j->sources.segments, j->sources.n, opt_flag(j->o, "verify"), &j->kv);
    if (st) return st;
    *attend = edits_attend(model_config(j->c->model), j->sources.n, opt_real(j->o, "edit-temperature"));
    log_info("%s: %lld edits (%lld as they were given), temperature %g; entry 0 %s", opt_text(j->o, "store"), (long long)j->sources.n,
             (long long)all, attend->temperature, adapter_zero_key(j->c->adapter) ? "is the adapter's" : "has a key of zeros");
    return ST_OK;
}

static status_t context_open_store(query_job_t *j) {
    const char *dir = opt_text(j->o, "store");
    comm_t *comm = j->comm;
    if (!dir) return context_deal(j->c->backend, comm, NULL, 0, &j->kv);
    const store_profile_t *p = store_profile(j->store);
    bool raw = opt_text(j->o, "fetch") && !strcmp(opt_text(j->o, "fetch"), "raw"),
         all = opt_int(j->o, "select") == 0 || opt_int(j->o, "select") >= j->sources.n;
    context_read_t how = {.verify = opt_flag(j->o, "verify"), .raw_only = raw && all, .both = raw && !all};
    status_t st = joined_option(j, p);
    if (st) return st;
    if (j->joined) how.joined = j->c->model;
    if (!kept_parse(p->gists, &how.kept))
        return status_fail(ST_INPUT, "%s: keeps gists as \"%s\", which this program does not know; use the program that wrote it", dir,
                           p->gists);
    if (raw && how.kept.keep != KEEP_BOTH)
        return status_fail(ST_USAGE,
                           "--fetch raw: %s does not hold raw rows beside gists or selected rows; encode with --layout blockgist or "
                           "blockselect and --keep both",
                           dir);
    int64_t n_sink = p->n_sink + how.kept.n_blank;
    encoder_spec_t e = {.sink = p->sink,
                        .n_sink = p->n_sink,
                        .n_blank = how.kept.n_blank,
                        .gist_init = how.kept.init,
                        .gist_token = how.kept.token,
                        .align = ALIGN_LEFT,
                        .max_row = i64_max(1, i64_min(n_sink, 1024))};
    st = encoder_create(j->c->model, comm, &e, &j->encoder);
    if (!st)
        st = context_from_store(j->c->backend, model_config(j->c->model), comm, j->store, j->sources.segments, j->sources.n, &how, &j->kv);
    if (st) return st;
    j->kv.sink = *encoder_sink(j->encoder);
    j->kv.query_position = n_sink + (j->joined ? j->sources.n_token : j->sources.reserve);
    if ((st = places_fill(j, n_sink))) return st;
    log_info("%s: %lld documents, %lld segments, %lld tokens, K/V %.1f MB; this rank holds %lld segments", dir, (long long)j->sources.n_doc,
             (long long)j->sources.n, (long long)j->sources.n_token,
             2e-6 * (double)kv_bytes(model_config(j->c->model), p->kv_type, j->sources.n_token), (long long)j->kv.n_local);
    return ST_OK;
}

static status_t check_positions(const query_job_t *j) {
    int64_t ctx = model_config(j->c->model)->n_ctx, longest = 0;
    for (int64_t i = 0; i < j->n; i++) longest = i64_max(longest, j->prompts[i].n);
    int64_t upto = j->kv.query_position + longest + opt_int(j->o, "max-tokens");
    if (ctx > 0 && upto > ctx)
        log_warn("positions run to %lld, but the model was trained for %lld; use shorter segments, prompts or --max-tokens",
                 (long long)upto, (long long)ctx);
    return job_window(model_config(j->c->model), j->layout, upto);
}

static status_t generations_make(query_job_t *j) {
    status_t st = mem_zalloc(&j->gen, (size_t)j->n, sizeof *j->gen, "prompts");
    if (!st) st = mem_zalloc(&j->done, (size_t)j->n, sizeof *j->done, "prompts");
    for (int64_t i = 0; !st && i < j->n; i++)
        j->gen[i] = (generation_t){.prompt = j->prompts[i].ids, .n_prompt = j->prompts[i].n, .number = i};
    return st;
}

static void job_free(query_job_t *j) {
    for (int64_t i = 0; i < j->n; i++) {
        if (j->prompts) ids_free(&j->prompts[i]);
        if (j->ids) cJSON_Delete(j->ids[i]);
        if (j->gen) ids_free(&j->gen[i].ids);
        if (j->gen) mem_free(j->gen[i].mass);
    }
    if (j->streams) tokenizer_stream_free(&j->stream);
    ids_free(&j->sink);
    context_free(&j->kv);
    encoder_free(j->encoder);
    sources_free(&j->sources);
    store_close(j->store);
    mem_free(j->gen);
    mem_free(j->prompts);
    mem_free(j->ids);
    mem_free(j->done);
    if (j->dealt && j->comm) j->comm->ops->close(j->comm);
}

/* Flags that ask something of a store, or of one of another layout. */
static status_t store_options(const query_job_t *j) {
    static const char *const keys[] = {"select", "select-by", "aggregate", "fetch", "positions", "ape-temperature", "ape-scale"};
    const layout_info_t *info = layout_info(j->layout);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        if (!opt_flagged(j->o, keys[i])) continue;
        if (!j->store) return status_fail(ST_USAGE, "--%s: asks something of a store; give --store DIR too, or leave it out", keys[i]);
        if (!strncmp(keys[i], "ape-", 4) && !info->reweighs)
            return status_fail(ST_USAGE, "--%s: has no meaning for a store of --layout %s; leave it out", keys[i], info->name);
    }
    return ST_OK;
}

/* --layout and its kin say how a prompt alone is read; a store knows how it was made. */
static status_t layout_options(query_job_t *j) {
    static const char *const keys[] = {"layout", "ratio", "local", "sinks", "sink", "gist-init"};
    const options_t *o = j->o;
    const char *name = opt_text(o, "layout");
    layout_method_t layout = LAYOUT_PCE;
    if (opt_flagged(o, "system") && !opt_flag(o, "chat"))
        return status_fail(ST_USAGE, "--system: has no meaning without --chat; add that, or leave it out");
    if (!name) return ST_OK; /* a command without them */
    if ((opt_flagged(o, "layout") || !strcmp(name, "unigist")) && !layout_find(name, &layout))
        return status_fail(ST_USAGE, "--layout %s is not known", name);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        if (!opt_flagged(o, keys[i])) continue; /* a file may be one for encode as well */
        if (j->store) return status_fail(ST_USAGE, "--%s: %s knows how it was encoded; leave it out", keys[i], opt_text(o, "store"));
        if (i && layout != LAYOUT_UNIGIST)
            return status_fail(ST_USAGE, "--%s: without --store only for --layout unigist; leave it out", keys[i]);
    }
    status_t st = store_options(j);
    if (st || j->store || layout == LAYOUT_PCE || layout == LAYOUT_FULL) return st; /* the same for a prompt alone */
    if (layout != LAYOUT_UNIGIST)
        return status_fail(ST_USAGE, "--layout %s: a prompt alone is answered under full or unigist; encode its context, and give --store",
                           layout_info(layout)->name);
    st = job_sink(j->c, false, &j->sink);
    if (!st) st = job_kept(o, model_file_config(j->c->file), &j->layout, &j->kept);
    return st ? st : job_adapter(j->c, j->layout, &j->kept);
}

/* What ranks divide. Prompts on unlike ranks would have unlike bits. */
static status_t deal_option(query_job_t *j) {
    const char *deal = opt_text(j->o, "deal"), *mixed = model_mixed(j->c->model);
    j->comm = j->c->comm;
    if (j->comm->size == 1) return ST_OK;
    if (mixed && !strcmp(deal, "prompts"))
        return status_fail(ST_USAGE,
                           "--deal prompts needs the same backend on all ranks, but %s; give all the same --backend, or leave it out",
                           mixed);
    j->dealt = j->n > 1 && !mixed && (!strcmp(deal, "prompts") || (!strcmp(deal, "auto") && !j->store));
    if (j->dealt) log_info("prompts are dealt to %d ranks; each reads all of the context", j->comm->size);
    return j->dealt ? comm_self_create(&j->comm) : ST_OK;
}

static status_t query_open(query_job_t *j) {
    const char *dir = opt_text(j->o, "store");
    status_t st = context_open_file(j->c);
    if (!st) st = job_tokenizer(j->c, &j->tokenizer);
    if (!st && dir) st = store_open(dir, false, &j->store);
    if (!st && dir) st = store_matches(j, dir);
    if (!st && dir && !layout_find(store_profile(j->store)->layout, &j->layout))
        st = status_fail(ST_INPUT, "%s: was encoded with --layout %s, which this program does not know; use the program that wrote it", dir,
                         store_profile(j->store)->layout);
    if (!st && dir && strcmp(options_command(j->o)->name, "query") && !query_edits(j))
        st = status_fail(ST_INPUT, "%s: was encoded with --layout %s and is no pool of edits; use precis query", dir,
                         layout_info(j->layout)->name);
    if (!st && dir) st = sources_open(j->store, dir, opt_text(j->o, "docs"), &j->sources);
    if (!st) st = layout_options(j);
    return comm_agree(j->c->comm, st);
}

status_t query_run(const options_t *o, context_t *c) {
    query_job_t j = {.o = o, .c = c, .layout = LAYOUT_PCE};
    attend_spec_t attend = {0};
    const char *format = opt_text(o, "format");
    j.json = format ? strncmp(format, "json", 4) == 0 : opt_text(o, "prompts") != NULL;
    if (!opt_text(o, "prompt") == !opt_text(o, "prompts"))
        return status_fail(ST_USAGE, "no question, or two; give either --prompt TEXT or --prompts FILE.jsonl");
    if (opt_text(o, "docs") && !opt_text(o, "store"))
        return status_fail(ST_USAGE, "--docs chooses documents of a store; give --store DIR too");
    status_t st = query_open(&j);
    if (!st) st = job_attend(o, j.layout, AGG_BOTH, &attend);
    if (!st) st = prompts_share(&j);
    if (!st) st = context_load_model(c);
    if (!st) st = comm_agree(c->comm, deal_option(&j));
    if (!st) st = comm_agree(c->comm, query_edits(&j) ? context_open_edits(&j, &attend) : context_open_store(&j));
    if (!st) st = comm_agree(c->comm, generations_make(&j));
    if (st) goto out;
    if ((st = check_positions(&j))) goto out;
    int64_t longest = 1;
    for (int64_t i = 0; i < j.n; i++) longest = i64_max(longest, j.prompts[i].n);
    generate_spec_t spec = {.max_tokens = opt_int(o, "max-tokens"),
                            .temperature = opt_real(o, "temperature"),
                            .top_p = opt_real(o, "top-p"),
                            .seed = (uint64_t)opt_int(o, "seed"),
                            .attend = attend,
                            .batch = opt_int(o, "slots")};
    spec.attend.fetch_raw = opt_text(o, "fetch") && !strcmp(opt_text(o, "fetch"), "raw");
    spec.attend.want_mass = j.store != NULL && !query_edits(&j); /* edits are many and small: no evidence is kept of them */
    j.streams = !j.json && j.n == 1 && c->comm->rank == 0;
    if (j.streams) {
        tokenizer_stream_begin(&j.stream, j.tokenizer, false);
        spec.token = query_token;
        spec.token_ctx = &j;
    }
    spec.max_row = i64_max(i64_min(longest, job_rows(o, 1024)), spec.batch);
    st = query_answer(&j, &spec);
out:
    job_free(&j);
    return st;
}

const command_t cmd_query = {
    .spec = {.name = "query",
             .summary = "answer prompts over an encoded context",
             .usage = "precis query --model M [--store DIR] (--prompt TEXT | --prompts FILE.jsonl) [options]",
             .text = "Prompts see the sink and all segments of the store (or of --docs), which stay where they are: each rank attends to "
                     "its share and partial results are merged, so\n"
                     "any number of ranks gives the same text; or (--deal prompts) each rank answers prompts of its own over all segments. "
                     "Without --store the prompt is all the\n"
                     "context, under --layout unigist with gists that go on through the answer. Each answer comes with the segments that "
                     "carried its attention mass.",
             .examples = "  precis query --model M.gguf --store book.store --chat --prompt 'Who tells the story?'\n"
                         "  precis query --model M.gguf --store book.store --prompts questions.jsonl --select 4 --format jsonl\n"
                         "  precis query --model M.gguf --store book.store --prompt 'Who tells the story?' --select 2 --fetch raw\n"
                         "  precis query --model M.gguf --layout unigist --ratio 8 --local 128 --sinks 4 --prompts questions.jsonl\n"
                         "  mpirun -n 2 precis query --model M.gguf --store book.store --prompts - --stats < questions.jsonl\n"
                         "  mpirun -n 8 precis query --model M.gguf --store book.store --prompts questions.jsonl --deal prompts\n",
             .keys = "model! store docs prompt prompts layout ratio local sinks sink gist-init select aggregate select-by fetch positions "
                     "adapter ape-temperature ape-scale chat system "
                     "bos special max-tokens temperature top-p "
                     "seed slots deal stats rope-length dtype backend share-gpu threads batch verify format quiet "
                     "verbose progress config print-config",
             .min_args = 0,
             .max_args = 0},
    .ranks = true,
    .run = query_run};

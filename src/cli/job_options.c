#include "cli/job_options.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "model/kv.h"

enum { PASS_ROWS = 1024 };

static const char *const align_names[] = {"even", "left", "right", "sequential"};

status_t job_sink(const context_t *c, bool bos, ids_t *out) {
    const tokenizer_t *t = model_file_tokenizer(c->file);
    char *text = NULL;
    *out = (ids_t){0};
    status_t st = context_sink_text(c->options, &text);
    if (!st && bos) {
        if (tokenizer_bos(t) < 0)
            st = status_fail(
                ST_INPUT,
                "--bos (and layout pcw): the model's tokenizer names no beginning-of-sequence token; leave it out, or use another layout");
        else
            st = ids_push(out, tokenizer_bos(t));
    }
    if (!st && text) st = tokenizer_encode(t, text, strlen(text), true, out);
    if (!st) st = ids_check(out, 0, model_file_config(c->file)->n_vocab, "--sink");
    mem_free(text);
    if (st) ids_free(out);
    return st;
}

/* Commands for edits take no --layout. */
static const char *layout_name(const options_t *o) {
    const char *name = opt_text(o, "layout");
    return name ? name : layout_info(LAYOUT_INCOMES)->name;
}

bool job_bos(const options_t *o) {
    layout_method_t layout;
    const char *name = layout_name(o);
    return opt_flag(o, "bos") || (name && layout_find(name, &layout) && layout_info(layout)->bos);
}

bool job_align_find(const char *name, align_t *out) {
    for (int i = 0; i < 4; i++)
        if (!strcmp(name, align_names[i])) {
            *out = (align_t)i;
            return true;
        }
    return false;
}

align_t job_align(const options_t *o, align_t fallback) {
    const char *name = opt_text(o, "align");
    if (name) job_align_find(name, &fallback);
    return fallback;
}

const char *job_align_name(align_t a) { return align_names[a]; }

reserve_t job_reserve(const options_t *o) {
    const char *name = opt_text(o, "reserve");
    return !strcmp(name, "mean") ? RESERVE_MEAN : !strcmp(name, "harmonic") ? RESERVE_HARMONIC : RESERVE_MAX;
}

aggregate_t job_aggregate(const options_t *o, aggregate_t fallback) {
    const char *name = opt_text(o, "aggregate");
    if (!name) return fallback;
    return !strcmp(name, "joint") ? AGG_BOTH : !strcmp(name, "head") ? AGG_HEAD : !strcmp(name, "token") ? AGG_TOKEN : AGG_NONE;
}

int64_t job_rows(const options_t *o, int64_t segment) {
    if (opt_given(o, "batch")) return opt_int(o, "batch");
    return i64_min(PASS_ROWS, i64_max(segment, 256));
}

/* Enough to fill a large device many times over; more only takes memory. */
enum { DEVICE_ROWS = 32768, DEVICE_ROWS_MIN = 256 };

static size_t row_work(const model_config_t *m, dtype_t act) { return forward_ws_bytes(m, act, DEVICE_ROWS) / DEVICE_ROWS; }
static size_t row_kv(const model_config_t *m, dtype_t act) { return 4 * kv_bytes(m, act, 1); } /* K and V, twice */
static int64_t rows_that_fit(const model_config_t *m, dtype_t act, double left) {
    return (int64_t)(left * 0.9 / (double)(row_work(m, act) + row_kv(m, act)));
}

int64_t job_device_rows(const model_config_t *m, dtype_t act, double left) {
    return i64_max(i64_min(DEVICE_ROWS, rows_that_fit(m, act, left)), DEVICE_ROWS_MIN);
}

status_t job_pass_rows(const options_t *o, const context_t *c, int64_t segment, int64_t *out) {
    const model_config_t *m = model_file_config(c->file);
    size_t left, total;
    *out = job_rows(o, segment);
    if (c->backend->host_memory) return ST_OK;
    c->backend->ops->memory_left(c->backend, &left, &total);
    size_t work = row_work(m, c->dtype), kv = row_kv(m, c->dtype);
    int64_t fit = rows_that_fit(m, c->dtype, (double)left);
    if (!opt_given(o, "batch")) *out = job_device_rows(m, c->dtype, (double)left);
    double need = (double)(work + kv) * (double)*out / 0x1p30;
    if (*out > fit)
        return status_fail(ST_FAIL,
                           "GPU: %lld rows a pass take %.2f GiB (work space %.2f, K/V %.2f), %.2f of %.2f GiB are free beside the weights; "
                           "use --batch %lld or less, or a GPU with more memory",
                           (long long)*out, need, (double)work * (double)*out / 0x1p30, (double)kv * (double)*out / 0x1p30,
                           (double)left / 0x1p30, (double)total / 0x1p30, (long long)i64_max(fit, 1));
    log_info("GPU memory: %lld rows a pass take %.2f GiB (work space %.2f, K/V %.2f); %.2f of %.2f GiB are free beside the weights",
             (long long)*out, need, (double)work * (double)*out / 0x1p30, (double)kv * (double)*out / 0x1p30, (double)left / 0x1p30,
             (double)total / 0x1p30);
    return ST_OK;
}

status_t job_tokenizer(const context_t *c, const tokenizer_t **out) {
    *out = model_file_tokenizer(c->file);
    if (*out) return ST_OK;
    const char *fault = model_file_tokenizer_fault(c->file);
    if (fault) return status_fail(ST_INPUT, "%s (this command reads text, so it needs the tokenizer)", fault);
    return status_fail(ST_INPUT, "%s: has no tokenizer, and this command reads text; put tokenizer.json beside the weights",
                       model_file_path(c->file));
}

static status_t gist_init_option(const options_t *o, const model_config_t *c, kept_t *out) {
    const char *text = opt_text(o, "gist-init");
    char *end;
    if (!strcmp(text, "mean") || !strcmp(text, "unit")) {
        out->init = *text == 'm' ? GIST_MEAN : GIST_UNIT;
        return ST_OK;
    }
    long id = strtol(text, &end, 10);
    if (*end || end == text || id < 0 || id >= c->n_vocab)
        return status_fail(ST_USAGE, "--gist-init %s: give mean, unit or a token's id below %lld", text, (long long)c->n_vocab);
    out->init = GIST_TOKEN;
    out->token = (int32_t)id;
    return ST_OK;
}

enum { UNIGIST_WINDOW = 128, STREAM_WINDOW = 1020, STREAM_SINKS = 4 };

/* Streaming: --sinks counts the text's first tokens. */
static status_t stream_options(const options_t *o, kept_t *out) {
    if (opt_given(o, "sink") || opt_flag(o, "bos"))
        return status_fail(ST_USAGE, "--layout streaming: its sink is the text's first --sinks tokens; leave --sink and --bos out");
    out->n_blank = opt_given(o, "sinks") ? opt_int(o, "sinks") : STREAM_SINKS;
    out->gist.window = opt_given(o, "local") ? opt_int(o, "local") : STREAM_WINDOW;
    return out->gist.window > 0 ? ST_OK : status_fail(ST_USAGE, "--local 0: a row sees at least itself; give 1 or more");
}

static status_t window_option(const options_t *o, const layout_info_t *info, gist_spec_t *g) {
    int64_t local = opt_given(o, "local") ? opt_int(o, "local") : info->whole ? UNIGIST_WINDOW / g->ratio * g->ratio : -1;
    if (local > 0 && local % g->ratio)
        return status_fail(ST_USAGE, "--local %lld is no multiple of --ratio %lld; use %lld", (long long)local, (long long)g->ratio,
                           (long long)(local / g->ratio * g->ratio));
    if (info->gists_at_end && local >= 0) return status_fail(ST_USAGE, "--local has no meaning for --layout %s; leave it out", info->name);
    g->window = local;
    return ST_OK;
}

/* Commands without --keep-by keep nothing, so how rows would be chosen is of no matter to them. */
static status_t select_options(const options_t *o, const char *keep, kept_t *out) {
    if (!opt_text(o, "keep-by")) return ST_OK;
    score_find(opt_text(o, "keep-by"), &out->select.by);
    out->select.budget = !strcmp(opt_text(o, "budget"), "head") ? BUDGET_HEAD : BUDGET_UNIFORM;
    out->select.ratio = opt_int(o, "ratio");
    out->keep = keep && !strcmp(keep, "both") ? KEEP_BOTH : KEEP_GIST;
    if (keep && !strcmp(keep, "raw"))
        return status_fail(ST_USAGE, "--keep raw: --layout blockselect would select nothing; use --layout pce, or --keep gist or both");
    return ST_OK;
}

/* Flags that the layout makes nothing of: said, but no fault, since jobs that compare layouts give them all the same ones. */
static void warn_unused(const options_t *o, const layout_info_t *l) {
    const struct {
        const char *key;
        bool used;
    } keys[] = {{"ratio", l->gists || l->selects}, {"keep-by", l->selects},           {"budget", l->selects},
                {"keep", l->gists || l->selects},  {"local", l->gists || l->streams}, {"gist-init", l->gists || opt_int(o, "sinks")}};
    for (size_t i = 0; i < sizeof keys / sizeof *keys && log_first(); i++)
        if (!keys[i].used && opt_flagged(o, keys[i].key))
            log_warn("--%s has no meaning for --layout %s and is not used; leave it out, or choose another layout", keys[i].key, l->name);
}

status_t job_kept(const options_t *o, const model_config_t *c, layout_method_t *layout, kept_t *out) {
    const char *keep = opt_text(o, "keep"); /* NULL: the command keeps nothing */
    *out = (kept_t){.gist = {.window = -1}, .keep = KEEP_RAW, .n_blank = opt_int(o, "sinks")};
    if (!layout_find(layout_name(o), layout)) return status_fail(ST_USAGE, "--layout %s is not known", layout_name(o));
    const layout_info_t *info = layout_info(*layout);
    warn_unused(o, info);
    status_t st = gist_init_option(o, c, out);
    if (!st && info->selects) st = select_options(o, keep, out);
    if (!st && info->streams) return stream_options(o, out);
    if (!st && info->edits) {
        out->gist = (gist_spec_t){.ratio = 1, .window = -1, .at_end = true, .single = true};
        out->keep = KEEP_GIST;
        return ST_OK;
    }
    if (st || !info->gists) return st;
    out->gist.ratio = opt_int(o, "ratio");
    out->gist.at_end = info->gists_at_end;
    out->recurrent = info->recurrent;
    int64_t segment = opt_int(o, "segment"); /* 0: the command cuts otherwise */
    if (!info->whole && segment && segment < out->gist.ratio)
        return status_fail(ST_USAGE, "--ratio %lld: segments of %lld tokens (--segment) are too short for a gist; use --ratio %lld or less",
                           (long long)out->gist.ratio, (long long)segment, (long long)segment);
    if ((st = window_option(o, info, &out->gist))) return st;
    out->keep = keep && !strcmp(keep, "raw") ? KEEP_RAW : keep && !strcmp(keep, "both") ? KEEP_BOTH : KEEP_GIST;
    if ((info->chained || info->whole) && out->keep == KEEP_RAW)
        return status_fail(ST_USAGE, "--keep raw: later rows of --layout %s see earlier gists, so these must be kept; use gist%s",
                           info->name, info->whole ? "" : " or both");
    if (info->whole && out->keep == KEEP_BOTH)
        return status_fail(ST_USAGE, "--keep both: --layout %s frees raw rows that left the window; use gist", info->name);
    if (info->whole) out->keep = KEEP_TAIL;
    return ST_OK;
}

void job_warn_untrained(const options_t *o, const kept_t *kept) {
    if (kept->init == GIST_ADAPTER || !log_first()) return;
    log_warn("gist rows begin as --gist-init %s says: the model was not trained to write summaries into them, so expect poor answers; "
             "quality needs an --adapter",
             opt_text(o, "gist-init"));
}

status_t job_adapter(const context_t *c, layout_method_t layout, kept_t *kept) {
    const options_t *o = c->options;
    const adapter_t *ad = c->adapter;
    if (!ad) return ST_OK;
    status_t st = adapter_check(ad, layout_info(layout)->name, kept->gist.single ? 0 : kept->gist.ratio);
    if (!st && adapter_n_gist(ad) && opt_given(o, "gist-init"))
        st = status_fail(ST_USAGE, "--gist-init: %s has gist rows of its own; leave it out", adapter_path(ad));
    if (st) return st;
    if (adapter_n_gist(ad)) kept->init = GIST_ADAPTER;
    if (!adapter_n_sink(ad) || layout_info(layout)->streams) return ST_OK;
    if (opt_given(o, "sinks") && opt_int(o, "sinks") != adapter_n_sink(ad))
        return status_fail(ST_USAGE, "--sinks %lld: %s has %lld sink rows; leave it out", (long long)opt_int(o, "sinks"), adapter_path(ad),
                           (long long)adapter_n_sink(ad));
    kept->n_blank = adapter_n_sink(ad);
    return ST_OK;
}

status_t job_positions(const options_t *o, layout_method_t layout, align_t *align, kept_t *kept) {
    const char *name = opt_text(o, "positions");
    const layout_info_t *info = layout_info(layout);
    kept->compact = name && !strcmp(name, "compact");
    if (info->left || info->right) {
        align_t own = info->left ? ALIGN_LEFT : ALIGN_RIGHT;
        if (opt_given(o, "align") && *align != own)
            return status_fail(ST_USAGE, "--layout %s: segments are aligned %s; leave --align out", info->name, align_names[own]);
        *align = own;
    }
    if (!name) return ST_OK;
    bool apart = !strcmp(name, "reused") || !strcmp(name, "global"), chain = info->chained && info->gists;
    if (apart ? info->chained || info->whole || info->left || info->right : !chain)
        return status_fail(ST_USAGE, "--positions %s has no meaning for --layout %s; %s", name, info->name,
                           chain                                                       ? "use original or compact"
                           : info->chained || info->whole || info->left || info->right ? "leave it out"
                                                                                       : "use reused or global");
    if (!strcmp(name, "global")) *align = ALIGN_SEQUENTIAL;
    return ST_OK;
}

status_t job_attend(const options_t *o, layout_method_t layout, aggregate_t fallback, attend_spec_t *out) {
    const layout_info_t *info = layout_info(layout);
    *out = (attend_spec_t){.select = opt_int(o, "select"),
                           .aggregate = job_aggregate(o, fallback),
                           .by_mean = opt_text(o, "select-by") && !strcmp(opt_text(o, "select-by"), "mean"),
                           .own_log_p = info->own_log_p,
                           .want_entropy = true};
    if (info->reweighs) {
        out->temperature = opt_real(o, "ape-temperature");
        out->scale = opt_real(o, "ape-scale");
    }
    return ST_OK;
}

status_t job_window(const model_config_t *c, layout_method_t layout, int64_t rows) {
    const layout_info_t *info = layout_info(layout);
    if (c->window <= 0 || rows <= c->window || layout_windows(layout)) return ST_OK;
    return status_fail(
        ST_INPUT,
        "the model attends to the last %lld positions only (sliding window), which layout %s does not do; use layout pce or full, "
        "segments that end within the window, or a model without one",
        (long long)c->window, info->name);
}

#include "cli/job_options.h"

#include <string.h>

#include "base/mem.h"

enum { PASS_ROWS = 1024 };

static const char *const align_names[] = {"even", "left", "right", "sequential"};

status_t job_sink(const options_t *o, const tokenizer_t *t, bool bos, ids_t *out) {
    char *text = NULL;
    *out = (ids_t){0};
    status_t st = context_sink_text(o, &text);
    if (!st && bos) {
        if (tokenizer_bos(t) < 0)
            st = status_fail(ST_INPUT, "--bos: the model's tokenizer names no beginning-of-sequence token; leave --bos out");
        else
            st = ids_push(out, tokenizer_bos(t));
    }
    if (!st && text) st = tokenizer_encode(t, text, strlen(text), true, out);
    mem_free(text);
    if (st) ids_free(out);
    return st;
}

align_t job_align(const options_t *o, align_t fallback) {
    const char *name = opt_text(o, "align");
    for (int i = 0; name && i < 4; i++)
        if (!strcmp(name, align_names[i])) return (align_t)i;
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

status_t job_tokenizer(const context_t *c, const tokenizer_t **out) {
    *out = model_file_tokenizer(c->file);
    if (*out) return ST_OK;
    return status_fail(ST_INPUT, "%s: has no tokenizer, and this command reads text; put tokenizer.json beside the weights",
                       model_file_path(c->file));
}

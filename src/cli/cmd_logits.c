/* precis logits: full causal attention over one token sequence, every row's logits into a safetensors file. The check of a model against
 * another program.
 *
 * Rows go through in batches; each batch's logits are written before the next is computed, so memory holds one batch and the K/V of the
 * sequence.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "cli/commands.h"
#include "io/file.h"
#include "io/safetensors.h"

enum { BATCH_ROWS = 256, TOKENS_MAX_BYTES = 1 << 30 };

static status_t parse_ids(const char *path, const char *text, int64_t n_vocab, ids_t *ids) {
    status_t st = ST_OK;
    while (!st) {
        while (isspace((unsigned char)*text)) text++;
        if (!*text) break;
        char *end;
        errno = 0;
        long long v = strtoll(text, &end, 10);
        int n = (int)strcspn(text, " \t\r\n\f\v");
        if (errno || end != text + n || v < 0 || v >= n_vocab)
            return status_fail(ST_INPUT, "%s: word %lld, \"%.*s\", is no token id of this model; ids are whole numbers from 0 to %lld",
                               path, (long long)ids->n + 1, n > 40 ? 40 : n, text, (long long)n_vocab - 1);
        st = ids_push(ids, (int32_t)v);
        text = end;
    }
    if (!st && !ids->n) st = status_fail(ST_INPUT, "%s: no token ids in it; give ids separated by white space", path);
    return st;
}

/* Standard input whole, NUL-terminated: a pipe has no size to ask for. */
static status_t read_input(char **text) {
    size_t n = 0, cap = 0, got = 1;
    status_t st = ST_OK;
    *text = NULL;
    while (!st && got) {
        if (cap - n < 2) st = mem_grow(text, cap = cap ? 2 * cap : 1 << 16, 1, "token ids");
        if (!st) n += got = fread(*text + n, 1, cap - n - 1, stdin);
        if (n >= TOKENS_MAX_BYTES)
            st = status_fail(ST_INPUT, "standard input: more than %d bytes of token ids; cut them", TOKENS_MAX_BYTES);
    }
    if (!st) (*text)[n] = 0;
    return st;
}

static status_t read_tokens(const char *path, int64_t n_vocab, ids_t *ids) {
    char *text;
    size_t bytes;
    status_t st = strcmp(path, "-") ? file_read_text(path, TOKENS_MAX_BYTES, &text, &bytes) : read_input(&text);
    if (!st) st = parse_ids(strcmp(path, "-") ? path : "standard input", text, n_vocab, ids);
    mem_free(text);
    return st;
}

/* Where the logits of a sequence are worked out: K/V of all rows, room for one batch. */
typedef struct {
    model_t *model;
    forward_ws_t *ws;
    kv_pool_t pool;
    int64_t max_row;
    double *positions; /* [max_row] */
    int64_t *rows;     /* [max_row] 0, 1, .. */
    float *logits;     /* [max_row][n_vocab] */
} work_t;

static status_t work_open(work_t *w, context_t *c, int64_t n, int64_t max_row) {
    const model_config_t *m = model_config(c->model);
    backend_t *be = c->backend;
    size_t elements = (size_t)(m->n_layer * m->n_kv_head * m->d_head), bytes;
    status_t st;
    w->model = c->model;
    w->max_row = max_row;
    w->pool = (kv_pool_t){
        .type = c->dtype, .n_row = n, .row_stride = m->d_head, .head_stride = n * m->d_head, .layer_stride = m->n_kv_head * n * m->d_head};
    if (!size_mul(elements * dtype_bytes(c->dtype), (size_t)n, &bytes))
        return status_fail(ST_INPUT, "--tokens: too many ids; cut the file");
    if ((st = forward_ws_create(w->model, max_row, &w->ws))) return st;
    if ((st = be->ops->alloc(be, bytes, "the keys of the sequence", &w->pool.k))) return st;
    if ((st = be->ops->alloc(be, bytes, "the values of the sequence", &w->pool.v))) return st;
    if ((st = mem_alloc(&w->positions, (size_t)max_row, sizeof *w->positions, "positions"))) return st;
    if ((st = mem_alloc(&w->rows, (size_t)max_row, sizeof *w->rows, "row numbers"))) return st;
    for (int64_t i = 0; i < max_row; i++) w->rows[i] = i;
    return mem_alloc(&w->logits, (size_t)max_row, (size_t)m->n_vocab * sizeof *w->logits, "logits");
}

static void work_close(work_t *w, backend_t *be) {
    forward_ws_free(w->ws);
    if (be) be->ops->free(be, w->pool.k);
    if (be) be->ops->free(be, w->pool.v);
    mem_free(w->positions);
    mem_free(w->rows);
    mem_free(w->logits);
}

/* Rows first .. first+n-1 of the sequence: each sees all rows up to itself. */
static status_t work_batch(work_t *w, const int32_t *tokens, int64_t first, int64_t n) {
    run_t run = {.row = 0, .n = n, .index = first, .pool = 0, .span = 0, .n_span = 1};
    span_t span = {.pool = 0, .block = 0, .begin = 0, .end = first + n, .lo = edge_const(0), .hi = edge_step(1, 1, 0, 1)};
    for (int64_t i = 0; i < n; i++) w->positions[i] = (double)(first + i);
    batch_t b = {.n_row = n,
                 .tokens = tokens + first,
                 .positions = w->positions,
                 .n_pool = 1,
                 .n_run = 1,
                 .n_span = 1,
                 .pools = &w->pool,
                 .runs = &run,
                 .spans = &span,
                 .n_out = n,
                 .out_rows = w->rows,
                 .logits = w->logits};
    return forward(w->model, w->ws, &b);
}

static status_t write_header(int fd, const char *path, int64_t n, int64_t n_vocab, const char *dtype) {
    st_entry_t entry = {
        .name = "logits", .dtype = "F32", .n_dim = 2, .dims = {n, n_vocab}, .bytes = (size_t)n * (size_t)n_vocab * sizeof(float)};
    const char *meta[] = {"computed_in", dtype, NULL};
    void *header;
    size_t bytes;
    status_t st = safetensors_header(&entry, 1, meta, 0, &header, &bytes);
    if (!st) st = file_write_all(fd, path, header, bytes);
    mem_free(header);
    return st;
}

static status_t write_logits(work_t *w, const ids_t *ids, int fd, const char *path, const char *dtype) {
    int64_t n_vocab = model_config(w->model)->n_vocab;
    status_t st = write_header(fd, path, ids->n, n_vocab, dtype);
    for (int64_t first = 0; !st && first < ids->n; first += w->max_row) {
        int64_t n = i64_min(w->max_row, ids->n - first);
        st = work_batch(w, ids->ids, first, n);
        if (!st) st = file_write_all(fd, path, w->logits, (size_t)n * (size_t)n_vocab * sizeof(float));
    }
    return st;
}

static status_t logits_run(const options_t *o, context_t *c) {
    const char *path = opt_text(o, "out");
    char part[4096];
    int fd = -1;
    work_t w = {0};
    ids_t ids = {0};
    status_t st = context_open_file(c);
    if (st) return st;
    const model_config_t *m = model_file_config(c->file);
    if ((st = read_tokens(opt_text(o, "tokens"), m->n_vocab, &ids))) goto out;
    if (ids.n > m->n_ctx) log_warn("%lld tokens, but the model was trained for %lld", (long long)ids.n, (long long)m->n_ctx);
    if (snprintf(part, sizeof part, "%s.part%ld", path, (long)getpid()) >= (int)sizeof part) {
        st = status_fail(ST_USAGE, "--out: the name is too long");
        goto out;
    }
    if ((fd = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)) < 0) {
        st = status_fail(ST_FAIL, "%s: %s; --out names a file in a folder that can be written", path, strerror(errno));
        goto out;
    }
    if ((st = context_load_model(c))) goto out;
    if ((st = work_open(&w, c, ids.n, i64_min(ids.n, opt_given(o, "batch") ? opt_int(o, "batch") : BATCH_ROWS)))) goto out;
    if ((st = write_logits(&w, &ids, fd, path, dtype_name(c->dtype)))) goto out;
    if (fsync(fd) || rename(part, path)) st = status_fail(ST_FAIL, "%s: %s; what was written is not complete", path, strerror(errno));
out:
    if (fd >= 0) close(fd);
    if (fd >= 0 && st) unlink(part);
    work_close(&w, c->backend);
    ids_free(&ids);
    return st;
}

const command_t cmd_logits = {
    .spec = {.name = "logits",
             .summary = "logits of every row of a token sequence, for checks against other programs",
             .usage = "precis logits --model M --tokens FILE --out F.safetensors [--dtype f32]",
             .text = "Runs the token ids in FILE (separated by white space) through the model with full causal attention at positions 0, "
                     "1, 2, .. and writes the\n"
                     "logits of every row as tensor `logits`, F32, [rows, vocabulary]. No BOS is added: what is in FILE is what the model "
                     "sees. Takes\n"
                     "4 x rows x vocabulary bytes on disk (200 KB a row for a vocabulary of 49152), written as it goes.",
             .examples =
                 "  echo '504 3575 282' > ids.txt\n"
                 "  precis logits --model m.gguf --dtype f32 --tokens ids.txt --out logits.safetensors\n"
                 "  python3 -c 'from safetensors.numpy import load_file; print(load_file(\"logits.safetensors\")[\"logits\"].argmax(1))'",
             .keys = "model! tokens! out! dtype=f32 backend threads batch",
             .min_args = 0,
             .max_args = 0},
    .run = logits_run,
};

/* precis logits: one token sequence under a layout, every row's logits into a safetensors file. The check of a model, and of a layout,
 * against another program.
 *
 * Rows go through in batches; each batch's logits are written before the next is computed, so memory holds one batch and the K/V of the
 * sequence.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "cli/commands.h"
#include "cli/job_options.h"
#include "encode/sequence.h"
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

/* Where rows go: each to its place in the file, in whatever order they come. */
typedef struct {
    int fd;
    const char *path;
    int64_t n_vocab;
    off_t begin; /* of row 0 */
} target_t;

static status_t rows_write(void *ctx, int64_t at, int64_t n, const float *logits) {
    target_t *t = ctx;
    size_t row = (size_t)t->n_vocab * sizeof(float);
    if (lseek(t->fd, t->begin + (off_t)((size_t)at * row), SEEK_SET) < 0) return status_fail(ST_FAIL, "%s: %s", t->path, strerror(errno));
    return file_write_all(t->fd, t->path, logits, (size_t)n * row);
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

static status_t write_logits(context_t *c, const sequence_spec_t *spec, const ids_t *ids, int fd, const char *path) {
    target_t t = {.fd = fd, .path = path, .n_vocab = model_config(c->model)->n_vocab};
    status_t st = ST_OK;
    if (c->comm->rank == 0) {
        st = write_header(fd, path, sequence_rows(spec, ids->n), t.n_vocab, dtype_name(c->dtype));
        t.begin = lseek(fd, 0, SEEK_CUR);
        if (!st && t.begin < 0) st = status_fail(ST_FAIL, "%s: %s; --out names a file on a disk", path, strerror(errno));
    }
    st = comm_agree(c->comm, st);
    return st ? st : sequence_logits(c->model, c->comm, spec, ids->ids, ids->n, rows_write, &t);
}

/* Without --layout: full attention, in one piece. */
static status_t sequence_options(const options_t *o, const context_t *c, int64_t n, ids_t *sink, sequence_spec_t *out) {
    const tokenizer_t *tokenizer = NULL;
    bool layout = opt_given(o, "layout"), sunk = opt_given(o, "sink") || job_bos(o);
    align_t align = job_align(o, ALIGN_LEFT);
    *out = (sequence_spec_t){.layout = LAYOUT_FULL, .kept = {.gist = {.window = -1}}, .segment = n, .max_row = BATCH_ROWS};
    status_t st = sunk ? job_tokenizer(c, &tokenizer) : ST_OK;
    if (!st && sunk) st = job_sink(c, job_bos(o), sink);
    if (!st && layout) st = job_kept(o, model_file_config(c->file), &out->layout, &out->kept);
    if (!st) st = job_adapter(c, out->layout, &out->kept);
    if (!st) st = job_positions(o, out->layout, &align, &out->kept);
    if (!st) st = job_window(model_file_config(c->file), out->layout, n + sink->n);
    if (layout && (out->layout != LAYOUT_FULL || opt_given(o, "segment"))) out->segment = opt_int(o, "segment");
    if (opt_given(o, "batch")) out->max_row = opt_int(o, "batch");
    out->max_row = i64_min(out->max_row, n + n / i64_max(out->kept.gist.ratio, 1) + sink->n + out->kept.n_blank);
    out->sink = sink->ids;
    out->n_sink = sink->n;
    out->align = align;
    out->all_rows = opt_flag(o, "all-rows");
    return st;
}

/* Rank 0 reads the ids, for its alone is standard input. Collective. */
static status_t tokens_share(const options_t *o, context_t *c, ids_t *ids) {
    status_t st = c->comm->rank ? ST_OK : read_tokens(opt_text(o, "tokens"), model_file_config(c->file)->n_vocab, ids);
    int64_t n = ids->n;
    if ((st = comm_agree(c->comm, st))) return st;
    if ((st = c->comm->ops->bcast(c->comm, 0, &n, sizeof n))) return st;
    if (c->comm->rank) st = mem_grow(&ids->ids, (size_t)n, sizeof *ids->ids, "token ids");
    if (!st && c->comm->rank) ids->n = ids->cap = n;
    if ((st = comm_agree(c->comm, st))) return st;
    return c->comm->ops->bcast(c->comm, 0, ids->ids, n * (int64_t)sizeof *ids->ids);
}

/* Does the file lie in the folder? */
static bool lies_in(const char *path, const struct stat *folder) {
    const char *slash = strrchr(path, '/');
    char up[4096] = ".";
    struct stat s;
    if (slash && snprintf(up, sizeof up, "%.*s/", (int)(slash - path), path) >= (int)sizeof up) return false;
    return !stat(up, &s) && s.st_dev == folder->st_dev && s.st_ino == folder->st_ino;
}

/* What is read must not be written over, and a folder is told before the model runs, not behind it. */
static status_t out_check(const options_t *o) {
    static const char *const inputs[] = {"tokens", "model", "adapter"};
    const char *path = opt_text(o, "out");
    struct stat out, in;
    if (stat(path, &out)) return ST_OK; /* a new one */
    if (S_ISDIR(out.st_mode)) return status_fail(ST_USAGE, "--out %s: is a folder; name a file in it", path);
    for (size_t i = 0; i < sizeof inputs / sizeof *inputs; i++) {
        const char *input = opt_text(o, inputs[i]);
        if (!input || stat(input, &in)) continue;
        if ((in.st_dev == out.st_dev && in.st_ino == out.st_ino) || (S_ISDIR(in.st_mode) && lies_in(path, &in)))
            return status_fail(ST_USAGE, "--out %s: is what --%s reads, and would be lost; name another file", path, inputs[i]);
    }
    return ST_OK;
}

static status_t part_open(const char *path, char *part, size_t cap, int *fd) {
    if (snprintf(part, cap, "%s.part%ld", path, (long)getpid()) >= (int)cap) return status_fail(ST_USAGE, "--out: the name is too long");
    *fd = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (*fd >= 0) return ST_OK;
    return status_fail(ST_FAIL, "%s: %s; --out names a file in a folder that can be written", path, strerror(errno));
}

static status_t logits_run(const options_t *o, context_t *c) {
    const char *path = opt_text(o, "out");
    char part[4096];
    int fd = -1;
    sequence_spec_t spec;
    ids_t ids = {0}, sink = {0};
    status_t st = out_check(o);
    if (!st) st = context_open_file(c);
    if ((st = comm_agree(c->comm, st))) return st;
    const model_config_t *m = model_file_config(c->file);
    if ((st = tokens_share(o, c, &ids))) goto out;
    st = sequence_options(o, c, ids.n, &sink, &spec);
    if ((st = comm_agree(c->comm, st))) goto out;
    if (ids.n > m->n_ctx && c->comm->rank == 0)
        log_warn("%lld tokens, but the model was trained for %lld", (long long)ids.n, (long long)m->n_ctx);
    if (c->comm->rank == 0) st = part_open(path, part, sizeof part, &fd);
    if ((st = comm_agree(c->comm, st))) goto out;
    if ((st = context_load_model(c))) goto out;
    if ((st = write_logits(c, &spec, &ids, fd, path))) goto out;
    if (fd >= 0 && (fsync(fd) || rename(part, path)))
        st = status_fail(ST_FAIL, "%s: %s; what was written is not complete", path, strerror(errno));
out:
    if (fd >= 0) close(fd);
    if (fd >= 0 && st) unlink(part);
    ids_free(&ids);
    ids_free(&sink);
    return st;
}

const command_t cmd_logits = {
    .spec =
        {.name = "logits",
         .summary = "logits of every row of a token sequence, for checks against other programs",
         .usage = "precis logits --model M --tokens FILE --out F.safetensors [--dtype f32]",
         .text = "Runs the token ids in FILE (separated by white space) through the model with full causal attention at positions 0, "
                 "1, 2, .. and writes the\n"
                 "logits of every row as tensor `logits`, F32, [rows, vocabulary]. No BOS is added: what is in FILE is what the model "
                 "sees. With --layout the\n"
                 "sequence is cut into segments as encode cuts a document, and a row's logits are those of its segment's pass. Takes\n"
                 "4 x rows x vocabulary bytes on disk (200 KB a row for a vocabulary of 49152), written as it goes. Under mpirun the ranks "
                 "share "
                 "a sequence whose segments\nsee each other (full, fine-kv, coarse-kv, unigist), with the bits of one rank.",
         .examples =
             "  echo '504 3575 282' > ids.txt\n"
             "  precis logits --model m.gguf --dtype f32 --tokens ids.txt --out logits.safetensors\n"
             "  precis logits --model m.gguf --dtype f32 --tokens ids.txt --out unigist.safetensors --layout unigist --ratio 4 --sinks 8\n"
             "  mpirun -n 4 precis logits --model m.gguf --tokens long.txt --out long.safetensors --layout unigist --ratio 8 --local 128\n"
             "  python3 -c 'from safetensors.numpy import load_file; print(load_file(\"logits.safetensors\")[\"logits\"].argmax(1))'",
         .keys = "model! tokens! out! layout segment ratio local sinks sink bos align positions gist-init adapter all-rows rope-length "
                 "dtype=f32 "
                 "backend share-gpu threads "
                 "batch",
         .min_args = 0,
         .max_args = 0},
    .ranks = true,
    .run = logits_run,
};

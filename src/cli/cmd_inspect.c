/* precis inspect: what a model file or a store is, without loading weights. A damaged file is refused by its reader, which names the byte
 * and the reason. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "cli/commands.h"
#include "encode/kept.h"
#include "io/file.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "model/arch.h"
#include "store/store.h"

/* Facts as pairs, printed as lines or as one JSON object. */
typedef struct {
    bool json;
    json_out_t j;
} facts_t;

static void fact_text(facts_t *f, const char *key, const char *value) {
    if (f->json)
        json_str(&f->j, key, value);
    else
        printf("%-18s %s\n", key, value);
}
static void fact_int(facts_t *f, const char *key, int64_t value) {
    if (f->json)
        json_int(&f->j, key, value);
    else
        printf("%-18s %lld\n", key, (long long)value);
}
static void fact_num(facts_t *f, const char *key, double value) {
    if (f->json)
        json_num(&f->j, key, value);
    else
        printf("%-18s %g\n", key, value);
}
static void facts_begin(facts_t *f, const options_t *o) {
    f->json = strcmp(opt_text(o, "format"), "text") != 0;
    if (f->json) json_begin(&f->j, stdout), json_open(&f->j, NULL, '{');
}
static void facts_end(facts_t *f) {
    if (f->json) json_end(&f->j);
}

/* Product of the dims: readers have checked that it fits. */
static int64_t tensor_elements(const tensor_t *t) { return tensor_rows(t) * tensor_cols(t); }

typedef struct {
    const char *name;
    int64_t tensors, elements, bytes;
} kind_t;

static void sum_kinds(facts_t *f, const model_file_t *file) {
    kind_t kinds[32] = {{0}};
    int n = 0;
    char line[96];
    int64_t elements = 0, bytes = 0;
    for (int64_t i = 0; i < model_file_n_tensors(file); i++) {
        const tensor_t *t = model_file_tensor(file, i);
        int k = 0;
        while (k < n && strcmp(kinds[k].name, t->enc_name)) k++;
        if (k == n && n < 32)
            kinds[n++].name = t->enc_name;
        else if (k == n)
            k = 31;
        kinds[k].tensors++;
        kinds[k].elements += tensor_elements(t);
        kinds[k].bytes += (int64_t)t->bytes;
        elements += tensor_elements(t);
        bytes += (int64_t)t->bytes;
    }
    fact_int(f, "parameters", elements);
    fact_int(f, "tensors", model_file_n_tensors(file));
    fact_int(f, "weight_bytes", bytes);
    for (int k = 0; k < n; k++) {
        snprintf(line, sizeof line, "%" PRId64 " tensors, %" PRId64 " elements, %" PRId64 " bytes", kinds[k].tensors, kinds[k].elements,
                 kinds[k].bytes);
        fact_text(f, kinds[k].name, line);
    }
}

static void put_config(facts_t *f, const model_config_t *c) {
    fact_text(f, "architecture", c->arch);
    fact_text(f, "name", c->name);
    fact_int(f, "vocabulary", c->n_vocab);
    fact_int(f, "layers", c->n_layer);
    fact_int(f, "heads", c->n_head);
    fact_int(f, "kv_heads", c->n_kv_head);
    fact_int(f, "d_model", c->d_model);
    fact_int(f, "d_head", c->d_head);
    fact_int(f, "d_ff", c->d_ff);
    fact_int(f, "context", c->n_ctx);
    if (c->window) fact_int(f, "sliding_window", c->window);
    fact_num(f, "norm_eps", c->norm_eps);
    fact_num(f, "rope_theta", c->rope_theta);
    fact_int(f, "rope_dims", c->d_rot);
    fact_text(f, "rope_scaling", rope_scaling_name(c->rope_scaling));
    if (c->rope_factor > 0) fact_num(f, "rope_factor", c->rope_factor);
    if (c->rope_old_ctx) fact_int(f, "rope_old_context", c->rope_old_ctx);
    if (c->rope_attention != 1) fact_num(f, "rope_attention", c->rope_attention);
    fact_text(f, "output", c->tied ? "the embedding rows" : "rows of its own");
    if (c->qkv_bias) fact_text(f, "qkv_bias", "yes");
    if (c->qk_norm) fact_text(f, "qk_norm", "yes");
    fact_int(f, "kv_bytes_per_token", 2 * 2 * c->n_layer * c->n_kv_head * c->d_head); /* in bf16 */
}

static void put_tokenizer(facts_t *f, const tokenizer_t *t) {
    char ids[128] = "none";
    const int32_t *eos;
    if (!t) {
        fact_text(f, "tokenizer", "none");
        return;
    }
    const char *chat = tokenizer_chat_family(t);
    int n = tokenizer_eos(t, &eos);
    size_t at = 0;
    for (int i = 0; i < n && at < sizeof ids; i++) at += (size_t)snprintf(ids + at, sizeof ids - at, "%s%d", i ? " " : "", eos[i]);
    fact_text(f, "tokenizer", tokenizer_family(t));
    fact_int(f, "bos", tokenizer_bos(t));
    fact_text(f, "eos", ids);
    fact_text(f, "chat_template", chat ? chat : "none that is known");
}

static void put_tensor(const tensor_t *t) {
    printf("%-40s %-6s [", t->name, t->enc_name);
    for (int d = 0; d < t->n_dim; d++) printf("%s%" PRId64, d ? ", " : "", t->dims[d]);
    printf("] %zu bytes\n", t->bytes);
}

/* --all: every metadata key and every tensor. */
static void put_all(const model_file_t *file) {
    const gguf_t *g = model_file_gguf(file);
    char text[256];
    for (int64_t i = 0; g && i < gguf_keys(g); i++) {
        const char *key;
        size_t n;
        gguf_key_text(g, i, &key, &n, text, sizeof text);
        printf("%.*s = %s\n", (int)n, key, text);
    }
    for (int64_t i = 0; i < model_file_n_tensors(file); i++) put_tensor(model_file_tensor(file, i));
}

static status_t inspect_model(const options_t *o, context_t *c, const char *path) {
    facts_t f;
    char hex[HASH_HEX];
    status_t st = model_file_open(path, &c->file);
    if (st) return st;
    facts_begin(&f, o);
    fact_text(&f, "model", path);
    put_config(&f, model_file_config(c->file));
    sum_kinds(&f, c->file);
    put_tokenizer(&f, model_file_tokenizer(c->file));
    hash_hex(model_file_fingerprint(c->file), hex);
    fact_text(&f, "fingerprint", hex);
    facts_end(&f);
    if (opt_flag(o, "all") && !f.json) put_all(c->file);
    return ST_OK;
}

static status_t inspect_store(const options_t *o, const char *path) {
    store_t *s;
    facts_t f;
    status_t st = store_open(path, false, &s);
    if (st) return st;
    const store_profile_t *p = store_profile(s);
    int64_t rows = 0, tokens = 0, summary = 0, row_bytes = 2 * p->n_layer * p->n_kv_head * p->d_head * (int64_t)dtype_bytes(p->kv_type);
    kept_t kept;
    bool known = kept_parse(p->gists, &kept);
    for (int64_t i = 0; i < store_n_segment(s); i++) rows += store_segment(s, i)->n_row, tokens += store_segment(s, i)->n_token;
    for (int64_t i = 0; i < store_n_segment(s) && known; i++) {
        int64_t n = store_segment(s, i)->n_token;
        summary += kept.select.ratio ? kept_picked(&kept, n) : kept_gists(&kept, n);
    }
    facts_begin(&f, o);
    fact_text(&f, "store", path);
    fact_text(&f, "model", p->model_name);
    fact_text(&f, "fingerprint", p->model_fingerprint);
    fact_text(&f, "layout", p->layout);
    fact_int(&f, "segment", p->segment);
    fact_text(&f, "align", p->align);
    if (*p->gists) fact_text(&f, "gists", p->gists);
    if (*p->adapter) fact_text(&f, "adapter", p->adapter);
    fact_int(&f, "sink_tokens", p->n_sink);
    fact_text(&f, "computed_in", dtype_name(p->act));
    fact_text(&f, "kv_dtype", dtype_name(p->kv_type));
    fact_int(&f, "layers", p->n_layer);
    fact_int(&f, "kv_heads", p->n_kv_head);
    fact_int(&f, "d_head", p->d_head);
    fact_int(&f, "documents", store_n_document(s));
    fact_int(&f, "segments", store_n_segment(s));
    fact_int(&f, "tokens", tokens);
    fact_int(&f, "kv_bytes", rows * row_bytes);
    if (summary) fact_int(&f, "summary_bytes", summary * row_bytes); /* of gists or selected rows */
    facts_end(&f);
    store_close(s);
    return ST_OK;
}

/* A folder that has a tokenizer alone, which is enough for precis tokenize. */
static status_t inspect_tokenizer(const options_t *o, const char *path) {
    tokenizer_t *t;
    facts_t f;
    status_t st = model_tokenizer_open(path, &t);
    if (st) return st;
    facts_begin(&f, o);
    fact_text(&f, "tokenizer_of", path);
    fact_int(&f, "vocabulary", tokenizer_n_vocab(t));
    put_tokenizer(&f, t);
    facts_end(&f);
    tokenizer_free(t);
    return ST_OK;
}

/* An adapter's own words, and what there is of each kind; with --model, whether it fits. */
static status_t inspect_adapter(const options_t *o, context_t *c, const char *path) {
    static const char *const keys[] = {"format", "model", "layouts", "ratios", "gist_input"};
    static const char *const kinds[] = {"gist_embedding", "sink_embedding", "zero_key", ".lora_a", ".gist_lora_a", ".gist_weight"};
    static const char *const names[] = {"gist_rows", "sink_rows", "zero_keys", "lora_layers", "gist_lora_layers", "gist_weights"};
    safetensors_t *s;
    facts_t f;
    int64_t count[6] = {0}, bytes = 0;
    status_t st = safetensors_open(path, &s);
    if (st) return st;
    for (int64_t i = 0; i < safetensors_count(s); i++) {
        const tensor_t *t = safetensors_at(s, i);
        size_t n = strlen(t->name);
        bytes += (int64_t)t->bytes;
        for (int k = 0; k < 6; k++) {
            size_t m = strlen(kinds[k]);
            if (n >= m && !strcmp(t->name + n - m, kinds[k])) count[k] += k < 2 ? t->dims[0] : 1;
        }
    }
    if (!safetensors_meta(s, "format"))
        st = status_fail(ST_INPUT, "%s: is no adapter: its metadata names no format; a model is a .gguf file or a folder", path);
    if (!st && opt_text(o, "model")) st = context_open_file(c);
    if (!st && c->file) st = adapter_open(path, c->file, &c->adapter);
    if (st) goto out;
    facts_begin(&f, o);
    fact_text(&f, "adapter", path);
    for (int k = 0; k < 5; k++) {
        const char *text = safetensors_meta(s, keys[k]);
        char shown[512];
        fact_text(&f, keys[k], text ? printable(text, strlen(text), shown, sizeof shown) : "");
    }
    for (int k = 0; k < 6; k++) fact_int(&f, names[k], count[k]);
    fact_int(&f, "tensors", safetensors_count(s));
    fact_int(&f, "weight_bytes", bytes);
    if (c->adapter) {
        char hex[HASH_HEX];
        hash_hex(adapter_hash(c->adapter), hex);
        fact_text(&f, "hash", hex);
        fact_text(&f, "fits", opt_text(o, "model"));
    }
    facts_end(&f);
    for (int64_t i = 0; i < safetensors_count(s) && opt_flag(o, "all") && !f.json; i++) put_tensor(safetensors_at(s, i));
out:
    safetensors_close(s);
    return st;
}

static bool folder_has(const char *folder, const char *name) {
    char path[4096];
    return snprintf(path, sizeof path, "%s/%s", folder, name) < (int)sizeof path && file_exists(path);
}

static bool is_adapter(const char *path) {
    size_t n = strlen(path);
    return n > 12 && !strcmp(path + n - 12, ".safetensors") && !file_is_dir(path);
}

static status_t inspect_run(const options_t *o, context_t *c) {
    const char *const *args;
    opt_args(o, &args);
    if (is_adapter(args[0])) return inspect_adapter(o, c, args[0]);
    if (opt_given(o, "model")) return status_fail(ST_USAGE, "--model: only with an adapter, to see whether it fits; leave it out");
    if (folder_has(args[0], "store.json")) return inspect_store(o, args[0]);
    if (folder_has(args[0], "tokenizer.json") && !folder_has(args[0], "config.json")) return inspect_tokenizer(o, args[0]);
    return inspect_model(o, c, args[0]);
}

const command_t cmd_inspect = {
    .spec = {.name = "inspect",
             .summary = "what a model file, a store or an adapter is",
             .usage = "precis inspect MODEL|STORE|ADAPTER [--format text|json] [--all] [--model M]",
             .text = "Prints a model's architecture, sizes, number types, rotation, tokenizer, chat template, parameters and fingerprint "
                     "(what ties a store to\n"
                     "its model), a store's settings and contents, or an adapter's settings (with --model: checked against it). Weights "
                     "are mapped, not loaded, so a large model takes no longer. A "
                     "damaged file is refused\n"
                     "with the byte and the reason, exit 3.",
             .examples =
                 "  precis inspect SmolLM2-135M-Instruct.Q4_1.gguf\n"
                 "  precis inspect --format json model.gguf | python3 -c 'import json,sys; print(json.load(sys.stdin)[\"parameters\"])'\n"
                 "  precis inspect --all model.gguf     every metadata key and tensor too\n"
                 "  precis inspect book.store",
             .keys = "format=text all model",
             .min_args = 1,
             .max_args = 1},
    .run = inspect_run,
};

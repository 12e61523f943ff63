/* precis tokenize: JSON lines of text in, of ids out, and back with --decode. A record's id is passed on as it was, a number or a string.
 */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "cli/commands.h"
#include "io/corpus.h"
#include "io/json.h"

static void put_id(json_out_t *j, const document_t *doc) {
    const cJSON *id = json_get(doc->record, "id");
    if (cJSON_IsNumber(id) || cJSON_IsString(id))
        json_raw(j, "id", id);
    else
        json_str(j, "id", doc->id);
}

static status_t encode_record(const tokenizer_t *t, const document_t *doc, bool special, ids_t *ids) {
    json_out_t j;
    ids->n = 0;
    status_t st = tokenizer_encode(t, doc->text, doc->bytes, special, ids);
    if (st) return status_prefix(st, "%s line %lld: ", doc->source, (long long)doc->line);
    json_begin(&j, stdout);
    json_open(&j, NULL, '{');
    put_id(&j, doc);
    json_open(&j, "tokens", '[');
    for (int64_t i = 0; i < ids->n; i++) json_int(&j, NULL, ids->ids[i]);
    json_end(&j);
    return ST_OK;
}

static status_t read_ids(const document_t *doc, int64_t n_vocab, ids_t *ids) {
    const cJSON *list = json_get(doc->record, "tokens");
    status_t st = ST_OK;
    ids->n = 0;
    if (!doc->record)
        return status_fail(ST_INPUT, "%s: a text, but --decode reads JSON lines {\"id\",\"tokens\":[..]}; name a .jsonl file of those",
                           doc->source);
    if (!cJSON_IsArray(list))
        return status_fail(ST_INPUT, "%s line %lld: no \"tokens\" that is a list; --decode reads {\"id\",\"tokens\":[..]} lines",
                           doc->source, (long long)doc->line);
    for (const cJSON *v = list->child; !st && v; v = v->next) {
        double id = cJSON_IsNumber(v) ? v->valuedouble : -1;
        if (!(id >= 0 && id < (double)n_vocab) || id != (double)(int32_t)id)
            return status_fail(ST_INPUT, "%s line %lld: token %lld is no id of this model; ids are whole numbers from 0 to %lld",
                               doc->source, (long long)doc->line, (long long)ids->n, (long long)n_vocab - 1);
        st = ids_push(ids, (int32_t)id);
    }
    return st;
}

static status_t decode_record(const tokenizer_t *t, const document_t *doc, ids_t *ids) {
    json_out_t j;
    char *text;
    size_t n;
    status_t st = read_ids(doc, tokenizer_n_vocab(t), ids);
    if (!st) st = tokenizer_decode(t, ids->ids, ids->n, true, &text, &n);
    if (st) return st;
    json_begin(&j, stdout);
    json_open(&j, NULL, '{');
    put_id(&j, doc);
    json_strn(&j, "text", text, n);
    json_end(&j);
    mem_free(text);
    return ST_OK;
}

static status_t tokenize_run(const options_t *o, context_t *c) {
    const char *path = opt_text(o, "input");
    bool decode = opt_flag(o, "decode"), got = true;
    int64_t limit = opt_given(o, "limit") ? opt_int(o, "limit") : INT64_MAX;
    corpus_t *corpus = NULL;
    ids_t ids = {0};
    document_t doc;
    tokenizer_t *t;
    (void)c;
    status_t st = model_tokenizer_open(opt_text(o, "model"), &t);
    if (st) return st;
    if ((st = corpus_open(&path, 1, decode ? "tokens" : "text", &corpus))) goto out;
    for (int64_t i = 0; i < limit; i++) {
        if ((st = corpus_next(corpus, &doc, &got)) || !got) break;
        st = decode ? decode_record(t, &doc, &ids) : encode_record(t, &doc, opt_flag(o, "special"), &ids);
        if (st) break;
    }
out:
    corpus_close(corpus);
    tokenizer_free(t);
    ids_free(&ids);
    return st;
}

const command_t cmd_tokenize = {
    .spec = {.name = "tokenize",
             .summary = "text to token ids, and back",
             .usage = "precis tokenize [--decode] --model M --input F.jsonl",
             .text = "Reads records {\"id\",\"text\"} and prints {\"id\",\"tokens\":[..]} for each, in the same order: exactly the ids "
                     "that the model was trained\n"
                     "with. A folder needs no more than tokenizer.json (and tokenizer_config.json). Special tokens written in the text "
                     "(<|im_start|>) become their ids unless --no-special is given; no BOS or EOS "
                     "is added. A text file\n"
                     "is one record. With --decode it reads ids and prints text, special tokens shown.",
             .examples = "  echo '{\"id\":1,\"text\":\"In 1984\"}' | precis tokenize --model m.gguf --input -\n"
                         "  {\"id\":1,\"tokens\":[788,216,33,41,40,36]}\n"
                         "  precis tokenize --model m.gguf --input corpus.jsonl.zst > ids.jsonl\n"
                         "  precis tokenize --decode --model m.gguf --input ids.jsonl",
             .keys = "model! input! decode special limit",
             .min_args = 0,
             .max_args = 0},
    .run = tokenize_run,
};

/* How fast texts become ids, on one core, without the reading of files and JSON.
 *
 *     bench_tokenizer                                  the small vocabularies of tests/golden/tokens on their own texts, for a first look
 *     bench_tokenizer TOKENIZER TEXTS.jsonl            TOKENIZER: a tokenizer.json or a GGUF file (which need not have more in it)
 *     bench_tokenizer --ids|--plain|--text TOKENIZER LINES.jsonl     prints what comes out, as `precis tokenize [--no-special|--decode]`
 *
 * CPU time of the thread; the best of three. The first run fills the tables of whole words, so it is not the best.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"
#include "io/corpus.h"
#include "io/json.h"
#include "text/tokenizer.h"

static void must(status_t st) {
    if (!st) return;
    fprintf(stderr, "bench_tokenizer: %s\n", status_message());
    exit(1);
}

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static tokenizer_t *load(const char *path) {
    size_t n = strlen(path);
    tokenizer_t *t = NULL;
    if (n > 5 && !strcmp(path + n - 5, ".gguf")) {
        gguf_t *g = NULL;
        must(gguf_open(path, &g));
        must(tokenizer_from_gguf(g, path, &t));
        gguf_close(g);
    } else {
        must(tokenizer_from_json(path, &t));
    }
    return t;
}

typedef struct {
    char *text;
    size_t n;
} text_t;

static text_t *read_texts(const char *path, size_t *count, size_t *bytes) {
    corpus_t *c;
    document_t d;
    bool got;
    text_t *list = NULL;
    size_t cap = 0;
    *count = *bytes = 0;
    must(corpus_open(&path, 1, NULL, &c));
    for (;;) {
        must(corpus_next(c, &d, &got));
        if (!got) break;
        if (*count == cap) must(mem_grow(&list, cap = 2 * cap + 64, sizeof *list, "texts"));
        list[*count] = (text_t){mem_strdup(d.text), d.bytes};
        if (!list[*count].text) exit(1);
        ++*count;
        *bytes += d.bytes;
    }
    corpus_close(c);
    return list;
}

static void time_texts(const char *name, const char *path) {
    size_t count, bytes;
    int64_t n_id = 0;
    double best = 1e30;
    double begin = now_s();
    tokenizer_t *t = load(name);
    double loading = now_s() - begin;
    text_t *list = read_texts(path, &count, &bytes);
    for (int round = 0; round < 3; round++) {
        ids_t ids = {0};
        n_id = 0;
        begin = now_s();
        for (size_t i = 0; i < count; i++) {
            ids.n = 0;
            must(tokenizer_encode(t, list[i].text, list[i].n, true, &ids));
            n_id += ids.n;
        }
        double took = now_s() - begin;
        if (took < best) best = took;
        ids_free(&ids);
    }
    printf("%-40s %6.1f MB/s  %5.2f bytes an id  loaded in %.3f s  (%s)\n", name, (double)bytes / best / 1e6,
           n_id ? (double)bytes / (double)n_id : 0.0, loading, tokenizer_family(t));
    for (size_t i = 0; i < count; i++) mem_free(list[i].text);
    mem_free(list);
    tokenizer_free(t);
}

static void print_line(const tokenizer_t *t, const document_t *d, const char *mode) {
    ids_t ids = {0};
    json_out_t j;
    json_begin(&j, stdout);
    json_open(&j, NULL, '{');
    if (!strcmp(mode, "--text")) {
        char *text;
        size_t n;
        const cJSON *list = json_get(d->record, "tokens");
        for (const cJSON *x = list ? list->child : NULL; x; x = x->next) must(ids_push(&ids, x->valueint));
        must(tokenizer_decode(t, ids.ids, ids.n, true, &text, &n));
        json_strn(&j, "text", text, n);
        mem_free(text);
    } else {
        must(tokenizer_encode(t, d->text, d->bytes, strcmp(mode, "--plain"), &ids));
        json_open(&j, "tokens", '[');
        for (int64_t i = 0; i < ids.n; i++) json_int(&j, NULL, ids.ids[i]);
    }
    json_end(&j);
    ids_free(&ids);
}

static void print_all(const char *mode, const char *name, const char *path) {
    tokenizer_t *t = load(name);
    corpus_t *c;
    document_t d;
    bool got;
    must(corpus_open(&path, 1, NULL, &c));
    for (;;) {
        must(corpus_next(c, &d, &got));
        if (!got) break;
        print_line(t, &d, mode);
    }
    corpus_close(c);
    tokenizer_free(t);
}

int main(int argc, char **argv) {
    static const char *const family[] = {"smollm", "gpt2", "llama3", "qwen2", "llama2", "mistral3", "metaspace", "gemma"};
    char path[128];
    if (argc == 4)
        print_all(argv[1], argv[2], argv[3]);
    else if (argc == 3)
        time_texts(argv[1], argv[2]);
    else
        for (size_t i = 0; i < sizeof family / sizeof *family; i++) {
            snprintf(path, sizeof path, "tests/golden/tokens/%s.json", family[i]);
            time_texts(path, "tests/golden/tokens/texts.jsonl");
        }
    return 0;
}

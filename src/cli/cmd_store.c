/* precis store: look at a store of encoded segments, check it, compare it, and throw away what no document needs. */
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "cli/commands.h"
#include "io/json.h"
#include "store/store.h"

/* Segments of the document that are in the store: 3 of 3 when it is whole. */
static int64_t segments_present(const store_t *s, const store_document_t *d) {
    int64_t n = 0;
    for (int64_t i = 0; i < d->n_segment; i++) n += store_find(s, d->segments[i]) != NULL;
    return n;
}

static void list_json(const store_t *s) {
    for (int64_t i = 0; i < store_n_document(s); i++) {
        const store_document_t *d = store_document(s, i);
        json_out_t j;
        json_begin(&j, stdout);
        json_open(&j, NULL, '{');
        json_str(&j, "id", d->id);
        json_str(&j, "source", d->source);
        json_int(&j, "tokens", d->n_token);
        json_int(&j, "segments", d->n_segment);
        json_int(&j, "present", segments_present(s, d));
        json_end(&j);
    }
}

static status_t store_ls(const char *dir, const options_t *o) {
    store_t *s;
    status_t st = store_open(dir, false, &s);
    if (st) return st;
    const store_profile_t *p = store_profile(s);
    if (strcmp(opt_text(o, "format"), "text"))
        list_json(s);
    else {
        printf("# %s: %lld documents, %lld segments; %s, layout %s, segments of %lld tokens, sink of %lld tokens, K/V in %s\n", dir,
               (long long)store_n_document(s), (long long)store_n_segment(s), p->model_name, p->layout, (long long)p->segment,
               (long long)p->n_sink, dtype_name(p->kv_type));
        printf("# %8s %8s %8s  %s\n", "tokens", "segments", "present", "id");
        for (int64_t i = 0; i < store_n_document(s); i++) {
            const store_document_t *d = store_document(s, i);
            printf("%10lld %8lld %8lld  %s\n", (long long)d->n_token, (long long)d->n_segment, (long long)segments_present(s, d), d->id);
        }
    }
    store_close(s);
    return ST_OK;
}

static void report_damage(void *ctx, const char *line) {
    (void)ctx;
    log_error("%s", line);
}

static status_t store_check_command(const char *dir, const options_t *o) {
    int64_t n, bytes;
    (void)o;
    status_t st = store_check(dir, report_damage, NULL, &n, &bytes);
    if (!st) printf("%s: sound, %lld segments, %lld bytes verified\n", dir, (long long)n, (long long)bytes);
    return st;
}

static status_t store_digest_command(const char *dir, const options_t *o) {
    hash_t h;
    int64_t n;
    char hex[HASH_HEX];
    (void)o;
    status_t st = store_digest(dir, &h, &n);
    if (st) return st;
    hash_hex(h, hex);
    printf("%s  %lld segments  %s\n", hex, (long long)n, dir);
    return ST_OK;
}

static status_t store_prune_command(const char *dir, const options_t *o) {
    int64_t n, bytes;
    (void)o;
    status_t st = store_prune(dir, &n, &bytes);
    if (!st) printf("%s: removed %lld segments that no document refers to, %lld bytes\n", dir, (long long)n, (long long)bytes);
    return st;
}

static status_t store_run(const options_t *o, context_t *c) {
    static const struct {
        const char *name;
        status_t (*run)(const char *dir, const options_t *o);
    } verbs[] = {{"ls", store_ls}, {"check", store_check_command}, {"digest", store_digest_command}, {"prune", store_prune_command}};
    const char *const *args;
    char near[64];
    (void)c;
    opt_args(o, &args);
    for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++)
        if (!strcmp(args[0], verbs[i].name)) return verbs[i].run(args[1], o);
    if (option_nearest(args[0], "ls check digest prune", near, sizeof near))
        return status_fail(ST_USAGE, "precis store %s: no such command; did you mean precis store %s?", args[0], near);
    return status_fail(ST_USAGE, "precis store %s: no such command; it is one of ls, check, digest, prune", args[0]);
}

const command_t cmd_store = {
    .spec = {.name = "store",
             .summary = "list, check, compare or prune a store of encoded segments",
             .usage = "precis store ls|check|digest|prune DIR",
             .text =
                 "ls: what the store is for, and its documents: tokens, segments, how many of these are there\n\n"
                 "check: reads every byte and compares the checksums; exit 3 naming what is damaged. What a killed encoder left is no "
                 "damage. Damaged segments are encoded again by the command that made the store\n\n"
                 "digest: one line, first word a digest of identity and bytes of every segment in canonical order: equal for equal "
                 "contents, whatever ranks, files and runs wrote them\n\n"
                 "prune: removes segments that no document refers to (an edited document leaves its old ones); not while an encoder runs",
             .examples = "  precis store ls book.store\n"
                         "  precis store check book.store && echo sound\n"
                         "  test \"$(precis store digest a | cut -d' ' -f1)\" = \"$(precis store digest b | cut -d' ' -f1)\" && echo equal",
             .keys = "format=text",
             .min_args = 2,
             .max_args = 2},
    .run = store_run,
};

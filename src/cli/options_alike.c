/* Rank 0 tells a hash of each option's value; the others compare with their own. */
#include "cli/options_alike.h"

#include <stdio.h>
#include <string.h>

#include "base/hash.h"
#include "base/mem.h"

/* What each rank may have its own way; the model's weights are compared when they are loaded. */
static const char OWN_KEYS[] = " model adapter backend share-gpu threads speed progress quiet verbose config print-config ";

enum { COMMAND, ARGUMENTS, FIRST_OPTION };

static bool is_own(const char *key) {
    char word[64];
    snprintf(word, sizeof word, " %s ", key);
    return strstr(OWN_KEYS, word) != NULL;
}

/* Numbers count, not how they were written: 4K is 4096. */
static hash_t value_hash(const options_t *o, const option_t *t) {
    const char *text = opt_text(o, t->key);
    if (!text) return (hash_t){0};
    if (t->type == OPT_INT_LIST || t->type == OPT_TEXT || t->type == OPT_CHOICE) return hash_bytes(text, strlen(text));
    double number = t->type == OPT_REAL ? opt_real(o, t->key) : (double)opt_int(o, t->key);
    return hash_bytes(&number, sizeof number);
}

static hash_t arguments_hash(const options_t *o) {
    const char *const *args;
    hash_t sum = {0};
    for (int i = 0, n = opt_args(o, &args); i < n; i++) {
        hash_t h = hash_bytes(args[i], strlen(args[i]));
        hash_t chain[2] = {sum, h};
        sum = hash_bytes(chain, sizeof chain);
    }
    return sum;
}

static status_t differs(const options_t *o, const option_t *t) {
    const char *text = opt_text(o, t->key);
    return status_fail(
        ST_USAGE,
        "--%s %s: rank 0 has another; programs of one job may differ in --backend, --threads and --speed, so give --%s to all "
        "of them alike",
        t->key, text ? text : "is not given", t->key);
}

status_t options_alike(const options_t *o, comm_t *comm) {
    int n;
    const option_t *table = option_table(&n);
    const char *name = options_command(o)->name;
    hash_t *mine = NULL, *first = NULL;
    if (comm->size == 1) return ST_OK;
    status_t st = mem_alloc(&mine, (size_t)(FIRST_OPTION + n), sizeof *mine, "the options");
    if (!st) st = mem_alloc(&first, (size_t)(FIRST_OPTION + n), sizeof *first, "the options");
    if ((st = comm_agree(comm, st))) goto out;
    mine[COMMAND] = hash_bytes(name, strlen(name));
    mine[ARGUMENTS] = arguments_hash(o);
    for (int i = 0; i < n; i++) mine[FIRST_OPTION + i] = is_own(table[i].key) ? (hash_t){0} : value_hash(o, &table[i]);
    memcpy(first, mine, (size_t)(FIRST_OPTION + n) * sizeof *first);
    st = comm->ops->bcast(comm, 0, first, (int64_t)((size_t)(FIRST_OPTION + n) * sizeof *first));
    if (!st && !hash_equal(mine[COMMAND], first[COMMAND]))
        st = status_fail(ST_USAGE, "precis %s: rank 0 runs another command; give all programs of the job the same one", name);
    if (!st && !hash_equal(mine[ARGUMENTS], first[ARGUMENTS]))
        st = status_fail(ST_USAGE, "precis %s: rank 0 has other words behind its options (inputs); give all programs of the job the same",
                         name);
    for (int i = 0; i < n && !st; i++)
        if (!hash_equal(mine[FIRST_OPTION + i], first[FIRST_OPTION + i])) st = differs(o, &table[i]);
out:
    mem_free(mine);
    mem_free(first);
    return st;
}

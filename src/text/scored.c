/* SentencePiece keeps no merges, but a score for each token: of all neighbours that together are a token, those of the highest score are
 * joined first, the leftmost of equals. So every token is taken apart in all ways into two tokens, and each way is a merge:
 *
 *     "▁the"  score -7     "▁" "the"    "▁t" "he"    "▁th" "e"       all of one rank, that of -7 among the scores
 *
 * The engine for merges then finds the same ids.
 */
#include <math.h>
#include <stdlib.h>

#include "base/mem.h"
#include "text/vocabulary.h"

enum { PIECE_MAX = 256 }; /* bytes; trainers make them 16 characters long. Longer ones would be slow to take apart. */

typedef struct {
    double score;
    int32_t id;
} scored_t;

static int compare(const void *x, const void *y) { /* the highest score first */
    const scored_t *a = x, *b = y;
    if (a->score != b->score) return a->score > b->score ? -1 : 1;
    return (a->id > b->id) - (a->id < b->id);
}

/* Takes token id apart; puts the merges when asked to. Returns how many there are. */
static int64_t take_apart(vocabulary_t *v, int32_t id, int64_t rank, bool put) {
    const char *s = v->blob + v->key[id].at;
    size_t n = v->key[id].n;
    int64_t count = 0;
    for (size_t i = 1; i < n; i++) {
        if (((uint8_t)s[i] & 0xc0) == 0x80) continue;
        int32_t left = vocabulary_find(v, s, i), right = left < 0 ? -1 : vocabulary_find(v, s + i, n - i);
        if (right < 0) continue;
        if (put) vocabulary_put_merge(v, rank, left, right, id);
        count++;
    }
    return count;
}

/* Reachable tokens in order of score. */
static status_t gather(const vocabulary_t *v, const double *score, scored_t *list, int64_t *n) {
    *n = 0;
    for (int64_t id = 0; id < v->n; id++) {
        const char *s = v->blob + v->key[id].at;
        if (!v->key[id].n || vocabulary_find(v, s, v->key[id].n) != id || vocabulary_byte_of(s, v->key[id].n) >= 0) continue;
        if (!isfinite(score[id]))
            return status_fail(ST_INPUT, "%s: the score of token %lld is no number; get the file again", v->name, (long long)id);
        if (v->key[id].n > PIECE_MAX)
            return status_fail(ST_INPUT, "%s: token %lld is %u bytes long, at most %d can be merged; get the file again", v->name,
                               (long long)id, v->key[id].n, PIECE_MAX);
        list[(*n)++] = (scored_t){score[id], (int32_t)id};
    }
    qsort(list, (size_t)*n, sizeof *list, compare);
    return ST_OK;
}

status_t vocabulary_merge_scored(vocabulary_t *v, const double *score) {
    scored_t *list = NULL;
    int64_t n = 0, n_merge = 0, rank = 0;
    status_t st = mem_alloc(&list, (size_t)v->n, sizeof *list, "tokens by score");
    if (!st) st = gather(v, score, list, &n);
    for (int64_t i = 0; i < n && !st; i++) n_merge += take_apart(v, list[i].id, 0, false);
    if (!st && n_merge && list[0].score == list[n - 1].score)
        st = status_fail(ST_INPUT, "%s: all tokens have the score %g, so they do not say what merges first; convert the model again",
                         v->name, list[0].score);
    if (!st) st = vocabulary_reserve_merges(v, n_merge);
    for (int64_t i = 0; i < n && !st; i++) {
        if (i && list[i].score != list[i - 1].score) rank++;
        take_apart(v, list[i].id, rank, true);
    }
    mem_free(list);
    return st;
}

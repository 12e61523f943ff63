#include "layout/shard.h"

#include <string.h>

#include "base/bisect.h"
#include "base/mem.h"

/* The last segment that begins at or before raw. */
static int64_t segment_of(const shard_t *s, int64_t raw) { return bisect_last(s->segment, 0, s->spec.n_segment - 1, raw); }

/* Spaced gists stay with their unit, so chunks begin where units do. */
static int64_t cut_near(const shard_t *s, int64_t raw) {
    const gist_spec_t *g = &s->spec.gist;
    if (!g->ratio || g->at_end) return raw;
    int64_t begin = s->segment[segment_of(s, raw)];
    return begin + (raw - begin) / g->ratio * g->ratio;
}

int64_t shard_oldest(const shard_t *s, int64_t raw) {
    if (s->spec.raw_chain) return 0;
    const gist_spec_t *g = &s->spec.gist;
    int64_t begin = s->segment[segment_of(s, raw)];
    return g->ratio && !g->at_end ? begin + gist_oldest(g, raw - begin) : begin;
}

/* ---- steps ------------------------------------------------------------------------------------------------------ */

/* Raw rows from .. upto-1 of a segment, and the gists that come with them. NULL steps: only counts. */
static int64_t steps_of_range(const shard_t *s, int64_t segment, int64_t from, int64_t upto, int chunk, shard_step_t *steps) {
    gist_spec_t g = s->spec.gist;
    int64_t n = s->segment[segment + 1] - s->segment[segment], raw = from, gist = g.ratio && !g.at_end ? from / g.ratio : 0, raw_n, gist_n;
    int64_t count = 0;
    if (g.at_end && upto < n) g.ratio = 0; /* they come with the segment's last row */
    for (; gist_step(&g, upto, raw, gist, s->spec.max_row, &raw_n, &gist_n); count++) {
        if (steps)
            steps[count] = (shard_step_t){.segment = segment, .raw = raw, .raw_n = raw_n, .gist = gist, .gist_n = gist_n, .chunk = chunk};
        raw += raw_n;
        gist += gist_n;
    }
    return count;
}

static int64_t steps_of_chunk(const shard_t *s, int c, shard_step_t *steps) {
    int64_t from = s->chunk[c], upto = s->chunk[c + 1], count = 0;
    if (from == upto) return 0;
    for (int64_t g = segment_of(s, from); g < s->spec.n_segment && s->segment[g] < upto; g++) {
        int64_t a = i64_max(from, s->segment[g]) - s->segment[g], b = i64_min(upto, s->segment[g + 1]) - s->segment[g];
        if (a < b) count += steps_of_range(s, g, a, b, c, steps ? steps + count : NULL);
    }
    return count;
}

status_t shard_make(const shard_spec_t *spec, shard_t *out) {
    int n_chunk = 2 * spec->size;
    int64_t n = spec->segment[spec->n_segment];
    *out = (shard_t){.spec = *spec};
    status_t st = mem_alloc(&out->segment, (size_t)spec->n_segment + 1, sizeof *out->segment, "a document's plan");
    if (!st) st = mem_alloc(&out->chunk, (size_t)n_chunk + 1, sizeof *out->chunk, "a document's plan");
    if (!st) st = mem_alloc(&out->first, (size_t)n_chunk + 1, sizeof *out->first, "a document's plan");
    if (st) goto out;
    memcpy(out->segment, spec->segment, (size_t)(spec->n_segment + 1) * sizeof *out->segment);
    out->spec.segment = out->segment;
    for (int c = 0; c <= n_chunk; c++) out->chunk[c] = c == n_chunk ? n : cut_near(out, n / n_chunk * c + n % n_chunk * c / n_chunk);
    out->first[0] = 0;
    for (int c = 0; c < n_chunk; c++) {
        int64_t count = steps_of_chunk(out, c, NULL);
        out->first[c + 1] = out->first[c] + count;
        out->most[c >= spec->size] = i64_max(out->most[c >= spec->size], count);
    }
    if ((st = mem_alloc(&out->steps, (size_t)out->first[n_chunk], sizeof *out->steps, "a document's plan"))) goto out;
    for (int c = 0; c < n_chunk; c++) steps_of_chunk(out, c, out->steps + out->first[c]);
out:
    if (st) shard_free(out);
    return st;
}

void shard_free(shard_t *s) {
    mem_free(s->segment);
    mem_free(s->chunk);
    mem_free(s->first);
    mem_free(s->steps);
    *s = (shard_t){0};
}

const shard_step_t *shard_step(const shard_t *s, int rank, int back, int64_t i) {
    int c = shard_chunk(s, rank, back);
    return i < s->first[c + 1] - s->first[c] ? &s->steps[s->first[c] + i] : NULL;
}

int shard_writer(const shard_t *s, int64_t segment) {
    return shard_owner(s, (int)bisect_last(s->chunk, 0, 2 * s->spec.size - 1, s->segment[segment + 1] - 1));
}

/* ---- who needs what --------------------------------------------------------------------------------------------- */

bool shard_need(const shard_t *s, const shard_step_t *step, int to, int64_t *raw, int64_t *raw_n, int64_t *gist, int64_t *gist_n) {
    int64_t begin = s->segment[step->segment], oldest;
    int later = -1;
    *raw_n = *gist_n = 0;
    for (int back = 0; back < 2 && later < 0; back++) { /* the first rows of `to` behind the step see furthest back */
        int c = shard_chunk(s, to, back);
        if (c > step->chunk && s->chunk[c] < s->chunk[c + 1]) later = c;
    }
    if (later < 0 || shard_owner(s, step->chunk) == to) return false;
    oldest = shard_oldest(s, s->chunk[later]);
    if (s->spec.raw_kept && shard_writer(s, step->segment) == to) oldest = i64_min(oldest, begin);
    *raw = i64_max(step->raw, oldest - begin);
    *raw_n = i64_max(0, step->raw + step->raw_n - *raw);
    *gist = step->gist;
    *gist_n = step->gist_n;
    return *raw_n + *gist_n > 0;
}

int64_t shard_sent_rows(const shard_t *s, int rank) {
    int64_t rows = 0, raw, raw_n, gist, gist_n;
    for (int back = 0; back < 2; back++)
        for (int64_t i = 0; shard_step(s, rank, back, i); i++)
            for (int to = 0; to < s->spec.size; to++)
                if (shard_need(s, shard_step(s, rank, back, i), to, &raw, &raw_n, &gist, &gist_n)) rows += raw_n + gist_n;
    return rows;
}

int64_t shard_ring_rows(const shard_t *s, int rank) {
    int64_t rows = 0;
    for (int back = 0; back < 2; back++) {
        int c = shard_chunk(s, rank, back);
        rows += s->chunk[c + 1] - s->chunk[c];
    }
    return rows * (s->spec.size - 1); /* each rank's rows go once around */
}

/* ---- cost ------------------------------------------------------------------------------------------------------- */

/* Keys that the rows of a step see besides the sink and earlier segments. */
static double keys_inside(const shard_t *s, const shard_step_t *p) {
    const gist_spec_t *g = &s->spec.gist;
    int64_t n = s->segment[p->segment + 1] - s->segment[p->segment], r = g->ratio;
    double keys = 0;
    for (int64_t i = p->raw; i < p->raw + p->raw_n; i++) {
        int64_t oldest = r && !g->at_end ? gist_oldest(g, i) : 0;
        keys += (double)(i + 1 - oldest) + (r && !g->at_end ? (double)(i / r) : 0);
    }
    for (int64_t u = p->gist; u < p->gist + p->gist_n; u++)
        keys += (double)(u + 1) + (double)(g->at_end ? n : (u + 1) * r - gist_oldest(g, u * r));
    return keys;
}

double shard_load(const shard_t *s, const assign_cost_t *c, int rank) {
    double load = 0;
    for (int back = 0; back < 2; back++)
        for (int64_t i = 0; shard_step(s, rank, back, i); i++) {
            const shard_step_t *p = shard_step(s, rank, back, i);
            double rows = (double)(p->raw_n + p->gist_n), seen = (double)c->n_sink;
            for (int64_t g = 0; g < p->segment; g++) {
                int64_t n = s->segment[g + 1] - s->segment[g];
                seen += (double)(s->spec.raw_chain ? n : gist_count(&s->spec.gist, n));
            }
            load += rows * c->row + c->key * (rows * seen + keys_inside(s, p));
        }
    return load;
}

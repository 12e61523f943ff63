/* Documents that ranks share while their devices have less and less memory, each rank other: the store is the one of a rank alone with
 * plenty. First one rank keeps its part in host memory, then all do, until two layers do not fit either: then all ranks are told, or one
 * takes the document. In one job with documents that one rank has, and keeps in host memory or not. */
#include "golden/deep.h"

#include <unistd.h>

#include "parallel.h"

enum { ALL = -1, LONG = 2500, PLENTY = 1 << 30, MOST = 11 << 19, LEAST = 1 << 20, WEIGHTS = 3 << 19 };
static const deep_case_t cases[] = {
    {.layout = LAYOUT_FULL, .segment = 96, .window = ALL, .n_blank = 3},
    {.layout = LAYOUT_FULL, .segment = 4000, .window = ALL}, /* one slice: one rank keeps it */
    {.layout = LAYOUT_FINE_KV, .segment = 60, .ratio = 4, .window = ALL, .n_blank = 2},
    {.layout = LAYOUT_COARSE_KV, .segment = 300, .ratio = 8, .window = ALL},
    {.layout = LAYOUT_UNIGIST, .segment = LONG, .ratio = 8, .window = 16, .n_blank = 4},
};
enum { N_CASE = sizeof cases / sizeof *cases };
static const char *const one[] = {"long.txt", NULL}, *const many[] = {"middle.txt", "long.txt", "short.txt", NULL},
                         *const turns[] = {"long.txt", "short.txt", "middle.txt", "short2.txt", NULL};

static char dir[SCRATCH_PATH];
static comm_t *self;
static size_t taken;

/* Rank 0's folder for all. */
static void make_folder(void) {
    if (*dir) return;
    if (comm->rank == 0) {
        scratch_dir(dir, SCRATCH_DISK);
        deep_make(dir, 0);
        deep_text(dir, "long.txt", LONG, 9);
        deep_text(dir, "middle.txt", comm->size == 2 ? 1400 : 1200, 10); /* a rank's fair share, nearly */
        deep_text(dir, "short.txt", 200, 11);
        deep_text(dir, "short2.txt", 210, 12);
    }
    CU_ASSERT_EQUAL(comm->ops->bcast(comm, 0, dir, sizeof dir), ST_OK);
    CU_ASSERT_EQUAL(comm_self_create(&self), ST_OK);
    taken = device_taken();
}

typedef struct {
    status_t st;
    hash_t digest; /* on rank 0 */
    encode_report_t report;
    int64_t most, least; /* documents that a rank kept in host memory */
    int64_t early;       /* segments that left layer by layer, or pass by pass */
} outcome_t;

/* So much memory on rank 0, and on the others. round_tokens 1: every text is a round. */
static outcome_t encode_unlike(comm_t *on, const deep_case_t *c, const char *const *names, sharding_t shard, size_t memory, size_t theirs) {
    static int64_t number[2];
    char paths[4][SCRATCH_PATH + 64], store[SCRATCH_PATH + 64];
    const char *inputs[4];
    int64_t n, k = number[on == self]++;
    outcome_t o = {0};
    deep_job_t job = {.dir = dir,
                      .comm = on,
                      .inputs = inputs,
                      .store = store,
                      .c = c,
                      .shard = shard,
                      .max_row = 128,
                      .round_tokens = names == turns ? 1 : 0};
    for (; names[job.n_input]; job.n_input++) {
        snprintf(paths[job.n_input], sizeof *paths, "%s/%s", dir, names[job.n_input]);
        inputs[job.n_input] = paths[job.n_input];
    }
    snprintf(store, sizeof store, "%s/store-%s%lld", dir, on == self ? "alone" : "", (long long)k);
    device_limit(taken + (comm->rank ? theirs : memory));
    o.st = deep_encode(&job, &o.report);
    int64_t ends[2] = {o.report.n_spilled, -o.report.n_spilled};
    o.early = o.report.n_early;
    if (on->rank == 0 && !o.st) CU_ASSERT_EQUAL(store_digest(store, &o.digest, &n), ST_OK);
    CU_ASSERT_EQUAL(on->ops->max_i64(on, ends, 2), ST_OK);
    CU_ASSERT_EQUAL(on->ops->sum_i64(on, &o.early, 1), ST_OK);
    o.most = ends[0];
    o.least = -ends[1];
    return o;
}

/* A quarter more on the others. */
static outcome_t encode_on(comm_t *on, const deep_case_t *c, const char *const *names, sharding_t shard, size_t memory) {
    return encode_unlike(on, c, names, shard, memory, memory + memory / 4);
}

/* With plenty, by rank 0 alone. */
static hash_t plenty_of(const deep_case_t *c, const char *const *names) {
    outcome_t o = {0};
    if (comm->rank == 0) {
        o = encode_on(self, c, names, SHARD_NONE, PLENTY);
        CU_ASSERT(!o.st && !o.most && (o.digest.lo | o.digest.hi));
    }
    return o.digest;
}

static void same_as(hash_t want, const outcome_t *got, const char *what, size_t memory) {
    bool same = !got->st && (comm->rank || hash_equal(want, got->digest));
    if (!same) fprintf(stderr, "%s with %zu bytes on %d ranks: %s\n", what, memory, comm->size, got->st ? status_message() : "other bits");
    CU_ASSERT(same);
}

/* Down to where rank 0's part does not fit: no other bits until then, and then all are told. */
static void test_document(void) {
    size_t all = 2 * (size_t)LONG * DEEP_LAYERS * 2 * 16 * sizeof(float); /* K/V of the long text */
    make_folder();
    for (int i = 0; i < N_CASE && comm->size > 1; i += comm->size > 3 ? 4 : 1) {
        hash_t want = plenty_of(&cases[i], one);
        size_t memory = MOST, least = 0;
        int unlike = 0, all_spilled = 0;
        outcome_t got = encode_on(comm, &cases[i], one, SHARD_DOCUMENT, PLENTY);
        CU_ASSERT(got.report.n_sharded == 1 && !got.most);
        CU_ASSERT((got.early > 0) == (i == 1 || i == 4)); /* of one segment, or of one that is the rank's only one */
        while (!got.st && memory > LEAST) {               /* a status is all ranks', so they leave together */
            same_as(want, &got, "a shared document", memory);
            unlike += got.most && !got.least;
            all_spilled += got.least > 0;
            least = memory;
            memory -= memory / 6;
            got = encode_on(comm, &cases[i], one, SHARD_DOCUMENT, memory);
        }
        CU_ASSERT(i || comm->size > 3 || (unlike && all_spilled));
        CU_ASSERT(got.st == ST_FAIL && strstr(status_message(), "ranks share takes"));
        CU_ASSERT(least && (i != 1 || least < all)); /* one rank keeps all of case 1: more than its device has */
    }
}

/* A document that is shared, one that is not and whose K/V go to the host, and one too small for either, in one job. */
static void test_many(void) {
    int both = 0, alone = 0;
    make_folder();
    hash_t want = plenty_of(&cases[0], many);
    for (size_t memory = 7 << 19; memory > LEAST && !alone && comm->size > 1; memory -= memory / 14) {
        outcome_t got = encode_on(comm, &cases[0], many, SHARD_AUTO, memory);
        same_as(want, &got, "three documents", memory);
        if (got.st) break;
        both += got.report.n_sharded && got.most > 1;
        alone += !got.report.n_sharded; /* what does not fit all ranks' devices, one takes */
    }
    CU_ASSERT(comm->size == 1 || comm->size > 3 || (both && alone));
}

/* Shared documents and others by turns, so that K/V go to the host and back. */
static void test_turns(void) {
    make_folder();
    hash_t want = plenty_of(&cases[0], turns);
    outcome_t got = encode_on(comm, &cases[0], turns, SHARD_AUTO, 4 << 20);
    same_as(want, &got, "documents by turns", 4 << 20);
    CU_ASSERT(comm->size == 1 || comm->size > 4 || (got.report.n_sharded == 2 && got.most && got.most < 3));
}

/* Does the log, which has gone to `to` since log_catch, hold these words? It goes where it went before. */
static int log_catch(FILE *to) {
    int was = dup(2);
    fflush(stderr);
    CU_ASSERT(dup2(fileno(to), 2) == 2);
    return was;
}
static bool log_caught(FILE *from, int was, const char *words) {
    char line[1024];
    bool found = false;
    CU_ASSERT(dup2(was, 2) == 2);
    close(was);
    rewind(from);
    while (fgets(line, sizeof line, from)) found |= strstr(line, words) != NULL;
    return found;
}

/* Rank 0 would share a document and keep its part in host memory, but the others cannot: nothing is moved, and nobody says it was. */
static void test_refused(void) {
    static const char words[] = "of K/V are kept here";
    int64_t told[2] = {0, 0};
    make_folder();
    hash_t want = plenty_of(&cases[0], one);
    for (int refused = 0; refused < 2 && comm->size > 1; refused++)
        for (size_t memory = MOST; memory > 5 << 19; memory -= memory / 8) {
            FILE *log = tmpfile();
            int was = log_catch(log);
            outcome_t got = encode_unlike(comm, &cases[0], one, SHARD_AUTO, memory, refused ? WEIGHTS : PLENTY);
            told[refused] += log_caught(log, was, words);
            fclose(log);
            if (!got.st) same_as(want, &got, "a refused document", memory);
            if (!got.st) CU_ASSERT(!refused || !got.report.n_sharded);
        }
    CU_ASSERT_EQUAL(comm->ops->max_i64(comm, told, 2), ST_OK);
    CU_ASSERT(!told[1] && (told[0] || comm->size == 1 || comm->size > 3));
}

static void test_tidy(void) {
    self->ops->close(self);
    CU_ASSERT_EQUAL(comm->ops->barrier(comm), ST_OK); /* rank 0 takes the folder away with it */
}

PARALLEL_MAIN("room", {"document", test_document}, {"many", test_many}, {"turns", test_turns}, {"refused", test_refused},
              {"tidy", test_tidy})

/* The store's records. The first byte picks what the rest is: an index, documents, or a store.json, as it is or with the seals of its lines
 * made good first (or the checksums would keep every change from the parsers behind them). Whatever is accepted lies where it says and is
 * written again as it was. */
#include "base/mem.h"
#include "fuzz.h"
#include "store/document.h"
#include "store/index.h"
#include "store/profile.h"

static const int32_t SINK[2] = {1, 2};
static const store_profile_t PROFILE = {.model_fingerprint = "00112233445566778899aabbccddeeff",
                                        .n_layer = 2,
                                        .n_kv_head = 1,
                                        .d_head = 8,
                                        .n_vocab = 1000,
                                        .layout = "pce",
                                        .segment = 64,
                                        .align = "even",
                                        .n_sink = 2,
                                        .sink = SINK,
                                        .kv_type = DT_BF16,
                                        .act = DT_F32};

/* Each line as it is, but for its seal. Lines without room for one stay as they are. */
static void seal_all(char *text, size_t bytes) {
    for (size_t at = 0, end; at < bytes; at = end) {
        char *newline = memchr(text + at, '\n', bytes - at);
        end = newline ? (size_t)(newline - text) + 1 : bytes;
        if (newline && end - at >= LINE_SEAL) line_seal(text + at, end - at - LINE_SEAL);
    }
}

static void try_index(const char *text, size_t bytes) {
    problems_t found = {0};
    store_file_t f = {0};
    char line[INDEX_LINE_MAX];
    FUZZ_CHECK(index_parse(text, bytes, "fuzz.index", &PROFILE, 0, &found, &f) == ST_OK);
    int64_t end = DATA_HEADER_BYTES;
    for (int64_t i = 0; i < f.n_segment; i++) {
        const store_segment_t *s = &f.segments[i];
        FUZZ_CHECK(s->tokens_offset >= end && s->k_offset >= s->tokens_offset + 4 * (s->n_token + s->n_kept) &&
                   s->kept_offset >= s->tokens_offset);
        FUZZ_CHECK(s->v_offset >= s->k_offset + 2 * PROFILE.n_layer * PROFILE.n_kv_head * PROFILE.d_head * s->n_row);
        end = s->v_offset;
        size_t n = index_segment_line(&PROFILE, s, line);
        FUZZ_CHECK(memmem(text, bytes, line, n));
    }
    FUZZ_CHECK(f.good_bytes <= (int64_t)bytes && f.end >= end && f.n_bad <= found.n);
    mem_free(f.segments);
}

static void try_documents(const char *text, size_t bytes) {
    problems_t found = {0};
    documents_t d = {0}, brief = {.brief = true};
    FUZZ_CHECK(documents_parse(text, bytes, "fuzz.jsonl", &found, &brief) == ST_OK && documents_settle(&brief) == ST_OK);
    documents_free(&brief);
    found.n = 0;
    FUZZ_CHECK(documents_parse(text, bytes, "fuzz.jsonl", &found, &d) == ST_OK);
    int64_t n = d.n;
    FUZZ_CHECK(documents_settle(&d) == ST_OK && d.n <= n && d.n_bad == found.n);
    for (int64_t i = 0; i < d.n; i++) {
        const store_document_t *r = &d.records[i].doc;
        fuzz_touch(r->id, strlen(r->id));
        fuzz_touch(r->source, strlen(r->source));
        fuzz_touch(r->segments, (size_t)r->n_segment * sizeof *r->segments);
    }
    documents_free(&d);
}

static void try_profile(const char *text, size_t bytes) {
    profile_state_t state;
    store_profile_t p;
    fuzz_check_status(profile_parse("store.json", text, bytes, &state, &p));
    if (state == PROFILE_GOOD) {
        FUZZ_CHECK(profile_check(&p, "fuzz") == ST_OK);
        fuzz_touch(p.sink, (size_t)p.n_sink * sizeof *p.sink);
        profile_hash(&p);
    }
    profile_free(&p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    if (!bytes) return 0;
    char *text = malloc(--bytes ? bytes : 1); /* of exactly this size: a byte too far is seen */
    if (bytes) memcpy(text, data + 1, bytes);
    if (data[0] & 4) seal_all(text, bytes);
    if (data[0] % 4 == 0)
        try_index(text, bytes);
    else if (data[0] % 4 == 1)
        try_documents(text, bytes);
    else
        try_profile(text, bytes);
    free(text);
    FUZZ_CHECK(mem_now_bytes() == 0);
    return 0;
}

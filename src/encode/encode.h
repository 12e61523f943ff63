/* The encoding job: a corpus into a store, over any number of ranks. Collective; the store is the progress, so the same call again resumes.
 */
#ifndef ENCODE_ENCODE_H
#define ENCODE_ENCODE_H

#include "encode/kept.h"
#include "encode/round.h"

/* Who takes a document whose segments see each other: one rank; all of them, each some of its rows; all of them when it is more than one
 * rank's fair share of a round. The store's contents are the same. */
typedef enum { SHARD_AUTO, SHARD_NONE, SHARD_DOCUMENT } sharding_t;

typedef struct {
    const char *const *inputs;
    int n_input;
    const char *store_dir;
    store_profile_t profile; /* complete */
    layout_method_t layout;
    kept_t kept;
    sharding_t shard;
    align_t align;
    split_t split;
    bool parse_special;
    bool verify;          /* check the bytes of what is in the store already */
    int64_t max_row;      /* rows per forward pass */
    int64_t round_tokens; /* budget of a round; 0: chosen from ranks and segment */
    double speed; /* of this rank beside the others, in any unit, on all ranks or on none; 0: alike, or measured when backends are unlike */
    bool progress;
    bool watch; /* the report's profile is wanted */
} encode_spec_t;

/* Of rank 0, in seconds: operations of its device; its host's waits for rounds of tokens, for copies out and for the store. */
typedef struct {
    double computing_s, tokens_s, copies_s, store_s;
} encode_profile_t;

typedef struct {
    int64_t n_document, n_segment, n_reused, n_encoded, n_repaired;
    int64_t tokens_encoded, tokens_total, bytes_written; /* over all ranks; bytes of K/V as stored */
    int64_t n_sharded, kv_sent, kv_sent_plan; /* documents that all ranks shared; K/V bytes that went between ranks, and as planned */
    int64_t n_early;                          /* segments of which this rank wrote rows while others were computed */
    int64_t n_spilled;                        /* documents, or parts of them, that this rank kept in host memory */
    double seconds;                           /* wall time of the rounds */
    encode_profile_t profile;
    bool stopped;
} encode_report_t;

/* ST_STOPPED when a signal came; the report is right in any case. */
status_t encode_corpus(model_t *m, const tokenizer_t *tokenizer, comm_t *comm, const encode_spec_t *spec, encode_report_t *report);

/* Tokens in a round: enough segments per rank to balance, but bounded. */
int64_t encode_round_tokens(int n_rank, int64_t segment);

#endif

/* Inside of the encoding job, for its own files only: encode.c runs rounds, share.c encodes what is this rank's, notes.c is what ranks say
 * meanwhile, known.c finds what need not be encoded. */
#ifndef ENCODE_JOB_H
#define ENCODE_JOB_H

#include "base/progress.h"
#include "encode/encode.h"
#include "encode/picker.h"

typedef struct {
    model_t *model;
    backend_t *be;
    const model_config_t *config;
    comm_t *comm;
    const encode_spec_t *spec;
    encode_report_t *report;
    encoder_t *encoder;
    store_writer_t *writer;
    store_t *before; /* rank 0: what the store held at the start */
    hash_t *added;   /* rank 0: sorted addresses that this run has met */
    int64_t n_added, cap_added;
    kv_pool_t buffer[2]; /* K/V of the batch being encoded and of the one being written: [rows] of all pieces one after another */
    int64_t buffer_rows;
    kv_pool_t scratch; /* rows that are computed but not kept: raw ones, or gists */
    /* blockselect */
    picker_t *picker;
    ids_t repeat;         /* what it asks for */
    int64_t picker_rows;  /* longest segment that it takes */
    int32_t *lists[2];    /* lists of kept rows, of the batch being encoded and of the one being written */
    int64_t cap_lists[2]; /* numbers */
    bool chained;         /* segments continue those before them in their document */
    int turn;
    char *host[2]; /* host copies of K/V when the backend's memory is not ours */
    progress_t progress;
    bool stopping, failed_elsewhere;
    int64_t done_ranks, tokens_done, segments_done;
    int64_t kv_sent, kv_sent_plan; /* by this rank, for documents that all ranks share */
    bool released;
} job_t;

/* known.c. Rank 0: items that the store holds, or that came earlier, need no encoding. */
status_t known_mark(job_t *j, round_t *r);
/* Every rank reads back its part of what is stored; segments whose bytes changed are dropped and so encoded again. Collective. */
status_t known_verify(job_t *j, int64_t *n_bad);

/* notes.c */
status_t notes_stop(job_t *j);                                   /* asks all ranks to stop */
status_t notes_take(job_t *j);                                   /* what has come so far */
status_t notes_done(job_t *j, int64_t tokens, int64_t segments); /* this rank encoded so many */
/* Waits until all ranks are done with the round. */
status_t notes_settle(job_t *j);

/* share.c. A document that all ranks share, from item `first` on: each writes the segments whose last row it has. Collective. */
status_t share_document(job_t *j, const round_t *r, int64_t first);
/* Encodes this rank's units (first items of segments, or of chains) and writes them. */
status_t share_encode(job_t *j, const round_t *r, const int64_t *mine, int64_t n);

#endif

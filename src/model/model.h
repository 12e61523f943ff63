/* A model ready to run: dims, tokenizer, and weights packed for a backend; and the forward pass over a batch of rows.
 *
 *     model_file_t *f;  model_file_open(path, &f);              // GGUF file or HF folder: maps, parses, checks; cheap
 *     model_t *m;       model_load(f, backend, comm, &m);       // packs the weights, once per node, shared between its ranks
 *     forward(m, ws, &batch);                                   // rows in, final hidden states out, K/V into pools
 */
#ifndef MODEL_MODEL_H
#define MODEL_MODEL_H

#include "backend/backend.h"
#include "base/hash.h"
#include "comm/comm.h"
#include "io/tensor.h"
#include "model/config.h"
#include "text/tokenizer.h"

/* ---- the files -------------------------------------------------------------------------------------------- */
typedef struct model_file model_file_t;

status_t model_file_open(const char *path, model_file_t **out); /* a .gguf file, or a folder with config.json */
/* A model of these dimensions without a file, its weights random but the same on every machine: for measurements. No tokenizer. */
status_t model_file_random(const model_config_t *c, model_file_t **out);
void model_file_close(model_file_t *f);
const char *model_file_path(const model_file_t *f);
const model_config_t *model_file_config(const model_file_t *f);
/* config_rope_length, before the model is loaded. */
status_t model_file_rope_length(model_file_t *f, int64_t length);
const gguf_t *model_file_gguf(const model_file_t *f); /* NULL for a folder */
/* NULL when there is none that can be read (then commands that need text refuse, those that take ids work); _fault: why not, where a file
 * was meant to hold one. */
const tokenizer_t *model_file_tokenizer(const model_file_t *f);
const char *model_file_tokenizer_fault(const model_file_t *f);
int64_t model_file_n_tensors(const model_file_t *f);
const tensor_t *model_file_tensor(const model_file_t *f, int64_t i);
/* The tokenizer alone, of a folder with tokenizer.json or of a .gguf file: neither dimensions nor weights need be there, or be any that we
 * can run. The caller frees it. */
status_t model_tokenizer_open(const char *path, tokenizer_t **out);
/* Identity of the weights: a hash over config, tensor names, types, shapes and 16 pages spread over each tensor's bytes (reading all of a
 * 16 GB file at every start would cost seconds; a changed or re-quantised model differs in nearly every page). */
hash_t model_file_fingerprint(const model_file_t *f);
/* Bytes that model_load will take per node, and per rank beside that, for plan. */
size_t model_file_packed_bytes(const model_file_t *f, backend_t *be);

/* ---- the loaded model -------------------------------------------------------------------------------------- */
typedef struct model model_t;

/* Collective over comm (all ranks of a node share one packed copy, where they have the same backend). The file must stay open as long as
 * the model. */
status_t model_load(const model_file_t *f, backend_t *be, comm_t *comm, model_t **out);
/* The same with what an adapter (adapter.h) changes; it must stay open as long as the model. NULL: nothing. */
typedef struct adapter adapter_t;
status_t model_load_adapted(const model_file_t *f, const adapter_t *adapter, backend_t *be, comm_t *comm, model_t **out);
const adapter_t *model_adapter(const model_t *m); /* NULL: none */
void model_free(model_t *m);                      /* collective; NULL ok */
const model_config_t *model_config(const model_t *m);
backend_t *model_backend(const model_t *m);
/* Which ranks of the model's communicator have unlike backends, so unlike bits ("rank 0 runs on cuda in bf16, rank 1 on cpu in bf16");
 * NULL: all are alike. */
const char *model_mixed(const model_t *m);
double model_load_s(const model_t *m);

/* ---- the forward pass -------------------------------------------------------------------------------------- */
/* Work space for up to max_row rows at a time; size known before it is made. */
typedef struct forward_ws forward_ws_t;
size_t forward_ws_bytes(const model_config_t *c, dtype_t act, int64_t max_row);
status_t forward_ws_create(model_t *m, int64_t max_row, forward_ws_t **out);
void forward_ws_free(forward_ws_t *ws);
/* Room for n_row (<= max_row of `of`) rows that stay under way while others are worked on: what is needed only during an operation is
 * `of`'s, which must live longer. */
size_t forward_ws_rows_bytes(const model_config_t *c, dtype_t act, int64_t n_row);
status_t forward_ws_rows(forward_ws_t *of, int64_t n_row, forward_ws_t **out);

/* Attention of one layer may be taken over by the caller (queries over a distributed context): q is [n_row][n_head][d_head] act [B], the
 * result goes to o [n_row][n_head][d_head] act [B]. The rows' own K/V are already in their pools, which are b's. */
typedef struct batch batch_t;
typedef status_t (*attend_fn)(void *ctx, const batch_t *b, int layer, const void *q, void *o);

/* Rows whose input is no token's embedding (gists): their token is then any valid id. */
typedef struct {
    int64_t row, n;
    const float *input; /* host [n][d_model], or [1][d_model] for all of them */
    bool alike;         /* they have one input */
} given_t;

/* Rows of gists: an adapter may have linear layers of their own for these. */
typedef struct {
    int64_t row, n;
} gist_rows_t;

struct batch {
    int64_t n_row;           /* <= max_row of the work space */
    const int32_t *tokens;   /* [n_row] */
    const double *positions; /* [n_row] RoPE positions (whole numbers, but linear scaling may make fractions) */
    int n_given;
    const given_t *given;
    int n_gist; /* stretches of gist rows; they need not be told when there is no adapter */
    const gist_rows_t *gists;
    int n_pool, n_run, n_span;
    const kv_pool_t *pools;
    int layer_ring;      /* 0: pools hold all layers; k: only the k at work, layer l's rows where layer l % k would be */
    const run_t *runs;   /* cover every row once */
    const span_t *spans; /* all of block 0, unless attend is given */
    attend_fn attend;    /* NULL: backend attention over the spans */
    void *attend_ctx;
    /* out */
    int64_t n_out; /* rows whose logits are wanted, in the order of out_rows */
    const int64_t *out_rows;
    float *logits;    /* host [n_out][n_vocab], or NULL when n_out is 0 */
    int64_t n_hidden; /* rows whose hidden states, after the last norm, are wanted */
    const int64_t *hidden_rows;
    float *hidden; /* host [n_hidden][d_model] */
};

status_t forward(model_t *m, forward_ws_t *ws, const batch_t *b);
/* The same in steps, for rows whose attention waits for K/V that others compute: forward is begin, then keys (K/V of the rows into their
 * pools) and rest (attention and feed-forward) of every layer, then end (logits). */
status_t forward_begin(forward_ws_t *ws, const batch_t *b);
status_t forward_keys(forward_ws_t *ws, const batch_t *b, int layer);
status_t forward_rest(forward_ws_t *ws, const batch_t *b, int layer);
/* The attention that is not taken over, for those who take it over to see it: also the rows' totals lse [n_row][n_head] [B], or NULL. */
status_t forward_attention(model_t *m, const batch_t *b, int layer, const void *q, void *o, float *lse);
/* [B] [n_row][d_model] between two layers all that the rows are; to be saved, or put back behind forward_begin. */
float *forward_residual(forward_ws_t *ws);
status_t forward_end(forward_ws_t *ws, const batch_t *b);
/* Floating-point operations of the linear layers for one row (2 per weight), without the output rows; and of the output rows. */
double model_flops_row(const model_config_t *c);
double model_flops_logits(const model_config_t *c);

#endif

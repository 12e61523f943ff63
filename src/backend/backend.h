/* The table of operations that a forward pass is made of. cpu_ref.c is the plain oracle; cpu_*.c and cuda/ are the fast ones.
 *
 * Pointers marked [B] are backend memory: obtained from alloc(), offset freely with pointer arithmetic, never dereferenced outside the
 * backend (on a CPU they are ordinary memory). Everything else is host memory. Shapes are outermost first. `act` is the type of activations
 * that feed matrix products: DT_F32, or DT_BF16 (then weights are bf16 too); the residual stream, norms, softmax and all sums are f32
 * always.
 *
 * Determinism, part of the contract: a row of any result depends only on that row's own inputs and on the K/V rows it sees; never on the
 * other rows of the call, how rows are cut into runs or calls, the number of threads, or what invisible memory holds (which may be NaN). So
 * encoding on any number of ranks, in any batches, gives the same bits.
 *
 * One exception: a value of V that is not finite, in a row that the call shows to some row. A row that sees it has NaN (or infinity) there.
 * A row that does not keeps its bits on CPUs and in CUDA's plain kernel; CUDA's tiled kernels may give it NaN too, when it shares a tile
 * with one that does (fewer than ATTN_NEAR rows of a run apart): its probability of 0 times NaN is NaN, and a look at every value of V
 * would be paid by all finite ones.
 *
 * Operations of one backend are issued from one thread, in order; on a device they may be asynchronous: copy_out and sync wait.
 * All may fail with ST_FAIL and a message. Arguments are our own invariants: asserted in debug builds, not checked otherwise.
 */
#ifndef BACKEND_BACKEND_H
#define BACKEND_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/status.h"
#include "layout/span.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A pool of K/V rows: element (layer, head, row, j) of k is at k + ((layer*layer_stride + head*head_stride + row*row_stride + j) elements).
 * Strides are counted in elements; the d_head elements of a row are contiguous. Rows >= n_row must not be read. */
typedef struct {
    void *k, *v;  /* [B], or for a CPU backend also a mapped file */
    dtype_t type; /* DT_F32 or DT_BF16; bf16 pools may be read by an f32 backend, not the other way round */
    int64_t n_row;
    int64_t row_stride, head_stride, layer_stride;
    int32_t
        only_head; /* 0: rows of all K/V heads. h + 1: of K/V head h alone (head_stride 0); a span over it shows the other heads nothing */
} kv_pool_t;
static inline bool kv_pool_serves(const kv_pool_t *p, int kv_head) { return !p->only_head || p->only_head == kv_head + 1; }

/* Attention over spans (methods.md sections 1 and 3). For row t, query head h (its K/V head is h / (n_head / n_kv_head)) and block b, over
 * the keys j that the spans of block b show to the row, with l_j = scale * q.k_j: lse = log sum_j exp(l_j)         o = sum_j exp(l_j - lse)
 * v_j m   = sum_j exp(l_j - lse) l_j   (entropy term)      top[5] = the 5 largest l_j, falling, -inf where there are fewer A block that
 * shows no key to a row gives o = 0, lse = -inf, m = 0, top = -inf. Every element of every wanted output is written for the rows of the
 * runs; blocks that a run's spans do not name count as showing no key. Rows outside all runs are left alone. Runs do not overlap. */
enum { ATTN_TOP = 5, ATTN_NEAR = 192 };
typedef struct {
    int layer;
    int n_head, n_kv_head, d_head;
    float scale;
    int64_t n_row; /* rows of q and of the outputs */
    const void *q; /* [B] act [n_row][n_head][d_head], rotated */
    int n_pool, n_run, n_span, n_block;
    const kv_pool_t *pools; /* [n_pool] */
    const run_t *runs;      /* [n_run] */
    const span_t *spans;    /* [n_span] */
    dtype_t o_type;         /* act, or DT_F32 */
    void *o;                /* [B] o_type [n_block][n_row][n_head][d_head] */
    float *lse;             /* [B] [n_block][n_row][n_head], or NULL */
    float *m;               /* [B] [n_block][n_row][n_head], or NULL */
    float *top;             /* [B] [n_block][n_row][n_head][ATTN_TOP], or NULL */
} attn_args_t;

/* Merge of partial results (methods.md section 1.3), in block order, in f32:  L = log sum_b exp(lse_b),  o = sum_b exp(lse_b - L) o_b,
 * m = sum_b exp(lse_b - L) m_b  (then the entropy of the row is L - m). keep[b][row][head] == 0 leaves a block out for that row and head.
 */
typedef struct {
    int64_t n_row;
    int n_head, d_head, n_block;
    const float *o, *lse, *m; /* [B] [n_block][n_row][n_head]([d_head]); m may be NULL */
    const uint8_t *keep;      /* [B] [n_block][n_row][n_head], or NULL: all */
    dtype_t o_out_type;       /* act or DT_F32 */
    void *o_out;              /* [B] o_out_type [n_row][n_head][d_head] */
    float *lse_out, *m_out;   /* [B] [n_row][n_head], each may be NULL */
} merge_args_t;

/* A weight matrix in the backend's own packing. The packed bytes may be made once per node and shared: a linear_t only refers to them. */
typedef struct linear linear_t;
typedef struct {
    int64_t n_out, n_in; /* y[n_out] = W[n_out][n_in] x[n_in] */
    bool glu;            /* rows 0.. are gates and rows n_out/2.. ups, used by linear_glu alone: a backend may interleave them */
} linear_shape_t;
/* Whatever a backend's linear_t is, it begins with its shape. */
static inline linear_shape_t linear_shape(const linear_t *l) { return *(const linear_shape_t *)(const void *)l; }

/* What follows the q/k/v projection of one layer: bias, per-head norms of q and k (Qwen3), rotation, and the K/V rows put into their pools.
 */
typedef struct {
    int layer;
    int64_t n_row;
    int n_head, n_kv_head, d_head, d_rot; /* d_rot: how many leading elements of a head are rotated (half-split pairs j, j + d_rot/2) */
    const float *qkv;                     /* [B] [n_row][(n_head + 2 n_kv_head) * d_head]: q heads, k heads, v heads */
    const float *bias;                    /* [B] [(n_head + 2 n_kv_head) * d_head], or NULL */
    const float *q_norm, *k_norm;         /* [B] [d_head], or NULL */
    float norm_eps;
    const float *cos_sin; /* [B] [n_row][d_rot]: cos of the d_rot/2 angles of the row's position, then their sines */
    void *q;              /* [B] act [n_row][n_head][d_head] out */
    int n_pool, n_run;
    const kv_pool_t *pools; /* K (rotated) and V of the rows of each run go to run.pool, rows run.index.. ; pool -1: dropped */
    const run_t *runs;
} qkv_args_t;

typedef struct backend backend_t;
typedef struct {
    const char *name; /* "cpu_ref", "cpu", "cuda" */

    /* Backend memory, 256-byte aligned or better; free takes NULL. */
    status_t (*alloc)(backend_t *, size_t bytes, const char *what, void *out_pp);
    void (*free)(backend_t *, void *p);
    status_t (*copy_in)(backend_t *, void *dst /*[B]*/, const void *src, size_t bytes);
    status_t (*copy_out)(backend_t *, void *dst, const void *src /*[B]*/, size_t bytes); /* waits */
    status_t (*sync)(backend_t *);
    /* n stretches of so many bytes inside backend memory, or host_alloc's, in the order of operations; they begin so many bytes apart. */
    status_t (*copy_rows)(backend_t *, void *dst /*[B]*/, size_t dst_stride, const void *src /*[B]*/, size_t src_stride, size_t bytes,
                          int64_t n);
    /* Host memory that a device copies from and to without staging (pinned); ordinary memory on a CPU. host_free takes NULL. */
    status_t (*host_alloc)(backend_t *, size_t bytes, const char *what, void *out_pp);
    void (*host_free)(backend_t *, void *p);
    /* A copy out of what the operations issued so far leave, beside the operations that follow; dst comes from host_alloc. It is there when
     * copy_out_wait returns for its ticket (tickets rise; waiting for one waits for those before it). Until then src must stay as it is. */
    status_t (*copy_out_start)(backend_t *, void *dst, const void *src /*[B]*/, size_t bytes, int64_t *ticket);
    status_t (*copy_out_wait)(backend_t *, int64_t ticket);
    /* The same of n stretches of so many bytes that begin `stride` bytes apart, there as here, by one ticket. */
    status_t (*copy_out_rows_start)(backend_t *, void *dst, const void *src /*[B]*/, size_t bytes, size_t stride, int64_t n,
                                    int64_t *ticket);
    /* The other way: it begins when the operations issued so far are done, those issued after copy_in_wait for its ticket (or a copy out's)
     * come after it, and the host waits for neither. src comes from host_alloc and must stay as it is until a copy out that started later
     * is there, or sync. All started copies, in and out, happen in the order in which they were started. */
    status_t (*copy_in_start)(backend_t *, void *dst /*[B]*/, const void *src, size_t bytes, int64_t *ticket);
    status_t (*copy_in_wait)(backend_t *, int64_t ticket);
    /* Marks among the operations: mark puts one behind those issued so far, mark_seconds tells the time between two, and waits for them. */
    status_t (*mark)(backend_t *, int64_t *mark);
    status_t (*mark_seconds)(backend_t *, int64_t from, int64_t to, double *seconds);
    /* Bytes of backend memory that alloc could still give, and all there are; SIZE_MAX: as much as the host has. */
    void (*memory_left)(backend_t *, size_t *left, size_t *total);

    /* Linear layers. pack writes linear_bytes() bytes at `packed` [B] from W in f32 or bf16 rows (row r at w + r*n_in); rows may be given
     * in several calls, row0 upward in multiples of 64 (but for the end); a weight is complete after its last row. Not thread-safe on one
     * weight; w may also be [B]. On a backend with host_memory several threads may pack different weights at once, when w_type is act and
     * linear_bytes of the shape was asked before. */
    size_t (*linear_bytes)(backend_t *, linear_shape_t);
    status_t (*linear_pack)(backend_t *, linear_shape_t, void *packed, int64_t row0, int64_t n_row, dtype_t w_type, const void *w);
    status_t (*linear_open)(backend_t *, linear_shape_t, const void *packed, linear_t **out); /* borrows packed */
    void (*linear_close)(backend_t *, linear_t *);
    /* y[n_row][n_out] f32 = x W^T, or y += x W^T when `add`. x is act [n_row][n_in]. */
    status_t (*linear)(backend_t *, const linear_t *, int64_t n_row, const void *x, float *y, bool add);
    /* linear followed by silu_mul, for a weight whose shape says glu: y act [n_row][n_out/2]. wide: [B] work space of f32 [n_row][n_out]. y
     * must not overlap x. The bits are those of one row alone, as everywhere. */
    status_t (*linear_glu)(backend_t *, const linear_t *, int64_t n_row, const void *x, float *wide, void *y);
    /* linear followed by qkv; wide is work space as above and stands in for a->qkv. a->q must not overlap x. */
    status_t (*linear_qkv)(backend_t *, const linear_t *, const void *x, float *wide, const qkv_args_t *a);

    /* x[n_row][d] f32 = table[token]; table is f32 or bf16 [n_vocab][d] [B]; tokens are host memory, each in [0, n_vocab). */
    status_t (*embed)(backend_t *, int64_t n_row, int64_t d, const int32_t *tokens, dtype_t table_type, const void *table, float *x);
    /* cos_sin [n_row][d_rot] for the rows' positions: angle j is position * inv_freq[j], in double; both are times scale. positions [n_row]
     * and inv_freq [d_rot/2] are host memory. */
    status_t (*rope)(backend_t *, int64_t n_row, int64_t d_rot, const double *positions, const double *inv_freq, double scale,
                     float *cos_sin);
    /* y act [n_row][d] = w * x / sqrt(mean(x^2) + eps) */
    status_t (*rmsnorm)(backend_t *, int64_t n_row, int64_t d, const float *x, const float *w, float eps, void *y);
    /* y act [n_row][d] = silu(gu[.., 0:d]) * gu[.., d:2d];  gu f32 [n_row][2d] */
    status_t (*silu_mul)(backend_t *, int64_t n_row, int64_t d, const float *gu, void *y);
    status_t (*qkv)(backend_t *, const qkv_args_t *);
    status_t (*attention)(backend_t *, const attn_args_t *);
    status_t (*merge)(backend_t *, const merge_args_t *);
    /* dst f32 [n][d] = src f32 rows idx[0..n) (host indices) of [..][d]: picks the rows whose logits are wanted */
    status_t (*gather_rows)(backend_t *, int64_t n, int64_t d, const int64_t *idx, const float *src, float *dst);
    /* dst (any of F32/BF16/F16) = src (act or f32), n elements */
    status_t (*convert)(backend_t *, size_t n, dtype_t dst_type, void *dst, dtype_t src_type, const void *src);
    /* dst[i] = backend_random(seed, first + i) * scale in act, n elements: weights for measurements, made where they are used */
    status_t (*fill)(backend_t *, uint64_t seed, size_t first, float scale, size_t n, void *dst);
    /* Operations from now on leave n of the device's multiprocessors to others (messages beside them); their bits are the same. CPUs have
     * none. */
    void (*leave)(backend_t *, int n);
    /* What this machine can do at best, measured now: bf16 (or f32) matrix products in flop/s, copies in bytes read and written per s. */
    status_t (*ceilings)(backend_t *, double *flops, double *bytes);
    void (*destroy)(backend_t *);
} backend_ops_t;

/* A number in [-1, 1), the same on every backend. */
#ifdef __CUDACC__
__host__ __device__
#endif
    static inline float
    backend_random(uint64_t seed, uint64_t i) {
    uint64_t z = seed + (i + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (float)((int32_t)(z >> 32) >> 8) * 0x1p-23f; /* 24 bits: exact */
}

struct backend {
    const backend_ops_t *ops;
    dtype_t act;      /* DT_F32 or DT_BF16 */
    bool host_memory; /* [B] memory is ordinary memory of this process: mapped files and shared memory may be used as it is */
    int n_threads;
    char detail[160]; /* what was chosen and why, for the log: "cpu, bf16, AVX-512 BF16 kernels, oneDNN 2.6.3" */
};

/* act: DT_F32 or DT_BF16. n_threads >= 1. The CPU backends; cuda/ has its own create with the same shape. */
status_t backend_create_cpu_ref(dtype_t act, int n_threads, backend_t **out);
status_t backend_create_cpu(dtype_t act, int n_threads, backend_t **out);
/* The best rate of a few products of square matrices, in flop/s. */
status_t backend_product_rate(backend_t *be, int64_t side, int tries, double *flops);
/* rope's table on the host; cos_sin is host memory. */
void backend_rope(int64_t n_row, int64_t d_rot, const double *positions, const double *inv_freq, double scale, float *cos_sin);
/* Is bf16 fast on this CPU (bf16 dot products and a GEMM that uses them)? decides --dtype auto. */
bool backend_cpu_has_bf16(void);

#ifdef __cplusplus
}
#endif
#endif

// Life of the backend: device, stream, memory, copies, and the table of operations.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "common.cuh"
#include "cuda_backend.h"

enum { RING_BYTES = 8 << 20 };
static const size_t WORK_BYTES = (size_t)32 << 20;

status_t cuda_failed(cudaError_t e, const char *what) {
    return status_fail(ST_FAIL, "GPU: %s: %s; run with PRECIS_CUDA_ATTENTION=ref or --backend cpu to see whether the GPU is at fault", what,
                       cudaGetErrorString(e));
}

static status_t alloc_cuda(backend_t *bb, size_t bytes, const char *what, void *out_pp) {
    size_t free_bytes = 0, total = 0;
    void *p = NULL;
    (void)bb;
    if (bytes) {
        cudaError_t e = cudaMalloc(&p, bytes);
        if (e != cudaSuccess) {
            cudaGetLastError();
            cudaMemGetInfo(&free_bytes, &total);
            return status_fail(
                ST_FAIL,
                "GPU: no memory for %s: %.2f GiB wanted, %.2f of %.2f GiB free; use shorter segments, smaller batches or more GPUs", what,
                (double)bytes / 0x1p30, (double)free_bytes / 0x1p30, (double)total / 0x1p30);
        }
    }
    *(void **)out_pp = p;
    return ST_OK;
}
static void free_cuda(backend_t *, void *p) {
    if (p) cudaFree(p); // waits for what is under way
}
static status_t copy_in_cuda(backend_t *bb, void *dst, const void *src, size_t bytes) {
    cuda_backend_t *b = cuda_of(bb);
    if (!bytes) return ST_OK;
    if (bytes <= RING_BYTES / 8) { // small: staged, so that neither side waits
        void *staged = NULL;
        ST_TRY(cuda_upload(b, src, bytes, &staged));
        CUDA_TRY(cudaMemcpyAsync(dst, staged, bytes, cudaMemcpyDefault, b->stream));
        return ST_OK;
    }
    CUDA_TRY(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDefault, b->stream));
    CUDA_TRY(cudaStreamSynchronize(b->stream));
    return ST_OK;
}
static status_t copy_out_cuda(backend_t *bb, void *dst, const void *src, size_t bytes) {
    if (bytes) CUDA_TRY(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDefault, cuda_of(bb)->stream));
    CUDA_TRY(cudaStreamSynchronize(cuda_of(bb)->stream));
    return ST_OK;
}
static status_t sync_cuda(backend_t *bb) {
    CUDA_TRY(cudaStreamSynchronize(cuda_of(bb)->stream));
    return ST_OK;
}

// Wider strides than a copy of rows takes go stretch by stretch.
static status_t rows_copy(void *dst, size_t dst_stride, const void *src, size_t src_stride, size_t bytes, int64_t n, cudaMemcpyKind kind,
                          cudaStream_t stream) {
    bool together = n > 1 && dst_stride <= INT32_MAX && src_stride <= INT32_MAX;
    if (!bytes || !n) return ST_OK;
    if (together) CUDA_TRY(cudaMemcpy2DAsync(dst, dst_stride, src, src_stride, bytes, (size_t)n, kind, stream));
    for (int64_t i = 0; i < n && !together; i++)
        CUDA_TRY(cudaMemcpyAsync((char *)dst + i * dst_stride, (const char *)src + i * src_stride, bytes, kind, stream));
    return ST_OK;
}
static status_t copy_rows_cuda(backend_t *bb, void *dst, size_t dst_stride, const void *src, size_t src_stride, size_t bytes, int64_t n) {
    cuda_of(bb)->behind_copy = true;
    return rows_copy(dst, dst_stride, src, src_stride, bytes, n, cudaMemcpyDefault, cuda_of(bb)->stream);
}

// ---- copies beside the operations -----------------------------------------------------------------------------------
// Large memory is made of large pages by all threads and pinned then, ten times as fast as cudaMallocHost makes it.
static status_t host_large(size_t bytes, const char *what, void **out) {
    ST_TRY(mem_alloc(out, bytes, 1, what));
    mem_touch(*out, bytes);
    cudaError_t e = cudaHostRegister(*out, bytes, cudaHostRegisterDefault);
    if (e == cudaSuccess) return ST_OK;
    mem_free(*out);
    *out = NULL;
    return cuda_failed(e, what);
}
static status_t host_alloc_cuda(backend_t *, size_t bytes, const char *what, void *out_pp) {
    void *p = NULL;
    *(void **)out_pp = NULL;
    if (bytes >= MEM_LARGE ? host_large(bytes, what, &p) != ST_OK : bytes && cudaMallocHost(&p, bytes) != cudaSuccess) {
        cudaGetLastError();
        return status_fail(ST_FAIL, "no pinned host memory for %s: %.2f GiB wanted; use smaller batches or a machine with more memory",
                           what, (double)bytes / 0x1p30);
    }
    *(void **)out_pp = p;
    return ST_OK;
}
static void host_free_cuda(backend_t *, void *p) {
    if (!p) return;
    if (cudaHostUnregister(p) == cudaSuccess) return mem_free(p);
    cudaGetLastError(); // not of host_large
    cudaFreeHost(p);
}
// n stretches of so many bytes, `stride` apart.
static status_t copy_start(cuda_backend_t *b, void *dst, const void *src, size_t bytes, size_t stride, int64_t n, cudaMemcpyKind kind,
                           int64_t *ticket) {
    CUDA_TRY(cudaEventRecord(b->issued, b->stream));
    CUDA_TRY(cudaStreamWaitEvent(b->copies, b->issued, 0));
    ST_TRY(rows_copy(dst, stride, src, stride, bytes, n, kind, b->copies));
    *ticket = ++b->ticket;
    CUDA_TRY(cudaEventRecord(b->copied[*ticket % N_TICKET], b->copies));
    return ST_OK;
}
static status_t copy_out_start_cuda(backend_t *bb, void *dst, const void *src, size_t bytes, int64_t *ticket) {
    return copy_start(cuda_of(bb), dst, src, bytes, bytes, 1, cudaMemcpyDeviceToHost, ticket);
}
static status_t copy_out_rows_start_cuda(backend_t *bb, void *dst, const void *src, size_t bytes, size_t stride, int64_t n,
                                         int64_t *ticket) {
    return copy_start(cuda_of(bb), dst, src, bytes, stride, n, cudaMemcpyDeviceToHost, ticket);
}
static status_t copy_out_wait_cuda(backend_t *bb, int64_t ticket) { // an event used again stands for a later copy: waiting longer is right
    if (ticket) CUDA_TRY(cudaEventSynchronize(cuda_of(bb)->copied[ticket % N_TICKET]));
    return ST_OK;
}
static status_t copy_in_start_cuda(backend_t *bb, void *dst, const void *src, size_t bytes, int64_t *ticket) {
    return copy_start(cuda_of(bb), dst, src, bytes, bytes, 1, cudaMemcpyHostToDevice, ticket);
}
static status_t copy_in_wait_cuda(backend_t *bb, int64_t ticket) {
    if (ticket) CUDA_TRY(cudaStreamWaitEvent(cuda_of(bb)->stream, cuda_of(bb)->copied[ticket % N_TICKET], 0));
    cuda_of(bb)->behind_copy = true;
    return ST_OK;
}
static status_t mark_cuda(backend_t *bb, int64_t *mark) {
    cuda_backend_t *b = cuda_of(bb);
    ST_TRY(mem_room(&b->marks, b->n_mark, &b->cap_mark, sizeof *b->marks, "marks of a profile"));
    CUDA_TRY(cudaEventCreate(&b->marks[b->n_mark]));
    *mark = b->n_mark++;
    CUDA_TRY(cudaEventRecord(b->marks[*mark], b->stream));
    return ST_OK;
}
static status_t mark_seconds_cuda(backend_t *bb, int64_t from, int64_t to, double *seconds) {
    cuda_backend_t *b = cuda_of(bb);
    float ms = 0;
    CUDA_TRY(cudaEventSynchronize(b->marks[to]));
    CUDA_TRY(cudaEventElapsedTime(&ms, b->marks[from], b->marks[to]));
    *seconds = 1e-3 * (double)ms;
    return ST_OK;
}
static void memory_left_cuda(backend_t *, size_t *left, size_t *total) {
    const char *most = getenv("PRECIS_CUDA_MEMORY"); // bytes: as if the card had no more, to test plans
    if (cudaMemGetInfo(left, total) != cudaSuccess) *left = *total = 0;
    if (!most) return;
    size_t cap = (size_t)strtoull(most, NULL, 10), used = *total - *left;
    *total = cap < *total ? cap : *total;
    *left = *total > used ? *total - used : 0;
}

// ---- small host arrays on their way to the device -------------------------------------------------------------------
static void ring_free(char **host, char **dev) {
    if (*host) cudaFreeHost(*host);
    cudaFree(*dev);
    *host = *dev = NULL;
}
static status_t ring_make(cuda_backend_t *b, size_t bytes) {
    if (b->ring_host) CUDA_TRY(cudaStreamSynchronize(b->stream));
    ring_free(&b->old_host, &b->old_dev);
    b->old_host = b->ring_host;
    b->old_dev = b->ring_dev;
    b->ring_host = b->ring_dev = NULL;
    CUDA_TRY(cudaMallocHost((void **)&b->ring_host, bytes));
    ST_TRY(alloc_cuda(&b->base, bytes, "uploads", &b->ring_dev));
    b->ring_bytes = bytes;
    b->ring_at = 0;
    return ST_OK;
}

status_t cuda_upload(cuda_backend_t *b, const void *src, size_t bytes, void *out_pp) {
    size_t take = size_round_up(bytes, 256);
    if (take > b->ring_bytes / 4) ST_TRY(ring_make(b, take * 8));
    if (b->ring_at + take > b->ring_bytes) { // once around: what was uploaded before may still be read
        CUDA_TRY(cudaStreamSynchronize(b->stream));
        b->ring_at = 0;
    }
    if (bytes) {
        memcpy(b->ring_host + b->ring_at, src, bytes);
        CUDA_TRY(cudaMemcpyAsync(b->ring_dev + b->ring_at, b->ring_host + b->ring_at, bytes, cudaMemcpyHostToDevice, b->stream));
        b->behind_copy = true;
    }
    *(void **)out_pp = b->ring_dev + b->ring_at;
    b->ring_at += take;
    return ST_OK;
}

status_t cuda_upload_pass(cuda_backend_t *b, const kv_pool_t *pools, int n_pool, const run_t *runs, int n_run, const kv_pool_t **pools_out,
                          const run_t **runs_out) {
    size_t p = sizeof *pools * (size_t)n_pool, r = sizeof *runs * (size_t)n_run, bytes = p + r;
    if (bytes > b->pass_cap) {
        CUDA_TRY(cudaStreamSynchronize(b->stream));
        mem_free(b->pass_host);
        cudaFree(b->pass_dev);
        b->pass_host = b->pass_dev = NULL;
        b->pass_cap = b->pass_bytes = 0;
        size_t cap = size_round_up(2 * bytes, 4096);
        ST_TRY(mem_alloc(&b->pass_host, cap, 1, "pools of a pass"));
        ST_TRY(alloc_cuda(&b->base, cap, "pools of a pass", &b->pass_dev));
        b->pass_cap = cap;
    }
    *pools_out = (const kv_pool_t *)b->pass_dev;
    *runs_out = (const run_t *)(b->pass_dev + p);
    if (bytes == b->pass_bytes && !memcmp(b->pass_host, pools, p) && !memcmp(b->pass_host + p, runs, r)) return ST_OK;
    memcpy(b->pass_host, pools, p);
    memcpy(b->pass_host + p, runs, r);
    b->pass_bytes = bytes;
    void *staged;
    ST_TRY(cuda_upload(b, b->pass_host, bytes, &staged));
    CUDA_TRY(cudaMemcpyAsync(b->pass_dev, staged, bytes, cudaMemcpyDeviceToDevice, b->stream));
    return ST_OK;
}

status_t cuda_scratch(cuda_backend_t *b, size_t bytes, void *out_pp) {
    if (bytes > b->scratch_bytes) {
        if (b->scratch) cudaFree(b->scratch);
        b->scratch = NULL;
        b->scratch_bytes = 0;
        ST_TRY(alloc_cuda(&b->base, bytes, "scratch", &b->scratch));
        b->scratch_bytes = bytes;
    }
    *(void **)out_pp = b->scratch;
    return ST_OK;
}

// ---- life -----------------------------------------------------------------------------------------------------------
static void destroy_cuda(backend_t *bb) {
    if (!bb) return;
    cuda_backend_t *b = cuda_of(bb);
    if (b->stream) cudaStreamSynchronize(b->stream);
    if (b->copies) cudaStreamSynchronize(b->copies);
    if (b->issued) cudaEventDestroy(b->issued);
    for (int i = 0; i < N_TICKET; i++)
        if (b->copied[i]) cudaEventDestroy(b->copied[i]);
    for (int64_t i = 0; i < b->n_mark; i++) cudaEventDestroy(b->marks[i]);
    mem_free(b->marks);
    if (b->copies) cudaStreamDestroy(b->copies);
    attention_free_cache(b);
    linear_free_plans(b);
    if (b->lt) cublasLtDestroy(b->lt);
    cudaFree(b->work);
    cudaFree(b->scratch);
    ring_free(&b->ring_host, &b->ring_dev);
    ring_free(&b->old_host, &b->old_dev);
    mem_free(b->pass_host);
    cudaFree(b->pass_dev);
    cudaFree(b->counter);
    if (b->stream) cudaStreamDestroy(b->stream);
    mem_free(b);
}

static void leave_cuda(backend_t *bb, int n) {
    cuda_backend_t *b = cuda_of(bb);
    b->n_sm = b->n_sm_all - (n < b->n_sm_all ? n : 0);
}

static const backend_ops_t ops_cuda = {
    "cuda",
    alloc_cuda,
    free_cuda,
    copy_in_cuda,
    copy_out_cuda,
    sync_cuda,
    copy_rows_cuda,
    host_alloc_cuda,
    host_free_cuda,
    copy_out_start_cuda,
    copy_out_wait_cuda,
    copy_out_rows_start_cuda,
    copy_in_start_cuda,
    copy_in_wait_cuda,
    mark_cuda,
    mark_seconds_cuda,
    memory_left_cuda,
    linear_bytes_cuda,
    linear_pack_cuda,
    linear_open_cuda,
    linear_close_cuda,
    linear_cuda,
    linear_glu_cuda,
    linear_qkv_cuda,
    embed_cuda,
    rope_cuda,
    rmsnorm_cuda,
    silu_mul_cuda,
    qkv_cuda,
    attention_cuda,
    merge_cuda,
    gather_rows_cuda,
    convert_cuda,
    fill_cuda,
    leave_cuda,
    ceilings_cuda,
    destroy_cuda,
};

static status_t choose_family(cuda_backend_t *b) {
    const char *wish = getenv("PRECIS_CUDA_ATTENTION");
    bool hopper = b->cc == 90 && attention_sm90_built(b);
    b->attn_family = hopper ? 90 : b->cc >= 80 ? 80 : 0;
    b->gemm_sm90 = hopper && !getenv("PRECIS_CUDA_LIBRARY_GEMM"); // set: cuBLASLt alone, for comparison
    if (!wish || !*wish) return ST_OK;
    int f = !strcmp(wish, "ref") ? 0 : !strcmp(wish, "sm80") ? 80 : !strcmp(wish, "sm90") ? 90 : -1;
    if (f < 0) return status_fail(ST_USAGE, "PRECIS_CUDA_ATTENTION=%s: ref, sm80 and sm90 are known; set one of these, or none", wish);
    if (f > b->cc || (f == 90 && !hopper))
        return status_fail(ST_USAGE, "PRECIS_CUDA_ATTENTION=%s: not for compute capability %d.%d, or not built in (CUDA_ARCH); unset it",
                           wish, b->cc / 10, b->cc % 10);
    b->attn_family = f;
    return ST_OK;
}

static status_t setup(cuda_backend_t *b) {
    cudaDeviceProp prop;
    CUDA_TRY(cudaSetDevice(b->device));
    CUDA_TRY(cudaGetDeviceProperties(&prop, b->device));
    b->cc = prop.major * 10 + prop.minor;
    b->n_sm = b->n_sm_all = prop.multiProcessorCount;
    b->l2_bytes = (size_t)prop.l2CacheSize;
    if (b->base.act == DT_BF16 && b->cc < 80)
        return status_fail(ST_FAIL, "GPU %d (%s) has no bf16 matrix units; use --dtype f32 or another GPU", b->device, prop.name);
    CUDA_TRY(cudaStreamCreateWithFlags(&b->stream, cudaStreamNonBlocking));
    CUDA_TRY(cudaStreamCreateWithFlags(&b->copies, cudaStreamNonBlocking));
    CUDA_TRY(cudaEventCreateWithFlags(&b->issued, cudaEventDisableTiming));
    for (int i = 0; i < N_TICKET; i++) CUDA_TRY(cudaEventCreateWithFlags(&b->copied[i], cudaEventDisableTiming));
    cublasStatus_t s = cublasLtCreate(&b->lt);
    if (s) return status_fail(ST_FAIL, "cuBLASLt does not start: %s; check driver and library versions", cublasLtGetStatusString(s));
    ST_TRY(alloc_cuda(&b->base, WORK_BYTES, "the GEMM workspace", &b->work));
    b->work_bytes = WORK_BYTES;
    ST_TRY(alloc_cuda(&b->base, N_COUNTER * sizeof *b->counter, "work counters", &b->counter));
    CUDA_TRY(cudaMemset(b->counter, 0, N_COUNTER * sizeof *b->counter));
    ST_TRY(ring_make(b, RING_BYTES));
    ST_TRY(choose_family(b));
    snprintf(b->base.detail, sizeof b->base.detail, "cuda, %s, device %d: %.60s, %d multiprocessors, attention %s", dtype_name(b->base.act),
             b->device, prop.name, b->n_sm,
             b->base.act == DT_F32 || !b->attn_family ? "plain"
             : b->attn_family == 90                   ? "wgmma"
                                                      : "mma.sync");
    return ST_OK;
}

void *backend_cuda_stream(backend_t *be) { return cuda_of(be)->stream; }
int backend_cuda_device(const backend_t *be) { return ((const cuda_backend_t *)be)->device; }
status_t backend_cuda_identity(backend_t *be, unsigned char out[16]) {
    cudaDeviceProp prop;
    CUDA_TRY(cudaGetDeviceProperties(&prop, cuda_of(be)->device));
    memcpy(out, prop.uuid.bytes, 16);
    return ST_OK;
}

int backend_cuda_devices(void) {
    int n = 0;
    if (cudaGetDeviceCount(&n) == cudaSuccess) return n;
    cudaGetLastError();
    return 0;
}

status_t backend_create_cuda(dtype_t act, int device, backend_t **out) {
    cuda_backend_t *b;
    int n = backend_cuda_devices();
    *out = NULL;
    if (!n) return status_fail(ST_FAIL, "no usable GPU: no driver, or no device is visible; use --backend cpu");
    if (device < 0 || device >= n)
        return status_fail(ST_USAGE, "GPU %d does not exist, there are %d; choose one of 0..%d", device, n, n - 1);
    ST_TRY(mem_zalloc(&b, 1, sizeof *b, "the GPU backend"));
    b->base.ops = &ops_cuda;
    b->base.act = act;
    b->base.n_threads = 1;
    b->device = device;
    status_t st = setup(b);
    if (st) {
        destroy_cuda(&b->base);
        return st;
    }
    *out = &b->base;
    return ST_OK;
}

/* The one place of src/ that knows what was compiled in: HAVE_MPI, HAVE_CUDA, HAVE_ONEDNN and the versions of libraries. */
#include "cli/registry.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <cjson/cJSON.h>
#include <pcre2.h>
#include <utf8proc.h>
#include <xxhash.h>
#include <zlib.h>
#include <zstd.h>
#ifdef HAVE_ONEDNN
#include <oneapi/dnnl/dnnl.h>
#endif
#ifdef HAVE_MPI
#include "mpi/launch.h"
#endif
#ifdef HAVE_CUDA
#include "cuda/cuda_backend.h"
#endif

#include "base/mem.h"
#include "version.h"

/* The number in the first of these variables that is set, or fallback. */
static int number_in_environment(const char *const *names, int fallback) {
    for (; *names; names++) {
        const char *s = getenv(*names);
        if (s && isdigit((unsigned char)*s)) return atoi(s);
    }
    return fallback;
}

void registry_launch(int *rank, int *size) {
    static const char *const rank_names[] = {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK", NULL};
    static const char *const size_names[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", NULL};
    *rank = number_in_environment(rank_names, 0);
    *size = number_in_environment(size_names, 1);
}

status_t registry_comm_open(comm_t **out) {
#ifdef HAVE_MPI
    if (launch_under_mpi()) return launch_comm(out);
#else
    int rank, size;
    registry_launch(&rank, &size);
    if (size > 1) {
        *out = NULL;
        return status_fail(
            ST_USAGE, "started as %d processes, but this program was built without MPI; build it where mpicc is found, or start it once",
            size);
    }
#endif
    return comm_self_create(out);
}

void registry_comm_close(comm_t *c) {
    if (c) c->ops->close(c);
#ifdef HAVE_MPI
    launch_finalize();
#endif
}

void registry_warn_launch(const comm_t *c, int n_threads) {
#ifdef HAVE_MPI
    launch_warn_alone(c);
    launch_warn_threads(c, n_threads);
#else
    (void)c;
    (void)n_threads;
#endif
}

/* ---- backends
 * -------------------------------------------------------------------------------------------------------------------------------- */

static int gpu_count(void) {
#ifdef HAVE_CUDA
    return backend_cuda_devices();
#else
    return 0;
#endif
}

status_t registry_gpu_choose(const char *name, comm_t *comm, int *gpu) {
    unsigned char *takes;
    *gpu = 0;
    if (comm->node_size == 1) return ST_OK;
    status_t st = comm->ops->shared_alloc(comm, (size_t)comm->node_size, &takes);
    if (st) return st;
    takes[comm->node_rank] = !strcmp(name, "cuda") || (!strcmp(name, "auto") && gpu_count() > 0);
    st = comm->ops->node_barrier(comm);
    for (int r = 0; r < comm->node_rank && !st; r++) *gpu += takes[r];
    if (!st) st = comm->ops->node_barrier(comm); /* all have counted */
    comm->ops->shared_free(comm, takes);
    return st;
}

static status_t create_cuda(dtype_t act, int gpu, bool wanted, backend_t **out) {
#ifdef HAVE_CUDA
    int n_device = gpu_count();
    if (n_device > 0) return backend_create_cuda(act, gpu % n_device, out);
    *out = NULL;
    return wanted ? status_fail(ST_FAIL, "--backend cuda: no GPU can be used here; run on a node with one, or take --backend cpu") : ST_OK;
#else
    (void)act;
    (void)gpu;
    *out = NULL;
    return wanted ? status_fail(ST_USAGE,
                                "--backend cuda: this program was built without CUDA; build it where nvcc is found, or take --backend cpu")
                  : ST_OK;
#endif
}

status_t registry_backend_create(const char *name, dtype_t act, int n_threads, int gpu, backend_t **out) {
    bool any = !strcmp(name, "auto");
    *out = NULL;
    if (!strcmp(name, "cpu_ref")) return backend_create_cpu_ref(act, n_threads, out);
    if (any || !strcmp(name, "cuda")) {
        status_t st = create_cuda(act, gpu, !any, out);
        if (st || *out) return st;
    }
    return backend_create_cpu(act, n_threads, out);
}

/* What a rank's GPU is known by; zeros: none. */
static status_t gpu_identity(backend_t *be, unsigned char out[16]) {
    memset(out, 0, 16);
#ifdef HAVE_CUDA
    if (!strcmp(be->ops->name, "cuda")) return backend_cuda_identity(be, out);
#else
    (void)be;
#endif
    return ST_OK;
}

/* Two ranks whose GPU is the same; -1: none. ids: [size][16], zeros for ranks without one. */
static int twin(const unsigned char *ids, int size, int rank) {
    static const unsigned char none[16];
    for (int r = 0; r < size; r++)
        if (r != rank && memcmp(ids + 16 * rank, none, 16) && !memcmp(ids + 16 * rank, ids + 16 * r, 16)) return r;
    return -1;
}

#ifdef HAVE_NCCL
/* PRECIS_NCCL_CTAS=BLOCKS[:FREE]: blocks that messages beside computing take (0: as many as NCCL likes), and multiprocessors that the
 * kernels beside them leave free. Few blocks are fast enough; without free ones messages wait for the end of a kernel (SPEED.md). */
static status_t nccl_blocks(int *n_cta, int *n_free) {
    const char *wish = getenv("PRECIS_NCCL_CTAS");
    int n = 0;
    *n_cta = 4;
    *n_free = wish ? 0 : 4;
    if (!wish) return ST_OK;
    int got = sscanf(wish, "%3d%n:%3d%n", n_cta, &n, n_free, &n);
    if (got < 1 || wish[n] || *n_cta < 0 || *n_cta > 64 || *n_free < 0 || *n_free > 64)
        return status_fail(ST_USAGE, "PRECIS_NCCL_CTAS=%s: BLOCKS or BLOCKS:FREE is wanted, each 0 to 64; leave it unset for 4:4", wish);
    return ST_OK;
}

/* NCCL, where all ranks can. */
static status_t carrier_open(comm_t *comm, backend_t *be) {
    int n_cta, n_free;
    status_t st = comm_agree(comm, nccl_blocks(&n_cta, &n_free));
    if (!st) st = launch_device(comm, backend_cuda_device(be), backend_cuda_stream(be), n_cta, &comm->device);
    if (!st) comm->device->n_leave = n_free;
    return st;
}
static bool can_carry(const backend_t *be) { return !strcmp(be->ops->name, "cuda"); }
#else
static status_t carrier_open(comm_t *comm, backend_t *be) {
    (void)comm, (void)be;
    return ST_OK;
}
static bool can_carry(const backend_t *be) {
    (void)be;
    return false;
}
#endif

/* Programs with and without CUDA may be ranks of one job, so all of them ask. */
status_t registry_device_open(comm_t *comm, backend_t *be, bool share) {
    unsigned char mine[16], *all = NULL;
    int64_t *each = NULL, any[2] = {!can_carry(be), share};
    int first = -1;
    if (comm->size == 1 || comm->device) return ST_OK;
    status_t st = gpu_identity(be, mine);
    if (!st) st = mem_alloc(&all, (size_t)comm->size, sizeof mine, "GPUs of all ranks");
    if (!st) st = mem_alloc(&each, (size_t)comm->size, sizeof *each, "GPUs of all ranks");
    if ((st = comm_agree(comm, st))) goto out;
    for (int r = 0; r < comm->size; r++) each[r] = sizeof mine;
    if ((st = comm->ops->all_gather(comm, mine, all, each))) goto out;
    if ((st = comm->ops->max_i64(comm, any, 2))) goto out;
    for (int r = comm->size - 1; r >= 0; r--)
        if (twin(all, comm->size, r) >= 0) first = r;
    if (first >= 0 && !any[1])
        st = status_fail(ST_USAGE,
                         "ranks %d and %d have the same GPU: start as many ranks per node as it has GPUs, or allow it with --share-gpu",
                         first, twin(all, comm->size, first));
    if (!st && first < 0 && !any[0]) st = carrier_open(comm, be);
out:
    mem_free(all);
    mem_free(each);
    return st;
}

void registry_device_close(comm_t *comm) {
    if (comm->device) comm->device->ops->close(comm->device);
    comm->device = NULL;
}

const char *registry_backends(void) {
#ifdef HAVE_CUDA
    return "cpu, cpu_ref, cuda";
#else
    return "cpu, cpu_ref";
#endif
}

/* ---- precis version
 * -------------------------------------------------------------------------------------------------------------------------- */

static void describe_isa(FILE *f) {
    fprintf(f, "CPU:");
#if defined __x86_64__
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) fprintf(f, " AVX2");
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")) fprintf(f, " AVX-512");
    if (__builtin_cpu_supports("avx512bf16")) fprintf(f, " AVX-512-BF16");
    fprintf(f, " (x86-64)");
#elif defined __aarch64__
    fprintf(f, " NEON (aarch64)");
#else
    fprintf(f, " portable code");
#endif
    fprintf(f, "; bf16 is %s here\n", backend_cpu_has_bf16() ? "fast" : "not fast");
}

void registry_describe(FILE *f) {
    char pcre2[64] = "";
    pcre2_config(PCRE2_CONFIG_VERSION, pcre2);
    fprintf(f, "compiler: %s\n", __VERSION__);
    fprintf(f, "backends: %s\n", registry_backends());
    describe_isa(f);
#ifdef HAVE_ONEDNN
    const dnnl_version_t *v = dnnl_version();
    fprintf(f, "oneDNN: %d.%d.%d\n", v->major, v->minor, v->patch);
#else
    fprintf(f, "oneDNN: no; the program's own matrix products\n");
#endif
#ifdef HAVE_MPI
    fprintf(f, "MPI: %s\n", PRECIS_MPI);
#else
    fprintf(f, "MPI: no; one rank only\n");
#endif
#ifdef HAVE_CUDA
    fprintf(f, "CUDA: %s\n", PRECIS_CUDA);
#ifdef HAVE_NCCL
    fprintf(f, "NCCL: yes\n");
#else
    fprintf(f, "NCCL: no; memory of GPUs goes through the host\n");
#endif
#else
    fprintf(f, "CUDA: no\n");
#endif
#ifdef HAVE_HWLOC
    fprintf(f, "hwloc: yes\n");
#endif
#ifdef _OPENMP
    fprintf(f, "OpenMP: %d\n", _OPENMP);
#else
    fprintf(f, "OpenMP: no; one thread a rank\n");
#endif
    fprintf(f, "cJSON: %s\nPCRE2: %s\nutf8proc: %s\nzstd: %s\nzlib: %s\nxxHash: %d.%d.%d\n", cJSON_Version(), pcre2, utf8proc_version(),
            ZSTD_versionString(), zlibVersion(), XXH_VERSION_MAJOR, XXH_VERSION_MINOR, XXH_VERSION_RELEASE);
}

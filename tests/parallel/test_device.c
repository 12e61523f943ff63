/* Device memory between ranks by NCCL: blocks with gaps arrive where they belong and nothing else is touched, in the order of the backend's
 * work, packed and as they lie, by few blocks of the GPU and by many; one rank sends to itself. Skipped where the build has no NCCL, or
 * there are fewer GPUs than ranks. */
#include "parallel.h"

enum { N_TEST = 4 };

#if defined HAVE_NCCL && defined HAVE_CUDA
#include "base/mem.h"
#include "cuda/cuda_backend.h"
#include "mpi/comm_nccl.h"

enum { BLOCKS = 5, WIDTH = 3000, LARGE = 300000, GAP = 500, ROUNDS = 6 }; /* small blocks are packed, large ones sent as they lie */
static backend_t *be;

static unsigned char byte_of(int from, int to, int64_t i, int round) {
    return (unsigned char)(i * 31 + from * 7 + to * 3 + round * 13 + (i >> 8));
}

/* Every rank to every rank, itself when it is alone: [peer] stretches of BLOCKS blocks. */
static int parts_make(char *memory, int64_t width, comm_part_t *parts) {
    int64_t stride = width + GAP;
    int n = 0;
    for (int r = 0; r < comm->size; r++)
        if (r != comm->rank || comm->size == 1) {
            char *at = memory + r * BLOCKS * stride;
            parts[n++] = (comm_part_t){.peer = r, .p = at, .bytes = width, .stride = stride, .count = BLOCKS - 1};
            parts[n++] = (comm_part_t){.peer = r, .p = at + (BLOCKS - 1) * stride, .bytes = width, .count = 1};
        }
    return n;
}

static void exchange_of(int64_t width, bool beside) {
    comm_part_t send[128], recv[128];
    comm_exchange_t *e[ROUNDS];
    char *out[ROUNDS], *in[ROUNDS], *host, *back;
    int64_t stride = width + GAP, stretch = BLOCKS * stride, before = comm->sent_bytes, wrong = 0;
    size_t bytes = (size_t)(comm->size * stretch);
    CU_ASSERT_EQUAL_FATAL(mem_alloc(&host, bytes, 1, "test"), ST_OK);
    CU_ASSERT_EQUAL_FATAL(mem_alloc(&back, bytes, ROUNDS, "test"), ST_OK);
    comm->device->beside = beside;
    for (int k = 0; k < ROUNDS; k++) { /* all under way at once */
        CU_ASSERT_EQUAL(be->ops->alloc(be, bytes, "test", &out[k]), ST_OK);
        CU_ASSERT_EQUAL(be->ops->alloc(be, bytes, "test", &in[k]), ST_OK);
        memset(host, 0xEE, bytes);
        CU_ASSERT_EQUAL(be->ops->copy_in(be, in[k], host, bytes), ST_OK);
        for (int r = 0; r < comm->size; r++)
            for (int64_t i = 0; i < stretch; i++) host[r * stretch + i] = (char)byte_of(comm->rank, r, i, k);
        CU_ASSERT_EQUAL(be->ops->copy_in(be, out[k], host, bytes), ST_OK);
        int n = parts_make(out[k], width, send);
        parts_make(in[k], width, recv);
        CU_ASSERT_EQUAL(comm->device->ops->exchange_start(comm->device, send, n, recv, n, &e[k]), ST_OK);
    }
    for (int k = 0; k < ROUNDS; k++) {
        CU_ASSERT_EQUAL(comm->device->ops->exchange_wait(comm->device, e[k]), ST_OK);
        CU_ASSERT_EQUAL(be->ops->copy_out(be, back + (size_t)k * bytes, in[k], bytes), ST_OK);
    }
    comm->device->beside = false;
    for (int k = 0; k < ROUNDS; k++) {
        const unsigned char *got = (unsigned char *)back + (size_t)k * bytes;
        for (int r = 0; r < comm->size; r++)
            for (int64_t i = 0; i < stretch; i++) {
                bool came = (r != comm->rank || comm->size == 1) && i % stride < width;
                wrong += got[r * stretch + i] != (came ? byte_of(r, comm->rank, i, k) : 0xEE);
            }
        be->ops->free(be, out[k]);
        be->ops->free(be, in[k]);
    }
    CU_ASSERT_EQUAL(wrong, 0);
    int peers = comm->size == 1 ? 1 : comm->size - 1;
    CU_ASSERT_EQUAL(comm->sent_bytes - before, ROUNDS * peers * BLOCKS * width);
    mem_free(host);
    mem_free(back);
}

static void test_exchange(void) { exchange_of(WIDTH, false); }
static void test_large(void) { exchange_of(LARGE, false); }
static void test_beside(void) {
    exchange_of(WIDTH, true);
    exchange_of(LARGE, true);
}

static void test_all_gather(void) {
    static unsigned char host[64 * WIDTH];
    char *memory = NULL;
    int64_t wrong = 0;
    CU_ASSERT_EQUAL(be->ops->alloc(be, (size_t)comm->size * WIDTH, "test", &memory), ST_OK);
    for (int64_t i = 0; i < WIDTH; i++) host[i] = byte_of(comm->rank, 0, i, 1);
    CU_ASSERT_EQUAL(be->ops->copy_in(be, memory + comm->rank * WIDTH, host, WIDTH), ST_OK);
    CU_ASSERT_EQUAL(comm->device->ops->all_gather(comm->device, memory + comm->rank * WIDTH, memory, WIDTH), ST_OK);
    CU_ASSERT_EQUAL(be->ops->copy_out(be, host, memory, (size_t)comm->size * WIDTH), ST_OK);
    for (int r = 0; r < comm->size; r++)
        for (int64_t i = 0; i < WIDTH; i++) wrong += host[r * WIDTH + i] != byte_of(r, 0, i, 1);
    CU_ASSERT_EQUAL(wrong, 0);
    be->ops->free(be, memory);
}

static bool present(void) { return backend_cuda_devices() >= comm->node_size; }

static status_t open_device(void) {
    status_t st = backend_create_cuda(DT_BF16, comm->node_rank, &be);
    if (!(st = comm_agree(comm, st))) st = comm_nccl_create(comm, comm->node_rank, backend_cuda_stream(be), 4, &comm->device);
    return st;
}

static void close_device(void) {
    if (comm->device) comm->device->ops->close(comm->device);
    if (be) be->ops->destroy(be);
}
#else
static void test_exchange(void) {}
static void test_large(void) {}
static void test_beside(void) {}
static void test_all_gather(void) {}
static bool present(void) { return false; }
static status_t open_device(void) { return ST_OK; }
static void close_device(void) {}
#endif

int main(int argc, char **argv) {
    static const parallel_test_t tests[N_TEST] = {{"exchange", test_exchange},
                                                  {"large", test_large},
                                                  {"beside", test_beside},
                                                  {"all_gather", test_all_gather}};
    status_t st = launch_under_mpi() ? launch_comm(&comm) : comm_self_create(&comm);
    if (st) return fprintf(stderr, "%s\n", status_message()), 1;
    int64_t lacks = !present();
    if (argc > 1 && !strcmp(argv[1], "abort")) comm->ops->abort(comm, ST_INPUT);
    st = comm->ops->max_i64(comm, &lacks, 1);
    if (!st && lacks) {
        if (comm->rank == 0)
            printf("device x %d: 0 passed, 0 failed, %d skipped (no NCCL, or fewer GPUs than ranks)\n", comm->size, N_TEST);
        comm->ops->close(comm);
        launch_finalize();
        return 0;
    }
    if (!st) st = open_device();
    if (st) return fprintf(stderr, "%s\n", status_message()), 1;
    log_setup(comm->rank, comm->size, LOG_INFO);
    if (CU_initialize_registry() != CUE_SUCCESS) return 1;
    CU_pSuite s = CU_add_suite("device", NULL, NULL);
    for (int i = 0; i < N_TEST; i++) CU_add_test(s, tests[i].name, tests[i].run);
    CU_run_all_tests();
    int failed = parallel_report("device", N_TEST);
    CU_cleanup_registry();
    close_device();
    comm->ops->close(comm);
    launch_finalize();
    return failed;
}

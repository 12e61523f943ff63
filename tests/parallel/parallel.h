/* A parallel test program is one CUnit suite that every rank runs on the communicator `comm`:
 *
 *     static void test_sums(void) { ... CU_ASSERT_EQUAL(...) ... }
 *     PARALLEL_MAIN("comm", {"sums", test_sums})
 *
 * A test fails when it fails on any rank; rank 0 prints `suite x SIZE: N passed, N failed`. No fatal assertions: a rank that left early
 * would keep the others waiting. `name abort` has rank 1 (of several; else 0) end the job with ST_INPUT, to see that nobody stays behind.
 * Without a launcher it is one rank on comm_self.
 */
#ifndef TESTS_PARALLEL_H
#define TESTS_PARALLEL_H

#include <CUnit/CUnit.h>
#include <CUnit/TestDB.h>
#include <CUnit/TestRun.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "comm/comm.h"
#include "mpi/comm_mpi.h"

typedef struct {
    const char *name;
    void (*run)(void);
} parallel_test_t;

static comm_t *comm;

static inline int parallel_report(const char *suite, int n) {
    int64_t failed[64] = {0}, total = 0;
    for (CU_pFailureRecord f = CU_get_failure_list(); f; f = f->pNext) {
        fprintf(stderr, "rank %d: %s:%u: %s: %s\n", comm->rank, f->strFileName, f->uiLineNumber, f->pTest ? f->pTest->pName : suite,
                f->strCondition);
        for (int i = 0; i < n; i++)
            if (f->pTest && f->pTest == CU_get_test_by_index((unsigned)i + 1, CU_get_suite_by_index(1, CU_get_registry()))) failed[i] = 1;
    }
    if (CU_get_number_of_tests_run() == 0) failed[0] = 1;
    if (comm->ops->max_i64(comm, failed, n)) fprintf(stderr, "rank %d: %s\n", comm->rank, status_message()), failed[0] = 1;
    for (int i = 0; i < n; i++) total += failed[i];
    if (comm->rank == 0) printf("%s x %d: %lld passed, %lld failed\n", suite, comm->size, (long long)(n - total), (long long)total);
    fflush(NULL);
    return total != 0;
}

static inline int parallel_main(const char *suite, const parallel_test_t *tests, int n, int argc, char **argv) {
    status_t st = launch_under_mpi() ? launch_comm(&comm) : comm_self_create(&comm);
    if (st) return fprintf(stderr, "%s\n", status_message()), 1;
    log_setup(comm->rank, comm->size, LOG_INFO);
    if (argc > 1 && !strcmp(argv[1], "abort")) {
        if (comm->rank == comm->size / 2) comm->ops->abort(comm, ST_INPUT);
        comm->ops->barrier(comm);
        return 0;
    }
    if (CU_initialize_registry() != CUE_SUCCESS) comm->ops->abort(comm, ST_FAIL);
    CU_pSuite s = CU_add_suite(suite, NULL, NULL);
    for (int i = 0; i < n; i++) CU_add_test(s, tests[i].name, tests[i].run);
    CU_run_all_tests();
    int failed = parallel_report(suite, n);
    CU_cleanup_registry();
    comm->ops->close(comm);
    launch_finalize();
    return failed;
}

#define PARALLEL_MAIN(suite, ...)                                                                                                          \
    int main(int argc, char **argv) {                                                                                                      \
        static const parallel_test_t tests[] = {__VA_ARGS__};                                                                              \
        _Static_assert(sizeof tests / sizeof *tests <= 64, "parallel_report counts up to 64");                                             \
        return parallel_main(suite, tests, (int)(sizeof tests / sizeof *tests), argc, argv);                                               \
    }

#endif

/* A test program is one CUnit suite:
 *
 *     static void test_adds(void) { CU_ASSERT_EQUAL(1 + 1, 2); }
 *     UNIT_MAIN("sums", {"adds", test_adds})
 *
 * It prints `suite: N passed, N failed` in tests (not assertions) and exits 1 when any failed. `name --list` and `name TEST` run one.
 */
#ifndef TESTS_UNIT_H
#define TESTS_UNIT_H

#include <CUnit/Basic.h>
#include <stdio.h>
#include <string.h>

typedef struct {
    const char *name;
    void (*run)(void);
} unit_test_t;

static inline int unit_main(const char *suite, const unit_test_t *tests, int n, int argc, char **argv) {
    if (CU_initialize_registry() != CUE_SUCCESS) return 1;
    CU_pSuite s = CU_add_suite(suite, NULL, NULL);
    for (int i = 0; i < n; i++)
        if (argc < 2 || !strcmp(argv[1], tests[i].name)) CU_add_test(s, tests[i].name, tests[i].run);
    CU_basic_set_mode(CU_BRM_SILENT);
    CU_basic_run_tests();
    unsigned ran = CU_get_number_of_tests_run(), failed = CU_get_number_of_tests_failed();
    for (CU_pFailureRecord f = CU_get_failure_list(); f; f = f->pNext)
        fprintf(stderr, "%s:%u: %s: %s\n", f->strFileName, f->uiLineNumber, f->pTest ? f->pTest->pName : suite, f->strCondition);
    printf("%s: %u passed, %u failed\n", suite, ran - failed, failed);
    CU_cleanup_registry();
    return failed != 0 || ran == 0;
}

#define UNIT_MAIN(suite, ...) UNIT_MAIN_IF(suite, 1, "", __VA_ARGS__)

/* The same where the machine may lack what the suite needs: then it says so and counts as skipped, never as passed. */
#define UNIT_MAIN_IF(suite, present, what, ...)                                                                                            \
    int main(int argc, char **argv) {                                                                                                      \
        static const unit_test_t tests[] = {__VA_ARGS__};                                                                                  \
        int n = (int)(sizeof tests / sizeof *tests);                                                                                       \
        if (present) return unit_main(suite, tests, n, argc, argv);                                                                        \
        printf("%s: 0 passed, 0 failed, %d skipped (no %s)\n", suite, n, what);                                                            \
        return 0;                                                                                                                          \
    }

#endif

/* Logits of the tiny models against those of HF transformers (make_llama.py): every architecture, file form and quantisation, on every CPU
 * backend. */
#include "golden/tiny.h"

#include <math.h>

#include "unit.h"

static const char *const folders[] = {"tests/golden/tiny-llama",   "tests/golden/tiny-llama31", "tests/golden/tiny-linear",
                                      "tests/golden/tiny-qwen2",   "tests/golden/tiny-qwen3",   "tests/golden/tiny-yarn",
                                      "tests/golden/tiny-longrope"};
static const char *const with_gguf[] = {"tests/golden/tiny-llama", "tests/golden/tiny-llama31", "tests/golden/tiny-qwen2",
                                        "tests/golden/tiny-qwen3", "tests/golden/tiny-yarn",    "tests/golden/tiny-longrope"};

/* Largest difference over the largest |logit|; huge when anything fails. */
static double error_of(const char *model, const char *golden, backend_create_t create, dtype_t act) {
    safetensors_t *ref = NULL;
    tiny_t t;
    double worst = 0, largest = 0;
    float *logits = NULL;
    status_t st = safetensors_open(golden, &ref);
    if (st) {
        fprintf(stderr, "%s\n", status_message());
        return INFINITY;
    }
    const tensor_t *tokens = safetensors_find(ref, "tokens"), *want = safetensors_find(ref, "logits");
    int64_t n = want->dims[0], v = want->dims[1];
    if ((st = tiny_open(&t, model, create, act, 2, n))) goto out;
    logits = malloc((size_t)(n * v) * sizeof *logits);
    if ((st = tiny_feed(&t, (const void *)tokens->data, n, logits))) goto out;
    for (int64_t i = 0; i < n * v; i++) {
        float w;
        memcpy(&w, want->data + 4 * i, 4);
        double d = fabs((double)logits[i] - (double)w);
        if (!(d <= worst)) worst = d; /* takes NaN, too */
        if (fabs((double)w) > largest) largest = fabs((double)w);
    }
    if (v != model_config(t.model)->n_vocab) worst = INFINITY;
out:
    if (st) fprintf(stderr, "%s: %s\n", model, status_message());
    free(logits);
    tiny_close(&t);
    safetensors_close(ref);
    return st ? INFINITY : worst / largest;
}

static void compare(const char *const *dirs, int n, const char *model_end, const char *golden_end, dtype_t act, double tolerance) {
    const backend_create_t *create = backends_tested();
    for (int i = 0; i < n; i++)
        for (int b = 0; create[b]; b++) {
            char model[256], golden[256];
            snprintf(model, sizeof model, "%s%s", dirs[i], model_end);
            snprintf(golden, sizeof golden, "%s/%s", dirs[i], golden_end);
            double e = error_of(model, golden, create[b], act);
            if (getenv("VERBOSE")) printf("%-36s %s %s %.2e\n", model, create[1] && !b ? "cpu_ref" : backend_wish(), dtype_name(act), e);
            CU_ASSERT(e <= tolerance);
        }
}

#define COUNT(a) (int)(sizeof(a) / sizeof *(a))
static void test_folders_f32(void) { compare(folders, COUNT(folders), "", "golden.safetensors", DT_F32, 1e-4); }
static void test_folders_bf16(void) { compare(folders, COUNT(folders), "", "golden.safetensors", DT_BF16, 1e-2); }
static void test_gguf_f32(void) { compare(with_gguf, COUNT(with_gguf), "/model.gguf", "golden-gguf.safetensors", DT_F32, 1e-4); }
static void test_gguf_bf16(void) { compare(with_gguf, COUNT(with_gguf), "/model.gguf", "golden-gguf.safetensors", DT_BF16, 1e-2); }

UNIT_MAIN("golden", {"folders_f32", test_folders_f32}, {"folders_bf16", test_folders_bf16}, {"gguf_f32", test_gguf_f32},
          {"gguf_bf16", test_gguf_bf16})

/* Adapters of a small model: a good one, every number of which is finite and can be reached, or ST_INPUT. */
#include <math.h>

#include "base/mem.h"
#include "fuzz.h"
#include "model/adapter.h"

static const model_config_t config = {.n_vocab = 160, .n_layer = 2, .n_head = 4, .n_kv_head = 2, .d_model = 64, .d_head = 16, .d_ff = 96};

static void rows_check(const float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) FUZZ_CHECK(isfinite(x[i]));
}

static void lora_check(const lora_t *l) {
    if (!l->rank) return;
    FUZZ_CHECK(l->a->dims[0] == l->rank && l->b->dims[1] == l->rank && l->rank <= ADAPTER_MAX_RANK);
    fuzz_touch(l->a->data, l->a->bytes);
    fuzz_touch(l->b->data, l->b->bytes);
    if (l->fa) rows_check(l->fa, l->rank * l->a->dims[1]);
    if (l->fb) rows_check(l->fb, l->rank * l->b->dims[0]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    adapter_t *a;
    status_t st = adapter_parse(data, bytes, "fuzz.safetensors", &config, "d9cdc8d5ef707dede548860863d0cfe0", &a);
    fuzz_check_status(st);
    if (!st) {
        for (int64_t i = 0; i < adapter_n_gist(a); i++) rows_check(adapter_gist(a, i), config.d_model);
        for (int64_t i = 0; i < adapter_n_sink(a); i++) rows_check(adapter_sink(a, i), config.d_model);
        if (adapter_zero_key(a)) rows_check(adapter_zero_key(a), config.n_layer * config.n_kv_head * config.d_head);
        for (int64_t l = 0; l < config.n_layer; l++)
            for (proj_t p = PROJ_Q; p < PROJ_COUNT; p++) {
                lora_check(&adapter_layer(a, l)->all[p]);
                lora_check(&adapter_layer(a, l)->gist[p]);
            }
        st = adapter_check(a, "blockgist", 4);
        FUZZ_CHECK(st == ST_OK || st == ST_INPUT);
    }
    adapter_free(a);
    FUZZ_CHECK(mem_now_bytes() == 0);
    return 0;
}

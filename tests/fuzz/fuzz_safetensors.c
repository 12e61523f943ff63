/* safetensors: a good file or ST_INPUT; the tensors of a good one fill its data section without a gap. */
#include "base/mem.h"
#include "fuzz.h"
#include "io/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    safetensors_t *s;
    status_t st = safetensors_parse(data, bytes, "fuzz.safetensors", &s);
    fuzz_check_status(st);
    if (!st) {
        size_t sum = safetensors_data_offset(s);
        for (int64_t i = 0; i < safetensors_count(s); i++) {
            const tensor_t *t = safetensors_at(s, i);
            FUZZ_CHECK(safetensors_find(s, t->name) == t);
            fuzz_touch(t->data, t->bytes);
            sum += t->bytes;
        }
        FUZZ_CHECK(sum == bytes);
        safetensors_meta(s, "format");
    }
    safetensors_close(s);
    FUZZ_CHECK(mem_now_bytes() == 0);
    return 0;
}

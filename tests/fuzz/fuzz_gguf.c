/* GGUF: whatever the bytes are, the parser ends with a good file or ST_INPUT, and all that it then hands out can be read. */
#include <stdlib.h>

#include "base/mem.h"
#include "fuzz.h"
#include "io/gguf.h"

static void read_keys(const gguf_t *g) {
    for (int64_t i = 0; i < gguf_keys(g); i++) {
        const char *key, *s;
        char text[160], name[64];
        size_t n;
        int64_t v;
        double d;
        bool b;
        gguf_key_text(g, i, &key, &n, text, sizeof text);
        if (n >= sizeof name) continue;
        memcpy(name, key, n);
        name[n] = 0;
        if (gguf_get_str(g, name, &s, &n)) fuzz_touch(s, n);
        gguf_get_i64(g, name, &v);
        gguf_get_f64(g, name, &d);
        gguf_get_bool(g, name, &b);
        int64_t last = gguf_array_n(g, name) - 1;
        if (last < 0) continue;
        if (gguf_array_str(g, name, last, &s, &n)) fuzz_touch(s, n);
        gguf_array_i64(g, name, last, &v);
        gguf_array_f64(g, name, last, &d);
    }
}

static void read_tensors(const gguf_t *g) {
    for (int64_t i = 0; i < gguf_count(g); i++) {
        const tensor_t *t = gguf_at(g, i);
        FUZZ_CHECK(gguf_find(g, t->name) == t);
        fuzz_touch(t->data, t->bytes);
        int64_t rows = tensor_rows(t), cols = tensor_cols(t);
        if (t->enc == ENC_OTHER || rows < 1 || cols < 1 || cols > 1 << 20) continue;
        float *out = malloc((size_t)cols * sizeof *out);
        FUZZ_CHECK(out && tensor_read_rows(t, rows - 1, 1, out) == ST_OK);
        free(out);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    gguf_t *g;
    status_t st = gguf_parse(data, bytes, "fuzz.gguf", &g);
    fuzz_check_status(st);
    if (!st) {
        read_keys(g);
        read_tensors(g);
    }
    gguf_close(g);
    FUZZ_CHECK(mem_now_bytes() == 0);
    return 0;
}

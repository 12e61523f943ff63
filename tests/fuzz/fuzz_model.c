/* Configurations: bytes that begin with '{' are a config.json, others a GGUF file whose metadata and tensors are taken for a model's. What
 * is accepted is within the limits, and every row of the weights that were bound to it can be read. */
#include <sys/mman.h>
#include <unistd.h>

#include "base/mem.h"
#include "fuzz.h"
#include "model/bind.h"

static void json_config(const uint8_t *data, size_t bytes) {
    static int fd = -1;
    static char path[64];
    if (fd < 0) {
        fd = memfd_create("config.json", 0);
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    }
    FUZZ_CHECK(fd >= 0 && ftruncate(fd, 0) == 0 && pwrite(fd, data, bytes, 0) == (ssize_t)bytes);
    model_config_t c;
    status_t st = config_from_json(path, &c);
    fuzz_check_status(st);
    if (!st) FUZZ_CHECK(config_check(&c, path) == ST_OK);
}

static const tensor_t *find(const void *g, const char *name) { return gguf_find(g, name); }
static const tensor_t *at(const void *g, int64_t i) { return gguf_at(g, i); }

static void read_ends(const weight_t *w) {
    int64_t rows = tensor_rows(w->tensor), cols = tensor_cols(w->tensor);
    float *out = malloc((size_t)cols * sizeof *out);
    FUZZ_CHECK(out && tensor_read_rows(w->tensor, 0, 1, out) == ST_OK && tensor_read_rows(w->tensor, rows - 1, 1, out) == ST_OK);
    free(out);
}

static void gguf_model(const uint8_t *data, size_t bytes) {
    gguf_t *g = NULL;
    model_config_t c;
    weight_t *w = NULL;
    status_t st = gguf_parse(data, bytes, "fuzz.gguf", &g);
    if (!st) st = config_from_gguf(g, "fuzz.gguf", &c);
    if (!st) FUZZ_CHECK(config_check(&c, "fuzz.gguf") == ST_OK);
    if (!st) st = mem_zalloc(&w, (size_t)bind_count(&c), sizeof *w, "weights");
    if (!st) {
        tensor_source_t src = {find, g, gguf_count(g), at, true, "fuzz.gguf"};
        st = bind_weights(&src, &c, w);
    }
    fuzz_check_status(st);
    for (int64_t i = 0; !st && i < bind_count(&c); i++)
        if (w[i].tensor) read_ends(&w[i]);
    mem_free(w);
    gguf_close(g);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    if (bytes && *data == '{')
        json_config(data, bytes);
    else
        gguf_model(data, bytes);
    return 0;
}

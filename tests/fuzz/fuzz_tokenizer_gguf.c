/* Any bytes as a GGUF file with a tokenizer: refused with a message, or a tokenizer that encodes, decodes and chats. */
#include "base/mem.h"
#include "fuzz.h"
#include "io/utf8.h"
#include "text/tokenizer_impl.h"

static void use(const tokenizer_t *t) {
    static const char text[] = "ab  12 the <s> caf\xc3\xa9 \xe2\x96\x81 e\xcc\x81 \xff <|im_end|>'ll hhhhhhhhhhhhhhhhhhhh\n";
    ids_t ids = {0};
    char *back = NULL;
    size_t n;
    FUZZ_CHECK(tokenizer_encode(t, text, sizeof text - 1, true, &ids) == ST_OK);
    for (int64_t i = 0; i < ids.n; i++) FUZZ_CHECK(ids.ids[i] >= 0 && ids.ids[i] < tokenizer_n_vocab(t));
    for (int32_t id = -1; id < 300; id++) {
        tokenizer_piece(t, id, &n);
        FUZZ_CHECK(ids_push(&ids, id) == ST_OK);
    }
    FUZZ_CHECK(tokenizer_decode(t, ids.ids, ids.n, false, &back, &n) == ST_OK);
    FUZZ_CHECK(utf8_valid_bytes(back, n) == n);
    tokenizer_chat(t, "s", " hi ", &ids);
    mem_free(back);
    ids_free(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size > 1 << 20) return 0;
    size_t before = mem_now_bytes();
    gguf_t *g = NULL;
    tokenizer_t *t = NULL;
    status_t st = gguf_parse(data, size, "t.gguf", &g);
    if (!st) st = tokenizer_from_gguf(g, "t.gguf", &t);
    FUZZ_CHECK(st == ST_OK || (st == ST_INPUT && *status_message() && !t));
    gguf_close(g); /* the tokenizer has its own copies */
    if (t) use(t);
    tokenizer_free(t);
    FUZZ_CHECK(mem_now_bytes() == before);
    return 0;
}

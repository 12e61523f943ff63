/* Any bytes as a tokenizer.json, with a tokenizer_config.json after the first NUL: refused with a message, or a tokenizer that encodes,
 * decodes and chats. */

#include "base/mem.h"
#include "fuzz.h"
#include "text/tokenizer_impl.h"

static void use(const tokenizer_t *t) {
    static const char text[] = "ab  12 word <s> caf\xc3\xa9 e\xcc\x81 \xff <|im_end|>'ll "
                               "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n";
    ids_t ids = {0};
    char *back = NULL;
    size_t n;
    status_t st = tokenizer_encode(t, text, sizeof text - 1, true, &ids); /* a pattern may be too costly to match */
    FUZZ_CHECK(st == ST_OK || st == ST_INPUT);
    for (int64_t i = 0; i < ids.n; i++) FUZZ_CHECK(ids.ids[i] >= 0 && ids.ids[i] < tokenizer_n_vocab(t));
    FUZZ_CHECK(tokenizer_decode(t, ids.ids, ids.n, false, &back, &n) == ST_OK);
    tokenizer_chat(t, NULL, " hi ", &ids);
    for (int32_t id = -1; id < 300; id++) tokenizer_piece(t, id, &n);
    mem_free(back);
    ids_free(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size > 1 << 20) return 0;
    const char *s = (const char *)data, *nul = size ? memchr(s, '\0', size) : NULL;
    size_t n = nul ? (size_t)(nul - s) : size, before = mem_now_bytes();
    tokenizer_t *t = NULL;
    status_t st = tokenizer_parse_json(size ? s : "", n, "t.json", nul ? nul + 1 : NULL, nul ? size - n - 1 : 0, NULL, &t);
    FUZZ_CHECK(st == ST_OK || (st == ST_INPUT && *status_message() && !t));
    if (t) use(t);
    tokenizer_free(t);
    FUZZ_CHECK(mem_now_bytes() == before);
    return 0;
}

/* Corpora: the first byte picks the name (text or JSON lines, packed or not) and what the records must hold; the rest is the file.
 * Whatever comes out is valid UTF-8 and NUL-terminated. */
#include "base/log.h"
#include "base/mem.h"
#include "fuzz.h"
#include "io/corpus.h"
#include "io/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    static const char *const names[] = {"f.jsonl", "f.jsonl.zst", "f.jsonl.gz", "f.txt", "f.txt.zst", "f.txt.gz", "-", "f"};
    static const char *const fields[] = {"text", "prompt", "tokens", NULL};
    corpus_t *c;
    document_t d;
    bool got = true;
    if (!bytes) return 0;
    log_setup(0, 1, LOG_ERROR); /* bad UTF-8 is warned of */
    status_t st = corpus_open_memory(data + 1, bytes - 1, names[data[0] & 7], fields[data[0] >> 3 & 3], &c);
    if (!st) corpus_set_limit(c, 1 << 20); /* a small packed file may be a large text */
    while (!st && got && !(st = corpus_next(c, &d, &got)) && got) {
        FUZZ_CHECK(d.text[d.bytes] == 0 && utf8_valid_bytes(d.text, d.bytes) == d.bytes);
        fuzz_touch(d.id, strlen(d.id));
    }
    fuzz_check_status(st);
    corpus_close(c);
    FUZZ_CHECK(mem_now_bytes() == 0);
    return 0;
}

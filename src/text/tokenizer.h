/* Text to token ids and back, exact to the last id as HF `tokenizers` does it.
 *
 * Byte-level BPE with the families' pre-tokenisers (PCRE2) and SentencePiece's BPE with byte fallback, from a GGUF file's vocabulary or a
 * tokenizer.json. Thread-safe for reading: one tokenizer may serve several threads. Unknown pre-tokenisers, normalisers or model types are
 * refused by name, never guessed.
 */
#ifndef TEXT_TOKENIZER_H
#define TEXT_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "io/gguf.h"

typedef struct tokenizer tokenizer_t;

typedef struct {
    int32_t *ids;
    int64_t n, cap;
} ids_t; /* zero it first; ids_free when done */
void ids_free(ids_t *v);
status_t ids_push(ids_t *v, int32_t id);
/* Ids from `from` on must be rows of a model that has n_row: else ST_INPUT with `what` (a document, an option) in front. */
status_t ids_check(const ids_t *v, int64_t from, int64_t n_row, const char *what);

status_t tokenizer_from_gguf(const gguf_t *g, const char *name, tokenizer_t **out);
status_t tokenizer_from_json(const char *path, tokenizer_t **out); /* tokenizer.json; tokenizer_config.json beside it is read when there */
void tokenizer_free(tokenizer_t *t);

/* Appends the ids of text (n bytes) to out. Invalid UTF-8 is repaired first, as Python's bytes.decode("utf-8", "replace") does: each
 * maximal part of a sequence that could still have become one, else each single byte, becomes one U+FFFD. parse_special: special tokens
 * written in the text become their ids (as HF does); without it they are ordinary text. Adds no BOS or EOS. */
status_t tokenizer_encode(const tokenizer_t *t, const char *text, size_t n, bool parse_special, ids_t *out);

/* Decodes to bytes, UTF-8-repaired as HF does (U+FFFD), without the blank that SentencePiece's families put before a text. show_special:
 * special tokens appear in the text. *text is the caller's (mem_free), NUL-terminated. */
status_t tokenizer_decode(const tokenizer_t *t, const int32_t *ids, int64_t n, bool show_special, char **text, size_t *bytes);
/* The same, an id at a time, for showing text while it is made: each call gives what is certain so far, whole characters only, and all
 * calls together what tokenizer_decode gives. text is the stream's, NUL-terminated, until the next call on it.
 *
 *     tokenizer_stream_t s;
 *     tokenizer_stream_begin(&s, t, false);
 *     for (...) if ((st = tokenizer_stream_put(&s, id, &text, &n))) break; else fwrite(text, 1, n, stdout);
 *     if (!st) st = tokenizer_stream_end(&s, &text, &n);       what was held back; the stream may then begin another text
 *     tokenizer_stream_free(&s);
 */
typedef struct {
    const tokenizer_t *tokenizer;
    bool show_special, begun;
    int strip; /* blanks still to be taken off the head */
    char *text, *held;
    size_t text_n, text_cap, held_n, held_cap;
} tokenizer_stream_t;
void tokenizer_stream_begin(tokenizer_stream_t *s, const tokenizer_t *t, bool show_special);
status_t tokenizer_stream_put(tokenizer_stream_t *s, int32_t id, const char **text, size_t *n);
status_t tokenizer_stream_end(tokenizer_stream_t *s, const char **text, size_t *n);
void tokenizer_stream_free(tokenizer_stream_t *s);

/* The raw bytes of one token ("" for ids that have none); borrowed. Special tokens give their written form. */
const char *tokenizer_piece(const tokenizer_t *t, int32_t id, size_t *n);
bool tokenizer_is_special(const tokenizer_t *t, int32_t id);

int64_t tokenizer_n_vocab(const tokenizer_t *t);
int32_t tokenizer_bos(const tokenizer_t *t);                  /* -1: none */
bool tokenizer_adds_bos(const tokenizer_t *t);                /* would HF add it to a plain text? */
int tokenizer_eos(const tokenizer_t *t, const int32_t **ids); /* ids that end a generation; returns how many */
/* Id of an added token by its written form, or of another by its bytes (" the", as tokenizer_piece gives them); -1 when absent. */
int32_t tokenizer_find(const tokenizer_t *t, const char *token);
const char *tokenizer_family(const tokenizer_t *t); /* "byte-level BPE, smollm pre-tokeniser" */

/* Chat prompt of known families (told by the template text in the model's files): appends the ids of `[system,] user, assistant header`.
 * system NULL: the family's default. ST_INPUT when the model has no known template. */
status_t tokenizer_chat(const tokenizer_t *t, const char *system, const char *user, ids_t *out);
const char *tokenizer_chat_family(const tokenizer_t *t); /* "chatml", "llama3", ...; NULL when none */

#endif

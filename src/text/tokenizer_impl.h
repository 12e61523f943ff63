/* What a tokenizer is made of; for the files of this room (and for fuzzing) alone. */
#ifndef TEXT_TOKENIZER_IMPL_H
#define TEXT_TOKENIZER_IMPL_H

#include "text/added.h"
#include "text/chat.h"
#include "text/normal.h"
#include "text/split.h"
#include "text/tokenizer.h"
#include "text/vocabulary.h"

enum { TOKENIZER_EOS_MAX = 16 };

/* U+2581 before a text: never, before the head of the whole text, before each text between added tokens. Not where it stands already. */
typedef enum { PREFIX_NEVER, PREFIX_FIRST, PREFIX_ALWAYS } prefix_t;

struct tokenizer {
    vocabulary_t vocabulary;
    split_t split;
    added_t added_raw;              /* looked for in the text as it came */
    added_t added_normalized;       /* looked for in the normalised text */
    const added_token_t **added_of; /* [vocabulary.n], NULL for ordinary ids */
    normal_t normal;
    struct {
        bool on, split; /* blanks become U+2581, after normalising; each begins a piece */
        prefix_t prefix;
    } metaspace;
    struct {
        bool bare_first; /* the first token shows without its U+2581 */
        int strip;       /* so many blanks are taken off the head of the whole */
    } decode;
    bool ignore_merges;
    int32_t bos, eos[TOKENIZER_EOS_MAX];
    int n_eos;
    bool adds_bos;
    chat_t chat;
    char family[80];
};

/* Encodes UTF-8 with special tokens recognised outside own[0..n_own), at most OWN_WORDS_MAX, which go from left to right. */
status_t tokenizer_encode_around(const tokenizer_t *t, const char *text, size_t n, const own_words_t *own, int n_own, ids_t *out);

/* Loaders fill the vocabulary and the added tokens in any order, then call ready, which indexes them. */
status_t tokenizer_create(tokenizer_t **out);
status_t tokenizer_ready(tokenizer_t *t, const char *name);
void tokenizer_add_eos(tokenizer_t *t, int32_t id); /* -1 and those already there are passed over */
/* Besides the ids that the files name: special tokens by which chat families end a turn or a document. After tokenizer_ready. */
void tokenizer_add_family_eos(tokenizer_t *t);
/* generation_config.json's words on how a text ends. After tokenizer_ready. */
status_t tokenizer_read_generation(tokenizer_t *t, const char *text, size_t n, const char *name);
/* tokenizer.json from memory; config: tokenizer_config.json's text or NULL; chat_template: a text of its own or NULL. */
status_t tokenizer_parse_json(const char *text, size_t n, const char *name, const char *config, size_t config_n, const char *chat_template,
                              tokenizer_t **out);

#endif

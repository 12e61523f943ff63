/* What a tokenizer is made of; for the files of this room (and for fuzzing) alone. */
#ifndef TEXT_TOKENIZER_IMPL_H
#define TEXT_TOKENIZER_IMPL_H

#include "text/added.h"
#include "text/chat.h"
#include "text/split.h"
#include "text/tokenizer.h"
#include "text/vocabulary.h"

enum { TOKENIZER_EOS_MAX = 8 };

struct tokenizer {
    vocabulary_t vocabulary;
    split_t split;
    added_t added_raw;              /* looked for in the text as it came */
    added_t added_normalized;       /* looked for in the normalised text */
    const added_token_t **added_of; /* [vocabulary.n], NULL for ordinary ids */
    bool nfc, ignore_merges;
    int32_t bos, eos[TOKENIZER_EOS_MAX];
    int n_eos;
    bool adds_bos;
    chat_t chat;
    char family[80];
};

/* Loaders fill the vocabulary and the added tokens in any order, then call ready, which indexes them. */
status_t tokenizer_create(tokenizer_t **out);
status_t tokenizer_ready(tokenizer_t *t, const char *name);
void tokenizer_add_eos(tokenizer_t *t, int32_t id); /* -1 and those already there are passed over */
/* Besides the ids that the files name: special tokens by which chat families end a turn or a document. After tokenizer_ready. */
void tokenizer_add_family_eos(tokenizer_t *t);
/* tokenizer.json from memory; config: tokenizer_config.json's text or NULL; chat_template: a text of its own or NULL. */
status_t tokenizer_parse_json(const char *text, size_t n, const char *name, const char *config, size_t config_n, const char *chat_template,
                              tokenizer_t **out);

#endif

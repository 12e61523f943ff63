/* The stages of a tokenizer.json around its model: normalizer, pre_tokenizer, decoder, post_processor. */
#ifndef TEXT_PIPELINE_JSON_H
#define TEXT_PIPELINE_JSON_H

#include "io/json.h"
#include "text/tokenizer_impl.h"

/* Sets normal, split, metaspace, decode, family, and of the vocabulary what vocabulary_create takes over. ST_INPUT naming the first stage
 * or setting that is not supported. */
status_t pipeline_read(tokenizer_t *t, const cJSON *root, const char *name);
/* The special token that the post-processor puts before a text; NULL: none. Borrowed from root. */
status_t pipeline_bos(const cJSON *root, const char *name, const char **token);

#endif

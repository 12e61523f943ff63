/* What an open store is made of, for the parts of this room that need more than store.h tells. */
#ifndef STORE_READER_H
#define STORE_READER_H

#include <pthread.h>

#include "store/data.h"
#include "store/document.h"
#include "store/index.h"

enum { PARALLEL_BYTES = 16 << 20 }; /* with less to read, threads cost more than they bring */

struct store {
    store_profile_t profile;
    folder_t folder;
    documents_t documents;
    store_segment_t *segments; /* [n_segment], in address order, each address once */
    int64_t n_segment, n_damaged;
    file_map_t *maps;     /* [folder.n_file], made when first asked for */
    pthread_mutex_t lock; /* of maps */
};

/* ST_INPUT when store.json is missing or damaged. */
status_t profile_need(const char *dir, store_profile_t *out);

#endif

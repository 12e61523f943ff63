/* A stop between two layers of a document that ranks share: what each rank needs to go on is saved in one file of the store's folder,
 *
 *     DIR/rank0003.under-way     "precis under way 1\n", key (16 bytes), layers done (8), parts one after another, XXH3 of all before it
 * (16)
 *
 * and read by the next run if the key agrees: the same document, plan, rank and number of ranks, so that every part has its size. A file
 * that does not fit is of no use and no harm: the document is then encoded from its first layer. It is removed when the document is
 * committed.
 */
#ifndef ENCODE_UNDER_WAY_H
#define ENCODE_UNDER_WAY_H

#include "backend/backend.h"
#include "base/hash.h"
#include "io/file.h"

typedef struct {
    void *p;       /* [B] */
    size_t bytes;  /* of all layers, when by_layer */
    bool by_layer; /* layer after layer: those done are the first bytes */
} under_way_part_t;

typedef struct {
    const char *path;
    hash_t key; /* of document, rank and ranks */
    int n_layer;
    under_way_part_t *parts;
    int64_t n_part, cap;
} under_way_t;

status_t under_way_add(under_way_t *u, void *p, size_t bytes, bool by_layer);
/* How many layers a file of these parts holds; 0: there is none that fits. *map: to be given to under_way_read, or unmapped. */
status_t under_way_find(const under_way_t *u, int *layers, file_map_t *map);
status_t under_way_read(const under_way_t *u, backend_t *be, int layers, const file_map_t *map);
status_t under_way_write(const under_way_t *u, backend_t *be, int layers);
void under_way_free(under_way_t *u);

#endif

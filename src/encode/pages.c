/* Eviction: raw rows live in pages, and a page whose rows left the window takes the next rows. So memory holds the window and one pass,
 * however long the document. */
#include "base/mem.h"
#include "encode/encoder_impl.h"

/* Pages that a pass of max_row rows and its window can touch. */
int64_t encoder_pages(const encoder_spec_t *s) { return (s->gist.window + s->gist.ratio + s->max_row - 1) / PAGE_ROWS + 2; }

status_t pages_setup(encoder_t *e) {
    int64_t n = encoder_pages(&e->spec);
    status_t st = mem_zalloc(&e->pages, (size_t)n, sizeof *e->pages, "pages of raw rows");
    if (!st) st = mem_alloc(&e->page_pools, (size_t)n, sizeof *e->page_pools, "pages of raw rows");
    e->n_page = st ? 0 : n;
    for (int64_t i = 0; i < n && !st; i++) st = encoder_pool(e, PAGE_ROWS, "a page of raw rows", &e->pages[i]);
    return st;
}

void pages_free(encoder_t *e) {
    for (int64_t i = 0; i < e->n_page; i++) encoder_pool_free(e, &e->pages[i]);
    mem_free(e->pages);
    mem_free(e->page_pools);
    e->pages = NULL;
    e->page_pools = NULL;
    e->n_page = 0;
}

/* Of all layers and heads, which lie one behind the other. */
static status_t rows_copy(encoder_t *e, const kv_pool_t *from, int64_t at, const kv_pool_t *to, int64_t row, int64_t n) {
    size_t size = dtype_bytes(from->type), a = kv_row_at(from, 0, 0, at), b = kv_row_at(to, 0, 0, row);
    size_t bytes = (size_t)(n * from->row_stride) * size, here = (size_t)from->head_stride * size, there = (size_t)to->head_stride * size;
    int64_t heads = e->config->n_layer * e->config->n_kv_head;
    status_t st = e->be->ops->copy_rows(e->be, (char *)to->k + b, there, (char *)from->k + a, here, bytes, heads);
    return st ? st : e->be->ops->copy_rows(e->be, (char *)to->v + b, there, (char *)from->v + a, here, bytes, heads);
}

status_t pages_tail(encoder_t *e, const piece_t *p) {
    int64_t from = gist_oldest(&e->spec.gist, p->n), row = 0;
    status_t st = ST_OK;
    while (from < p->n && !st) {
        int64_t P = from / PAGE_ROWS, n = i64_min(p->n, (P + 1) * PAGE_ROWS) - from;
        st = rows_copy(e, &e->pages[P % e->n_page], from % PAGE_ROWS, &p->pool, row, n);
        from += n;
        row += n;
    }
    return st;
}

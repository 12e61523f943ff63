// Work lists and tensor maps of attention calls (see attention_plan.cuh), and their caches.
#include <algorithm>
#include <cuda.h>
#include <new>
#include <vector>

#include "attention_plan.cuh"

enum { N_CACHE = 8 };
static const int64_t LIMIT_32 = (int64_t)1 << 30;
static const size_t PART_BYTES = (size_t)512 << 20; // scratch for partial results of one slab

struct cached_t {
    std::vector<char> key, host; // host: tensor maps
    void *dev = NULL;
    size_t dev_bytes = 0;
    uint64_t used = 0;
    attn_plan_t plan;
};
struct attn_cache {
    cached_t plans[N_CACHE], maps[N_CACHE];
    uint64_t clock = 0;
};

void attention_free_cache(cuda_backend_t *b) {
    if (!b->attn) return;
    for (int i = 0; i < N_CACHE; i++) {
        cudaFree(b->attn->plans[i].dev);
        cudaFree(b->attn->maps[i].dev);
    }
    delete b->attn;
    b->attn = NULL;
}

// The entry with this key (*hit), or the one to be overwritten.
static cached_t *cache_find(cuda_backend_t *b, cached_t *list, const std::vector<char> &key, bool *hit) {
    cached_t *old = list;
    for (int i = 0; i < N_CACHE; i++) {
        if (list[i].used && list[i].key == key) {
            list[i].used = ++b->attn->clock;
            *hit = true;
            return &list[i];
        }
        if (list[i].used < old->used) old = &list[i];
    }
    *hit = false;
    return old;
}
static status_t cache_fill(cuda_backend_t *b, cached_t *c, std::vector<char> &key, const void *blob, size_t bytes) {
    if (bytes > c->dev_bytes) {
        if (c->dev) cudaFree(c->dev);
        c->dev = NULL;
        c->dev_bytes = 0;
        c->used = 0;
        size_t want = size_round_up(bytes + bytes / 2, 4096);
        CUDA_TRY(cudaMalloc(&c->dev, want));
        c->dev_bytes = want;
    }
    void *staged;
    ST_TRY(cuda_upload(b, blob, bytes, &staged));
    CUDA_TRY(cudaMemcpyAsync(c->dev, staged, bytes, cudaMemcpyDeviceToDevice, b->stream));
    c->key.swap(key);
    c->used = ++b->attn->clock;
    return ST_OK;
}
static void key_add(std::vector<char> &key, const void *p, size_t n) { key.insert(key.end(), (const char *)p, (const char *)p + n); }

// ---- work lists -----------------------------------------------------------------------------------------------------
struct maker_t {
    const attn_args_t *x;
    int tile_rows;
    int64_t inside;
    std::vector<ditem_t> items;
    std::vector<int> cost;
    std::vector<int64_t> place; // items that read the same keys stand together
    std::vector<dspan_t> spans;
    std::vector<dmerge_t> merges;
    std::vector<dslab_t> slabs;
    int64_t part_limit;
    bool ok;
};

// An edge in 32 bits for indices first..last; add is shifted by whole steps so that i + add is never negative.
static bool edge_32(edge_t e, int64_t first, int64_t last, dedge_t *out) {
    if (e.div >= LIMIT_32 || e.mul >= LIMIT_32) return false;
    if (first + e.add < 0) {
        int64_t k = i64_ceil_div(-(first + e.add), e.div);
        e.add += k * e.div;
        e.off -= k * e.mul;
    }
    int64_t top = (last + e.add) / e.div;
    if (e.mul && top > LIMIT_32 / e.mul) return false;
    int64_t worst = std::max({std::abs(e.add), std::abs(e.off), std::abs(last + e.add), std::abs(top * e.mul + e.off)});
    if (worst >= LIMIT_32) return false;
    // With 2^(shift-1) < div <= 2^shift, magic * div exceeds 2^(31+shift) by at most div: too little to matter below 2^31.
    out->shift = 0;
    while (((int64_t)1 << out->shift) < e.div) out->shift++;
    out->magic = (unsigned)(((uint64_t)1 << (31 + out->shift)) / (uint64_t)e.div + 1);
    out->mul = (int)e.mul, out->add = (int)e.add, out->off = (int)e.off;
    return true;
}
static bool span_32(const span_t &s, const run_t &r, const kv_pool_t &pool, dspan_t *out) {
    out->only = pool.only_head;
    out->pool = s.pool;
    out->begin = (int)s.begin;
    out->end = (int)s.end;
    int64_t last = r.index + r.n - 1;
    return s.begin >= 0 && s.end < LIMIT_32 && edge_32(s.lo, r.index, last, &out->lo) && edge_32(s.hi, r.index, last, &out->hi);
}

static int blocks_of(const span_t &s, int64_t a, int64_t b) {
    int64_t lo = span_lo(&s, a), hi = span_hi(&s, b);
    return hi > lo ? (int)(i64_ceil_div(hi, KEY_BLOCK) - lo / KEY_BLOCK) : 0;
}

// The chunk that row k lies in: 512 rows up to row 32K, then 1024 up to 64K, 2048 up to 128K, and so on. However far a pool reaches, a
// row's chunk stays the same, so a pool that grows does not change the order of sums; and a million rows are 224 chunks.
static int64_t chunk_of(int64_t k) {
    int64_t c = CHUNK_MIN;
    for (int64_t end = CHUNK_ROWS; k >= end; end *= 2) c *= 2;
    return c;
}

static void slab_begin(maker_t &m) {
    dslab_t s = {(int)m.items.size(), 0, (int)m.merges.size(), 0, 0, 0};
    m.slabs.push_back(s);
}
static void slab_end(maker_t &m) {
    dslab_t &s = m.slabs.back();
    s.n_item = (int)m.items.size() - s.item;
    s.n_merge = (int)m.merges.size() - s.merge;
}

static void add_item(maker_t &m, const run_t &r, int64_t t, int64_t n, int span, int n_span, int64_t out, int cost, int64_t place) {
    ditem_t it = {(int)(r.row + t), (int)n, (int)(r.index + t), span, n_span, -1, out, {}, {}, {}};
    if (n_span) it.first = m.spans[(size_t)span];
    m.items.push_back(it);
    m.cost.push_back(cost);
    m.place.push_back(place);
}

// One tile of one block, summed in one go. `first` is the place of the run's spans in m.spans.
static void tile_whole(maker_t &m, const run_t &r, int first, int64_t t, int64_t n, int block, int s0, int s1) {
    int cost = 2; // what an item costs beside its key blocks
    for (int s = s0; s < s1; s++) cost += blocks_of(m.x->spans[s], r.index + t, r.index + t + n - 1);
    add_item(m, r, t, n, first + s0 - r.span, s1 - s0, (int64_t)block * m.x->n_row + r.row + t, cost, 0);
}

// The same with split sums.
static void tile_split(maker_t &m, const run_t &r, int first, int64_t t, int64_t n, int block, int s0, int s1) {
    int64_t a = r.index + t, b = a + n - 1, out = (int64_t)block * m.x->n_row + r.row + t;
    size_t item0 = m.items.size();
    for (int s = s0; s < s1; s++) {
        const span_t &sp = m.x->spans[s];
        int64_t lo = span_lo(&sp, a), hi = span_hi(&sp, b);
        for (int64_t k = lo, c; k < hi; k = k / c * c + c) {
            c = chunk_of(k);
            dspan_t d = m.spans[(size_t)(first + s - r.span)];
            d.begin = (int)i64_max(d.begin, k / c * c);
            d.end = (int)i64_min(d.end, k / c * c + c);
            if (d.end <= d.begin) continue;
            int cost = 2 + (int)(i64_ceil_div(i64_min(hi, d.end), KEY_BLOCK) - i64_max(lo, d.begin) / KEY_BLOCK);
            m.spans.push_back(d);
            add_item(m, r, t, n, (int)m.spans.size() - 1, 1, 0, cost, (int64_t)d.pool << 32 | d.begin);
        }
    }
    size_t n_part = m.items.size() - item0;
    if (n_part == 0) add_item(m, r, t, n, 0, 0, out, 1, 0);
    if (n_part == 1) m.items[item0].out = out;
    if (n_part < 2) return;
    dslab_t *s = &m.slabs.back();
    if (s->part_rows && s->part_rows + (int64_t)n_part * n > m.part_limit && m.slabs.size() < MAX_SLAB) {
        std::vector<ditem_t> moved(m.items.begin() + (long)item0, m.items.end());
        m.items.resize(item0);
        slab_end(m);
        slab_begin(m);
        m.items.insert(m.items.end(), moved.begin(), moved.end());
        s = &m.slabs.back();
    }
    bool inside = n * (m.x->n_head / m.x->n_kv_head) * (int64_t)n_part <= m.inside;
    dmerge_t g = {out, s->part_rows, (int)n, (int)n_part, inside};
    for (size_t i = 0; i < n_part; i++) {
        ditem_t &it = m.items[item0 + i];
        it.merge = (int)m.merges.size();
        it.out = s->part_rows + (int64_t)i * n;
        it.parts = g;
    }
    m.merges.push_back(g);
    s->n_apart += !inside;
    s->part_rows += (int64_t)n_part * n;
}

static void plan_run(maker_t &m, const run_t &r) {
    bool split = m.x->o_type == DT_F32;
    int first = (int)m.spans.size();
    for (int s = r.span; s < r.span + r.n_span; s++) {
        dspan_t d;
        if (!span_32(m.x->spans[s], r, m.x->pools[m.x->spans[s].pool], &d)) m.ok = false;
        m.spans.push_back(d);
    }
    if (!m.ok) return;
    for (int block = 0, s0 = r.span; block < m.x->n_block; block++) {
        int s1 = s0;
        while (s1 < r.span + r.n_span && m.x->spans[s1].block == block) s1++;
        for (int64_t t = 0; t < r.n; t += m.tile_rows) {
            int64_t n = i64_min(m.tile_rows, r.n - t);
            if (split)
                tile_split(m, r, first, t, n, block, s0, s1);
            else
                tile_whole(m, r, first, t, n, block, s0, s1);
        }
        s0 = s1;
    }
}

// Longest first within every slab: the last items to finish are small.
static void sort_items(maker_t &m) {
    std::vector<int> order(m.items.size());
    for (size_t i = 0; i < order.size(); i++) order[i] = (int)i;
    for (const dslab_t &s : m.slabs)
        std::stable_sort(order.begin() + s.item, order.begin() + s.item + s.n_item, [&](int a, int b) {
            size_t x = (size_t)a, y = (size_t)b;
            return m.cost[x] != m.cost[y] ? m.cost[x] > m.cost[y] : m.place[x] < m.place[y];
        });
    std::vector<ditem_t> sorted;
    sorted.reserve(order.size());
    for (int i : order) sorted.push_back(m.items[(size_t)i]);
    m.items.swap(sorted);
}

static status_t plan_make(cuda_backend_t *b, const attn_args_t *x, int tile_rows, int64_t inside, const attn_plan_t **out, bool *ok) {
    if (!b->attn) b->attn = new attn_cache;
    std::vector<char> key;
    int64_t head[] = {x->n_row, x->n_head, x->n_kv_head, x->d_head, x->o_type, x->n_block, tile_rows, inside, x->n_run, x->n_span};
    key_add(key, head, sizeof head);
    key_add(key, x->runs, sizeof *x->runs * (size_t)x->n_run);
    key_add(key, x->spans, sizeof *x->spans * (size_t)x->n_span);
    for (int p = 0; p < x->n_pool; p++) key_add(key, &x->pools[p].only_head, sizeof x->pools[p].only_head);
    bool hit;
    cached_t *c = cache_find(b, b->attn->plans, key, &hit);
    *out = &c->plan;
    *ok = true;
    if (hit) return ST_OK;
    maker_t m;
    m.x = x;
    m.tile_rows = tile_rows;
    m.inside = inside;
    m.ok = x->n_row < LIMIT_32;
    m.part_limit = (int64_t)(PART_BYTES / (sizeof(float) * (size_t)x->n_head * (size_t)(x->d_head + 2 + ATTN_TOP)));
    slab_begin(m);
    for (int r = 0; r < x->n_run && m.ok; r++) {
        if (x->runs[r].index + x->runs[r].n >= LIMIT_32)
            m.ok = false;
        else
            plan_run(m, x->runs[r]);
    }
    slab_end(m);
    *ok = m.ok;
    if (!m.ok) return ST_OK;
    sort_items(m);
    size_t i_bytes = size_round_up(m.items.size() * sizeof(ditem_t), 16), g_bytes = size_round_up(m.merges.size() * sizeof(dmerge_t), 16);
    size_t s_bytes = size_round_up(m.spans.size() * sizeof(dspan_t), 16),
           c_bytes = m.merges.size() * (size_t)x->n_kv_head * sizeof(unsigned);
    std::vector<char> blob(i_bytes + g_bytes + s_bytes + c_bytes + 16); // counts begin as 0
    if (!m.items.empty()) memcpy(blob.data(), m.items.data(), m.items.size() * sizeof(ditem_t));
    if (!m.merges.empty()) memcpy(blob.data() + i_bytes, m.merges.data(), m.merges.size() * sizeof(dmerge_t));
    if (!m.spans.empty()) memcpy(blob.data() + i_bytes + g_bytes, m.spans.data(), m.spans.size() * sizeof(dspan_t));
    ST_TRY(cache_fill(b, c, key, blob.data(), blob.size()));
    c->plan.items = (const ditem_t *)c->dev;
    c->plan.merges = (const dmerge_t *)((char *)c->dev + i_bytes);
    c->plan.spans = (const dspan_t *)((char *)c->dev + i_bytes + g_bytes);
    c->plan.counts = (unsigned *)((char *)c->dev + i_bytes + g_bytes + s_bytes);
    c->plan.n_slab = (int)m.slabs.size();
    std::copy(m.slabs.begin(), m.slabs.end(), c->plan.slab);
    return ST_OK;
}

status_t attn_plan(cuda_backend_t *b, const attn_args_t *x, int tile_rows, int64_t inside, const attn_plan_t **out, bool *ok) {
    try {
        return plan_make(b, x, tile_rows, inside, out, ok);
    } catch (const std::bad_alloc &) {
        return status_fail(ST_FAIL, "no memory for an attention work list of %lld rows; use smaller batches", (long long)x->n_row);
    }
}

// ---- tensor maps ----------------------------------------------------------------------------------------------------
typedef CUresult (*encode_fn)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *, const cuuint64_t *,
                              const cuuint32_t *, const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion,
                              CUtensorMapFloatOOBfill);

bool tensor_map_make(void *map, dtype_t type, const void *base, int rank, const uint64_t *dims, const uint64_t *strides,
                     const uint32_t *box) {
    static encode_fn encode;
    if (!encode) { // found at run time, so that the program needs no driver library to start
        void *f = NULL;
        cudaDriverEntryPointQueryResult q;
        if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &f, 12000, cudaEnableDefault, &q) != cudaSuccess ||
            q != cudaDriverEntryPointSuccess)
            return false;
        encode = (encode_fn)f;
    }
    cuuint64_t d[5], s[4];
    cuuint32_t bx[5], one[5] = {1, 1, 1, 1, 1};
    for (int i = 0; i < rank; i++) d[i] = dims[i], bx[i] = box[i];
    for (int i = 0; i + 1 < rank; i++) s[i] = strides[i];
    return encode((CUtensorMap *)map, type == DT_F32 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, (cuuint32_t)rank,
                  (void *)base, d, s, bx, one, CU_TENSOR_MAP_INTERLEAVE_NONE,
                  box[0] * dtype_bytes(type) == 64 ? CU_TENSOR_MAP_SWIZZLE_64B : CU_TENSOR_MAP_SWIZZLE_128B,
                  CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

static bool pool_map(CUtensorMap *map, const kv_pool_t &p, const void *base, const attn_args_t *x) {
    enum { MANY_LAYERS = 4096 };
    // A stride that is never used (one head, one layer) may be anything: give the engine one that it takes.
    uint64_t row = (uint64_t)p.row_stride * 2, head = p.head_stride ? (uint64_t)p.head_stride * 2 : row,
             layer = p.layer_stride ? (uint64_t)p.layer_stride * 2 : row;
    const uint64_t halves = (uint64_t)x->d_head / 64; // a tile is 64 elements of every row, then the others: as the products want it
    uint64_t dims[5] = {64, (uint64_t)p.n_row, halves, (uint64_t)x->n_kv_head, MANY_LAYERS}, strides[4] = {row, 128, head, layer};
    uint32_t box[5] = {64, KEY_BLOCK, (uint32_t)halves, 1, 1};
    if (p.type != DT_BF16 || p.row_stride <= 0 || p.head_stride < 0 || p.layer_stride < 0) return false;
    if ((row | head | layer) % 16 || (uintptr_t)base % 16) return false;
    return tensor_map_make(map, DT_BF16, base, 5, dims, strides, box);
}

status_t attn_maps(cuda_backend_t *b, const attn_args_t *x, const void **out, const void **host, bool *ok) {
    try {
        if (!b->attn) b->attn = new attn_cache;
        std::vector<char> key;
        int head[] = {x->n_kv_head, x->d_head, x->n_pool};
        key_add(key, head, sizeof head);
        key_add(key, x->pools, sizeof *x->pools * (size_t)x->n_pool);
        bool hit;
        cached_t *c = cache_find(b, b->attn->maps, key, &hit);
        *ok = true;
        if (!hit) {
            std::vector<CUtensorMap> maps((size_t)x->n_pool * 2 + 1);
            for (int p = 0; p < x->n_pool; p++) {
                if (!x->pools[p].n_row) continue; // never read: stays zero
                *ok = *ok && x->pools[p].n_row < LIMIT_32 && pool_map(&maps[(size_t)p * 2], x->pools[p], x->pools[p].k, x) &&
                      pool_map(&maps[(size_t)p * 2 + 1], x->pools[p], x->pools[p].v, x);
            }
            if (!*ok) return ST_OK;
            c->host.assign((const char *)maps.data(), (const char *)(maps.data() + maps.size()));
            ST_TRY(cache_fill(b, c, key, c->host.data(), c->host.size()));
        }
        *out = c->dev;
        *host = c->host.data();
        return ST_OK;
    } catch (const std::bad_alloc &) {
        return status_fail(ST_FAIL, "no memory for the tensor maps of %d pools; use smaller batches", x->n_pool);
    }
}

// ---- the operation --------------------------------------------------------------------------------------------------
status_t attention_cuda(backend_t *bb, const attn_args_t *x) {
    cuda_backend_t *b = cuda_of(bb);
    bool done = false;
    if (!x->n_run) return ST_OK;
    if (bb->act == DT_BF16 && b->attn_family == 90) ST_TRY(attention_sm90(b, x, &done));
    if (bb->act == DT_BF16 && b->attn_family >= 80 && !done) ST_TRY(attention_sm80(b, x, &done));
    return done ? ST_OK : attention_ref_cuda(b, x);
}

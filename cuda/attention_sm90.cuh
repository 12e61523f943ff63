// The side of Hopper's attention kernel that loads (attention_sm90.cu): what a block keeps in shared memory, and the roles of its first
// warpgroup, which take items off the work list and bring queries, keys and values.
#ifndef CUDA_ATTENTION_SM90_CUH
#define CUDA_ATTENTION_SM90_CUH

#include <cuda.h>

#include "attention_plan.cuh"
#include "common.cuh"
#include "hopper.cuh"

enum { SHOWN = 4, NEAR_POOLS = 12 };

struct sm90_args {
    CUtensorMap q_map; // 3D: element, head, row; box 64 x group x rows of a tile
    const ditem_t *items;
    const dspan_t *spans;
    const CUtensorMap *maps;
    int n_item, n_work, n_map, heads, n_head, n_kv, group, group_inv, q_bytes,
        layer; // group_inv: m / group = m * group_inv >> 16 for rows of a tile
    float scale, scale_log2;
    void *o;
    float *lse, *m, *top;
    attn_part_t part;
    unsigned *counter, *counts; // of the work list; of finished parts
    uint64_t at_rest;           // bit p: pool p may be read before the kernels before have ended
};

// Maps of a thin kernel's pools, where they are few: a launch brings them itself, and none can be an older one in the engine's cache.
template <int C> struct near_maps_t { CUtensorMap of[C == 1 ? 2 * NEAR_POOLS : 1]; };

// C: consumers. Three for heads of 64, whose exponentials weigh as much as their products; 160 registers each then suffice. One when a call
// has few rows ("thin"): it is bound by memory and by latencies, and a second consumer would multiply rows that are not there. Its
// registers are bounded so that the next kernel's blocks find room beside it and wait there.
template <int D, int C> struct shape_t {
    static constexpr int HALVES = D / 64, ROWS = 64 * C, THREADS = 128 * (C + 1);
    static constexpr int STAGES = D == 128 ? 5 : 8, SPANS = C == 1 ? 1 : 4;              // items of split sums have one span
    static constexpr int HALF_BYTES = KEY_BLOCK * 128, TILE_BYTES = HALVES * HALF_BYTES; // of K and V
    static constexpr int Q_HALF = ROWS * 128, Q_BYTES = HALVES * Q_HALF;
    static constexpr int REGS_PRODUCER = C == 1 ? 88 : C == 2 ? 24 : 32, REGS_CONSUMER = C == 3 ? 160 : C == 2 ? 240 : 248;
    static constexpr int REGS_THREADS = C == 3 ? 512 : 384; // 65536 registers over so many at the start
};
template <int SPANS> struct __align__(16) shown_t { // what the scheduler tells the others about an item
    ditem_t it;                                     // its last member is its first span, and the others follow
    dspan_t more[SPANS > 1 ? SPANS - 1 : 1];
    int head; // -1: no more work
    __device__ __forceinline__ const dspan_t *spans() const { return &it.first; }
};
template <int D, int C> struct smem_t { // of a block; the swizzle wants tiles that begin at multiples of 1024 bytes
    typedef shape_t<D, C> shape;
    typedef shown_t<shape::SPANS> shown;
    char q[2 * shape::Q_BYTES], kv[shape::STAGES * shape::TILE_BYTES];
    uint64_t q_full[2], q_empty[2], full[shape::STAGES], empty[shape::STAGES], told[SHOWN], go;
    shown items[SHOWN];
    int last; // did this block finish the last part?
};

struct bars_t {
    uint32_t q_full, q_empty, full, empty; // arrays of 8-byte barriers: two query tiles, the ring
    uint32_t told, go;                     // an item is described in shown[]; its queries and its keys are being asked for
};
template <int STAGES> struct ring_t { // position in a ring of stages
    int at = 0, phase = 0;
    __device__ __forceinline__ void step() {
        if (++at == STAGES) at = 0, phase ^= 1;
    }
};

// Work w of the list, told by a warp.
template <int SPANS> __device__ __forceinline__ void show(const sm90_args &a, unsigned w, shown_t<SPANS> &sh) {
    unsigned lane = threadIdx.x & 31, n = (unsigned)a.n_work;
    // `heads` K/V heads at a time (of split sums all), so that what the items share stays in the L2 cache.
    const unsigned heads = (unsigned)a.heads, side = (unsigned)a.n_item * heads, turn = SPANS == 1 ? 0 : w / side;
    const unsigned in = w - turn * side, item = in / heads;
    if (lane == 0) sh.head = w < n ? (int)(turn * heads + in - item * heads) : -1;
    if (w >= n) return;
    const ditem_t *it = a.items + item;
    if (lane < sizeof *it / 16) ((uint4 *)&sh.it)[lane] = ((const uint4 *)it)[lane];
    __syncwarp();
    const unsigned *from = (const unsigned *)(a.spans + sh.it.span + 1),
                   n_word = (unsigned)(min(sh.it.n_span, SPANS) - 1) * sizeof(dspan_t) / 4;
    if (SPANS > 1 && sh.it.n_span > 1)
        for (unsigned i = lane; i < n_word; i += 32) ((unsigned *)sh.more)[i] = from[i];
}

// By a warp. Every block begins with the item of its own number, already told, and takes the following ones from a counter; the last taker
// sets that back to 0.
template <int SPANS> __device__ __forceinline__ void schedule(const sm90_args &a, shown_t<SPANS> *shown, const bars_t &bar) {
    ring_t<SHOWN> r;
    for (unsigned w = blockIdx.x, n = (unsigned)a.n_work, turn = 0;; turn ^= 1) {
        __syncwarp();
        if ((threadIdx.x & 31) == 0) mbar_arrive(bar.told + 8 * r.at);
        if (w >= n) return;
        r.step();
        pdl_wait();                   // the counter: of the launch before until here
        pdl_go();                     // in this order, see at_rest.cuh
        mbar_wait(bar.go, (int)turn); // the item before the next has begun: the slot after it is free (its last user ended two items ago)
        if ((threadIdx.x & 31) == 0) w = gridDim.x + atomicInc(a.counter, n - 1);
        w = __shfl_sync(~0u, w, 0);
        show<SPANS>(a, w, shown[r.at]);
    }
}

template <int D, int C>
__device__ __forceinline__ void load_tile(uint32_t kv, const bars_t &bar, ring_t<shape_t<D, C>::STAGES> &r, const CUtensorMap *map, int row,
                                          int head, int layer) {
    mbar_wait(bar.empty + 8 * r.at, r.phase ^ 1);
    uint32_t full = bar.full + 8 * r.at, dst = kv + r.at * shape_t<D, C>::TILE_BYTES;
    mbar_expect(full, shape_t<D, C>::TILE_BYTES);
    if (C == 1) // split sums of one tile: every key is read once
        tma_load_5d_once(dst, map, full, 0, row, 0, head, layer);
    else
        tma_load_5d(dst, map, full, 0, row, 0, head, layer);
    r.step();
}

// Is everything that an item reads but its queries at rest?
template <int SPANS> __device__ __forceinline__ bool item_at_rest(const sm90_args &a, const shown_t<SPANS> &sh) {
    bool all = sh.it.n_span <= SPANS;
    for (int s = 0; s < SPANS && s < sh.it.n_span; s++) all = all && sh.spans()[s].pool < 64 && (a.at_rest >> sh.spans()[s].pool & 1);
    return all;
}

template <int D, int C>
__device__ __forceinline__ void load_queries(const sm90_args &a, const typename smem_t<D, C>::shown *shown, uint32_t q, const bars_t &bar) {
    ring_t<2> qr;
    ring_t<SHOWN> tr;
    for (;;) {
        const uint32_t full = bar.q_full + 8 * qr.at, to = q + qr.at * shape_t<D, C>::Q_BYTES;
        mbar_wait(bar.q_empty + 8 * qr.at, qr.phase ^ 1);
        mbar_wait(bar.told + 8 * tr.at, tr.phase);
        const auto &sh = shown[tr.at];
        if (sh.head < 0) {
            mbar_arrive(full);
            return;
        }
        mbar_arrive(bar.go);
        if (C == 1) pdl_wait(); // the kernel before makes them
        mbar_expect(full, a.q_bytes);
#pragma unroll
        for (int h = 0; h < shape_t<D, C>::HALVES; h++)
            tma_load_3d(to + h * shape_t<D, C>::Q_HALF, &a.q_map, full, h * 64, sh.head * a.group, sh.it.row);
        qr.step();
        tr.step();
    }
}

template <int D, int C>
__device__ __forceinline__ void produce(const sm90_args &a, const CUtensorMap *maps, const typename smem_t<D, C>::shown *shown, uint32_t kv,
                                        const bars_t &bar) {
    constexpr int STAGES = shape_t<D, C>::STAGES, SPANS = shape_t<D, C>::SPANS;
    ring_t<SHOWN> tr;
    ring_t<STAGES> r;
    int v_row = 0, v_head = 0;
    const CUtensorMap *vmap = NULL; // V of a block is asked for after K of the next, be it the next item's: that is the order of use
    int asked = 0;                  // tiles so far, while `early`
    bool early = false;             // the kernels before may still run
    auto load = [&](const CUtensorMap *map, int row, int head) {
        // One at a time keeps the memory busy, and those kernels do not wait behind a ring full of requests.
        if (early && asked && asked < STAGES) mbar_wait(bar.full + 8 * (asked - 1), 0);
        asked += early;
        load_tile<D, C>(kv, bar, r, map, row, head, a.layer);
    };
    auto load_v = [&] {
        if (vmap) load(vmap, v_row, v_head);
        vmap = NULL;
    };
    for (bool begun = false;; begun = true) {
        mbar_wait(bar.told + 8 * tr.at, tr.phase);
        const auto &sh = shown[tr.at];
        const int head = sh.head, n_span = sh.it.n_span;
        bool empty = true;
        if (head < 0) break;
        mbar_arrive(bar.go); // as load_queries does: neither falls behind by more items than can be shown, be they empty
        // A thin kernel's first item: K and V at rest fill the ring while the kernels before end, of which the last one makes the queries.
        early = C == 1 && !begun && item_at_rest(a, sh);
        if (C == 1 && !early) pdl_wait();
        tr.step();
        for (int s = 0; s < n_span; s++) {
            const dspan_t *sp = s < SPANS ? &sh.spans()[s] : &a.spans[sh.it.span + s];
            int lo = dspan_lo(*sp, sh.it.index), hi = dspan_hi(*sp, sh.it.index + sh.it.n - 1), pool = sp->pool;
            if (lo >= hi || (sp->only && sp->only != head + 1)) continue;
            const int pool_head = sp->only ? 0 : head; // such a pool has no other
            const CUtensorMap *kmap = maps + 2 * pool;
            for (int kb = lo & ~(KEY_BLOCK - 1); kb < hi; kb += KEY_BLOCK) {
                load(kmap, kb, pool_head);
                load_v();
                vmap = kmap + 1;
                v_row = kb;
                v_head = pool_head;
                empty = false;
            }
        }
        if (C == 1 || empty) load_v(); // thin consumers overlap items with nothing, others do not overlap them with one without keys
    }
    load_v();
}

#endif

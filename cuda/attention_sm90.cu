// The attention operator on Hopper: warpgroup matrix products, bulk tensor copies, a producer warp and two or three consumer warpgroups,
// persistent blocks.
//
//   scheduler (1 warp)    takes the next item off the list, one ahead of the producer: its latency is never waited for
//   producer (1 thread)   loads the key blocks of an item's spans, K and V in the order of their use, into one ring of stages
//   queries (1 thread)    loads an item's queries
//   consumers             64 rows of the tile each. S = Q K^T of block n and O += P V of block n-1 are in flight while another consumer
//                         does its exponentials; they take turns at the tensor cores (named barriers), so that these never idle. The
//                         first block of the next item counts as block n, so that items follow each other without a gap
//
// Who sees whom comes from the spans alone: an item's rows see [lo, hi) of a span, its key blocks run from lo of the first row to hi of the
// last, and only blocks that reach outside [lo of the last row, hi of the first) of a warp's 16 rows are masked, element by element, in the
// registers. Rows of V that no row of the tile sees are cleared in shared memory before use: they may hold anything, and 0 * NaN is NaN.
#include "at_rest.cuh"
#include "attention_merge.cuh"
#include "attention_sm90.cuh"
#include "attention_tile.cuh"

enum { BAR_TURN = 1, BAR_CLEAR = 4 }; // named barriers, one per consumer each
enum { MERGE_INSIDE = 128 };          // partial rows that one block merges sooner than a launch of its own would

// ---- matrix products ------------------------------------------------------------------------------------------------
template <int D, int C> __device__ __forceinline__ void product_qk(float (&s)[64], uint32_t q, uint32_t k) {
    uint64_t dq = smem_desc(q, 16), dk = smem_desc(k, 16);
    auto q_at = [&](int e) { return dq + (uint64_t)((e / 4) * (shape_t<D, C>::Q_HALF >> 4) + (e % 4) * 2); };
    auto k_at = [&](int e) { return dk + (uint64_t)((e / 4) * (shape_t<D, C>::HALF_BYTES >> 4) + (e % 4) * 2); };
    wgmma_fence();
#pragma unroll
    for (int e = 0; e < D / 16; e++) wgmma_qk(s, q_at(e), k_at(e), e != 0);
    wgmma_commit();
}
// `halves`: see walk_t. Each case is a straight line with its own fence: otherwise the assembler puts waits between the products. (The same
// for Q K^T makes it wait as well, whatever the form: accumulators that only some cases write.)
template <int D, int C>
__device__ __forceinline__ void product_pv(float (&o)[D / 2], const uint32_t (&p)[32], uint32_t v, bool first, int halves) {
    uint64_t dv = smem_desc(v, shape_t<D, C>::HALF_BYTES);
    if (halves == 3) {
        wgmma_fence();
#pragma unroll
        for (int e = 0; e < KEY_BLOCK / 16; e++) wgmma_pv(o, p + 4 * e, dv + (uint64_t)(e * (2048 >> 4)), e != 0 || !first);
        wgmma_commit();
    } else if (halves == 1) {
        wgmma_fence();
#pragma unroll
        for (int e = 0; e < KEY_BLOCK / 32; e++) wgmma_pv(o, p + 4 * e, dv + (uint64_t)(e * (2048 >> 4)), e != 0 || !first);
        wgmma_commit();
    } else {
        wgmma_fence();
#pragma unroll
        for (int e = KEY_BLOCK / 32; e < KEY_BLOCK / 16; e++)
            wgmma_pv(o, p + 4 * e, dv + (uint64_t)(e * (2048 >> 4)), e != KEY_BLOCK / 32 || !first);
        wgmma_commit();
    }
}

// Clears the rows of a V tile outside [lo, hi). Every consumer may do so: all write the same.
template <int D, int C> __device__ __forceinline__ void clear_rows(uint32_t v, int lo, int hi, int wg) {
    int t = threadIdx.x & 127;
    for (int at = t; at < KEY_BLOCK * 8; at += 128) {
        int r = at >> 3;
        if (r >= lo && r < hi) continue;
#pragma unroll
        for (int h = 0; h < shape_t<D, C>::HALVES; h++)
            asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(v + h * shape_t<D, C>::HALF_BYTES + at * 16), "r"(0) : "memory");
    }
    fence_async();
    bar_sync(BAR_CLEAR + wg, 128);
}

// ---- consumers ------------------------------------------------------------------------------------------------------
// How many rows a thin kernel's item has from this warp's first on: fewer than 16, or none (then <= 0), where the tile is not full.
__device__ __forceinline__ int rows_of_warp(const sm90_args &a, const ditem_t &it) {
    return it.n * a.group - (int)(threadIdx.x / 32 % 4) * 16;
}

// Results of a consumer's 64 rows. O in bf16 goes through the (now free) query tile, so that global writes are 16 bytes wide and whole.
template <int D, int C, bool F32, bool STATS>
__device__ __forceinline__ void write_out(const sm90_args &a, const ditem_t &it, int head, int wg, uint32_t q, float (&o)[D / 2],
                                          row_t<STATS> (&row)[2]) {
    int lane = threadIdx.x & 31, m0 = wg * 64 + (threadIdx.x / 32 % 4) * 16 + lane / 4;
    bool part = F32 && it.merge >= 0;
    attn_out_t to = {a.scale, a.scale_log2, part ? a.part.lse : a.lse, part ? a.part.m : a.m, part ? a.part.top : a.top};
#pragma unroll
    for (int r = 0; r < 2; r++) {
        if (C == 1 && rows_of_warp(a, it) <= 8 * r) continue;
        int m = m0 + 8 * r, t = m * a.group_inv >> 16;
        bool live = t < it.n;
        int64_t at = (it.out + t) * a.n_head + head * a.group + (m - t * a.group);
        float inv = row_out<STATS>(to, row[r], at, live);
        if constexpr (F32) {
            float *out = (part ? a.part.o : (float *)a.o) + at * D + 2 * (lane % 4);
#pragma unroll
            for (int j = 0; j < D / 8; j++)
                if (live) *(float2 *)(out + 8 * j) = make_float2(o[4 * j + 2 * r] * inv, o[4 * j + 2 * r + 1] * inv);
        } else {
#pragma unroll
            for (int j = 0; j < D / 8; j++) {
                uint32_t dst = q + (j / 8) * shape_t<D, C>::Q_HALF + m * 128 + (((j % 8) ^ (m & 7)) << 4) + 4 * (lane % 4);
                asm volatile("st.shared.b32 [%0], %1;" ::"r"(dst), "r"(pack_bf16(o[4 * j + 2 * r] * inv, o[4 * j + 2 * r + 1] * inv))
                             : "memory");
            }
        }
    }
    if constexpr (!F32) {
        __syncwarp(); // a warp reads back what it wrote itself: its own 16 rows
        int w16 = wg * 64 + (threadIdx.x / 32 % 4) * 16;
#pragma unroll
        for (int i = 0; i < D / 16; i++) {
            int at = i * 32 + lane, m = w16 + at / (D / 8), c = at % (D / 8), t = m * a.group_inv >> 16;
            uint4 x;
            asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                         : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                         : "r"(q + (c / 8) * shape_t<D, C>::Q_HALF + m * 128 + (((c % 8) ^ (m & 7)) << 4))
                         : "memory");
            if (t < it.n) *(uint4 *)((bf16 *)a.o + ((it.out + t) * a.n_head + head * a.group + (m - t * a.group)) * D + c * 8) = x;
        }
        fence_async();
    }
}

// An item that shows no key to any row.
template <int D, bool F32, bool STATS>
__device__ __forceinline__ void write_empty(const sm90_args &a, const ditem_t &it, int head, int thread, int n_thread) {
    bool part = F32 && it.merge >= 0;
    float *lse = part ? a.part.lse : a.lse, *ml = part ? a.part.m : a.m, *top = part ? a.part.top : a.top;
    for (int m = thread; m < it.n * a.group; m += n_thread) {
        int t = m * a.group_inv >> 16;
        int64_t at = (it.out + t) * a.n_head + head * a.group + (m - t * a.group);
        if (lse) lse[at] = -INFINITY;
        if (STATS && ml) ml[at] = 0;
        for (int e = 0; STATS && top && e < ATTN_TOP; e++) top[at * ATTN_TOP + e] = -INFINITY;
        for (int j = 0; j < D; j += 8) {
            uint4 *to = (uint4 *)(F32 ? (char *)((part ? a.part.o : (float *)a.o) + at * D + j) : (char *)((bf16 *)a.o + at * D + j));
            to[0] = make_uint4(0, 0, 0, 0);
            if (F32) to[1] = make_uint4(0, 0, 0, 0);
        }
    }
}

// The consumer's part of an item is written; whoever finishes the last part of a merge that is to be done here does it.
template <int D>
__device__ __forceinline__ void finish_part(const sm90_args &a, const ditem_t &it, int head, volatile int &last, float (&v)[64]) {
    const dmerge_t &g = it.parts;
    if (it.merge < 0 || !g.inside) return;
    bar_sync(BAR_CLEAR, 128);
    if (threadIdx.x == 128) { // what the others wrote before the barrier goes with this one's release
        unsigned *count = a.counts + it.merge * a.n_kv + head, before;
        asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], 1;" : "=r"(before) : "l"(count) : "memory");
        last = before + 1 == (unsigned)g.n_part;
        if (last) *count = 0;
    }
    bar_sync(BAR_CLEAR, 128);
    if (!last) return;
    merged_t out = {(float *)a.o, a.lse, a.m, a.top};
    for (int i = (int)threadIdx.x / 32 - 4; i < g.n * a.group; i += 4) {
        int t = i * a.group_inv >> 16, h = head * a.group + (i - t * a.group);
        merge_pair<D>(a.part, (g.part + t) * a.n_head + h, (int64_t)g.n * a.n_head, g.n_part, (g.out + t) * a.n_head + h, out, v);
    }
}

__device__ __forceinline__ void release(uint32_t empty, int at) {
    if ((threadIdx.x & 31) == 0) mbar_arrive(empty + 8 * at);
}

template <int D, int C, bool F32, bool STATS>
__device__ __forceinline__ void consume(const sm90_args &a, smem_t<D, C> &sm, const bars_t &bar, int wg) {
    using shape = shape_t<D, C>;
    const auto *shown = sm.items;
    const uint32_t q0 = smem_addr(sm.q), kv = smem_addr(sm.kv);
    constexpr int TILE = shape::TILE_BYTES;
    constexpr bool ALONE = C == 1 && STATS; // statistics beside a product want more registers than there are
    const int m0 = wg * 64 + (threadIdx.x / 32 % 4) * 16 + (threadIdx.x & 31) / 4, t0 = m0 * a.group_inv >> 16,
              t1 = (m0 + 8) * a.group_inv >> 16;
    const uint32_t q_rows = q0 + wg * 64 * 128;
    ring_t<2> qr;
    ring_t<SHOWN> tr;
    ring_t<shape::STAGES> r;
    walk_t<KEY_BLOCK> w;
    float s[64], o[D / 2];
    uint32_t p[32];
    row_t<STATS> row[2];
    // Waits for the item at (q, t) and goes to its first key block; false: it has none, or there are no more items.
    auto open = [&](const ring_t<2> &q, const ring_t<SHOWN> &t) {
        mbar_wait(bar.q_full + 8 * q.at, q.phase);
        const auto &sh = shown[t.at];
        w.near_by = sh.spans();
        w.n_near = shape::SPANS;
        w.far = a.spans + sh.it.span;
        w.begin(sh.it, sh.head, t0, t1);
        return sh.head >= 0 && w.next();
    };
    auto close = [&] { // the item's query tile may be used again
        __syncwarp();
        release(bar.q_empty, qr.at);
        qr.step();
        tr.step();
    };
    auto softmax = [&](float &alpha0, float &alpha1) {
        // Rows that are not there keep their logits: nobody reads what comes of them.
        const int rows = C == 1 ? rows_of_warp(a, shown[tr.at].it) : 16;
        alpha0 = alpha1 = 1;
        if (rows <= 0) return;
        if (w.edge()) mask_block<STATS, 16>(s, w);
        alpha0 = softmax_row<0, STATS, 16>(s, row[0], a.scale_log2);
        if (rows > 8) alpha1 = softmax_row<1, STATS, 16>(s, row[1], a.scale_log2);
    };
    auto pack = [&] {
#pragma unroll
        for (int e = 0; e < 32; e++) p[e] = pack_bf16(s[2 * e], s[2 * e + 1]);
    };
    if (C == 1) pdl_wait();                              // before anything is written
    if (C > 1 && wg == C - 1) bar_arrive(BAR_TURN, 256); // consumer 0 begins
    auto write = [&] {
        const auto &sh = shown[tr.at];
        write_out<D, C, F32, STATS>(a, sh.it, sh.head, wg, q0 + qr.at * shape::Q_BYTES, o, row);
    };
    auto finish = [&] {
        if constexpr (C == 1 && F32) finish_part<D>(a, shown[tr.at].it, shown[tr.at].head, sm.last, s);
        close();
    };
    for (;; finish()) {
        if (!open(qr, tr)) {
            if (shown[tr.at].head < 0) return;
            write_empty<D, F32, STATS>(a, shown[tr.at].it, shown[tr.at].head, (int)threadIdx.x - 128, 128 * C);
            continue;
        }
        float alpha0, alpha1;
        bool first = true, ragged;
        int v_lo, v_hi, v_halves;
        auto note = [&] { // the block whose probabilities p holds; its V is still to be used
            ragged = w.ragged();
            v_halves = D == 128 ? w.halves() : 3; // for heads of 64 the choice costs more than it saves
            v_lo = w.lo - w.kb;
            v_hi = w.hi - w.kb;
        };
        // S = Q K^T of the present block and O += P V of the block before, in our turn; returns when S is there.
        auto products = [&](uint32_t q) {
            int k_at = r.at;
            mbar_wait(bar.full + 8 * r.at, r.phase);
            if (C > 1) bar_sync(BAR_TURN + wg, 256);
            product_qk<D, C>(s, q, kv + k_at * TILE);
            r.step();
            mbar_wait(bar.full + 8 * r.at, r.phase);
            if (ragged) clear_rows<D, C>(kv + r.at * TILE, v_lo, v_hi, wg);
            product_pv<D, C>(o, p, kv + r.at * TILE, first, v_halves);
            if (C > 1) bar_arrive(BAR_TURN + (wg + 1 == C ? 0 : wg + 1), 256);
            wgmma_wait<1>();
            release(bar.empty, k_at);
        };
        auto products_end = [&] {
            wgmma_wait<0>();
            release(bar.empty, r.at);
            r.step();
        };
        row_begin<STATS>(row[0]);
        row_begin<STATS>(row[1]);
        mbar_wait(bar.full + 8 * r.at, r.phase);
        product_qk<D, C>(s, q_rows + qr.at * shape::Q_BYTES, kv + r.at * TILE);
        products_end();
        softmax(alpha0, alpha1);
        pack();
        for (;;) {
            note();
            while (w.next()) {
                products(q_rows + qr.at * shape::Q_BYTES);
                if (ALONE) products_end();
                softmax(alpha0, alpha1);
                if (!ALONE) products_end();
#pragma unroll
                for (int j = 0; j < D / 8; j++) o[4 * j] *= alpha0, o[4 * j + 1] *= alpha0, o[4 * j + 2] *= alpha1, o[4 * j + 3] *= alpha1;
                pack();
                first = false;
                note();
            }
            ring_t<2> qn = qr;
            ring_t<SHOWN> tn = tr;
            qn.step();
            tn.step();
            if (C == 1 || !open(qn, tn)) break;
            products(q_rows + qn.at * shape::Q_BYTES); // the next item's first block
            products_end();
            write();
            close();
            row_begin<STATS>(row[0]);
            row_begin<STATS>(row[1]);
            softmax(alpha0, alpha1);
            pack();
            first = true;
        }
        mbar_wait(bar.full + 8 * r.at, r.phase); // nothing to overlap with
        if (ragged) clear_rows<D, C>(kv + r.at * TILE, v_lo, v_hi, wg);
        product_pv<D, C>(o, p, kv + r.at * TILE, first, v_halves);
        products_end();
        write();
    }
}

template <int D, int C, bool F32, bool STATS>
__global__ void __launch_bounds__(shape_t<D, C>::REGS_THREADS, 1)
    attention_sm90_kernel(const __grid_constant__ sm90_args a, const __grid_constant__ near_maps_t<C> near) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL // empty when built for another architecture: attention_sm90_built() tells
    using shape = shape_t<D, C>;
    constexpr int STAGES = shape::STAGES;
    extern __shared__ __align__(1024) char smem[];
    smem_t<D, C> &sm = *(smem_t<D, C> *)smem;
    if (smem_addr(smem) & 1023) __trap(); // nothing else is in shared memory, so it is
    bars_t bar = {smem_addr(sm.q_full), smem_addr(sm.q_empty), smem_addr(sm.full),
                  smem_addr(sm.empty),  smem_addr(sm.told),    smem_addr(&sm.go)};
    if (threadIdx.x == 0) {
        for (int i = 0; i < 2; i++) {
            mbar_init(bar.q_full + 8 * i, 1);
            mbar_init(bar.q_empty + 8 * i, 4 * C); // one arrival per warp
        }
        for (int i = 0; i < STAGES; i++) {
            mbar_init(bar.full + 8 * i, 1);
            mbar_init(bar.empty + 8 * i, 4 * C);
        }
        for (int i = 0; i < SHOWN; i++) mbar_init(bar.told + 8 * i, 1);
        mbar_init(bar.go, 2);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    // Work list and maps come by copies, which no kernel overlaps, so they need not wait. Maps in memory may have been written since this
    // multiprocessor last used them; once is enough, it is slow.
    const bool is_near = C == 1 && a.n_map <= 2 * NEAR_POOLS;
    const CUtensorMap *maps = is_near ? near.of : a.maps;
    if (threadIdx.x / 32 == 1) show(a, blockIdx.x, sm.items[0]);
    if (threadIdx.x < 32)
        for (int i = (int)threadIdx.x; i < a.n_map; i += 32) {
            if (!is_near) tma_map_acquire(maps + i);
            if (C == 1) tma_map_fetch(maps + i);
        }
    if (C > 1) {
        pdl_wait(); // thin: every role waits where it must
        pdl_go();   // in this order, see at_rest.cuh
    }
    __syncthreads();
    int wg = (int)threadIdx.x / 128;
    if (wg == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(shape::REGS_PRODUCER));
        if (threadIdx.x == 0) produce<D, C>(a, maps, sm.items, smem_addr(sm.kv), bar);
        if (threadIdx.x / 32 == 1) schedule(a, sm.items, bar);
        if (threadIdx.x == 64) load_queries<D, C>(a, sm.items, smem_addr(sm.q), bar);
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(shape::REGS_CONSUMER));
        consume<D, C, F32, STATS>(a, sm, bar, wg - 1);
    }
#else
    (void)a;
#endif
}
__global__ void built_kernel(unsigned *flag) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    *flag = 1;
#else
    *flag = 0;
#endif
}

// ---- host -----------------------------------------------------------------------------------------------------------
bool attention_sm90_built(cuda_backend_t *b) {
    unsigned flag = 0;
    built_kernel<<<1, 1, 0, b->stream>>>(b->counter + COUNT_BUILT);
    if (cudaMemcpyAsync(&flag, b->counter + COUNT_BUILT, sizeof flag, cudaMemcpyDeviceToHost, b->stream) != cudaSuccess) flag = 0;
    return cudaStreamSynchronize(b->stream) == cudaSuccess && cudaGetLastError() == cudaSuccess && flag == 1;
}

template <int D, int C, bool F32, bool STATS> static status_t launch(cuda_backend_t *b, const sm90_args &a, const void *host_maps) {
    using shape = shape_t<D, C>;
    constexpr int SMEM = (int)sizeof(smem_t<D, C>);
    auto kernel = attention_sm90_kernel<D, C, F32, STATS>;
    static bool ready; // per kernel; one device per process
    if (!ready) CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SMEM));
    ready = true;
    int grid = a.n_work < b->n_sm ? a.n_work : b->n_sm;
    near_maps_t<C> near;
    if (C == 1 && a.n_map <= 2 * NEAR_POOLS) memcpy(near.of, host_maps, (size_t)a.n_map * sizeof near.of[0]);
    return pdl_launch(b, kernel, dim3((unsigned)grid), shape::THREADS, SMEM, "attention (wgmma)", a, near);
}
// Consumers for a call: statistics need registers, so two then.
#ifndef SM90_CONSUMERS_64
#define SM90_CONSUMERS_64 3
#endif
static int consumers_of(const attn_args_t *x) {
    int64_t most = 0, group = x->n_head / x->n_kv_head;
    for (int r = 0; r < x->n_run; r++) most = i64_max(most, x->runs[r].n);
    if (x->o_type == DT_F32 && most <= 64 / group) return 1;
    return x->d_head == 64 && !x->m && !x->top ? SM90_CONSUMERS_64 : 2;
}
static status_t launch_any(cuda_backend_t *b, const attn_args_t *x, const sm90_args &a, const void *host_maps, bool thin) {
    bool f32 = x->o_type == DT_F32, stats = x->m || x->top;
    if (thin && x->d_head == 64) return stats ? launch<64, 1, true, true>(b, a, host_maps) : launch<64, 1, true, false>(b, a, host_maps);
    if (thin) return stats ? launch<128, 1, true, true>(b, a, host_maps) : launch<128, 1, true, false>(b, a, host_maps);
    if (x->d_head == 64) {
        if (stats) return f32 ? launch<64, 2, true, true>(b, a, host_maps) : launch<64, 2, false, true>(b, a, host_maps);
        return f32 ? launch<64, SM90_CONSUMERS_64, true, false>(b, a, host_maps)
                   : launch<64, SM90_CONSUMERS_64, false, false>(b, a, host_maps);
    }
    if (stats) return f32 ? launch<128, 2, true, true>(b, a, host_maps) : launch<128, 2, false, true>(b, a, host_maps);
    return f32 ? launch<128, 2, true, false>(b, a, host_maps) : launch<128, 2, false, false>(b, a, host_maps);
}

// The most K/V heads (a divisor of their number) whose rows fill no more than part of the L2 cache.
static int heads_at_once(const cuda_backend_t *b, const attn_args_t *x) {
    int64_t rows = 0;
    for (int p = 0; p < x->n_pool; p++) rows += x->pools[p].n_row;
    int64_t fit = (int64_t)(b->l2_bytes * 2 / 5) / (rows * x->d_head * 4 + 1);
    int h = x->n_kv_head;
    if (x->o_type == DT_F32) return h; // split sums read every key once
    while (h > 1 && (h > fit || x->n_kv_head % h)) h--;
    return h;
}

status_t attention_sm90(cuda_backend_t *b, const attn_args_t *x, bool *done) {
    const attn_plan_t *plan;
    const void *host_maps;
    int group = x->n_head / x->n_kv_head, consumers = consumers_of(x), rows = 64 * consumers / group;
    bool ok;
    sm90_args a;
    *done = false;
    if ((x->d_head != 64 && x->d_head != 128) || group > 64 || (uintptr_t)x->q % 16 || (uintptr_t)x->o % 16) return ST_OK;
    ST_TRY(attn_plan(b, x, rows, consumers == 1 ? MERGE_INSIDE : 0, &plan, &ok));
    if (!ok) return ST_OK;
    ST_TRY(attn_maps(b, x, (const void **)&a.maps, &host_maps, &ok));
    if (!ok) return ST_OK;
    uint64_t dims[3] = {(uint64_t)x->d_head, (uint64_t)x->n_head, (uint64_t)x->n_row};
    uint64_t strides[2] = {(uint64_t)x->d_head * 2, (uint64_t)x->d_head * 2 * (uint64_t)x->n_head};
    uint32_t box[3] = {64, (uint32_t)group, (uint32_t)rows};
    if (!tensor_map_make(&a.q_map, DT_BF16, x->q, 3, dims, strides, box)) return ST_OK;
    a.n_head = x->n_head;
    a.n_kv = x->n_kv_head;
    a.group = group;
    a.n_map = 2 * x->n_pool;
    a.heads = heads_at_once(b, x);
    a.group_inv = (65536 + group - 1) / group;
    a.q_bytes = group * rows * x->d_head * 2;
    a.layer = x->layer;
    a.scale = x->scale;
    a.scale_log2 = x->scale * 1.4426950408889634f;
    a.o = x->o;
    a.lse = x->lse;
    a.m = x->m;
    a.top = x->top;
    a.counter = b->counter + COUNT_ATTENTION;
    a.counts = plan->counts;
    a.at_rest = consumers == 1 ? pools_at_rest(b, x) : 0;
    a.spans = plan->spans;
    ST_TRY(attn_part_alloc(b, x, plan, &a.part));
    for (int s = 0; s < plan->n_slab; s++) {
        if (!plan->slab[s].n_item) continue;
        a.items = plan->items + plan->slab[s].item;
        a.n_item = plan->slab[s].n_item;
        a.n_work = a.n_item * x->n_kv_head;
        ST_TRY(launch_any(b, x, a, host_maps, consumers == 1));
        all_at_rest(b);
        a.at_rest = 0; // of the first slab only: the next follows this very kernel
        ST_TRY(attn_merge_parts(b, x, plan, s, a.part));
    }
    *done = true;
    return ST_OK;
}

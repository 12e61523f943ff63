// Warpgroup products of the matrix kernel: C[64][n] += A[64][16] B[n][16]^T, both operands in shared memory and contiguous along the sum (see
// hopper.cuh for the layout of registers and descriptors), n = 192 and 256; and what clusters of thread blocks need.
#ifndef CUDA_HOPPER_WIDE_CUH
#define CUDA_HOPPER_WIDE_CUH

#include "hopper.cuh"

// A box of two coordinates, into the same place of every block of the cluster that `mask` names; each block's own barrier counts the bytes.
__device__ __forceinline__ void tma_load_2d_all(uint32_t dst, const void *map, uint32_t bar, int c0, int c1, uint16_t mask) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster "
        "[%0], [%1, {%3, %4}], [%2], %5;" ::"r"(dst),
        "l"(map), "r"(bar), "r"(c0), "r"(c1), "h"(mask)
        : "memory");
}
__device__ __forceinline__ void tma_load_2d(uint32_t dst, const void *map, uint32_t bar, int c0, int c1) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(dst),
                 "l"(map), "r"(bar), "r"(c0), "r"(c1)
                 : "memory");
}
// Arrival at the barrier of the same name in block `rank` of the cluster. What was done is reads by the tensor cores, complete by now: no
// fence is needed (one of cluster scope here, and at the waits, costs a third of all speed).
__device__ __forceinline__ void mbar_arrive_at(uint32_t bar, uint32_t rank) {
    asm volatile("{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %0, %1;\n"
                 "mbarrier.arrive.shared::cluster.b64 _, [there];\n}\n" ::"r"(bar),
                 "r"(rank)
                 : "memory");
}
// Four bytes into the shared memory of block `rank`, counted by that block's own barrier; `at` and `bar` are this block's names of them.
__device__ __forceinline__ void store_async_at(uint32_t at, uint32_t value, uint32_t bar, uint32_t rank) {
    asm volatile("{\n.reg .b32 at_there, bar_there;\nmapa.shared::cluster.u32 at_there, %0, %3;\nmapa.shared::cluster.u32 bar_there, %2, %3;\n"
                 "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.b32 [at_there], %1, [bar_there];\n}\n" ::"r"(at),
                 "r"(value), "r"(bar), "r"(rank)
                 : "memory");
}
// Boxes of two coordinates from shared memory, what reaches beyond the tensor left out: stored, or added element by element in the L2 cache.
__device__ __forceinline__ void tma_store_2d(const void *map, uint32_t src, int c0, int c1) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%2, %3}], [%1];" ::"l"(map), "r"(src), "r"(c0), "r"(c1) : "memory");
}
__device__ __forceinline__ void tma_add_2d(const void *map, uint32_t src, int c0, int c1) {
    asm volatile("cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.tile.bulk_group [%0, {%2, %3}], [%1];" ::"l"(map), "r"(src), "r"(c0),
                 "r"(c1)
                 : "memory");
}
// What a thread sent so far is a group; all but the last N of its groups have read their shared memory, or are done.
__device__ __forceinline__ void bulk_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
template <int N> __device__ __forceinline__ void bulk_wait_read() { asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(N) : "memory"); }
template <int N> __device__ __forceinline__ void bulk_wait() { asm volatile("cp.async.bulk.wait_group %0;" ::"n"(N) : "memory"); }
__device__ __forceinline__ void tma_map_prefetch(const void *map) { asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory"); }
// Four 8 x 8 matrices of bf16, held as the products' results are; thread t names the row t % 8 of matrix t / 8.
__device__ __forceinline__ void stmatrix_4(uint32_t row, const uint32_t (&v)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row), "r"(v[0]), "r"(v[1]), "r"(v[2]), "r"(v[3])
                 : "memory");
}
__device__ __forceinline__ void cluster_sync() {
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
__device__ __forceinline__ uint32_t cluster_rank() {
    uint32_t r;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
    return r;
}

__device__ __forceinline__ void wgmma_ss(float (&c)[96], uint64_t a, uint64_t b, int keep) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %98, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n192k16.f32.bf16.bf16 {" WG_NAMES_96 "}, "
                 "%96, %97, p, 1, 1, 0, 0;\n}\n"
                 : WG_SUMS_96(c)
                 : "l"(a), "l"(b), "r"(keep));
}
__device__ __forceinline__ void wgmma_ss(float (&c)[128], uint64_t a, uint64_t b, int keep) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %130, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {" WG_NAMES_128 "}, "
                 "%128, %129, p, 1, 1, 0, 0;\n}\n"
                 : WG_SUMS_128(c)
                 : "l"(a), "l"(b), "r"(keep));
}

#endif

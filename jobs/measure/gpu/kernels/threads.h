// Runs CUDA kernels under ThreadSanitizer, each CUDA thread a thread of its own, block after block.
//
// Barriers order memory; shuffles and ballots do not, as on a GPU: they exchange values through relaxed atomics.
#pragma once
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <functional>
#include <thread>
#include <vector>

#define THREAD_STORAGE static thread_local
#include "intrinsics.h"

namespace shim {

// A place where `size` threads meet, again and again.
struct Meeting {
    std::atomic<unsigned> arrived{0}, turn{0};

    void meet(unsigned size, std::memory_order arrive, std::memory_order leave) {
        const unsigned own = turn.load(std::memory_order_relaxed);
        if (arrived.fetch_add(1, arrive) + 1 == size) {
            arrived.store(0, std::memory_order_relaxed);
            turn.fetch_add(1, arrive);
            futex(FUTEX_WAKE_PRIVATE, INT_MAX);
        } else {
            while (turn.load(leave) == own) futex(FUTEX_WAIT_PRIVATE, own);
        }
    }
    // Threads outnumber cores, so they wait asleep; by the call itself, as waits of the library would order memory.
    void futex(int action, unsigned value) { syscall(SYS_futex, &turn, action, value, nullptr, nullptr, 0); }
    void in_order(unsigned size) { meet(size, std::memory_order_acq_rel, std::memory_order_acquire); }
    void loosely(unsigned size) { meet(size, std::memory_order_relaxed, std::memory_order_relaxed); }
};

// The lanes of a mask: barriers and collectives of it, and what each lane gives.
struct Group {
    Meeting barrier, collective;
    std::atomic<uint64_t> given[32];
};

static Group groups[32][32];  // by warp and first lane of the mask
static Meeting block;

static Group& group_of(unsigned mask) { return groups[threadIdx.x / 32][__builtin_ctz(mask)]; }

static uint64_t shuffle_bits(unsigned mask, uint64_t bits, int source) {
    Group& group = group_of(mask);
    group.given[threadIdx.x & 31].store(bits, std::memory_order_relaxed);
    group.collective.loosely(__popc(mask));
    const uint64_t received = group.given[source].load(std::memory_order_relaxed);
    group.collective.loosely(__popc(mask));  // before the next collective overwrites what was given
    return received;
}

// Runs `body` once on every thread of the grid.
static void run(unsigned grid, unsigned threads, const std::function<void()>& body) {
    gridDim = {grid, 1, 1}, blockDim = {threads, 1, 1};
    for (unsigned b = 0; b < grid; ++b) {
        std::vector<std::thread> all;
        for (unsigned t = 0; t < threads; ++t)
            all.emplace_back([&body, b, t] {
                threadIdx = {t, 0, 0}, blockIdx = {b, 0, 0};
                body();
            });
        for (auto& thread : all) thread.join();
    }
}

}  // namespace shim

inline void __syncthreads() { shim::block.in_order(blockDim.x); }
inline void __syncwarp(unsigned mask = 0xFFFFFFFFu) { shim::group_of(mask).barrier.in_order(__popc(mask)); }
inline unsigned __ballot_sync(unsigned mask, int predicate) {
    unsigned votes = 0;
    shim::Group& group = shim::group_of(mask);
    group.given[threadIdx.x & 31].store(predicate != 0, std::memory_order_relaxed);
    group.collective.loosely(__popc(mask));
    for (unsigned lane = 0; lane < 32; ++lane)
        if (mask >> lane & 1) votes |= (unsigned)group.given[lane].load(std::memory_order_relaxed) << lane;
    group.collective.loosely(__popc(mask));
    return votes;
}

inline void copy_async(unsigned long long* to, const unsigned long long* from) { *to = *from; }
inline void wait_for_copies() {}
inline int atomicOr(int* at, int bits) { return __atomic_fetch_or(at, bits, __ATOMIC_RELAXED); }

// Runs CUDA kernels on the CPU, block after block, each thread a fiber that gives way at barriers and shuffles.
//
// Stricter than a GPU: a collective whose lanes do not all arrive, a shuffle from outside its mask and a barrier that some
// threads have left behind abort with a message. Blocks and threads run in rising or falling order, so that most missing
// barriers show as wrong results in one of the two. Data races within one statement are not seen. Asynchronous copies arrive
// as late as they may, when their thread waits for them; a thread that ends before it waits aborts.
#pragma once
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <type_traits>
#include <utility>
#include <vector>

#define THREAD_STORAGE static
#include "intrinsics.h"

namespace shim {

enum Wait { NONE, BLOCK, WARP, SHUFFLE, BALLOT };

struct Fiber {
    ucontext_t context;
    std::vector<char> stack;
    bool done;
    Wait wait;
    unsigned mask;
    int source;
    uint64_t value, received;
    std::vector<std::pair<void*, const void*>> copies;  // asked for, not yet waited for
};

static std::vector<Fiber> fibers(1024);
static ucontext_t scheduler;
static std::function<void()> body;
static unsigned current;

[[noreturn]] inline void fail(const char* sentence) {
    std::fprintf(stderr, "shim: block %u thread %u: %s\n", blockIdx.x, current, sentence);
    std::abort();
}

inline void run_body() {
    body();
    if (!fibers[current].copies.empty()) fail("the thread ends before it has waited for its asynchronous copies");
    fibers[current].done = true;
}

// Wait for every lane of the mask (or the whole block) to come to the same collective; returns what this lane receives.
inline uint64_t meet(Wait wait, unsigned mask, uint64_t value, int source) {
    Fiber& own = fibers[current];
    if (wait != BLOCK && !(mask >> (current & 31) & 1)) fail("the mask of a warp collective leaves out the calling lane");
    own.wait = wait, own.mask = mask, own.value = value, own.source = source;
    swapcontext(&own.context, &scheduler);
    return fibers[current].received;
}

inline bool release_block() {
    for (unsigned t = 0; t < blockDim.x; ++t)
        if (fibers[t].wait != BLOCK) return false;
    for (unsigned t = 0; t < blockDim.x; ++t) fibers[t].wait = NONE;
    return true;
}

inline bool release_warp(unsigned first, unsigned lane) {
    if (fibers[first + lane].done || fibers[first + lane].wait <= BLOCK) return false;
    const Wait wait = fibers[first + lane].wait;
    const unsigned mask = fibers[first + lane].mask;
    unsigned ballot = 0;
    for (unsigned l = 0; l < 32; ++l) {
        if (!(mask >> l & 1)) continue;
        if (first + l >= blockDim.x) fail("the mask of a warp collective names lanes that the block does not have");
        const Fiber& other = fibers[first + l];
        if (other.done || other.wait != wait || other.mask != mask) return false;
        ballot |= (unsigned)(other.value != 0) << l;
    }
    for (unsigned l = 0; l < 32; ++l) {
        if (!(mask >> l & 1)) continue;
        Fiber& own = fibers[first + l];
        if (wait == SHUFFLE && !(mask >> own.source & 1)) fail("a shuffle reads a lane outside its mask");
        own.received = wait == BALLOT ? ballot : fibers[first + own.source].value;
    }
    for (unsigned l = 0; l < 32; ++l)
        if (mask >> l & 1) fibers[first + l].wait = NONE;
    return true;
}

inline bool release() {
    bool any = release_block();
    for (unsigned first = 0; first < blockDim.x; first += 32)
        for (unsigned lane = 0; lane < 32 && first + lane < blockDim.x; ++lane) any |= release_warp(first, lane);
    return any;
}

inline void start_fiber(unsigned t) {
    Fiber& fiber = fibers[t];
    fiber.stack.resize(1 << 16);
    fiber.done = false, fiber.wait = NONE;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = fiber.stack.size();
    fiber.context.uc_link = &scheduler;
    makecontext(&fiber.context, run_body, 0);
}

inline void run_block(bool falling) {
    for (unsigned t = 0; t < blockDim.x; ++t) start_fiber(t);
    for (;;) {
        bool all_done = true;
        for (unsigned k = 0; k < blockDim.x; ++k) {
            current = falling ? blockDim.x - 1 - k : k;
            threadIdx = {current, 0, 0};
            if (!fibers[current].done && fibers[current].wait == NONE) swapcontext(&scheduler, &fibers[current].context);
            all_done &= fibers[current].done;
        }
        if (all_done) return;
        if (!release()) fail("deadlock: some threads wait at a barrier or shuffle that others never reach");
    }
}

// Kind and size of a parameter as NumPy writes them: "i8", "u4", "f4"; pointers are "u8", structs by value "V" and their bytes.
template <typename T>
bool accepts(const char* given) {
    if (std::is_class<T>::value) return given[0] == 'V' && std::atoi(given + 1) == (int)sizeof(T);
    const char kind = std::is_floating_point<T>::value ? 'f' : std::is_signed<T>::value ? 'i' : 'u';
    return given[0] == kind && given[1] == (char)('0' + sizeof(T));
}

// Runs the kernel on every thread of the grid; returns the first argument of a wrong type, or -1.
template <typename... A, size_t... I>
int launch(void (*kernel)(A...), std::index_sequence<I...>, int count, unsigned grid, unsigned block, void** values,
           const char** types, int falling) {
    if (count != (int)sizeof...(A)) return count;
    const bool right[] = {accepts<A>(types[I])...};
    for (int i = 0; i < count; ++i)
        if (!right[i]) return i;
    gridDim = {grid, 1, 1}, blockDim = {block, 1, 1};
    body = [=] { kernel(*static_cast<std::remove_cv_t<A>*>(values[I])...); };
    for (unsigned k = 0; k < grid; ++k) {
        blockIdx = {falling ? grid - 1 - k : k, 0, 0};
        run_block(falling);
    }
    return -1;
}

template <typename... A>
int launch(void (*kernel)(A...), int count, unsigned grid, unsigned block, void** values, const char** types, int falling) {
    return launch(kernel, std::index_sequence_for<A...>{}, count, grid, block, values, types, falling);
}

static uint64_t shuffle_bits(unsigned mask, uint64_t bits, int source) { return meet(SHUFFLE, mask, bits, source); }

}  // namespace shim

inline void __syncthreads() { shim::meet(shim::BLOCK, 0, 0, 0); }
inline void __syncwarp(unsigned mask = 0xFFFFFFFFu) { shim::meet(shim::WARP, mask, 0, shim::current & 31); }
inline unsigned __ballot_sync(unsigned mask, int predicate) {
    return (unsigned)shim::meet(shim::BALLOT, mask, predicate != 0, shim::current & 31);
}

inline void copy_async(unsigned long long* to, const unsigned long long* from) {
    if ((uintptr_t)to % 8 || (uintptr_t)from % 8) shim::fail("an asynchronous copy of 8 bytes needs addresses of whole words");
    shim::fibers[shim::current].copies.push_back({to, from});
}
inline void wait_for_copies() {
    for (const auto& [to, from] : shim::fibers[shim::current].copies) std::memcpy(to, from, 8);
    shim::fibers[shim::current].copies.clear();
}

inline int atomicOr(int* at, int bits) { return std::exchange(*at, *at | bits); }  // fibers never run at once

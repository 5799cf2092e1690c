// Copies from global to shared memory that need no register: a thread asks for many, and waits for all of them together.
//
// The compiler may put a wait between loads into registers, and does; between these it puts none. Before sm_80 a copy goes
// through a register after all.
#pragma once
#include "types.cuh"

#ifdef __CUDACC__  // the shim of the tests has its own

// 8 bytes on their way; both addresses are multiples of 8. Until `wait_for_copies` nothing of `to` may be read or written.
__device__ inline void copy_async(u64* to, const u64* from) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"((u32)__cvta_generic_to_shared(to)), "l"(from));
#else
    *to = *from;
#endif
}

// Returns when this thread's own copies have arrived; other threads see them behind a barrier.
__device__ inline void wait_for_copies() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

#endif

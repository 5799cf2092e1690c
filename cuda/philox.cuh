// Philox4x32-10 (Salmon et al., SC 2011), the draws of gcnrec/random.py: the same integers for the same counter and seed.
#pragma once
#include "types.cuh"

struct Words {
    u32 a, b, c, d;
};

__device__ inline Words philox(u32 c0, u32 c1, u32 c2, u32 c3, u64 seed) {
    u32 k0 = (u32)seed, k1 = (u32)(seed >> 32);
    for (int round = 0; round < 10; ++round) {
        const u64 p0 = 0xD2511F53ull * c0, p1 = 0xCD9E8D57ull * c2;
        c0 = (u32)(p1 >> 32) ^ c1 ^ k0;
        c2 = (u32)(p0 >> 32) ^ c3 ^ k1;
        c1 = (u32)p1;
        c3 = (u32)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return {c0, c1, c2, c3};
}

// An integer in 0 .. count-1 by the high 64 bits of a 64-bit draw times count.
__device__ inline i64 below(u32 high, u32 low, i64 count) { return (i64)__umul64hi((u64)high << 32 | low, (u64)count); }

// Words of CUDA that mean the same however threads are run: positions, vectors, bits, and shuffles between the lanes of a warp.
//
// Whoever includes it defines THREAD_STORAGE, the storage of a thread's own position, and `shim::shuffle_bits`.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#define __global__
#define __device__
#define __shared__ static
#define __launch_bounds__(...)

struct dim3 { unsigned x, y, z; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(16) float4 { float x, y, z, w; };

THREAD_STORAGE dim3 threadIdx, blockIdx;
static dim3 blockDim, gridDim;

namespace shim {

// What lane `source` of the warp gives to this collective of the lanes in `mask`.
static uint64_t shuffle_bits(unsigned mask, uint64_t bits, int source);

template <typename T>
T shuffle(unsigned mask, T value, int source) {
    static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof(T));
    bits = shuffle_bits(mask, bits, source);
    std::memcpy(&value, &bits, sizeof(T));
    return value;
}

}  // namespace shim

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    const int lane = threadIdx.x & 31;
    return shim::shuffle(mask, value, lane / width * width + source % width);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
    const int lane = threadIdx.x & 31, source = lane ^ bits;
    return shim::shuffle(mask, value, source / width == lane / width ? source : lane);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned away, int width = 32) {
    const int lane = threadIdx.x & 31, source = lane - (int)away;
    return shim::shuffle(mask, value, source >= lane / width * width ? source : lane);
}

inline unsigned __float_as_uint(float value) { unsigned bits; std::memcpy(&bits, &value, 4); return bits; }
inline float __uint_as_float(unsigned bits) { float value; std::memcpy(&value, &bits, 4); return value; }
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) { return (unsigned __int128)a * b >> 64; }

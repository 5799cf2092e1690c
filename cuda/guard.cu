// Looks for numbers that are not finite in several gradients, in one launch. Equal to gcnrec/ops/guard.py: bits have no order.
#include "types.cuh"

const u32 EXPONENT = 0x7F800000u;  // all ones in infinities and NaN, and in no finite number

struct Part {
    const u32* values;  // bits of float32
    i64 count;
};

__device__ inline bool holds_nonfinite(const Part& part) {
    const Tile tile = tile_of(1);
    bool found = false;
#pragma unroll 4
    for (i64 at = tile.first; at < part.count; at += tile.stride) found |= (part.values[at] & EXPONENT) == EXPONENT;
    return found;
}

#define PART(i) const u32 *values##i, i64 count##i
// Sets bit first + i (at most bit 30) of *bad where part i holds a number that is not finite; a part of no values says nothing.
extern "C" __global__ void gcnrec_flag_nonfinite(PART(0), PART(1), PART(2), PART(3), PART(4), PART(5), PART(6), PART(7),
                                                 int first, int* bad) {
    const Part parts[] = {{values0, count0}, {values1, count1}, {values2, count2}, {values3, count3},
                          {values4, count4}, {values5, count5}, {values6, count6}, {values7, count7}};
    int bits = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i)
        if (holds_nonfinite(parts[i])) bits |= 1 << (first + i < 30 ? first + i : 30);
    if (bits) atomicOr(bad, bits);
}

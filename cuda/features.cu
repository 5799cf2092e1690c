// Stored features as float: float32 itself, float16, bfloat16 as its upper half, or int8 codes on a grid of each column. The same
// bits as gcnrec/ops/features.py: products of the grid are exact, so that it does not matter whether a compiler fuses them.
//
// A warp takes a row, a value a lane and pass: the rows are on the device, where whole lines are read and written.
#include "types.cuh"

const int LANES = 32;

struct Float32 {
    typedef float Stored;
    __device__ float operator()(float stored, i64) const { return stored; }
};

struct Bfloat16 {
    typedef u16 Stored;
    __device__ float operator()(u16 stored, i64) const { return __uint_as_float((u32)stored << 16); }
};

// A finite half. Below 2^-14 it counts in units of 2^-24; above, the exponent is shifted by 127 - 15.
struct Float16 {
    typedef u16 Stored;
    __device__ float operator()(u16 stored, i64) const {
        const u32 size = stored & 0x7FFFu, sign = (u32)(stored & 0x8000u) << 16;
        const u32 normal = (size << 13) + (112u << 23), small = __float_as_uint((float)size * 5.9604644775390625e-8f);
        return __uint_as_float(sign | (size >= 0x400u ? normal : small));
    }
};

struct Int8 {
    typedef signed char Stored;
    const float *low, *step, *high;
    __device__ float operator()(signed char stored, i64 d) const {
        const float count = (float)(stored + 127);
        return count == 254.0f ? high[d] : low[d] + count * step[d];
    }
};

// out[r] = row index[r] of `stored`, whose rows lie `pitch` values apart; row r without an index.
template <typename Decode>
__device__ void read_features(const typename Decode::Stored* stored, i64 pitch, const i64* index, i64 rows, i64 width,
                              float* out, Decode decode) {
    const Tile tile = tile_of(LANES);
    for (i64 r = tile.first; r < rows; r += tile.stride) {
        const typename Decode::Stored* row = stored + (index ? index[r] : r) * pitch;
        for (i64 d = tile.lane; d < width; d += LANES) out[r * width + d] = decode(row[d], d);
    }
}

#define KERNEL(suffix, Decode)                                                                                                \
    extern "C" __global__ void gcnrec_read_##suffix(const Decode::Stored* stored, i64 pitch, const i64* index, i64 rows,      \
                                                    i64 width, float* out) {                                                  \
        read_features(stored, pitch, index, rows, width, out, Decode{});                                                      \
    }
KERNEL(float32, Float32)
KERNEL(float16, Float16)
KERNEL(bfloat16, Bfloat16)

extern "C" __global__ void gcnrec_read_int8(const signed char* stored, i64 pitch, const i64* index, i64 rows, i64 width, float* out,
                                            const float* low, const float* step, const float* high) {
    read_features(stored, pitch, index, rows, width, out, Int8{low, step, high});
}

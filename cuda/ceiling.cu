// What the bus to host memory carries at best: reads, writes, and both at once, of whole rows and nothing else.
//
// The same requests as a gather makes (16 bytes a lane, a tile a row, several rows on their way), without its writes to device
// memory: no kernel that reads these rows can be faster, so it is what other kernels are measured against.
#include "types.cuh"

const int AHEAD = 4;  // rows of a tile that are on their way together

// seen[warp] = exclusive or of all words that the warp has read: the loads cannot be left out.
extern "C" __global__ void gcnrec_ceiling_read(const uint4* memory, const i64* rows, i64 count, int lanes, u32* seen) {
    const Tile tile = tile_of(lanes);
    u32 bits = 0;
    for (i64 first = tile.first; first < count; first += AHEAD * tile.stride) {
        uint4 held[AHEAD];
#pragma unroll
        for (int a = 0; a < AHEAD; ++a) {
            const i64 r = first + a * tile.stride;
            held[a] = r < count ? memory[rows[r] * lanes + tile.lane] : uint4{0, 0, 0, 0};
        }
#pragma unroll
        for (int a = 0; a < AHEAD; ++a) bits ^= held[a].x ^ held[a].y ^ held[a].z ^ held[a].w;
    }
    for (int away = 16; away > 0; away /= 2) bits ^= __shfl_xor_sync(0xFFFFFFFFu, bits, away);
    if (threadIdx.x % 32 == 0) seen[((i64)blockIdx.x * blockDim.x + threadIdx.x) / 32] = bits;
}

// Fill rows that are all different with words made of `value`.
extern "C" __global__ void gcnrec_ceiling_write(uint4* memory, const i64* rows, i64 count, int lanes, u32 value) {
    const Tile tile = tile_of(lanes);
    for (i64 r = tile.first; r < count; r += tile.stride)
        memory[rows[r] * lanes + tile.lane] = uint4{value, value + 1, value + 2, value + 3};
}

// Read rows that are all different, turn over the bits of the first word of every 16 bytes, and write them back.
extern "C" __global__ void gcnrec_ceiling_turn(uint4* memory, const i64* rows, i64 count, int lanes) {
    const Tile tile = tile_of(lanes);
    for (i64 first = tile.first; first < count; first += AHEAD * tile.stride) {
        uint4 held[AHEAD];
#pragma unroll
        for (int a = 0; a < AHEAD; ++a) {
            const i64 r = first + a * tile.stride;
            held[a] = r < count ? memory[rows[r] * lanes + tile.lane] : uint4{0, 0, 0, 0};
        }
#pragma unroll
        for (int a = 0; a < AHEAD; ++a) {
            const i64 r = first + a * tile.stride;
            if (r < count) memory[rows[r] * lanes + tile.lane] = uint4{~held[a].x, held[a].y, held[a].z, held[a].w};
        }
    }
}

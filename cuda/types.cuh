// Short names of the integers, and the position of a thread among tiles: groups of 2^n neighbouring lanes that share a row.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

struct Tile {
    int lane;    // this thread within its tile
    int lanes;   // threads of a tile
    u32 mask;    // the tile's lanes within its warp
    i64 first;   // number of this tile in the grid
    i64 stride;  // tiles in the grid
};

// `lanes` must be a power of two, at most 32, and blocks a multiple of 32 threads.
__device__ inline Tile tile_of(int lanes) {
    const i64 thread = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    const int begin = (threadIdx.x & 31) / lanes * lanes;
    const u32 ones = lanes == 32 ? 0xFFFFFFFFu : (1u << lanes) - 1u;
    return {(int)(threadIdx.x % lanes), lanes, ones << begin, thread / lanes, (i64)gridDim.x * blockDim.x / lanes};
}

// The sum over a tile, the same on every lane and in every run.
__device__ inline float tile_sum(const Tile& tile, float value) {
    for (int away = tile.lanes / 2; away > 0; away /= 2) value += __shfl_xor_sync(tile.mask, value, away, tile.lanes);
    return value;
}

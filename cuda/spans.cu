// Copies pieces of flat memory: rows of a table, records or state on their way between pinned host memory and the device.
//
// A tile of lanes takes a piece, in the widest vectors that all addresses and lengths allow, from the boundary of the line in
// which the source starts, and asks for four pieces before it uses the first.
#include "types.cuh"

const int LANES = 16;
const int AHEAD = 4;  // pieces that a tile has on their way

struct Pieces {
    const u8* from[AHEAD];
    u8* to[AHEAD];
    i64 bytes[AHEAD];
};

template <typename Vector>
__device__ inline void copy(const Tile& tile, const Pieces& pieces) {
    i64 before[AHEAD], count[AHEAD], last = 0;
    for (int i = 0; i < AHEAD; ++i) {
        before[i] = (i64)((u64)pieces.from[i] % 128 / sizeof(Vector));
        count[i] = pieces.bytes[i] / (i64)sizeof(Vector);
        if (count[i] && before[i] + count[i] > last) last = before[i] + count[i];
    }
    for (i64 w = tile.lane; w < last; w += LANES) {
        Vector part[AHEAD] = {};
        for (int i = 0; i < AHEAD; ++i)
            if (w >= before[i] && w - before[i] < count[i]) part[i] = ((const Vector*)pieces.from[i])[w - before[i]];
        for (int i = 0; i < AHEAD; ++i)
            if (w >= before[i] && w - before[i] < count[i]) ((Vector*)pieces.to[i])[w - before[i]] = part[i];
    }
}

// target[target_at[r] + j] = source[source_at[r] + j] for j < length[r].
template <typename Stored>
__device__ void copy_spans(const Stored* source, const i64* source_at, Stored* target, const i64* target_at, const i64* length,
                           i64 spans) {
    const Tile tile = tile_of(LANES);
    for (i64 r = tile.first; r < spans; r += AHEAD * tile.stride) {
        Pieces pieces;
        u64 bits = 0;
        for (int i = 0; i < AHEAD; ++i) {
            const i64 own = r + i * tile.stride < spans ? r + i * tile.stride : r;
            pieces.from[i] = (const u8*)(source + source_at[own]);
            pieces.to[i] = (u8*)(target + target_at[own]);
            pieces.bytes[i] = own == r && i > 0 ? 0 : length[own] * (i64)sizeof(Stored);
            if (pieces.bytes[i]) bits |= (u64)pieces.from[i] | (u64)pieces.to[i] | (u64)pieces.bytes[i];
        }
        if (bits % 16 == 0)
            copy<uint4>(tile, pieces);
        else if (bits % 8 == 0)
            copy<u64>(tile, pieces);
        else
            copy<Stored>(tile, pieces);
    }
}

#define KERNEL(size, Stored)                                                                                                  \
    extern "C" __global__ void gcnrec_copy_spans_##size(const Stored* source, const i64* source_at, Stored* target,           \
                                                        const i64* target_at, const i64* length, i64 spans) {                 \
        copy_spans(source, source_at, target, target_at, length, spans);                                                      \
    }
KERNEL(1, u8)
KERNEL(2, u16)
KERNEL(4, u32)
KERNEL(8, u64)

// Copies pieces of flat memory: rows of a table, records or state on their way between pinned host memory and the device.
//
// A launch takes all planes of a batch. A tile of lanes takes a piece, in the widest vectors that all addresses and lengths
// allow, and asks for four pieces before it uses the first. Vectors begin at the boundary of the line in which the host's side
// of the piece starts, so that whole lines cross the bus.
#include "hits.cuh"

const int LANES = 16;
const int AHEAD = 4;  // pieces that a tile has on their way
const int PAIRS = 8;  // pairs of a launch

// Piece r starts at address memory + at[r] * pitch; pitch in bytes. A pointer, since the compiler knows pointers of a kernel's
// parameters to be of global memory.
struct Side {
    u8* memory;
    const i64* at;
    i64 pitch;
};

// Pieces `begin`, begin + 1, ... of the launch, each of lengths[r] values, or of `length` where there are no lengths.
struct Pair {
    Side source, target;
    const i64* lengths;
    i64 length, begin;
};

struct Pairs {
    Pair of[PAIRS];
};

// Pieces of at most 2^31 bytes, which start `skip` bytes into a line of the host's side.
struct Pieces {
    const u8* from[AHEAD];
    u8* to[AHEAD];
    int bytes[AHEAD], skip[AHEAD];
};

__device__ inline u8* place(const Side& side, i64 at) { return side.memory + at * side.pitch; }

__device__ inline i64 values(const Pair& pair, i64 r) { return pair.lengths ? pair.lengths[r] : pair.length; }

template <typename Vector>
__device__ inline void copy(const Tile& tile, const Pieces& pieces) {
    const int size = sizeof(Vector);
    int last = 0;
    for (int i = 0; i < AHEAD; ++i)
        if (pieces.bytes[i] && pieces.skip[i] / size + pieces.bytes[i] / size > last)
            last = pieces.skip[i] / size + pieces.bytes[i] / size;
#pragma unroll 1  // a second turn on its way would take the registers of a third block
    for (int w = tile.lane; w < last; w += LANES) {
        Vector part[AHEAD] = {};
        for (int i = 0; i < AHEAD; ++i) {
            const int own = w - pieces.skip[i] / size;
            if (own >= 0 && own < pieces.bytes[i] / size) part[i] = ((const Vector*)pieces.from[i])[own];
        }
        for (int i = 0; i < AHEAD; ++i) {
            const int own = w - pieces.skip[i] / size;
            if (own >= 0 && own < pieces.bytes[i] / size) ((Vector*)pieces.to[i])[own] = part[i];
        }
    }
}

// `bits`: the addresses and bytes of all pieces, or-ed.
template <typename Stored>
__device__ inline void copy_pieces(const Tile& tile, const Pieces& pieces, u64 bits) {
    if (bits % 16 == 0)
        copy<uint4>(tile, pieces);
    else if (bits % 8 == 0)
        copy<u64>(tile, pieces);
    else
        copy<Stored>(tile, pieces);
}

__device__ inline u64 set_piece(Pieces& pieces, int i, const u8* from, u8* to, int bytes, bool by_target) {
    pieces.from[i] = from, pieces.to[i] = to, pieces.bytes[i] = bytes;
    pieces.skip[i] = (int)((by_target ? (u64)to : (u64)from) % 128);
    return bytes ? (u64)from | (u64)to | (u64)bytes : 0;
}

// Every source of `pairs` to its target: `pieces` in all. The target is the host's side if `by_target`.
template <typename Stored>
__device__ void copy_spans(const Pairs& pairs, i64 pieces, int by_target) {
    const Tile tile = tile_of(LANES);
    for (i64 first = tile.first; first < pieces; first += AHEAD * tile.stride) {
        Pieces own;
        u64 bits = 0;
        int p[AHEAD];
        i64 r[AHEAD], at[AHEAD], to[AHEAD];
        for (int i = 0; i < AHEAD; ++i) {
            r[i] = first + i * tile.stride < pieces ? first + i * tile.stride : first;
            p[i] = 0;
            for (int other = 1; other < PAIRS; ++other) p[i] += r[i] >= pairs.of[other].begin;
            r[i] -= pairs.of[p[i]].begin;
        }
        for (int i = 0; i < AHEAD; ++i)  // all places on their way before one is used
            at[i] = pairs.of[p[i]].source.at[r[i]], to[i] = pairs.of[p[i]].target.at[r[i]];
        for (int i = 0; i < AHEAD; ++i) {
            const Pair& pair = pairs.of[p[i]];
            const int bytes = first + i * tile.stride < pieces ? (int)(values(pair, r[i]) * (i64)sizeof(Stored)) : 0;
            bits |= set_piece(own, i, place(pair.source, at[i]), place(pair.target, to[i]), bytes, by_target != 0);
        }
        copy_pieces<Stored>(tile, own, bits);
    }
}

#define KERNEL(size, Stored)                                                                                                  \
    extern "C" __global__ void gcnrec_copy_spans_##size(const Pairs pairs, i64 pieces, int by_target) {                       \
        copy_spans<Stored>(pairs, pieces, by_target);                                                                         \
    }
KERNEL(1, u8)
KERNEL(2, u16)
KERNEL(4, u32)
KERNEL(8, u64)

// Piece e of each source to piece l of its target wherever earlier[e] == later[l]; both ascend. `planes`, at most AHEAD, counts
// pairs. Each lane searches for a row of its own, and the tile copies the rows that are found.
extern "C" __global__ __launch_bounds__(256, 3) void gcnrec_patch(const Pairs pairs, int planes, const i64* earlier,
                                                                  i64 earlier_rows, const i64* later, i64 later_rows) {
    const Tile tile = tile_of(LANES);
    for (i64 first = tile.first * LANES; first < later_rows; first += tile.stride * LANES) {
        const i64 own = first + tile.lane;
        const i64 row = own < later_rows ? later[own] : -1;
        const i64 found = own < later_rows ? lower_bound(earlier, (i64)0, earlier_rows, row) : earlier_rows;
        u32 hits = __ballot_sync(tile.mask, found < earlier_rows && earlier[found] == row);
        for (; hits; hits &= hits - 1) {
            const int lane = __ffs((int)hits) - 1;
            const i64 e = __shfl_sync(tile.mask, found, lane), l = __shfl_sync(tile.mask, own, lane);
            Pieces pieces;
            u64 bits = 0;
            for (int i = 0; i < AHEAD; ++i) {
                const Pair& pair = pairs.of[i < planes ? i : 0];
                const int bytes = i < planes ? (int)values(pair, l) * 4 : 0;
                u8 *const from = place(pair.source, pair.source.at[e]), *const to = place(pair.target, pair.target.at[l]);
                bits |= set_piece(pieces, i, from, to, bytes, false);
            }
            copy_pieces<u32>(tile, pieces, bits);
        }
    }
}

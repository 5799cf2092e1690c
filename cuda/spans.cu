// Copies pieces of flat memory: rows of a table, records or state on their way between pinned host memory and the device.
//
// A launch takes all planes of a batch. A tile of lanes takes a piece, in the widest vectors that all addresses and lengths
// allow, and asks for four pieces before it uses the first. Vectors begin at the boundary of the line in which the host's side
// of the piece starts, so that whole lines cross the bus.
#include "hits.cuh"

const int LANES = 16;
const int AHEAD = 4;  // pieces that a tile has on their way
const int PAIRS = 8;  // pairs of a launch

// Piece r starts at address memory + at[r] * pitch; pitch in bytes.
struct Side {
    u64 memory;
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

struct Pieces {
    const u8* from[AHEAD];
    u8* to[AHEAD];
    i64 bytes[AHEAD];
};

__device__ inline u64 place(const Side& side, i64 r) { return side.memory + (u64)(side.at[r] * side.pitch); }

__device__ inline i64 values(const Pair& pair, i64 r) { return pair.lengths ? pair.lengths[r] : pair.length; }

template <typename Vector>
__device__ inline void copy(const Tile& tile, const Pieces& pieces, bool by_target) {
    i64 before[AHEAD], count[AHEAD], last = 0;
    for (int i = 0; i < AHEAD; ++i) {
        before[i] = (i64)((by_target ? (u64)pieces.to[i] : (u64)pieces.from[i]) % 128 / sizeof(Vector));
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

// `bits`: the addresses and bytes of all pieces, or-ed.
template <typename Stored>
__device__ inline void copy_pieces(const Tile& tile, const Pieces& pieces, u64 bits, bool by_target) {
    if (bits % 16 == 0)
        copy<uint4>(tile, pieces, by_target);
    else if (bits % 8 == 0)
        copy<u64>(tile, pieces, by_target);
    else
        copy<Stored>(tile, pieces, by_target);
}

template <typename Stored>
__device__ inline u64 set_piece(Pieces& pieces, int i, u64 from, u64 to, i64 bytes) {
    pieces.from[i] = (const u8*)from, pieces.to[i] = (u8*)to, pieces.bytes[i] = bytes;
    return bytes ? from | to | (u64)bytes : 0;
}

// Every source of `pairs` to its target: `pieces` in all. The target is the host's side if `by_target`.
template <typename Stored>
__device__ void copy_spans(const Pairs& pairs, i64 pieces, int by_target) {
    const Tile tile = tile_of(LANES);
    for (i64 first = tile.first; first < pieces; first += AHEAD * tile.stride) {
        Pieces own;
        u64 bits = 0;
        for (int i = 0; i < AHEAD; ++i) {
            const i64 piece = first + i * tile.stride < pieces ? first + i * tile.stride : first;
            int p = 0;
            for (int other = 1; other < PAIRS; ++other) p += piece >= pairs.of[other].begin;
            const Pair& pair = pairs.of[p];
            const i64 r = piece - pair.begin, bytes = piece == first && i > 0 ? 0 : values(pair, r) * (i64)sizeof(Stored);
            bits |= set_piece<Stored>(own, i, place(pair.source, r), place(pair.target, r), bytes);
        }
        copy_pieces<Stored>(tile, own, bits, by_target != 0);
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
extern "C" __global__ void gcnrec_patch(const Pairs pairs, int planes, const i64* earlier, i64 earlier_rows, const i64* later,
                                        i64 later_rows) {
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
                const i64 bytes = i < planes ? values(pair, l) * 4 : 0;
                bits |= set_piece<u32>(pieces, i, place(pair.source, e), place(pair.target, l), bytes);
            }
            copy_pieces<u32>(tile, pieces, bits, false);
        }
    }
}

// Which of a batch's rows hold a column, by the transposed graph: the backward pass without atomics.
#pragma once
#include "types.cuh"

// The first place of ascending `values` whose value is at least `value`.
template <typename Number>
__device__ inline i64 lower_bound(const Number* values, i64 begin, i64 end, Number value) {
    while (begin < end) {
        const i64 middle = (begin + end) / 2;
        if (values[middle] < value)
            begin = middle + 1;
        else
            end = middle;
    }
    return begin;
}

// The chosen rows of a batch: ascending numbers, and where in `grad` the gradient of each lies.
struct Chosen {
    const int* rows;
    const i64* order;
    i64 count;
    const float* grad;
    i64 pitch;
};

// Calls found(place, row) on every lane of a warp for each chosen row among indices[begin .. end], in the order of the edges;
// `place` is where it stands in `chosen.rows`, and a row that was chosen twice is found twice. Of several `warps` that
// share the edges, warp w looks at groups w, w + warps, ... of 32.
template <typename Found>
__device__ inline void for_hits(const Tile& tile, const int* indices, i64 begin, i64 end, int warp, int warps,
                                const Chosen& chosen, const Found& found) {
    for (i64 first = begin + 32 * warp; first < end; first += 32 * warps) {
        const i64 edge = first + tile.lane;
        const int row = edge < end ? indices[edge] : -1;
        const i64 place = edge < end ? lower_bound(chosen.rows, 0, chosen.count, row) : chosen.count;
        u32 hits = __ballot_sync(tile.mask, place < chosen.count && chosen.rows[place] == row);
        for (; hits; hits &= hits - 1) {
            const int lane = __ffs((int)hits) - 1;
            const int hit = __shfl_sync(tile.mask, row, lane);
            for (i64 at = __shfl_sync(tile.mask, place, lane); at < chosen.count && chosen.rows[at] == hit; ++at) found(at, hit);
        }
    }
}

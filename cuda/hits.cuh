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

// Calls found(place, row) on every lane of a warp for each chosen row among indices[begin .. end], in the order of the edges;
// `place` is where it stands in the ascending `chosen`, and a row that was chosen twice is found twice.
template <typename Found>
__device__ inline void for_hits(const Tile& tile, const int* indices, i64 begin, i64 end, const int* chosen, i64 count,
                                const Found& found) {
    for (i64 first = begin; first < end; first += 32) {
        const i64 edge = first + tile.lane;
        const int row = edge < end ? indices[edge] : -1;
        const i64 place = edge < end ? lower_bound(chosen, 0, count, row) : count;
        u32 hits = __ballot_sync(tile.mask, place < count && chosen[place] == row);
        for (; hits; hits &= hits - 1) {
            const int lane = __ffs((int)hits) - 1;
            const int hit = __shfl_sync(tile.mask, row, lane);
            for (i64 at = __shfl_sync(tile.mask, place, lane); at < count && chosen[at] == hit; ++at) found(at, hit);
        }
    }
}

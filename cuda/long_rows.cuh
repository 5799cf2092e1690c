// Rows of so many edges that a block sums them together.
#pragma once
#include "types.cuh"

// Calls work(v) on all threads of a block, for those v of 0 .. count-1 of this block whose row (rows[v], or v where `rows` is
// null) has more than `longest` edges. Each warp looks at the same 32 rows and finds the same: no barrier is needed.
template <typename Work>
__device__ inline void for_long_rows(const i64* indptr, const int* rows, i64 count, i64 longest, const Work& work) {
    for (i64 first = blockIdx.x; first < count; first += 32 * (i64)gridDim.x) {
        const i64 v = first + (i64)(threadIdx.x % 32) * gridDim.x, row = v < count ? (rows ? rows[v] : v) : -1;
        u32 found = __ballot_sync(0xFFFFFFFFu, row >= 0 && indptr[row + 1] - indptr[row] > longest);
        for (; found; found &= found - 1) work(first + (i64)(__ffs((int)found) - 1) * gridDim.x);
    }
}

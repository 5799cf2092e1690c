// Sums gradients that belong to one row, in the order of the batch: a tile owns a row, a lane its columns. No atomics, so the
// same bits in every run.
#include "types.cuh"

// out[r] = sum of grad[order[k]] over start[r] <= k < start[r + 1], in rising k.
template <typename Vector, int FLOATS>
__device__ void reduce_rows(const i64* order, const i64* start, const Vector* grad, i64 pitch, i64 rows, i64 width, Vector* out,
                            int lanes) {
    const Tile tile = tile_of(lanes);
    for (i64 r = tile.first; r < rows; r += tile.stride) {
        const i64 end = start[r + 1];
        for (i64 d = tile.lane; d < width; d += lanes) {
            float sum[FLOATS] = {};
            for (i64 k = start[r]; k < end; ++k) {
                const Vector part = grad[order[k] * pitch + d];
                for (int i = 0; i < FLOATS; ++i) sum[i] += reinterpret_cast<const float*>(&part)[i];
            }
            Vector whole;
            for (int i = 0; i < FLOATS; ++i) reinterpret_cast<float*>(&whole)[i] = sum[i];
            out[r * width + d] = whole;
        }
    }
}

#define KERNEL(suffix, Vector, FLOATS)                                                                                       \
    extern "C" __global__ void gcnrec_reduce_##suffix(const i64* order, const i64* start, const Vector* grad, i64 pitch,     \
                                                      i64 rows, i64 width, Vector* out, int lanes) {                         \
        reduce_rows<Vector, FLOATS>(order, start, grad, pitch, rows, width, out, lanes);                                     \
    }
KERNEL(4, float, 1)
KERNEL(16, float4, 4)

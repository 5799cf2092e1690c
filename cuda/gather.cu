// Reads rows by number from a plane in pinned host memory (zero-copy) or on the device, and writes rows back.
//
// A tile of lanes takes a row, one vector a lane and pass, so that a warp's request covers whole 128-byte lines of PCIe.
// Plain loads, never the read-only path: training changes the plane between launches, and a stale line would be read.
#include "types.cuh"

template <typename Vector>
__device__ void gather(const Vector* plane, i64 pitch, const i64* index, i64 rows, i64 width, Vector* out, i64 out_pitch,
                       int lanes) {
    const Tile tile = tile_of(lanes);
    for (i64 r = tile.first; r < rows; r += tile.stride) {
        const Vector* row = plane + index[r] * pitch;
        for (i64 d = tile.lane; d < width; d += lanes) out[r * out_pitch + d] = row[d];
    }
}

// For rows that start anywhere: the tile starts at the line's boundary and masks what lies before the row, so that every
// request but the first and last is one whole line.
template <typename Vector>
__device__ void gather_shifted(const Vector* plane, i64 pitch, const i64* index, i64 rows, i64 width, Vector* out, i64 out_pitch,
                               int lanes) {
    const Tile tile = tile_of(lanes);
    for (i64 r = tile.first; r < rows; r += tile.stride) {
        const Vector* row = plane + index[r] * pitch;
        const i64 before = (i64)((u64)row % 128 / sizeof(Vector));
        for (i64 d = tile.lane - before; d < width; d += lanes)
            if (d >= 0) out[r * out_pitch + d] = row[d];
    }
}

template <typename Vector>
__device__ void put(Vector* plane, i64 pitch, const i64* index, i64 rows, i64 width, const Vector* source,
                    i64 source_pitch, int lanes) {
    const Tile tile = tile_of(lanes);
    for (i64 r = tile.first; r < rows; r += tile.stride) {
        Vector* row = plane + index[r] * pitch;
        for (i64 d = tile.lane; d < width; d += lanes) row[d] = source[r * source_pitch + d];
    }
}

// Widths and pitches count vectors: 16 bytes where addresses and sizes allow, else single floats.
#define KERNELS(suffix, Vector)                                                                                               \
    extern "C" __global__ void gcnrec_gather_##suffix(const Vector* plane, i64 pitch, const i64* index, i64 rows, i64 width,  \
                                                      Vector* out, i64 out_pitch, int lanes) {                                \
        gather(plane, pitch, index, rows, width, out, out_pitch, lanes);                                                      \
    }                                                                                                                         \
    extern "C" __global__ void gcnrec_gather_shifted_##suffix(const Vector* plane, i64 pitch, const i64* index, i64 rows,     \
                                                              i64 width, Vector* out, i64 out_pitch, int lanes) {             \
        gather_shifted(plane, pitch, index, rows, width, out, out_pitch, lanes);                                              \
    }                                                                                                                         \
    extern "C" __global__ void gcnrec_put_##suffix(Vector* plane, i64 pitch, const i64* index, i64 rows, i64 width,           \
                                                   const Vector* source, i64 source_pitch, int lanes) {                       \
        put(plane, pitch, index, rows, width, source, source_pitch, lanes);                                                   \
    }

KERNELS(4, float)
KERNELS(16, float4)

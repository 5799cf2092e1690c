// Reads rows by number from a plane in pinned host memory (zero-copy) or on the device, and writes rows back.
//
// A tile of lanes takes a row, one vector a lane and pass, so that a warp's request covers whole 128-byte lines of PCIe, and
// asks for four rows before it uses the first: a small grid must keep hundreds of lines on their way.
// Plain loads, never the read-only path: training changes the plane between launches, and a stale line would be read.
#include "types.cuh"

const int AHEAD = 4;  // rows that a tile has on their way

// With SHIFTED, for rows that start anywhere: the tile starts at the line's boundary and masks what lies before the row, so
// that every request but the first and last is one whole line.
template <typename Vector, bool SHIFTED>
__device__ void gather(const Vector* plane, i64 pitch, const i64* index, i64 rows, i64 width, Vector* out, i64 out_pitch,
                       int lanes) {
    const Tile tile = tile_of(lanes);
    for (i64 r = tile.first; r < rows; r += AHEAD * tile.stride) {
        const Vector* row[AHEAD];
        i64 before[AHEAD], widest = 0;
        for (int i = 0; i < AHEAD; ++i) {
            const i64 own = r + i * tile.stride;
            row[i] = own < rows ? plane + index[own] * pitch : plane;
            before[i] = SHIFTED ? (i64)((u64)row[i] % 128 / sizeof(Vector)) : 0;
            if (before[i] > widest) widest = before[i];
        }
        for (i64 d = tile.lane; d < width + widest; d += lanes) {
            Vector part[AHEAD] = {};
            for (int i = 0; i < AHEAD; ++i)
                if (r + i * tile.stride < rows && d >= before[i] && d - before[i] < width) part[i] = row[i][d - before[i]];
            for (int i = 0; i < AHEAD; ++i)
                if (r + i * tile.stride < rows && d >= before[i] && d - before[i] < width)
                    out[(r + i * tile.stride) * out_pitch + d - before[i]] = part[i];
        }
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
        gather<Vector, false>(plane, pitch, index, rows, width, out, out_pitch, lanes);                                       \
    }                                                                                                                         \
    extern "C" __global__ void gcnrec_gather_shifted_##suffix(const Vector* plane, i64 pitch, const i64* index, i64 rows,     \
                                                              i64 width, Vector* out, i64 out_pitch, int lanes) {             \
        gather<Vector, true>(plane, pitch, index, rows, width, out, out_pitch, lanes);                                        \
    }                                                                                                                         \
    extern "C" __global__ void gcnrec_put_##suffix(Vector* plane, i64 pitch, const i64* index, i64 rows, i64 width,           \
                                                   const Vector* source, i64 source_pitch, int lanes) {                       \
        put(plane, pitch, index, rows, width, source, source_pitch, lanes);                                                   \
    }

KERNELS(4, float)
KERNELS(16, float4)

// Products of a bipartite graph with rows of floats: out = diag(row_scale) A diag(column_scale) source, and its transpose.
//
// A tile of lanes owns a row of the output and a lane its columns, so sums need no atomics and come out the same in every run.
// Rows of more than LONG edges get a whole block: each warp sums its share of the edges, and shares are added in one order.
#include "hits.cuh"
#include "long_rows.cuh"

const i64 LONG = 1024;
const int WARPS = 16;  // of a block that sums a long row

// sum += column_scale[c] * source[c][d] over every `stride`-th edge from `edge` on.
template <typename Vector, int FLOATS>
__device__ inline void add_edges(float* sum, const int* indices, i64 edge, i64 end, i64 stride, const float* column_scale,
                                 const Vector* source, i64 pitch, i64 d) {
#pragma unroll 4
    for (; edge < end; edge += stride) {
        const i64 c = indices[edge];
        const float scale = column_scale[c];
        const Vector part = source[c * pitch + d];
        for (int i = 0; i < FLOATS; ++i) sum[i] += scale * reinterpret_cast<const float*>(&part)[i];
    }
}

template <typename Vector, int FLOATS>
__device__ inline void write_scaled(Vector* out, float scale, const float* sum) {
    Vector whole;
    for (int i = 0; i < FLOATS; ++i) reinterpret_cast<float*>(&whole)[i] = scale * sum[i];
    *out = whole;
}

// Row v of the output is row rows[v] of the graph, or row v where `rows` is null; long rows are left to the other kernel.
template <typename Vector, int FLOATS>
__device__ void propagate(const i64* indptr, const int* indices, const int* rows, i64 count_rows, const Vector* source, i64 pitch,
                          const float* row_scale, const float* column_scale, Vector* out, i64 out_pitch, i64 width, int lanes) {
    const Tile tile = tile_of(lanes);
    for (i64 v = tile.first; v < count_rows; v += tile.stride) {
        const i64 row = rows ? rows[v] : v, begin = indptr[row], end = indptr[row + 1];
        if (end - begin > LONG) continue;
        for (i64 d = tile.lane; d < width; d += lanes) {
            float sum[FLOATS] = {};
            add_edges<Vector, FLOATS>(sum, indices, begin, end, 1, column_scale, source, pitch, d);
            write_scaled<Vector, FLOATS>(out + v * out_pitch + d, row_scale[row], sum);
        }
    }
}

template <typename Vector, int FLOATS>
__device__ void propagate_long(const i64* indptr, const int* indices, const int* rows, i64 count_rows, const Vector* source,
                               i64 pitch, const float* row_scale, const float* column_scale, Vector* out, i64 out_pitch,
                               i64 width, int) {
    __shared__ float partial[WARPS * 32 * FLOATS];
    const int own = threadIdx.x / 32, lane = threadIdx.x % 32;
    for_long_rows(indptr, rows, count_rows, LONG, [&](i64 v) {
        const i64 row = rows ? rows[v] : v, begin = indptr[row], end = indptr[row + 1];
        for (i64 first = 0; first < width; first += 32) {
            const i64 d = first + lane;
            float sum[FLOATS] = {};
            if (d < width)
                add_edges<Vector, FLOATS>(sum, indices, begin + own, end, WARPS, column_scale, source, pitch, d);
            for (int i = 0; i < FLOATS; ++i) partial[threadIdx.x * FLOATS + i] = sum[i];
            __syncthreads();  // every warp has its sums
            if (own == 0 && d < width) {
                for (int w = 1; w < WARPS; ++w)
                    for (int i = 0; i < FLOATS; ++i) sum[i] += partial[(w * 32 + lane) * FLOATS + i];
                write_scaled<Vector, FLOATS>(out + v * out_pitch + d, row_scale[row], sum);
            }
            __syncthreads();  // before the next columns overwrite the partial sums
        }
    });
}

#define KERNEL(name, suffix, Vector, FLOATS)                                                                                  \
    extern "C" __global__ void gcnrec_##name##_##suffix(const i64* indptr, const int* indices, const int* rows,               \
                                                        i64 count_rows, const Vector* source, i64 pitch,                      \
                                                        const float* row_scale, const float* column_scale, Vector* out,       \
                                                        i64 out_pitch, i64 width, int lanes) {                                \
        name<Vector, FLOATS>(indptr, indices, rows, count_rows, source, pitch, row_scale, column_scale, out, out_pitch,       \
                             width, lanes);                                                                                   \
    }
KERNEL(propagate, 4, float, 1)
KERNEL(propagate, 16, float4, 4)
KERNEL(propagate_long, 4, float, 1)
KERNEL(propagate_long, 16, float4, 4)

const int FLOATS_OF_A_LANE = 4;
const int PASS = 32 * FLOATS_OF_A_LANE;  // columns of the output that a warp sums at once

// sum[i] += row_scale[row] * grad[v][first + lane + 32 i] over this warp's share of the edges; returns whether there was a row.
__device__ inline bool add_hits(const Tile& tile, float* sum, const int* indices, i64 begin, i64 end, int warp, int warps,
                                const Chosen& chosen, const float* row_scale, i64 first, i64 width) {
    bool any = false;
    for_hits(tile, indices, begin, end, warp, warps, chosen, [&](i64 place, int row) {
        const float* own = chosen.grad + chosen.order[place] * chosen.pitch + first + tile.lane;
        any = true;
        for (int i = 0; i < FLOATS_OF_A_LANE; ++i)
            if (first + tile.lane + 32 * i < width) sum[i] += row_scale[row] * own[32 * i];
    });
    return any;
}

__device__ inline void scatter_rows(const i64* indptr, const int* indices, i64 columns, const Chosen& chosen,
                                    const float* row_scale, const float* column_scale, float* out, i64 out_pitch, i64 width) {
    const Tile tile = tile_of(32);
    for (i64 c = tile.first; c < columns; c += tile.stride) {
        const i64 begin = indptr[c], end = indptr[c + 1];
        if (end - begin > LONG) continue;
        for (i64 first = 0; first < width; first += PASS) {
            float sum[FLOATS_OF_A_LANE] = {};
            const bool any = add_hits(tile, sum, indices, begin, end, 0, 1, chosen, row_scale, first, width);
            for (int i = 0; i < FLOATS_OF_A_LANE; ++i)
                if (any && first + tile.lane + 32 * i < width)
                    out[c * out_pitch + first + tile.lane + 32 * i] += column_scale[c] * sum[i];
        }
    }
}

__device__ inline void scatter_rows_long(const i64* indptr, const int* indices, i64 columns, const Chosen& chosen,
                                         const float* row_scale, const float* column_scale, float* out, i64 out_pitch,
                                         i64 width) {
    __shared__ float partial[WARPS][PASS];
    __shared__ bool found[WARPS];
    const Tile tile = tile_of(32);
    const int own = threadIdx.x / 32;
    for_long_rows(indptr, nullptr, columns, LONG, [&](i64 c) {
        const i64 begin = indptr[c], end = indptr[c + 1];
        for (i64 first = 0; first < width; first += PASS) {
            float sum[FLOATS_OF_A_LANE] = {};
            const bool any = add_hits(tile, sum, indices, begin, end, own, WARPS, chosen, row_scale, first, width);
            for (int i = 0; i < FLOATS_OF_A_LANE; ++i) partial[own][tile.lane + 32 * i] = sum[i];
            if (tile.lane == 0) found[own] = any;
            __syncthreads();  // every warp has its sums
            bool touched = false;
            float whole = 0.0f;
            for (int w = 0; w < WARPS; ++w) {
                touched |= found[w];
                if (threadIdx.x < PASS) whole += partial[w][threadIdx.x];
            }
            if (touched && threadIdx.x < PASS && first + threadIdx.x < width)
                out[c * out_pitch + first + threadIdx.x] += column_scale[c] * whole;
            __syncthreads();  // before the next columns overwrite the partial sums
        }
    });
}

// out[c] += column_scale[c] * sum of row_scale[row] * grad[v] over the chosen rows that hold column c, by the transposed
// graph: a warp owns a column, a block one of more than LONG edges. Columns without a chosen row are not written.
#define SCATTER(name)                                                                                                         \
    extern "C" __global__ void gcnrec_##name(const i64* indptr, const int* indices, i64 columns, const int* chosen,           \
                                             const i64* order, i64 count_chosen, const float* grad, i64 pitch,                \
                                             const float* row_scale, const float* column_scale, float* out, i64 out_pitch,    \
                                             i64 width) {                                                                     \
        name(indptr, indices, columns, {chosen, order, count_chosen, grad, pitch}, row_scale, column_scale, out, out_pitch,   \
             width);                                                                                                          \
    }
SCATTER(scatter_rows)
SCATTER(scatter_rows_long)

// flags[c] = 1 for every column that a chosen row holds. Lanes may write the same flag: the same value.
extern "C" __global__ void gcnrec_mark_rows(const i64* indptr, const int* indices, const int* rows, i64 count_rows, u8* flags) {
    const Tile tile = tile_of(32);
    for (i64 v = tile.first; v < count_rows; v += tile.stride)
        for (i64 edge = indptr[rows[v]] + tile.lane; edge < indptr[rows[v] + 1]; edge += 32) flags[indices[edge]] = 1;
}

// Products of the graph with slot rows, read from their records: edges x slots of work, and no dense table anywhere.
//
// A warp owns an output row and adds record after record to it in shared memory, each lane the slots it holds; the next record is
// on its way meanwhile. Rows of more than LONG edges get a whole block, whose warps are added up in their order.
#include "hits.cuh"
#include "long_rows.cuh"
#include "records.cuh"

const i64 LONG = 512;
const int WARPS = 16;  // of a block
const int COLUMNS = 256;

// The two words of a record that this lane carries from memory to shared memory.
template <typename Stored>
__device__ inline void fetch(const Tile& tile, const Slots& slots, u32 location, int count, u64* words) {
    const u64* record = (const u64*)slots.arena + location;
    const int used = words_of(slots.capacity[count], count, sizeof(Stored));
    words[0] = tile.lane < used ? record[tile.lane] : 0;
    words[1] = tile.lane + 32 < used ? record[tile.lane + 32] : 0;
}

// row[column] += column_scale[c] * value for the slots of every `stride`-th neighbour from `begin` on, in order.
template <typename Stored>
__device__ inline void add_records(const Tile& tile, const Slots& slots, const int* indices, i64 begin, i64 end, i64 stride,
                                   i64 first_row, const float* column_scale, u64* words, float* row) {
    for (i64 base = begin; base < end; base += 32 * stride) {
        const i64 edge = base + tile.lane * stride;
        const bool mine = edge < end;
        const int neighbour = mine ? indices[edge] : 0;
        const int count = mine ? slots.count[first_row + neighbour] : 0;
        const u32 location = mine ? slots.location[first_row + neighbour] : 0;
        const float scale = mine ? column_scale[neighbour] : 0.0f;
        const int edges = __popc(__ballot_sync(tile.mask, mine));
        u64 ahead[2];
        fetch<Stored>(tile, slots, __shfl_sync(tile.mask, location, 0), __shfl_sync(tile.mask, count, 0), ahead);
        for (int e = 0; e < edges; ++e) {
            const int slots_here = __shfl_sync(tile.mask, count, e);
            const float scale_here = __shfl_sync(tile.mask, scale, e);
            const int columns = (int)slots.capacity[slots_here] * (int)sizeof(Stored);
            words[tile.lane] = ahead[0];
            words[tile.lane + 32] = ahead[1];
            __syncwarp(tile.mask);  // the record is there, and at first the zeros of the sums
            const int next = e + 1 < edges ? e + 1 : e;
            fetch<Stored>(tile, slots, __shfl_sync(tile.mask, location, next), __shfl_sync(tile.mask, count, next), ahead);
            for (int j = tile.lane; j < slots_here; j += 32)
                row[byte_of(words, columns + j)] += scale_here * value_of<Stored>(words, j);
            __syncwarp(tile.mask);  // before the next record overwrites this one, and the row before others add to it
        }
    }
}

// out[v] = row_scale * sum over c in row rows[v] of column_scale[c] * table row first_row + c, by warps that own a row each.
template <typename Stored>
__device__ inline void propagate_rows(const i64* indptr, const int* indices, const int* rows, i64 count_rows, const Slots& slots,
                                      i64 first_row, const float* row_scale, const float* column_scale, float* out, i64 pitch,
                                      int width) {
    __shared__ float sums[WARPS][COLUMNS];
    __shared__ u64 fetched[WARPS][RECORD_WORDS];
    const Tile tile = tile_of(32);
    const int warp = threadIdx.x / 32;
    for (i64 v = tile.first; v < count_rows; v += tile.stride) {
        const i64 begin = indptr[rows[v]], end = indptr[rows[v] + 1];
        if (end - begin > LONG) continue;
        for (int d = tile.lane; d < width; d += 32) sums[warp][d] = 0.0f;  // added to behind the barrier of a record
        add_records<Stored>(tile, slots, indices, begin, end, 1, first_row, column_scale, fetched[warp], sums[warp]);
        for (int d = tile.lane; d < width; d += 32) out[v * pitch + d] = row_scale[rows[v]] * sums[warp][d];
    }  // no barrier before the next row: each lane has read what it alone will zero
}

// The same for rows of more than LONG edges: each of a block's warps sums its share, and shares are added in one order.
template <typename Stored>
__device__ inline void propagate_long_rows(const i64* indptr, const int* indices, const int* rows, i64 count_rows,
                                           const Slots& slots, i64 first_row, const float* row_scale, const float* column_scale,
                                           float* out, i64 pitch, int width) {
    __shared__ float sums[WARPS][COLUMNS];
    __shared__ u64 fetched[WARPS][RECORD_WORDS];
    const Tile tile = tile_of(32);
    const int warp = threadIdx.x / 32;
    for_long_rows(indptr, rows, count_rows, LONG, [&](i64 v) {
        const i64 begin = indptr[rows[v]], end = indptr[rows[v] + 1];
        for (int d = tile.lane; d < width; d += 32) sums[warp][d] = 0.0f;  // added to behind the barrier of a record
        add_records<Stored>(tile, slots, indices, begin + warp, end, WARPS, first_row, column_scale, fetched[warp], sums[warp]);
        __syncthreads();  // every warp has its sums
        for (int d = threadIdx.x; d < width; d += 32 * WARPS) {
            float sum = sums[0][d];
            for (int w = 1; w < WARPS; ++w) sum += sums[w][d];
            out[v * pitch + d] = row_scale[rows[v]] * sum;
        }
        __syncthreads();  // before the next row's sums start
    });
}

#define PROPAGATE(name, kernel, Stored)                                                                                       \
    extern "C" __global__ void gcnrec_slot_##name(const i64* indptr, const int* indices, const int* rows, i64 count_rows,     \
                                                  const u32* location, const u8* count, const u8* arena, const i64* capacity, \
                                                  i64 first_row, const float* row_scale, const float* column_scale,           \
                                                  float* out, i64 pitch, int width) {                                         \
        kernel<Stored>(indptr, indices, rows, count_rows, {location, count, arena, capacity}, first_row, row_scale,           \
                       column_scale, out, pitch, width);                                                                      \
    }
PROPAGATE(propagate_float32, propagate_rows, float)
PROPAGATE(propagate_bfloat16, propagate_rows, u16)
PROPAGATE(propagate_long_float32, propagate_long_rows, float)
PROPAGATE(propagate_long_bfloat16, propagate_long_rows, u16)

// Where slots' gradients go: node n's begin at out[at[n]].
struct Target {
    const i64* at;
    float* out;
};

__device__ inline void slot_scatter(const i64* indptr, const int* indices, i64 nodes, const Chosen& chosen, const Slots& slots,
                                    int value_bytes, i64 first_row, const float* row_scale, const float* column_scale,
                                    const Target& target) {
    const Tile tile = tile_of(32);
    for (i64 c = tile.first; c < nodes; c += tile.stride) {
        const i64 node = first_row + c, begin = indptr[c], end = indptr[c + 1];
        if (end - begin > LONG) continue;
        const u8* columns = columns_of(slots, node, value_bytes);
        for_hits(tile, indices, begin, end, 0, 1, chosen, [&](i64 place, int row) {
            const float scale = row_scale[row] * column_scale[c];
            for (int j = tile.lane; j < slots.count[node]; j += 32)
                target.out[target.at[node] + j] += scale * chosen.grad[chosen.order[place] * chosen.pitch + columns[j]];
        });
    }
}

__device__ inline void slot_scatter_long(const i64* indptr, const int* indices, i64 nodes, const Chosen& chosen,
                                         const Slots& slots, int value_bytes, i64 first_row, const float* row_scale,
                                         const float* column_scale, const Target& target) {
    __shared__ float sums[WARPS][COLUMNS];
    const Tile tile = tile_of(32);
    float* sum = sums[threadIdx.x / 32];
    for_long_rows(indptr, nullptr, nodes, LONG, [&](i64 c) {
        const i64 node = first_row + c, begin = indptr[c], end = indptr[c + 1];
        const u8* columns = columns_of(slots, node, value_bytes);
        const int count = slots.count[node];
        for (int j = tile.lane; j < count; j += 32) sum[j] = 0.0f;
        // No barrier: of a warp's sums each lane reads and writes its own.
        for_hits(tile, indices, begin, end, threadIdx.x / 32, WARPS, chosen, [&](i64 place, int row) {
            const float scale = row_scale[row] * column_scale[c];
            for (int j = tile.lane; j < count; j += 32)
                sum[j] += scale * chosen.grad[chosen.order[place] * chosen.pitch + columns[j]];
        });
        __syncthreads();  // every warp has its sums
        for (int j = threadIdx.x; j < count; j += 32 * WARPS) {
            float whole = 0.0f;
            for (int w = 0; w < WARPS; ++w) whole += sums[w][j];
            target.out[target.at[node] + j] += whole;
        }
        __syncthreads();  // before the next node's sums start
    });
}

// out[at[node] + j] += scales * grad[v, column of slot j] over the chosen rows that hold column c, with node = first_row + c:
// the transpose at the slots only. A warp owns a node, a block one of more than LONG edges.
#define SCATTER(name)                                                                                                         \
    extern "C" __global__ void gcnrec_##name(const i64* indptr, const int* indices, i64 nodes, const int* chosen,             \
                                             const i64* order, i64 count_chosen, const float* grad, i64 pitch,                \
                                             const u32* location, const u8* count, const u8* arena, const i64* capacity,      \
                                             int value_bytes, i64 first_row, const float* row_scale,                          \
                                             const float* column_scale, const i64* at, float* out) {                          \
        name(indptr, indices, nodes, {chosen, order, count_chosen, grad, pitch}, {location, count, arena, capacity},          \
             value_bytes, first_row, row_scale, column_scale, {at, out});                                                     \
    }
SCATTER(slot_scatter)
SCATTER(slot_scatter_long)

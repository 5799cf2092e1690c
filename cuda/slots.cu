// Slot rows: records become rows of a dense tile, gradients of dense tiles are picked at the slots.
//
// A tile of lanes fetches a record whole, in 8-byte words: values and columns lie in the same lines, so each line crosses PCIe
// once. Every sum runs over one slot on one lane: no atomics, the same bits in every run.
#include "records.cuh"

const int LANES = 16;  // 16 words are a 128-byte line
const int TILES = 16;  // of a block of 256

// out[r] = columns first .. last-1 of row rows[r] (of row r, where rows is null), zero where there is no slot.
template <typename Stored>
__device__ void decode(Slots slots, const i64* rows, i64 count_rows, int first, int last, float* out, i64 pitch) {
    __shared__ u64 fetched[TILES][RECORD_WORDS];
    const Tile tile = tile_of(LANES);
    u64* words = fetched[threadIdx.x / LANES];
    for (i64 r = tile.first; r < count_rows; r += tile.stride) {
        const i64 row = rows ? rows[r] : r;
        const int count = slots.count[row], capacity = (int)slots.capacity[count];
        const u64* record = (const u64*)record_of(slots, row);
        const int used = words_of(capacity, count, sizeof(Stored));
        for (int w = tile.lane; w < used; w += LANES) words[w] = record[w];
        float* own = out + r * pitch;
        for (int d = tile.lane; d < last - first; d += LANES) own[d] = 0.0f;
        __syncwarp(tile.mask);  // the record has arrived, and zeros come before values
        for (int j = tile.lane; j < count; j += LANES) {
            const int column = byte_of(words, capacity * (int)sizeof(Stored) + j);
            if (first <= column && column < last) own[column - first] = value_of<Stored>(words, j);
        }
        __syncwarp(tile.mask);  // before the next record overwrites this one
    }
}

#define DECODE(name, Stored)                                                                                              \
    extern "C" __global__ void gcnrec_decode_##name(const u32* location, const u8* count, const u8* arena,                \
                                                    const i64* capacity, const i64* rows, i64 count_rows, int first,      \
                                                    int last, float* out, i64 pitch) {                                    \
        decode<Stored>({location, count, arena, capacity}, rows, count_rows, first, last, out, pitch);                    \
    }
DECODE(float32, float)
DECODE(bfloat16, u16)

// out[at[r] + j] = tile[r, column of slot j].
extern "C" __global__ void gcnrec_pick(const u32* location, const u8* count, const u8* arena, const i64* capacity,
                                       int value_bytes, const i64* rows, i64 count_rows, const float* tile_RD, i64 pitch,
                                       const i64* at, float* out) {
    const Slots slots = {location, count, arena, capacity};
    const Tile tile = tile_of(LANES);
    for (i64 r = tile.first; r < count_rows; r += tile.stride) {
        const u8* columns = columns_of(slots, rows[r], value_bytes);
        for (int j = tile.lane; j < slots.count[rows[r]]; j += LANES) out[at[r] + j] = tile_RD[r * pitch + columns[j]];
    }
}

// out[at[row] + j] += tile[r, column of slot j - first] for slots in columns first .. last-1; rows are all different.
extern "C" __global__ void gcnrec_add_slots(const u32* location, const u8* count, const u8* arena, const i64* capacity,
                                            int value_bytes, const i64* rows, i64 count_rows, int first, int last,
                                            const float* tile_RD, i64 pitch, const i64* at, float* out) {
    const Slots slots = {location, count, arena, capacity};
    const Tile tile = tile_of(LANES);
    for (i64 r = tile.first; r < count_rows; r += tile.stride) {
        const i64 row = rows ? rows[r] : r;
        const u8* columns = columns_of(slots, row, value_bytes);
        for (int j = tile.lane; j < slots.count[row]; j += LANES)
            if (first <= columns[j] && columns[j] < last) out[at[row] + j] += tile_RD[r * pitch + columns[j] - first];
    }
}

// Where the rows' values and state lie, as indices of the arenas, and how many values each has.
extern "C" __global__ void gcnrec_spans(const u32* location, const u8* count, int value_bytes, const i64* rows, i64 count_rows,
                                        const i64* record, const i64* state, i64 slab_bytes, i64 state_slab, i64* weight_at,
                                        i64* state_at, i64* count_out) {
    const Tile tile = tile_of(1);
    for (i64 r = tile.first; r < count_rows; r += tile.stride) {
        const int own = count[rows[r]];
        const i64 start = (i64)location[rows[r]] * 8;
        count_out[r] = own;
        weight_at[r] = start / value_bytes;
        state_at[r] = own ? start / slab_bytes * state_slab + start % slab_bytes / record[own] * state[own] : 0;
    }
}

// Copies whole records to where another arena wants them, in units of 8 bytes: staging from pinned memory.
extern "C" __global__ void gcnrec_stage(const u32* location, const u8* count, const u8* arena, const i64* capacity,
                                        int value_bytes, const i64* rows, i64 count_rows, const u32* staged_location,
                                        u8* staged_count, u64* staged) {
    const Slots slots = {location, count, arena, capacity};
    const Tile tile = tile_of(LANES);
    for (i64 r = tile.first; r < count_rows; r += tile.stride) {
        const int own = slots.count[rows[r]], used = words_of(slots.capacity[own], own, value_bytes);
        const u64* record = (const u64*)record_of(slots, rows[r]);
        for (int w = tile.lane; w < used; w += LANES) staged[staged_location[r] + w] = record[w];
        if (tile.lane == 0) staged_count[r] = (u8)own;
    }
}

// target[target_at[r] + j] = source[source_at[r] + j] for j < length[r]; a tile starts at the source's line boundary.
template <typename Stored>
__device__ void copy_spans(const Stored* source, const i64* source_at, Stored* target, const i64* target_at, const i64* length,
                           i64 spans) {
    const Tile tile = tile_of(32);
    for (i64 r = tile.first; r < spans; r += tile.stride) {
        const Stored* from = source + source_at[r];
        Stored* to = target + target_at[r];
        const i64 before = (i64)((u64)from % 128 / sizeof(Stored));
        for (i64 j = tile.lane - before; j < length[r]; j += 32)
            if (j >= 0) to[j] = from[j];
    }
}

#define COPY_SPANS(name, Stored)                                                                                             \
    extern "C" __global__ void gcnrec_copy_spans_##name(const Stored* source, const i64* source_at, Stored* target,          \
                                                        const i64* target_at, const i64* length, i64 spans) {                \
        copy_spans(source, source_at, target, target_at, length, spans);                                                     \
    }
COPY_SPANS(4, u32)
COPY_SPANS(2, u16)

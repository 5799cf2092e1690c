// Slot rows: records become rows of a dense tile, gradients of dense tiles are picked at the slots.
//
// A tile of lanes fetches a record whole, in 8-byte words: values and columns lie in the same lines, so each line crosses PCIe
// once. Four records are on their way to shared memory at once, whole. Every sum runs over one slot on one lane: no atomics, the
// same bits in every run.
#include "async.cuh"
#include "records.cuh"

const int LANES = 16;  // 16 words are a 128-byte line
const int TILES = 16;  // of a block of 256
const int AHEAD = 4;   // records that a tile has on their way

// out[r] = columns first .. last-1 of row rows[r] (of row r, where rows is null), zero where there is no slot.
template <typename Stored>
__device__ void decode(const Slots& slots, const i64* rows, i64 count_rows, int first, int last, float* out, i64 pitch) {
    __shared__ u64 fetched[TILES][AHEAD][RECORD_WORDS];
    const Tile tile = tile_of(LANES);
    u64(*words)[RECORD_WORDS] = fetched[threadIdx.x / LANES];
    for (i64 r = tile.first; r < count_rows; r += AHEAD * tile.stride) {
        i64 row[AHEAD];
        int count[AHEAD], capacity[AHEAD], used[AHEAD];
        const u64* record[AHEAD];
        // Each loop asks for all rows before the next one uses an answer; beyond the end a tile asks for the last row again.
        for (int i = 0; i < AHEAD; ++i) {
            const i64 own = r + i * tile.stride < count_rows ? r + i * tile.stride : count_rows - 1;
            row[i] = rows ? rows[own] : own;
        }
        for (int i = 0; i < AHEAD; ++i) count[i] = slots.count[row[i]];
        for (int i = 0; i < AHEAD; ++i) record[i] = (const u64*)record_of(slots, row[i]);
        for (int i = 0; i < AHEAD; ++i) capacity[i] = (int)slots.capacity[count[i]];
        for (int i = 0; i < AHEAD; ++i)
            used[i] = r + i * tile.stride < count_rows ? words_of(capacity[i], count[i], sizeof(Stored)) : 0;
#pragma unroll
        for (int first_word = 0; first_word < RECORD_WORDS; first_word += LANES) {
            const int w = first_word + tile.lane;
            for (int i = 0; i < AHEAD; ++i)
                if (w < used[i]) copy_async(&words[i][w], record[i] + w);
        }
        for (int i = 0; i < AHEAD && r + i * tile.stride < count_rows; ++i)
            for (int d = tile.lane; d < last - first; d += LANES) out[(r + i * tile.stride) * pitch + d] = 0.0f;
        wait_for_copies();
        __syncwarp(tile.mask);  // the records have arrived, and zeros come before values
        for (int i = 0; i < AHEAD && r + i * tile.stride < count_rows; ++i)
            for (int j = tile.lane; j < count[i]; j += LANES) {
                const int column = byte_of(words[i], capacity[i] * (int)sizeof(Stored) + j);
                if (first <= column && column < last)
                    out[(r + i * tile.stride) * pitch + column - first] = value_of<Stored>(words[i], j);
            }
        __syncwarp(tile.mask);  // before the next records overwrite these
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

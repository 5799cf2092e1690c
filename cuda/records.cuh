// Records of slots, as gcnrec/ops/slots.py lays them out: `capacity` values, then `capacity` column numbers of one byte,
// `count` of each used, at `location` units of 8 bytes from the start of the arena.
#pragma once
#include "values.cuh"

const int RECORD_WORDS = 64;  // 8-byte words of the largest record

struct Slots {
    const u32* location;
    const u8* count;
    const u8* arena;
    const i64* capacity;  // by count
};

__device__ inline const u8* record_of(const Slots& slots, i64 row) { return slots.arena + (i64)slots.location[row] * 8; }

__device__ inline const u8* columns_of(const Slots& slots, i64 row, int value_bytes) {
    return record_of(slots, row) + slots.capacity[slots.count[row]] * value_bytes;
}

// Words that hold the used part of a record. Sizes of records are multiples of 8 bytes, so the last word is never beyond it.
__device__ inline int words_of(i64 capacity, int count, int value_bytes) {
    return count ? (int)((capacity * value_bytes + count + 7) / 8) : 0;
}

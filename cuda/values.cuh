// Stored values: float, or bfloat16 as its upper sixteen bits. The same bits as gcnrec/ops/values.py writes.
#pragma once
#include "types.cuh"

// 32 well mixed bits of two integers (the finaliser of MurmurHash3).
__device__ inline u32 hash_of(i64 step, i64 place) {
    u32 bits = (u32)place * 0x9E3779B1u ^ (u32)step * 0x85EBCA77u;
    bits = (bits ^ bits >> 16) * 0x85EBCA6Bu;
    bits = (bits ^ bits >> 13) * 0xC2B2AE35u;
    return bits ^ bits >> 16;
}

__device__ inline float as_float(float stored) { return stored; }
__device__ inline float as_float(u16 stored) { return __uint_as_float((u32)stored << 16); }

// Store `value`, a bfloat16 rounded at random by (step, place): steps below half its last place would else always be lost.
__device__ inline void store_update(float* at, float value, i64, i64) { *at = value; }
__device__ inline void store_update(u16* at, float value, i64 step, i64 place) {
    *at = (u16)((__float_as_uint(value) + (hash_of(step, place) & 0xFFFFu)) >> 16);
}

// Value j of a record that was fetched as 8-byte words.
template <typename Stored>
__device__ inline float value_of(const u64* words, int j);
template <>
__device__ inline float value_of<float>(const u64* words, int j) {
    return __uint_as_float((u32)(words[j >> 1] >> (j & 1) * 32));
}
template <>
__device__ inline float value_of<u16>(const u64* words, int j) {
    return as_float((u16)(words[j >> 2] >> (j & 3) * 16));
}

// Byte `at` of a fetched record.
__device__ inline int byte_of(const u64* words, int at) { return (int)(words[at >> 3] >> (at & 7) * 8 & 0xFF); }

// Small inputs for kernels that share memory between threads: rows for every tile in turn, some of them empty, some long.
#pragma once
#include <vector>

#include "threads.h"
#include KERNEL_FILE

namespace data {

// Numbers that look random, the same in every run.
inline unsigned next() {
    static unsigned state = 1;
    state = state * 1664525u + 1013904223u;
    return state >> 8;
}

inline std::vector<float> floats(size_t count) {
    std::vector<float> values(count);
    for (float& value : values) value = (float)(next() % 2000) / 100.0f - 10.0f;
    return values;
}

// 0, step, 2 * step, ...
inline std::vector<i64> steps(size_t count, i64 step) {
    std::vector<i64> values(count);
    for (size_t k = 0; k < count; ++k) values[k] = (i64)k * step;
    return values;
}

// Rows of the given lengths; their columns rise, by `stride` at most.
struct Graph {
    std::vector<i64> indptr{0};
    std::vector<int> indices;

    Graph(const std::vector<int>& lengths, int stride) {
        for (const int length : lengths) {
            int column = 0;
            for (int k = 0; k < length; ++k) indices.push_back(column += 1 + (int)(next() % stride));
            indptr.push_back((i64)indices.size());
        }
    }
};

#ifdef RECORDS
// Slot rows of float32 in records of 512 bytes, with 0 to 64 slots in columns 0 .. 63.
struct Table {
    std::vector<u32> location;
    std::vector<u8> count;
    std::vector<u64> arena;
    std::vector<i64> capacity = std::vector<i64>(103, 102);

    explicit Table(int rows) : location(rows), count(rows), arena((size_t)rows * 64) {
        for (int row = 0; row < rows; ++row) {
            location[row] = row * 64;
            count[row] = row % 7 == 0 ? 0 : 1 + next() % 64;
            u8* record = reinterpret_cast<u8*>(arena.data() + row * 64);
            for (int j = 0; j < count[row]; ++j) {
                const float value = (float)row + 0.5f * (float)j;
                std::memcpy(record + 4 * j, &value, 4);
                record[4 * 102 + j] = (u8)(j * 64 / count[row]);
            }
        }
    }
    const u8* bytes() const { return reinterpret_cast<const u8*>(arena.data()); }
};
#endif

}  // namespace data

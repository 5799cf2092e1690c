// Draws on the GPU: the same integers as gcnrec/ops/draws/neighbours.py, alias.py and sample.py.
#include "hits.cuh"
#include "philox.cuh"

// Floyd's sample of `fanout` of 0 .. degree-1 by a tile, draw k on lane k % lanes: own[s] is the choice of draw s * lanes + lane.
__device__ inline void floyd(const Tile& tile, i64 degree, int fanout, u32 node, u32 step, u32 last_word, u64 seed, i64* own) {
#pragma unroll
    for (int s = 0; s < 2; ++s) {
        const int k = s * tile.lanes + tile.lane;
        own[s] = -1;
        if (k >= fanout) continue;
        const Words words = philox(node, (u32)k / 2, step, last_word, seed);
        own[s] = below(k % 2 ? words.c : words.a, k % 2 ? words.d : words.b, degree - fanout + k + 1);
    }
    for (int k = 0; k < fanout; ++k) {
        const int s = k / tile.lanes, owner = k % tile.lanes;
        const i64 drawn = __shfl_sync(tile.mask, s ? own[1] : own[0], owner, tile.lanes);
        bool same = own[0] == drawn && tile.lane < k;
        same |= own[1] == drawn && tile.lanes + tile.lane < k;
        const bool taken = __ballot_sync(tile.mask, same) != 0;
        const bool late = taken && tile.lane == owner;
        own[0] = late && s == 0 ? degree - fanout + k : own[0];  // a place that is computed would lie in local memory
        own[1] = late && s == 1 ? degree - fanout + k : own[1];
    }
}

// indices_out[indptr_out[t] ..] = the drawn columns of row rows[t], ascending; all of them where they are at most `fanout`.
extern "C" __global__ void gcnrec_sample_neighbours(const i64* indptr, const int* indices, const int* rows, i64 targets,
                                                    i64 first_node, int fanout, u64 seed, u32 step, u32 last_word,
                                                    const i64* indptr_out, int* indices_out, int lanes) {
    const Tile tile = tile_of(lanes);
    for (i64 t = tile.first; t < targets; t += tile.stride) {
        const i64 begin = indptr[rows[t]], degree = indptr[rows[t] + 1] - begin, place = indptr_out[t];
        if (degree <= fanout) {
            for (i64 k = tile.lane; k < degree; k += lanes) indices_out[place + k] = indices[begin + k];
            continue;
        }
        i64 own[2];
        floyd(tile, degree, fanout, (u32)(first_node + rows[t]), step, last_word, seed, own);
        int rank[2] = {0, 0};
        for (int k = 0; k < fanout; ++k) {
            const i64 other = __shfl_sync(tile.mask, k < lanes ? own[0] : own[1], k % lanes, lanes);
            for (int s = 0; s < 2; ++s) rank[s] += other < own[s];
        }
        for (int s = 0; s < 2; ++s)
            if (s * lanes + tile.lane < fanout) indices_out[place + rank[s]] = indices[begin + own[s]];
    }
}

// A number in 0 .. count-1 by the alias table that starts at `first`.
__device__ inline i64 alias_draw(const u32* thresholds, const int* others, i64 first, i64 count, const Words& words) {
    const i64 column = below(words.a, words.b, count);
    return words.c < thresholds[first + column] ? column : others[first + column];
}

// indices_out[indptr_out[t] ..] = `fanout` columns of row rows[t], drawn with replacement by the row's alias table, ascending.
extern "C" __global__ void gcnrec_sample_weighted(const i64* indptr, const int* indices, const int* rows, i64 targets,
                                                  i64 first_node, int fanout, u64 seed, u32 step, u32 last_word,
                                                  const u32* thresholds, const int* others, const i64* indptr_out,
                                                  int* indices_out, int lanes) {
    const Tile tile = tile_of(lanes);
    for (i64 t = tile.first; t < targets; t += tile.stride) {
        const i64 begin = indptr[rows[t]], degree = indptr[rows[t] + 1] - begin;
        if (degree == 0) continue;
        int own[2], rank[2] = {0, 0};
        for (int s = 0; s < 2; ++s) {
            const int k = s * lanes + tile.lane;
            own[s] = -1;
            if (k >= fanout) continue;
            const Words words = philox((u32)(first_node + rows[t]), (u32)k, step, last_word, seed);
            own[s] = indices[begin + alias_draw(thresholds, others, begin, degree, words)];
        }
        for (int k = 0; k < fanout; ++k) {
            const int other = __shfl_sync(tile.mask, k < lanes ? own[0] : own[1], k % lanes, lanes);
            for (int s = 0; s < 2; ++s) rank[s] += other < own[s] || (other == own[s] && k < s * lanes + tile.lane);
        }
        for (int s = 0; s < 2; ++s)
            if (s * lanes + tile.lane < fanout) indices_out[indptr_out[t] + rank[s]] = own[s];
    }
}

// out[b, n] = an item drawn by the alias table; one that user b has seen (row users[b] of the graph, null: anything goes) is
// redrawn, `attempts` times at most.
extern "C" __global__ void gcnrec_negatives(const int* users, i64 count_users, i64 num, const u32* thresholds, const int* others,
                                            i64 items, const i64* indptr, const int* indices, int attempts, u64 seed, u32 step,
                                            u32 last_word, int* out) {
    const Tile tile = tile_of(1);
    for (i64 at = tile.first; at < count_users * num; at += tile.stride) {
        const int user = users[at / num];
        i64 item = 0;
        for (int attempt = 0; attempt < attempts; ++attempt) {
            item = alias_draw(thresholds, others, 0, items, philox((u32)at, (u32)attempt, step, last_word, seed));
            if (!indptr) break;
            const i64 end = indptr[user + 1], place = lower_bound(indices, indptr[user], end, (int)item);
            if (place == end || indices[place] != item) break;
        }
        out[at] = (int)item;
    }
}

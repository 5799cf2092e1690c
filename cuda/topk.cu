// Running top-k over tiles of scores: a warp keeps a user's list in shared memory and looks at 32 scores at a time.
//
// Scores come in rising order of items and enter a list only above its last score, so ties fall to the smaller item; after the
// first tiles nearly every group of 32 is passed by in one ballot. Equal to gcnrec/ops/topk.py, integers and scores.
#include "hits.cuh"

const int MOST = 1024;  // places of the longest list
const int WARPS = 4;    // of a block

struct List {
    float* scores;
    int* items;
    int size;
};

// Lists of CSR form: user b has indices[indptr[rows[b]] .. indptr[rows[b] + 1]], ascending.
struct Lists {
    const i64* indptr;
    const int* indices;
    const int* rows;
};

__device__ inline float minus_infinity() { return __uint_as_float(0xFF800000u); }

// Put the item behind every score that is not below its own; the last place falls out.
__device__ inline void insert(const Tile& tile, const List& list, float score, int item) {
    int at = 0;
    for (int first = 0; first < list.size; first += 32)
        at += __popc(__ballot_sync(tile.mask, first + tile.lane < list.size && list.scores[first + tile.lane] >= score));
    for (int first = (list.size - 1) / 32 * 32; first >= 0 && first + 32 > at; first -= 32) {
        const int place = first + tile.lane;
        const bool moves = place > at && place < list.size;
        const float above = moves ? list.scores[place - 1] : score;
        const int other = moves ? list.items[place - 1] : item;
        __syncwarp(tile.mask);  // all have read before any writes
        if (place >= at && place < list.size) {
            list.scores[place] = above;
            list.items[place] = other;
        }
        __syncwarp(tile.mask);  // before the last score is read
    }
}

// Offers one score a lane, in the order of the lanes; -inf is never taken. Returns whether a score was NaN.
__device__ inline bool offer(const Tile& tile, const List& list, float score, int item) {
    u32 wanted = __ballot_sync(tile.mask, !(score <= list.scores[list.size - 1]));
    bool invalid = false;
    for (; wanted; wanted &= wanted - 1) {
        const int lane = __ffs((int)wanted) - 1;
        const float next = __shfl_sync(tile.mask, score, lane);
        const int its_item = __shfl_sync(tile.mask, item, lane);
        invalid |= next != next;
        if (next > list.scores[list.size - 1]) insert(tile, list, next, its_item);
    }
    return invalid;
}

__device__ inline void hide(const Tile& tile, float* scores, i64 first, i64 width, const Lists& hidden, i64 user) {
    const i64 end = hidden.indptr[hidden.rows[user] + 1];
    i64 at = lower_bound(hidden.indices, hidden.indptr[hidden.rows[user]], end, (int)first) + tile.lane;
    for (; at < end && hidden.indices[at] < first + width; at += 32) scores[hidden.indices[at] - first] = minus_infinity();
    __syncwarp(tile.mask);  // hidden scores are written, and the list before them
}

__device__ inline void copy_list(const Tile& tile, const float* scores, const int* items, int size, float* to_scores,
                                 int* to_items) {
    for (int place = tile.lane; place < size; place += 32) {
        to_scores[place] = scores[place];
        to_items[place] = items[place];
    }
}

// Merges items first .. first + width-1 of every user into the lists; of `listed` items only, where that has an indptr.
__device__ inline void keep_best(float* scores, i64 users, i64 width, i64 pitch, i64 first, const Lists& hidden,
                                 const Lists& listed, int size, int* items_BK, float* scores_BK, u8* invalid) {
    __shared__ float kept_scores[WARPS][MOST];
    __shared__ int kept_items[WARPS][MOST];
    const Tile tile = tile_of(32);
    const List list = {kept_scores[threadIdx.x / 32], kept_items[threadIdx.x / 32], size};
    for (i64 user = tile.first; user < users; user += tile.stride) {
        float* own = scores + user * pitch;
        bool bad = false;
        copy_list(tile, scores_BK + user * size, items_BK + user * size, size, list.scores, list.items);
        hide(tile, own, first, width, hidden, user);
        const i64 end = listed.indptr ? listed.indptr[listed.rows[user] + 1] : width;
        i64 at = listed.indptr ? lower_bound(listed.indices, listed.indptr[listed.rows[user]], end, (int)first) : 0;
        for (; at < end; at += 32) {
            const i64 mine = at + tile.lane;
            const i64 place = mine >= end ? width : listed.indptr ? listed.indices[mine] - first : mine;
            const float score = place < width ? own[place] : minus_infinity();
            bad |= offer(tile, list, score, (int)(first + place));
            if (__shfl_sync(tile.mask, place, 31) >= width) break;
        }
        copy_list(tile, list.scores, list.items, size, scores_BK + user * size, items_BK + user * size);
        if (bad && tile.lane == 0) invalid[user] = 1;
        __syncwarp(tile.mask);  // before the next user's list overwrites the last score, which all lanes read
    }
}

#define HIDDEN const i64 *indptr, const int *indices, const int *rows
#define LISTED const i64 *listed_indptr, const int *listed_indices, const int *listed_rows
extern "C" __global__ void gcnrec_keep_best(float* scores, i64 users, i64 width, i64 pitch, i64 first, HIDDEN, LISTED, int size,
                                            int* items_BK, float* scores_BK, u8* invalid) {
    keep_best(scores, users, width, pitch, first, {indptr, indices, rows}, {listed_indptr, listed_indices, listed_rows}, size,
              items_BK, scores_BK, invalid);
}

// found[b, k] = whether items[b, k] is in user b's list.
extern "C" __global__ void gcnrec_contained(const int* items, i64 users, i64 size, HIDDEN, u8* found) {
    const Tile tile = tile_of(1);
    for (i64 at = tile.first; at < users * size; at += tile.stride) {
        const int row = rows[at / size];
        const i64 place = lower_bound(indices, indptr[row], indptr[row + 1], items[at]);
        found[at] = place < indptr[row + 1] && indices[place] == items[at];
    }
}

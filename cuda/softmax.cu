// Softmax of rows of logits and its gradient, in place: a block takes a row, and reads it from memory once where it fits.
//
// Each thread keeps the largest of its logits and the sum of exponents below it, and scales the sum when a larger one comes
// (Milakov & Gimelshein 2018, "Online normalizer calculation for softmax"). Threads are joined in one order: the same bits in
// every run.
#include "types.cuh"

const int BLOCK = 256;
const int WARPS = BLOCK / 32;
const int AHEAD = 4;    // logits that a thread has on their way
const int HELD = 8192;  // logits of a row that a block keeps; of longer rows the rest is read twice

// The largest of some logits, and the sum of exp(logit - top).
struct Mass {
    float top, sum;
};

__device__ inline float minus_infinity() { return __uint_as_float(0xFF800000u); }

// exp(from - to), where a logit of minus infinity has no weight, also among others like it; NaN stays NaN.
__device__ inline float weight(float from, float to) { return from == minus_infinity() ? 0.0f : expf(from - to); }

__device__ inline Mass joined(const Mass& one, const Mass& other) {
    const float top = one.top > other.top ? one.top : other.top;
    return {top, one.sum * weight(one.top, top) + other.sum * weight(other.top, top)};
}

__device__ inline void add(Mass* mass, float logit) {
    if (logit > mass->top)
        *mass = {logit, mass->sum * weight(mass->top, logit) + 1.0f};
    else
        mass->sum += weight(logit, mass->top);
}

// The mass of the row, the same on every thread. `masses` holds one for each warp.
__device__ inline Mass over_block(const Tile& tile, Mass mass, Mass* masses) {
    for (int away = 16; away > 0; away /= 2) {
        const Mass other = {__shfl_xor_sync(tile.mask, mass.top, away), __shfl_xor_sync(tile.mask, mass.sum, away)};
        mass = joined(mass, other);
    }
    if (tile.lane == 0) masses[threadIdx.x / 32] = mass;
    __syncthreads();  // all logits are read, and every warp has its mass
    mass = masses[0];
    for (int w = 1; w < WARPS; ++w) mass = joined(mass, masses[w]);
    return mass;
}

// logits[c] = softmax(logits[c]) less 1 at goal[c]; losses[c] = -log of the softmax there.
extern "C" __global__ void gcnrec_softmax_gradient(float* logits, i64 pitch, i64 rows, i64 width, const i64* goal,
                                                   float* losses) {
    __shared__ float held[HELD];
    __shared__ Mass masses[WARPS];
    const Tile tile = tile_of(32);
    for (i64 c = blockIdx.x; c < rows; c += gridDim.x) {
        float* row = logits + c * pitch;
        const i64 place = goal[c];
        const float own = row[place];
        Mass mass = {minus_infinity(), 0.0f};
        for (i64 first = threadIdx.x; first < width; first += AHEAD * BLOCK) {
            float part[AHEAD];
            for (int i = 0; i < AHEAD; ++i)
                part[i] = first + i * BLOCK < width ? row[first + i * BLOCK] : minus_infinity();  // which has no share
            for (int i = 0; i < AHEAD; ++i) {
                if (first + i * BLOCK < HELD) held[first + i * BLOCK] = part[i];  // for this thread alone
                add(&mass, part[i]);
            }
        }
        mass = over_block(tile, mass, masses);
        const float share = 1.0f / mass.sum;
        for (i64 j = threadIdx.x; j < width; j += BLOCK)
            row[j] = expf((j < HELD ? held[j] : row[j]) - mass.top) * share - (j == place ? 1.0f : 0.0f);
        if (threadIdx.x == 0) losses[c] = logf(mass.sum) + mass.top - own;
        __syncthreads();  // before the next row's masses
    }
}

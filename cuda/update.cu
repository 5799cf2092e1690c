// Update rules, fused and in place: one pass over the touched rows reads and writes weights and state, in pinned host memory
// or on the device. The rules, spans and letters of gcnrec/ops/update.py.
//
// A tile of lanes owns a row: sums over a row run in one order, rows are all different, so no atomics and the same bits in
// every run.
//
// `bad` (null: no check) is a word on the device that an earlier kernel sets for a gradient that is not finite: then no row
// changes, and the host needs no wait before an update.
#include "values.cuh"

struct Spans {
    const i64* at;        // first value of each row in `weights`
    const i64* count;     // values of each row
    const i64* rows;      // numbers of the rows
    i64 stride, first;    // row r is node r * stride + first, which random rounding is keyed by
    i64 num_rows;
    const float* grad;
    const i64* grad_at;   // first value of each row in `grad`
};

struct Adam {
    i64 step;
    float rate, root;          // bias-corrected: rate / (1 - beta1^step), 1 / sqrt(1 - beta2^step)
    float beta1, beta2, epsilon;
};

// beta^gap by squaring, in double like the CPU: whole powers of a number below one lose nothing that float would show.
__device__ inline float power(float beta, i64 gap) {
    double result = 1.0, square = beta;
    for (; gap > 0; gap >>= 1, square *= square)
        if (gap & 1) result *= square;
    return (float)result;
}

__device__ inline float sum_of_squares(const Tile& tile, const float* grad, i64 count) {
    float sum = 0.0f;
    for (i64 d = tile.lane; d < count; d += tile.lanes) sum += grad[d] * grad[d];
    return tile_sum(tile, sum);
}

const i64 PLACES = 256;  // values of a row that are rounded at random each by a draw of its own

// Value d of row r of the spans loses `change`; it is rounded by (step, node, d), wherever the row lies.
template <typename Stored>
__device__ inline void move(Stored* weights, const Spans& spans, i64 r, i64 d, float change, i64 step) {
    Stored* at = weights + spans.at[r] + d;
    store_update(at, as_float(*at) - change, step, (spans.rows[r] * spans.stride + spans.first) * PLACES + d);
}

// w -= rate * g.
template <typename Stored>
__device__ void sgd(Stored* weights, Spans spans, i64 step, float rate, int lanes) {
    const Tile tile = tile_of(lanes);
    for (i64 r = tile.first; r < spans.num_rows; r += tile.stride) {
        const float* grad = spans.grad + spans.grad_at[r];
        for (i64 d = tile.lane; d < spans.count[r]; d += lanes) move(weights, spans, r, d, rate * grad[d], step);
    }
}

// s += mean(g^2); w -= rate * g / (sqrt(s) + epsilon).
template <typename Stored>
__device__ void adagrad_row(Stored* weights, Spans spans, float* state, const i64* state_at, i64 step, float rate, float epsilon,
                            int lanes) {
    const Tile tile = tile_of(lanes);
    for (i64 r = tile.first; r < spans.num_rows; r += tile.stride) {
        const i64 count = spans.count[r];
        if (count == 0) continue;
        const float* grad = spans.grad + spans.grad_at[r];
        const float sum = state[state_at[r]] + sum_of_squares(tile, grad, count) / (float)count;
        const float scale = rate / (sqrtf(sum) + epsilon);
        for (i64 d = tile.lane; d < count; d += lanes) move(weights, spans, r, d, scale * grad[d], step);
        __syncwarp(tile.mask);  // every lane has read the sum
        if (tile.lane == 0) state[state_at[r]] = sum;
    }
}

// Adam; state of a row: [m | v]. With `last` only touched rows come and moments decay by beta^gap, without it by beta.
template <typename Stored>
__device__ void adam(Stored* weights, Spans spans, float* state, const i64* state_at, int* last, Adam rule, int lanes) {
    const Tile tile = tile_of(lanes);
    for (i64 r = tile.first; r < spans.num_rows; r += tile.stride) {
        const i64 count = spans.count[r], gap = last ? rule.step - last[spans.rows[r]] : 1;
        const float decay1 = power(rule.beta1, gap), decay2 = power(rule.beta2, gap);
        const float* grad = spans.grad + spans.grad_at[r];
        float *m = state + state_at[r], *v = m + count;
        for (i64 d = tile.lane; d < count; d += lanes) {
            const float first = decay1 * m[d] + (1.0f - rule.beta1) * grad[d];
            const float second = decay2 * v[d] + (1.0f - rule.beta2) * grad[d] * grad[d];
            m[d] = first;
            v[d] = second;
            move(weights, spans, r, d, rule.rate * first / (sqrtf(second) * rule.root + rule.epsilon), rule.step);
        }
        __syncwarp(tile.mask);  // every lane has read the gap
        if (last && tile.lane == 0) last[spans.rows[r]] = (int)rule.step;
    }
}

// Adam with one second moment per row, the mean of g^2; state of a row: [m | v], count + 1 wide.
template <typename Stored>
__device__ void adam_row(Stored* weights, Spans spans, float* state, const i64* state_at, int* last, Adam rule,
                         int lanes) {
    const Tile tile = tile_of(lanes);
    for (i64 r = tile.first; r < spans.num_rows; r += tile.stride) {
        const i64 count = spans.count[r], gap = rule.step - last[spans.rows[r]];
        const float decay1 = power(rule.beta1, gap), decay2 = power(rule.beta2, gap);
        const float* grad = spans.grad + spans.grad_at[r];
        float* m = state + state_at[r];
        float second = 0.0f;
        if (count) second = decay2 * m[count] + (1.0f - rule.beta2) * sum_of_squares(tile, grad, count) / (float)count;
        const float scale = rule.rate / (sqrtf(second) * rule.root + rule.epsilon);
        for (i64 d = tile.lane; d < count; d += lanes) {
            const float first = decay1 * m[d] + (1.0f - rule.beta1) * grad[d];
            m[d] = first;
            move(weights, spans, r, d, scale * first, rule.step);
        }
        __syncwarp(tile.mask);  // every lane has read the gap and the second moment
        if (tile.lane == 0) last[spans.rows[r]] = (int)rule.step;
        if (tile.lane == 0 && count) m[count] = second;
    }
}

#define SPANS const i64 *at, const i64 *count, const i64 *rows, i64 stride, i64 first, i64 num_rows, const float *grad,       \
              const i64 *grad_at, const int *bad
#define SPANS_OF at, count, rows, stride, first, num_rows, grad, grad_at
#define STATE float *state, const i64 *state_at
#define ADAM i64 step, float rate, float root, float beta1, float beta2, float epsilon, int lanes
#define KERNELS(name, Stored)                                                                                                 \
    extern "C" __global__ void gcnrec_sgd_##name(Stored* weights, SPANS, i64 step, float rate, int lanes) {                   \
        if (bad && *bad) return;                                                                                              \
        sgd(weights, {SPANS_OF}, step, rate, lanes);                                                                          \
    }                                                                                                                         \
    extern "C" __global__ void gcnrec_adagrad_row_##name(Stored* weights, SPANS, STATE, i64 step, float rate, float epsilon,  \
                                                         int lanes) {                                                         \
        if (bad && *bad) return;                                                                                              \
        adagrad_row(weights, {SPANS_OF}, state, state_at, step, rate, epsilon, lanes);                                        \
    }                                                                                                                         \
    extern "C" __global__ void gcnrec_adam_##name(Stored* weights, SPANS, STATE, int* last, ADAM) {                           \
        if (bad && *bad) return;                                                                                              \
        adam(weights, {SPANS_OF}, state, state_at, last,                                                                      \
             {step, rate, root, beta1, beta2, epsilon}, lanes);                                                               \
    }                                                                                                                         \
    extern "C" __global__ void gcnrec_adam_row_##name(Stored* weights, SPANS, STATE, int* last, ADAM) {                       \
        if (bad && *bad) return;                                                                                              \
        adam_row(weights, {SPANS_OF}, state, state_at, last,                                                                  \
                 {step, rate, root, beta1, beta2, epsilon}, lanes);                                                           \
    }
KERNELS(float32, float)
KERNELS(bfloat16, u16)

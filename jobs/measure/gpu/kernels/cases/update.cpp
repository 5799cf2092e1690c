// Each rule with a scalar for a row, over more rows than a block has tiles.
#include "data.h"

int main() {
    const int rows = 20, width = 33;
    std::vector<float> weights = data::floats(rows * width);
    const std::vector<float> grad = data::floats(rows * width);
    const std::vector<i64> at = data::steps(rows, width), count(rows, width), numbers = data::steps(rows, 1);
    std::vector<int> last(rows);
    std::vector<float> state(rows * 2 * width, 1.0f);
    const std::vector<i64> pairs = data::steps(rows, 2 * width), wider = data::steps(rows, width + 1);
    const int good = 0;
    shim::run(1, 64, [&] {
        gcnrec_adam_float32(weights.data(), at.data(), count.data(), numbers.data(), 1, 0, rows, grad.data(), at.data(),
                            &good, state.data(), pairs.data(), last.data(), 3, 0.1f, 1.0f, 0.9f, 0.999f, 1e-8f, 32);
    });
    shim::run(1, 64, [&] {
        gcnrec_adam_row_float32(weights.data(), at.data(), count.data(), numbers.data(), 1, 0, rows, grad.data(), at.data(),
                                &good, state.data(), wider.data(), last.data(), 4, 0.1f, 1.0f, 0.9f, 0.999f, 1e-8f, 16);
    });
    shim::run(1, 64, [&] {
        gcnrec_adagrad_row_float32(weights.data(), at.data(), count.data(), numbers.data(), 1, 0, rows, grad.data(), at.data(),
                                   &good, state.data(), numbers.data(), 4, 0.1f, 1e-8f, 16);
    });
}

// Two rows for one block.
#include "data.h"

int main() {
    const int rows = 2, width = 300;
    std::vector<float> logits = data::floats(rows * width), losses(rows);
    const std::vector<i64> goal = {7, 299};
    shim::run(1, 256, [&] { gcnrec_softmax_gradient(logits.data(), width, rows, width, goal.data(), losses.data()); });
}

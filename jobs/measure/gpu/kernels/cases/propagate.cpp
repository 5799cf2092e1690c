// Two long rows of more columns than a pass takes, and two long columns.
#include "data.h"

int main() {
    const int width = 36, columns = 2500, count_rows = 3;
    const data::Graph graph({1200, 10, 1100}, 2);
    const std::vector<float> source = data::floats((size_t)columns * width), scale(columns, 0.5f);
    std::vector<float> out(count_rows * width);
    shim::run(1, 512, [&] {
        gcnrec_propagate_long_4(graph.indptr.data(), graph.indices.data(), nullptr, count_rows, source.data(), width, scale.data(),
                                scale.data(), out.data(), width, width, 32);
    });
    std::vector<int> chosen;
    for (int row = 0; row < columns; row += 5) chosen.push_back(row);
    const std::vector<i64> order = data::steps(chosen.size(), 1);
    const int wide = 130;
    const std::vector<float> grad = data::floats(chosen.size() * wide);
    std::vector<float> sums(count_rows * wide);
    shim::run(1, 512, [&] {
        gcnrec_scatter_rows_long(graph.indptr.data(), graph.indices.data(), count_rows, chosen.data(), order.data(),
                                 (i64)chosen.size(), grad.data(), wide, scale.data(), scale.data(), sums.data(), wide, wide);
    });
}

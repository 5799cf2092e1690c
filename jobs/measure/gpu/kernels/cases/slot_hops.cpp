// Two long rows and two short ones for each of two warps; two long columns of the transposed graph.
#define RECORDS
#include "data.h"

int main() {
    const int width = 64, nodes = 2000;
    const data::Table table(nodes);
    const data::Graph graph({30, 600, 0, 40, 7, 700, 20}, 2);
    const int count_rows = 7;
    const std::vector<int> rows = {0, 1, 2, 3, 4, 5, 6};
    const std::vector<float> row_scale(nodes, 0.5f), column_scale(nodes, 2.0f);
    std::vector<float> out(count_rows * width);
    shim::run(1, 64, [&] {
        gcnrec_slot_propagate_float32(graph.indptr.data(), graph.indices.data(), rows.data(), count_rows, table.location.data(),
                                      table.count.data(), table.bytes(), table.capacity.data(), 0, row_scale.data(),
                                      column_scale.data(), out.data(), width, width);
    });
    shim::run(1, 512, [&] {
        gcnrec_slot_propagate_long_float32(graph.indptr.data(), graph.indices.data(), rows.data(), count_rows,
                                           table.location.data(), table.count.data(), table.bytes(), table.capacity.data(), 0,
                                           row_scale.data(), column_scale.data(), out.data(), width, width);
    });
    std::vector<int> chosen;
    for (int row = 0; row < 700; row += 3) chosen.push_back(row);
    const std::vector<i64> order = data::steps(chosen.size(), 1), at = data::steps(nodes, 64);
    const std::vector<float> grad = data::floats(chosen.size() * width);
    std::vector<float> sums(nodes * 64);
    shim::run(1, 512, [&] {
        gcnrec_slot_scatter_long(graph.indptr.data(), graph.indices.data(), count_rows, chosen.data(), order.data(),
                                 (i64)chosen.size(), grad.data(), width, table.location.data(), table.count.data(), table.bytes(),
                                 table.capacity.data(), 4, 0, row_scale.data(), column_scale.data(), at.data(), sums.data());
    });
}

// Sixty records for four tiles of four records each.
#define RECORDS
#include "data.h"

int main() {
    const int rows = 60, width = 64;
    const data::Table table(rows);
    const std::vector<i64> chosen = data::steps(rows, 1);
    std::vector<float> out(rows * width);
    shim::run(1, 64, [&] {
        gcnrec_decode_float32(table.location.data(), table.count.data(), table.bytes(), table.capacity.data(), chosen.data(), rows,
                              0, width, out.data(), width);
    });
}

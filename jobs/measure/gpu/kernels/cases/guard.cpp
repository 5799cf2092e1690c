// Threads of two warps that find bad numbers in the same and in different tensors.
#include "data.h"

int main() {
    std::vector<float> values(200, 1.0f);
    values[3] = values[150] = INFINITY;
    const u32* bits = reinterpret_cast<const u32*>(values.data());
    int bad = 0;
    shim::run(1, 64, [&] {
        gcnrec_flag_nonfinite(bits, 200, bits, 100, nullptr, 0, nullptr, 0, nullptr, 0, nullptr, 0, nullptr, 0, nullptr, 0, 0, &bad);
    });
    return bad != 3;
}

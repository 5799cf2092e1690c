// Nine users for four warps, lists of 40 items, some items hidden.
#include "data.h"

int main() {
    const int users = 9, items = 200, size = 40;
    std::vector<float> scores = data::floats(users * items), best(users * size, -INFINITY);
    std::vector<int> numbers(users), listed(users * size, -1);
    for (int user = 0; user < users; ++user) numbers[user] = user;
    std::vector<u8> invalid(users);
    const data::Graph hidden({40, 0, 20, 60, 40, 1, 30, 50, 40}, 4);
    shim::run(1, 128, [&] {
        gcnrec_keep_best(scores.data(), users, items, items, 0, hidden.indptr.data(), hidden.indices.data(), numbers.data(),
                         nullptr, nullptr, nullptr, size, listed.data(), best.data(), invalid.data());
    });
}

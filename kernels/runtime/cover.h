// Which panels the output channels of a layer are divided into.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace ninefold {

// Panels that cover `channels` with the least padding, then the fewest: a panel is charged its width and a
// little.
template <class Panel>
std::vector<const Panel*> cover(const std::vector<Panel>& panels, int64_t channels) {
    const int64_t charge = 4;
    std::vector<int64_t> cost(channels + 1, 0);
    std::vector<const Panel*> choice(channels + 1, nullptr);
    for (int64_t n = 1; n <= channels; n++)
        for (const Panel& panel : panels) {
            const int64_t total = panel.width + charge + cost[std::max<int64_t>(0, n - panel.width)];
            if (!choice[n] || total <= cost[n]) {
                cost[n] = total;
                choice[n] = &panel;
            }
        }
    std::vector<const Panel*> covering;
    for (int64_t n = channels; n > 0; n -= covering.back()->width)
        covering.push_back(choice[n]);
    // Widest first: only the last panel may reach past the channels, and equal ones share a call.
    std::sort(covering.begin(), covering.end(),
              [](const Panel* a, const Panel* b) { return a->width > b->width; });
    return covering;
}

} // namespace ninefold

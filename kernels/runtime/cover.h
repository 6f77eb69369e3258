// Which panels the output channels of a layer are divided into.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

namespace ninefold {

// Panels that cover `channels` with the least padding, then the fewest: a panel is charged its width and a
// little. None is wider than `most`, if there is such.
template <class Panel>
std::vector<const Panel*> cover(const std::vector<Panel>& panels, int64_t channels,
                                int64_t most = std::numeric_limits<int64_t>::max()) {
    const int64_t charge = 4;
    int64_t narrowest = std::numeric_limits<int64_t>::max();
    for (const Panel& panel : panels)
        narrowest = std::min<int64_t>(narrowest, panel.width);
    std::vector<int64_t> cost(channels + 1, 0);
    std::vector<const Panel*> choice(channels + 1, nullptr);
    for (int64_t n = 1; n <= channels; n++)
        for (const Panel& panel : panels) {
            if (panel.width > std::max(most, narrowest)) continue;
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

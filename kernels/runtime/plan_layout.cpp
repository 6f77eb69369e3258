// Where the values of a plan lie, and which of its steps run two at a time.
#include <algorithm>
#include <stdexcept>

#include "plan.h"

namespace ninefold {

// Whether a value may be written straight into the concatenation that reads it: whoever writes and reads it
// must take pixels that lie further apart than its channels.
bool Plan::may_move_in(int value) const {
    if (value < inputs_ || std::count(outputs_.begin(), outputs_.end(), value)) return false;
    if (!steps_[value - inputs_].operation->writes_part()) return false;
    int gathered = 0;
    for (const Step& step : steps_)
        for (size_t i = 0; i < step.operands.size(); i++) {
            if (step.operands[i] != value) continue;
            if (step.operation->gathers())
                gathered++;
            else if (i > 0 || !step.operation->reads_part())
                return false;
        }
    return gathered == 1;
}

// Decide whose memory each value lies in, and until when that is in use.
void Plan::settle(Layout& layout) const {
    const int values = inputs_ + int(steps_.size());
    layout.homes.resize(values);
    layout.first.assign(values, 0);
    layout.last.assign(values, -1);
    for (int v = 0; v < values; v++)
        layout.homes[v] = v;
    for (size_t s = 0; s < steps_.size(); s++) {
        if (!steps_[s].operation->gathers()) continue;
        int64_t channel = 0;
        for (int v : steps_[s].operands) {
            if (may_move_in(v)) {
                layout.homes[v] = inputs_ + int(s);
                layout.first[v] = channel;
            }
            channel += layout.shapes[v].channels;
        }
    }
    for (size_t s = 0; s < steps_.size(); s++)
        for (int operand : steps_[s].operands)
            layout.last[layout.homes[operand]] = int(s);
}

// Whether a step's image is better made a few rows at a time, for the next step alone: one that would leave
// the second-level cache before it is read, of a layer that asks for nothing ahead. With the first
// convolution of a network MobileNetV4-small took 0.989 of its time, EfficientNet-Lite0 and MobileNetV2 0.99;
// where the next step makes more than it reads (MobileNetV1, and EfficientNet-B0 as much) nothing came of it,
// and two fused layers, which ask ahead, lost 0.7 %.
bool Plan::may_run_by_rows(int step, const Layout& layout) const {
    const int value = inputs_ + step;
    if (step + 1 >= int(steps_.size()) || std::count(outputs_.begin(), outputs_.end(), value)) return false;
    const Step &first = steps_[step], &second = steps_[step + 1];
    if (first.operands.size() != 1 || second.operands != std::vector<int>{value}) return false;
    for (size_t s = step + 2; s < steps_.size(); s++)
        if (std::count(steps_[s].operands.begin(), steps_[s].operands.end(), value)) return false;
    if (layout.homes[value] != value || layout.homes[value + 1] != value + 1) return false;
    if (first.operation->asks_ahead()) return false;
    for (const Step* each : {&first, &second}) {
        const std::optional<Windowing> by = each->operation->windowing();
        // Padding alone makes no row.
        if (!by || std::max(by->padding.top, by->padding.bottom) >= by->window.kernel_h) return false;
    }
    const Shape &image = layout.shapes[value], &result = layout.shapes[value + 1];
    return result.numbers() < image.numbers() &&
           image.numbers() / std::max<int64_t>(1, image.batch) * int64_t(sizeof(float)) >
               second_level_cache();
}

// Whether the next step is the mean of what this one makes, as a squeeze-and-excitation begins: rows are
// summed while the cache has them.
bool Plan::may_run_with_mean(int step, const Layout& layout) const {
    const int value = inputs_ + step;
    return step + 1 < int(steps_.size()) && steps_[step].operation->gives_mean() &&
           steps_[step + 1].operation->averages() && steps_[step + 1].operands == std::vector<int>{value} &&
           layout.homes[value] == value;
}

// First fit in the order of the steps: each value takes the lowest gap between the values that live beside
// it. Chains are what these networks are made of, and for a chain that is two buffers taking turns.
Plan::Layout Plan::arrange(const std::vector<Shape>& inputs) const {
    if (int(inputs.size()) != inputs_) throw std::invalid_argument("wrong number of inputs");
    for (const Shape& shape : inputs)
        if (shape.batch < 0 || shape.height < 1 || shape.width < 1 || shape.channels < 1)
            throw std::invalid_argument("an input has no pixels");
    Layout layout;
    layout.shapes = inputs;
    for (const Step& step : steps_) {
        std::vector<Shape> operands;
        for (int operand : step.operands)
            operands.push_back(layout.shapes[operand]);
        layout.shapes.push_back(step.operation->shape(operands));
    }
    settle(layout);
    for (int s = 0; s < int(steps_.size()); s++) {
        layout.by_rows.push_back(may_run_by_rows(s, layout) && !(s > 0 && layout.by_rows[s - 1]));
        layout.with_mean.push_back(may_run_with_mean(s, layout) && !layout.by_rows[s] &&
                                   !(s > 0 && layout.by_rows[s - 1]));
        if (!layout.by_rows[s] && !layout.with_mean[s]) continue;
        // What it reads is read until the next step ends.
        for (int operand : steps_[s].operands) {
            int& last = layout.last[layout.homes[operand]];
            last = std::max(last, s + 1);
        }
    }
    layout.offsets.assign(layout.shapes.size(), -1);
    const auto size_of = [&](int v) { return (layout.shapes[v].numbers() + 15) / 16 * 16; };
    std::vector<int> placed;
    for (int s = 0; s < int(steps_.size()); s++) {
        const int value = layout.homes[inputs_ + s];
        if (layout.by_rows[s]) continue; // it is never whole
        if (layout.offsets[value] >= 0 || std::count(outputs_.begin(), outputs_.end(), value)) continue;
        std::vector<std::pair<int64_t, int64_t>> taken;
        for (int other : placed)
            if (layout.last[other] >= s)
                taken.push_back({layout.offsets[other], layout.offsets[other] + size_of(other)});
        std::sort(taken.begin(), taken.end());
        int64_t offset = 0;
        for (const auto& [start, end] : taken) {
            if (offset + size_of(value) <= start) break;
            offset = std::max(offset, end);
        }
        layout.offsets[value] = offset;
        layout.size = std::max(layout.size, offset + size_of(value));
        placed.push_back(value);
    }
    write_calls(layout);
    return layout;
}

// Everything that the steps are run with but addresses, side by side: between two steps the caches are swept,
// and each thing that lies apart is waited for. EfficientNet-B0's 84 steps spent 51 µs so, and now 11.
void Plan::write_calls(Layout& layout) const {
    const auto stride = [&](int v) { return layout.shapes[layout.homes[v]].channels; };
    for (size_t s = 0; s < steps_.size(); s++) {
        const int value = inputs_ + int(s);
        layout.calls.push_back({steps_[s].operation.get(), layout.shapes[value], stride(value),
                                layout.first[value], layout.homes[value], int(layout.operands.size()),
                                int(steps_[s].operands.size()), layout.by_rows[s], layout.with_mean[s]});
        for (int v : steps_[s].operands) {
            const Shape& shape = layout.shapes[v];
            const Image image{nullptr, shape.batch, shape.height, shape.width, shape.channels, stride(v)};
            layout.operands.push_back({image, layout.first[v], layout.homes[v]});
        }
    }
}

} // namespace ninefold

// Where values lie, and the loop over steps.
#include "plan.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <stdexcept>

#include "parallel.h"

namespace ninefold {

namespace {

// Images that share the weights of small layers: with more, each image's share of reading them is small.
constexpr int64_t together_at_most = 8;

} // namespace

int Plan::add(std::unique_ptr<Operation> operation, std::vector<int> operands) {
    const int next = inputs_ + int(steps_.size());
    for (int operand : operands)
        if (operand < 0 || operand >= next) throw std::invalid_argument("a step may only use earlier values");
    steps_.push_back({std::move(operation), std::move(operands)});
    return next;
}

void Plan::finish(std::vector<int> outputs) {
    const int values = inputs_ + int(steps_.size());
    for (int value : outputs)
        if (value < inputs_ || value >= values || std::count(outputs.begin(), outputs.end(), value) > 1)
            throw std::invalid_argument("an output must be a step's value, and be it once");
    outputs_ = std::move(outputs);
}

std::vector<Shape> Plan::shapes(const std::vector<Shape>& inputs) {
    const Layout& found = layout(inputs);
    std::vector<Shape> shapes;
    for (int value : outputs_)
        shapes.push_back(found.shapes[value]);
    return shapes;
}

int64_t Plan::arena_bytes(const std::vector<Shape>& inputs) {
    return layout(inputs).size * int64_t(sizeof(float));
}

const Plan::Layout& Plan::layout(const std::vector<Shape>& inputs) {
    std::lock_guard<std::mutex> guard(lock_);
    const auto found = layouts_.find(inputs);
    return found != layouts_.end() ? found->second : layouts_.emplace(inputs, arrange(inputs)).first->second;
}

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

// As many images as leave the values between inputs and outputs room in the last cache, beside the weights:
// eight at once took ConvNeXt-Atto 1.12 times as long, MobileNetV1 1.07, as one after another; for
// MobileNetV2 and V3, whose values are small, eight share their weights. Every operation computes image by
// image.
int64_t Plan::images_at_once(std::vector<Shape> inputs) {
    const int64_t batch = inputs.empty() ? 0 : inputs[0].batch;
    for (Shape& shape : inputs) {
        if (shape.batch != batch) return 0;
        shape.batch = 1;
    }
    if (batch < 2) return batch;
    return std::clamp<int64_t>(last_level_cache() / 6 / std::max<int64_t>(1, arena_bytes(inputs)), 1, batch);
}

void Plan::run(const std::vector<Image>& inputs, const std::vector<float*>& outputs, int threads, bool poison,
               std::vector<double>* seconds) {
    std::vector<Shape> shapes;
    for (const Image& image : inputs)
        shapes.push_back({image.batch, image.height, image.width, image.channels});
    if (outputs.size() != outputs_.size()) throw std::invalid_argument("wrong number of outputs");
    const int64_t most = images_at_once(shapes);
    if (most == 0 || (most >= shapes[0].batch && shapes[0].batch < threads) || shapes[0].batch == 1) {
        run_together(inputs, outputs, threads, poison, seconds);
        return;
    }
    const int64_t batch = shapes[0].batch, together = std::min(batch, together_at_most);
    if (divides_ && most < together) {
        const Halves& halves = divided(shapes, together);
        if (halves.head) return run_halves(halves, inputs, outputs, together, threads, poison, seconds);
    }
    // Each thread takes images of its own where there are enough: they need not wait for one another at each
    // layer.
    const int64_t even = even_parts(1, batch, most, threads);
    const bool apart = threads > 1 && even % threads == 0 && !seconds;
    const int64_t parts = apart ? even : (batch + most - 1) / most;
    const std::vector<Shape> results = this->shapes(shapes);
    parallel_for(apart ? threads : 1, parts, [&](int64_t part) {
        const int64_t first = part * batch / parts, last = (part + 1) * batch / parts;
        std::vector<Image> some = inputs;
        for (Image& image : some) {
            image.data = image.row(first, 0);
            image.batch = last - first;
        }
        std::vector<float*> to = outputs;
        for (size_t i = 0; i < to.size(); i++)
            to[i] += first * (results[i].numbers() / batch);
        std::vector<double> spent;
        run_together(some, to, apart ? 1 : threads, poison, seconds ? &spent : nullptr);
        if (!seconds) return;
        seconds->resize(spent.size(), 0.0);
        for (size_t i = 0; i < spent.size(); i++)
            (*seconds)[i] += spent[i];
    });
}

void Plan::run_together(const std::vector<Image>& inputs, const std::vector<float*>& outputs, int threads,
                        bool poison, std::vector<double>* seconds) {
    std::vector<Shape> shapes;
    for (const Image& image : inputs)
        shapes.push_back({image.batch, image.height, image.width, image.channels});
    const Layout& found = layout(shapes);

    std::pair<int64_t, Floats> arena = take_arena(found.size);
    std::vector<float*> at(found.shapes.size());
    for (int v = 0; v < inputs_; v++)
        at[v] = const_cast<float*>(inputs[v].data);
    for (size_t v = inputs_; v < at.size(); v++)
        if (found.offsets[v] >= 0) at[v] = arena.second.get() + found.offsets[v];
    for (size_t i = 0; i < outputs.size(); i++)
        at[outputs_[i]] = outputs[i];

    in_team(threads, [&] {
        std::vector<Image> operands;
        for (size_t s = 0; s < steps_.size(); s++) {
            const Call& call = found.calls[s];
            operands.clear();
            for (int k = 0; k < call.count; k++) {
                const Operand& operand = found.operands[call.operands + k];
                operands.push_back(operand.image);
                operands.back().data = at[operand.home] + operand.first;
            }
            const int done = int(s);
            std::chrono::steady_clock::time_point start;
            if (seconds) start = std::chrono::steady_clock::now();
            if (call.by_rows) {
                const Call& next = found.calls[++s];
                double spent[2] = {0, 0};
                run_by_rows(*call.operation, *next.operation, operands[0], call.shape, next.shape,
                            at[next.home], threads, seconds ? spent : nullptr);
                if (seconds) seconds->insert(seconds->end(), spent, spent + 2);
            } else {
                const Result out{at[call.home] + call.first, call.stride};
                if (call.with_mean) {
                    const Call& mean = found.calls[++s];
                    call.operation->run_with_mean(operands, call.shape, out, at[mean.home] + mean.first,
                                                  threads);
                } else {
                    call.operation->run(operands, call.shape, out, threads);
                }
                if (seconds)
                    seconds->push_back(
                        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
                if (seconds && call.with_mean) seconds->push_back(0);
            }
            if (!poison) continue;
            for (int v = inputs_; v < inputs_ + int(steps_.size()); v++)
                if (found.offsets[v] >= 0 && found.last[v] >= done && found.last[v] <= int(s))
                    std::fill_n(at[v], found.shapes[v].numbers(), std::numeric_limits<float>::quiet_NaN());
        }
    });
    give_arena(std::move(arena));
}

// An arena of its own for each call that runs at the same time.
std::pair<int64_t, Floats> Plan::take_arena(int64_t size) {
    std::pair<int64_t, Floats> arena{0, nullptr};
    {
        std::lock_guard<std::mutex> guard(lock_);
        if (!arenas_.empty()) {
            arena = std::move(arenas_.back());
            arenas_.pop_back();
        }
    }
    if (arena.first < size) arena = {size, allocate_kept(size)};
    return arena;
}

void Plan::give_arena(std::pair<int64_t, Floats> arena) {
    std::lock_guard<std::mutex> guard(lock_);
    arenas_.push_back(std::move(arena));
}

// The one value, no input, that this step and those after it read of what was there before; -1 where there is
// another, or an output among the steps before.
int Plan::crossing(int step) const {
    const int first = inputs_ + step;
    int found = -1;
    for (int output : outputs_)
        if (output < first) return -1;
    for (size_t s = step; s < steps_.size(); s++)
        for (int v : steps_[s].operands) {
            if (v >= first || v == found) continue;
            if (v < inputs_ || found >= 0) return -1;
            found = v;
        }
    return found;
}

Plan::Halves Plan::halves(int step) const {
    const int first = inputs_ + step, value = crossing(step);
    Halves made{std::make_unique<Plan>(inputs_), std::make_unique<Plan>(1)};
    const auto moved = [&](int v) { return v == value ? 0 : v - first + 1; };
    made.head->steps_.assign(steps_.begin(), steps_.begin() + step);
    made.head->outputs_ = {value};
    made.head->divides_ = made.tail->divides_ = false;
    made.tail->steps_.assign(steps_.begin() + step, steps_.end());
    for (Step& each : made.tail->steps_)
        std::transform(each.operands.begin(), each.operands.end(), each.operands.begin(), moved);
    for (int output : outputs_)
        made.tail->outputs_.push_back(moved(output));
    return made;
}

// Where to divide the steps for batches: behind the large images, which run one after another, so that each
// stays in the cache; from there on `together` of them leave room in it, and share the weights, which grow as
// images shrink. MobileNetV4-small spent 6 % of its time reading the last two layers' weights for each image.
const Plan::Halves& Plan::divided(std::vector<Shape> inputs, int64_t together) {
    for (Shape& shape : inputs)
        shape.batch = 1;
    const std::vector<Shape> shapes = layout(inputs).shapes;
    for (Shape& shape : inputs)
        shape.batch = together;
    std::lock_guard<std::mutex> guard(dividing_);
    const auto known = divided_.find(inputs);
    if (known != divided_.end()) return known->second;
    std::vector<int> places;
    for (int step = 1; step < int(steps_.size()); step++)
        if (crossing(step) >= 0) places.push_back(step);
    const auto too_large = [&](int step) {
        const Shape& image = shapes[crossing(step)];
        const int64_t bytes =
            halves(step).tail->arena_bytes({image}) + image.numbers() * int64_t(sizeof(float));
        return together * bytes > 3 * second_level_cache();
    };
    const auto place = std::partition_point(places.begin(), places.end(), too_large);
    Halves made;
    if (place != places.end()) {
        made = halves(*place);
        made.crossing = shapes[crossing(*place)].numbers();
    }
    return divided_.emplace(inputs, std::move(made)).first->second;
}

void Plan::run_halves(const Halves& halves, const std::vector<Image>& inputs,
                      const std::vector<float*>& outputs, int64_t together, int threads, bool poison,
                      std::vector<double>* seconds) {
    std::vector<Shape> shapes;
    for (const Image& image : inputs)
        shapes.push_back({image.batch, image.height, image.width, image.channels});
    const std::vector<Shape> results = this->shapes(shapes);
    // Every thread's images at once: each takes its own, in both halves.
    const int64_t batch = shapes[0].batch, most = together * threads;
    std::pair<int64_t, Floats> between = take_arena(std::min(batch, most) * halves.crossing);
    std::vector<double> spent[2];
    for (int64_t first = 0; first < batch; first += most) {
        const int64_t count = std::min(most, batch - first);
        std::vector<Image> some = inputs;
        for (Image& image : some) {
            image.data = image.row(first, 0);
            image.batch = count;
        }
        std::vector<float*> to = outputs;
        for (size_t i = 0; i < to.size(); i++)
            to[i] += first * (results[i].numbers() / batch);
        std::vector<double> taken[2];
        halves.head->run(some, {between.second.get()}, threads, poison, seconds ? &taken[0] : nullptr);
        for (Shape& shape : shapes)
            shape.batch = count;
        const Shape image = halves.head->shapes(shapes)[0];
        halves.tail->run({{between.second.get(), count, image.height, image.width, image.channels}}, to,
                         threads, poison, seconds ? &taken[1] : nullptr);
        for (int half : {0, 1}) {
            spent[half].resize(taken[half].size(), 0.0);
            for (size_t i = 0; i < taken[half].size(); i++)
                spent[half][i] += taken[half][i];
        }
    }
    give_arena(std::move(between));
    if (!seconds) return;
    for (const std::vector<double>& each : spent)
        seconds->insert(seconds->end(), each.begin(), each.end());
}

} // namespace ninefold

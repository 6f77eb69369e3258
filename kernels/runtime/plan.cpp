// Steps added, and the loop over them.
#include "plan.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <stdexcept>

#include "parallel.h"

namespace ninefold {

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

} // namespace ninefold

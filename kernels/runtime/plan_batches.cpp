// How many images a plan runs at once, and where it is divided so that small layers run more of them.
#include <algorithm>
#include <stdexcept>

#include "parallel.h"
#include "plan.h"

namespace ninefold {

namespace {

// Images that share the weights of small layers: with more, each image's share of reading them is small.
constexpr int64_t together_at_most = 8;

} // namespace

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

// An activation by name: clip bounds for the kernels, or an epilogue.
#include <algorithm>
#include <limits>
#include <stdexcept>

#include "buffer.h"
#include "errors.h"
#include "layers.h"

namespace ninefold {

Activation::Activation(const Kernels& kernels, const std::string& name) : kernels_(&kernels) {
    const float infinity = std::numeric_limits<float>::infinity();
    low = name == "relu" || name == "relu6" ? 0.0f : -infinity;
    high = name == "relu6" ? 6.0f : infinity;
    if (name.empty() || name == "relu" || name == "relu6") return;
    const auto& names = kernels.epilogues;
    const auto found = std::find(names.begin(), names.end(), name);
    if (found == names.end()) throw std::invalid_argument("no kernel for the activation " + name);
    which_ = int(found - names.begin());
}

void Activation::apply(float* tile, int64_t channels, int64_t pixels, int64_t stride) const {
    if (!follows()) return;
    if (channels == stride) { // dense: one line, one tail
        channels *= pixels;
        stride = channels;
        pixels = 1;
    }
    Buffer in(tile, {{0, channels, 1}, {0, pixels, stride}}),
        out(tile, {{0, channels, 1}, {0, pixels, stride}});
    check(kernels_->epilogue(in, which_, out));
}

void Activation::apply(const float* from, float* to, int64_t count) const {
    Buffer in(from, {{0, count, 1}, {0, 1, count}}), out(to, {{0, count, 1}, {0, 1, count}});
    check(follows() ? kernels_->epilogue(in, which_, out) : kernels_->clip(in, low, high, out));
}

} // namespace ninefold

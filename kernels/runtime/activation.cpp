// An activation by name: clip bounds for the kernels, or an epilogue.
#include <limits>
#include <stdexcept>

#include "buffer.h"
#include "errors.h"
#include "layers.h"

namespace ninefold {

Activation::Activation(const Kernels& kernels, const std::string& name) : epilogue(nullptr) {
    const float infinity = std::numeric_limits<float>::infinity();
    low = name == "relu" || name == "relu6" ? 0.0f : -infinity;
    high = name == "relu6" ? 6.0f : infinity;
    if (name.empty() || name == "relu" || name == "relu6") return;
    for (const Epilogue& row : kernels.epilogues)
        if (row.activation == name) epilogue = row.run;
    if (!epilogue) throw std::invalid_argument("no kernel for the activation " + name);
}

void Activation::apply(float* tile, int64_t channels, int64_t pixels, int64_t stride) const {
    if (!epilogue) return;
    if (channels == stride) { // dense: one line, one tail
        channels *= pixels;
        stride = channels;
        pixels = 1;
    }
    Buffer in(tile, {{0, channels, 1}, {0, pixels, stride}}),
        out(tile, {{0, channels, 1}, {0, pixels, stride}});
    check(epilogue(in, out));
}

} // namespace ninefold

// Training's part of the Python face.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <array>
#include <memory>
#include <string>

#include "addresses.h"
#include "chain.h"

namespace nb = nanobind;
using namespace ninefold;

namespace {

double* sums_at(uintptr_t address) {
    return reinterpret_cast<double*>(address);
}

// Memory that is kept when nobody holds it any more, as an array for DLPack.
nb::ndarray<float, nb::device::cpu> lent(std::array<int64_t, 4> shape, std::array<int64_t, 4> strides) {
    std::array<size_t, 4> sizes;
    std::copy(shape.begin(), shape.end(), sizes.begin());
    auto memory = std::make_unique<Floats>(allocate_image(sizes[0] * sizes[1] * sizes[2] * sizes[3]));
    nb::capsule owner(memory.get(), [](void* p) noexcept { delete static_cast<Floats*>(p); });
    float* const first = memory.release()->get();
    return nb::ndarray<float, nb::device::cpu>(first, 4, sizes.data(), owner, strides.data());
}

// What `make` makes of each stage's `count` addresses.
template <class Each, class Make>
auto each(const Addresses& addresses, size_t count, size_t stages, Make make) {
    if (addresses.size() != count * stages)
        throw std::invalid_argument("a chain of " + std::to_string(stages) + " stages needs " +
                                    std::to_string(count * stages) + " addresses, got " +
                                    std::to_string(addresses.size()));
    std::vector<Each> made;
    for (size_t k = 0; k < stages; k++)
        made.push_back(make(addresses.data() + count * k, k));
    return made;
}

std::vector<StageTensors> stage_tensors(const Chain& chain, const Addresses& at,
                                        const std::vector<double>& momenta) {
    if (momenta.size() != chain.size())
        throw std::invalid_argument("a chain needs a momentum for each stage");
    return each<StageTensors>(at, 6, chain.size(), [&](const uintptr_t* a, size_t k) {
        return StageTensors{read(a[0]),    read(a[1]),    read(a[2]), read(a[3]),
                            written(a[4]), written(a[5]), momenta[k]};
    });
}

std::vector<float*> addressed(const Chain& chain, const Addresses& at) {
    return each<float*>(at, 1, chain.size(), [](const uintptr_t* a, size_t) { return written(*a); });
}

// A chain's two calls, with an image's address and shape, and for each stage six addresses of its tensors,
// one of its output and, backward, four of gradients.
void bind_chain(nb::module_& m) {
    nb::call_guard<nb::gil_scoped_release> unlocked;
    nb::class_<Stage>(m, "Stage")
        .def("__init__", [](Stage* self, const std::string& kind, int64_t outputs, const Window& window,
                            const Padding& padding, const std::string& activation, bool normalises,
                            bool batch, double epsilon) {
            new (self) Stage{kind, outputs, window, padding, activation, normalises, batch, epsilon};
        });
    nb::class_<Chain>(m, "Chain")
        .def(nb::init<std::vector<Stage>, std::string>(), nb::arg("stages"), nb::arg("ahead"))
        .def(
            "forward",
            [](const Chain& chain, uintptr_t x, const Sizes& size, const Addresses& tensors,
               const std::vector<double>& momenta, const Addresses& outputs, uintptr_t numbers,
               uintptr_t residual, uintptr_t result, int threads) {
                const auto& [n, h, w, c] = size;
                const auto out = addressed(chain, outputs);
                chain.forward(image(x, n, h, w, c), stage_tensors(chain, tensors, momenta), out,
                              written(numbers), read(residual), written(result), threads);
            },
            unlocked)
        .def(
            "backward",
            [](const Chain& chain, uintptr_t x, const Sizes& size, const Addresses& tensors,
               const Addresses& outputs, uintptr_t numbers, uintptr_t gradient, const Addresses& gradients,
               uintptr_t input, bool itself, int threads) {
                const auto& [n, h, w, c] = size;
                const auto out = addressed(chain, outputs);
                const auto wanted =
                    each<StageGradients>(gradients, 4, chain.size(), [](const uintptr_t* a, size_t) {
                        return StageGradients{written(a[0]), written(a[1]), written(a[2]), written(a[3])};
                    });
                chain.backward(image(x, n, h, w, c),
                               stage_tensors(chain, tensors, std::vector<double>(chain.size())), out,
                               read(numbers), read(gradient), wanted, written(input), itself, threads);
            },
            unlocked);
}

} // namespace

// Training's calls: images and gradients made of addresses, layers that are packed, what is wanted (0: not).
void bind_training(nb::module_& m) {
    bind_chain(m);
    nb::call_guard<nb::gil_scoped_release> unlocked;
    nb::class_<Operand>(m, "Operand")
        .def("__init__", [](Operand* self, uintptr_t z, int64_t n, int64_t h, int64_t w, int64_t c,
                            uintptr_t numbers, const std::string& activation) {
            new (self) Operand(image(z, n, h, w, c), read(numbers), activation);
        });
    nb::class_<Gradient>(m, "Gradient")
        .def("__init__", [](Gradient* self, const Operand& operand, uintptr_t gradient, uintptr_t turn) {
            if (!gradient)
                throw std::invalid_argument("`gradient` must be the address of an array, got null");
            new (self) Gradient(operand, read(gradient), read(turn));
        });
    m.def(
        "train_depthwise",
        [](const Depthwise& layer, const Operand& x, const Padding& padding, uintptr_t out, uintptr_t moments,
           int threads) { train_forward(layer, x, padding, written(out), written(moments), threads); },
        unlocked);
    m.def(
        "train_pointwise",
        [](const Pointwise& layer, const Operand& x, uintptr_t out, uintptr_t moments, int threads) {
            train_forward(layer, x, written(out), written(moments), threads);
        },
        unlocked);
    m.def(
        "train_conv2d",
        [](const Conv2d& layer, const Operand& x, const Padding& padding, uintptr_t out, uintptr_t moments,
           int threads) { train_forward(layer, x, padding, written(out), written(moments), threads); },
        unlocked);
    m.def(
        "train_depthwise_backward",
        [](uintptr_t weight, const Window& window, const Padding& padding, const Gradient& dz,
           const Operand& x, uintptr_t weight_gradient, uintptr_t input_gradient, uintptr_t sums,
           int threads) {
            train_backward(read(weight), window, padding, dz, x,
                           {written(weight_gradient), written(input_gradient), sums_at(sums)}, threads);
        },
        unlocked);
    m.def(
        "train_pointwise_backward",
        [](uintptr_t weight, const Gradient& dz, const Operand& x, uintptr_t weight_gradient,
           uintptr_t input_gradient, uintptr_t sums, int threads) {
            train_backward(read(weight), dz, x,
                           {written(weight_gradient), written(input_gradient), sums_at(sums)}, threads);
        },
        unlocked);
    m.def(
        "train_conv2d_backward",
        [](uintptr_t weight, const Window& window, const Padding& padding, const Gradient& dz,
           const Operand& x, uintptr_t weight_gradient, uintptr_t input_gradient, uintptr_t sums,
           int threads) {
            train_conv2d_backward(read(weight), window, padding, dz, x,
                                  {written(weight_gradient), written(input_gradient), sums_at(sums)},
                                  threads);
        },
        unlocked);
    m.def(
        "train_apply",
        [](const Operand& x, uintptr_t residual, uintptr_t out, int threads) {
            train_apply(x, read(residual), written(out), threads);
        },
        unlocked);
    m.def(
        "train_moments",
        [](uintptr_t z, int64_t n, int64_t h, int64_t w, int64_t c, uintptr_t moments, int threads) {
            train_moments(image(z, n, h, w, c), written(moments), threads);
        },
        unlocked);
    m.def(
        "train_reduce",
        [](const Gradient& gradient, uintptr_t out, uintptr_t sums, int threads) {
            train_reduce(gradient, written(out), sums_at(sums), threads);
        },
        unlocked);
    m.def(
        "train_turn",
        [](const Gradient& gradient, uintptr_t out, int threads) {
            train_turn(gradient, written(out), threads);
        },
        unlocked);
    m.def(
        "image",
        [](int64_t n, int64_t h, int64_t w, int64_t c) {
            return lent({n, c, h, w}, {h * w * c, 1, w * c, c});
        },
        nb::arg("batch"), nb::arg("height"), nb::arg("width"), nb::arg("channels"),
        "Memory for an image, channels-last, for DLPack; it is kept when nobody holds it any more.");
    m.def(
        "matrix", [](int64_t n, int64_t c) { return lent({n, c, 1, 1}, {c, 1, 1, 1}); }, nb::arg("outputs"),
        nb::arg("inputs"), "Such memory for the gradient of a pointwise convolution's weight.");
    m.def("release_images", &release_images, "Give back what is kept for images.");
    m.def("caches_hold", &caches_hold, nb::arg("bytes"),
          "From how many bytes on depthwise layers write images past the caches; -1: half the last one's.");
    m.def("train_normalisation",
          [](uintptr_t numbers, uintptr_t gamma, uintptr_t beta, double epsilon, int64_t channels) {
              train_normalisation(written(numbers), read(gamma), read(beta), epsilon, channels);
          });
    m.def("train_normalisation_gradient",
          [](uintptr_t numbers, uintptr_t gamma, double epsilon, uintptr_t sums, double count, bool batch,
             int64_t channels, uintptr_t turn, uintptr_t gamma_gradient, uintptr_t beta_gradient) {
              train_normalisation_gradient(read(numbers), read(gamma), epsilon, sums_at(sums), count, batch,
                                           channels, written(turn), written(gamma_gradient),
                                           written(beta_gradient));
          });
}

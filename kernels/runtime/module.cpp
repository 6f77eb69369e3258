// The Python face of the kernels: raw addresses and shapes in, nothing of PyTorch.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <stdexcept>

#include "addresses.h"
#include "buffer.h"
#include "errors.h"
#include "layers.h"
#include "memory.h"
#include "parallel.h"
#include "plan.h"
#include "transpose.h"

namespace nb = nanobind;
using namespace ninefold;

void bind_training(nb::module_& m); // module_training.cpp

namespace {

std::vector<Shape> shapes(const std::vector<Sizes>& sizes) {
    std::vector<Shape> found;
    for (const auto& [n, h, w, c] : sizes)
        found.push_back({n, h, w, c});
    return found;
}

std::vector<Image> images(const Addresses& x, const std::vector<Sizes>& sizes) {
    std::vector<Image> found;
    for (size_t i = 0; i < x.size(); i++) {
        const auto& [n, h, w, c] = sizes.at(i);
        found.push_back(image(x[i], n, h, w, c));
    }
    return found;
}

std::vector<float*> results(const Addresses& out) {
    std::vector<float*> found;
    for (uintptr_t address : out) {
        if (!address) throw std::invalid_argument("a result must be the address of an array, got null");
        found.push_back(written(address));
    }
    return found;
}

// What a wrong bound inside a kernel does, on as many threads as asked: the tests' way to see that the
// process lives.
void refuse(int threads) {
    parallel_for(threads, threads, [](int64_t) {
        const float numbers[64] = {};
        float sums[128];
        Buffer in(numbers, {{0, 64, 1}}), out(sums, {{0, 128, 1}});
        check(current().copy(in, out));
    });
}

// Matrices of rows × columns, one after another, into columns × rows: planes into pixels, or the other way.
void transpose_images(uintptr_t from, int64_t images, int64_t rows, int64_t columns, uintptr_t to,
                      int threads) {
    const int64_t one = rows * columns, parts = images * one < 32768 ? 1 : threads;
    const bool wide = columns > rows; // the longer side is shared
    parallel_for(threads, images * parts, [&](int64_t task) {
        const int64_t n = task / parts, part = task % parts, side = wide ? columns : rows;
        const int64_t first = part * side / parts, count = (part + 1) * side / parts - first;
        const float* source = read(from) + n * one + (wide ? first : first * columns);
        float* target = written(to) + n * one + (wide ? first * rows : first);
        transpose(source, wide ? rows : count, wide ? count : columns, columns, target, rows);
    });
}

std::vector<std::string> instruction_sets() {
    std::vector<std::string> names;
    for (const Kernels* row : available())
        names.push_back(row->name);
    return names;
}

} // namespace

NB_MODULE(_kernels, m) {
    m.doc() = "Ninefold's compiled kernels. Addresses are of dense float32 arrays; images are NHWC.";
    catch_kernel_errors();
    // PyTorch keeps a graph until the process ends: a script that trains would end with a list of its chains.
    nb::set_leak_warnings(false);
    nb::call_guard<nb::gil_scoped_release> unlocked;

    m.def("instruction_sets", &instruction_sets, "Those compiled and present on this processor, best first.");
    m.def("instruction_set", [] { return current().name; }, "The one in use for what is packed from now on.");
    m.def("use", &use, nb::arg("name"), "Choose the instruction set for what is packed from now on.");
    m.def("weights_last", &weights_last, nb::arg("yes"),
          "Whether what this thread packs from now on is kept: it is laid side by side on large pages.");
    m.def("fma_peak", &fma_peak, nb::arg("threads"), nb::arg("seconds"), unlocked, "Operations a second.");
    m.def("copy_bandwidth", &copy_bandwidth, nb::arg("bytes"), nb::arg("threads"), nb::arg("seconds"),
          unlocked, "Bytes a second, read plus written.");

    m.def("cores", [] { return cores; }, "As many threads, at most, stay together through a plan.");
    m.def("transpose", &transpose_images, nb::arg("x"), nb::arg("images"), nb::arg("rows"),
          nb::arg("columns"), nb::arg("out"), nb::arg("threads"), unlocked,
          "Planes into pixels, or pixels into planes, of each image.");
    m.def("refuse", &refuse, nb::arg("threads"), unlocked,
          "Call a kernel with an image too small for it: RuntimeError.");

    nb::class_<Window>(m, "Window")
        .def(
            "__init__",
            [](Window* self, int kernel_h, int kernel_w, int stride_h, int stride_w, int dilation_h,
               int dilation_w) {
                if (std::min({kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w}) < 1)
                    throw std::invalid_argument("a window's sizes must be positive");
                new (self) Window{kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w};
            },
            nb::arg("kernel_h"), nb::arg("kernel_w"), nb::arg("stride_h"), nb::arg("stride_w"),
            nb::arg("dilation_h"), nb::arg("dilation_w"));
    nb::class_<Padding>(m, "Padding")
        .def(
            "__init__",
            [](Padding* self, int left, int right, int top, int bottom) {
                if (std::min({left, right, top, bottom}) < 0)
                    throw std::invalid_argument("a padding must be non-negative");
                new (self) Padding{left, right, top, bottom};
            },
            nb::arg("left"), nb::arg("right"), nb::arg("top"), nb::arg("bottom"));

    nb::class_<Depthwise>(m, "Depthwise")
        .def("__init__",
             [](Depthwise* self, uintptr_t weight, uintptr_t bias, int64_t channels, int multiplier,
                const Window& window, const std::string& activation) {
                 new (self) Depthwise(read(weight), read(bias), channels, multiplier, window, activation);
             })
        .def(
            "run",
            [](const Depthwise& self, uintptr_t x, int64_t n, int64_t h, int64_t w, int64_t c,
               const Padding& padding, uintptr_t out, int threads) {
                self.run(image(x, n, h, w, c), padding, {written(out), self.out_channels()}, threads);
            },
            unlocked);
    nb::class_<Pointwise>(m, "Pointwise")
        .def("__init__",
             [](Pointwise* self, uintptr_t weight, uintptr_t bias, int64_t in_channels, int64_t out_channels,
                const std::string& activation, int threads) {
                 new (self)
                     Pointwise(read(weight), read(bias), in_channels, out_channels, activation, threads);
             })
        .def(
            "run",
            [](const Pointwise& self, uintptr_t x, int64_t pixels, uintptr_t residual, uintptr_t out,
               int threads) {
                self.run(read(x), self.in_channels(), pixels, nullptr, read(residual),
                         {written(out), self.out_channels()}, threads);
            },
            unlocked);
    nb::class_<Conv2d>(m, "Conv2d")
        .def("__init__",
             [](Conv2d* self, uintptr_t weight, uintptr_t bias, int64_t in_channels, int64_t out_channels,
                int groups, const Window& window, const std::string& activation, int threads, bool winograd) {
                 new (self) Conv2d({read(weight)}, read(bias), in_channels, out_channels, groups, window,
                                   activation, threads, winograd);
             })
        .def(
            "run",
            [](const Conv2d& self, uintptr_t x, int64_t n, int64_t h, int64_t w, int64_t c,
               const Padding& padding, uintptr_t out,
               int threads) { self.run(image(x, n, h, w, c), padding, written(out), threads); },
            unlocked);
    m.def(
        "conv2d",
        [](uintptr_t weight, bool channels_last, uintptr_t bias, int64_t out_channels, int groups,
           const Window& window, const std::string& activation, uintptr_t x, int64_t n, int64_t h, int64_t w,
           int64_t c, const Padding& padding, uintptr_t out, int threads) {
            convolve({read(weight), channels_last}, read(bias), out_channels, groups, window, activation,
                     image(x, n, h, w, c), padding, written(out), threads);
        },
        unlocked);
    nb::class_<Separable>(m, "Separable")
        .def(nb::init<const Depthwise&, const Pointwise&>(), nb::keep_alive<1, 2>(), nb::keep_alive<1, 3>())
        .def(
            "run",
            [](const Separable& self, uintptr_t x, int64_t n, int64_t h, int64_t w, int64_t c,
               const Padding& padding, uintptr_t residual, uintptr_t out, int threads) {
                self.run(image(x, n, h, w, c), padding, read(residual), written(out), threads);
            },
            unlocked);
    nb::class_<Inverted>(m, "Inverted")
        .def(nb::init<const Pointwise&, const Depthwise&, const Pointwise*>(), nb::arg("expansion"),
             nb::arg("depthwise"), nb::arg("projection").none(), nb::keep_alive<1, 2>(),
             nb::keep_alive<1, 3>(), nb::keep_alive<1, 4>())
        .def(
            "run",
            [](const Inverted& self, uintptr_t x, int64_t n, int64_t h, int64_t w, int64_t c,
               const Padding& padding, uintptr_t residual, uintptr_t out, int threads) {
                self.run(image(x, n, h, w, c), padding, read(residual), written(out), threads);
            },
            unlocked);

    bind_training(m);

    // Each step returns the number of its value; layers are kept alive with the plan.
    using Residual = std::optional<int>;
    const auto operands = [](int x, Residual residual) {
        return residual ? std::vector<int>{x, *residual} : std::vector<int>{x};
    };
    nb::class_<Plan>(m, "Plan")
        .def(nb::init<int>(), nb::arg("inputs"))
        .def(
            "depthwise",
            [](Plan& p, const Depthwise& layer, const Padding& padding, int x) {
                return p.add(depthwise_step(layer, padding), {x});
            },
            nb::keep_alive<1, 2>())
        .def(
            "conv2d",
            [](Plan& p, const Conv2d& layer, const Padding& padding, int x) {
                return p.add(conv2d_step(layer, padding), {x});
            },
            nb::keep_alive<1, 2>())
        .def(
            "pointwise",
            [=](Plan& p, const Pointwise& layer, int x, Residual residual, Residual gate) {
                std::vector<int> all = operands(x, residual);
                if (gate) all.push_back(*gate);
                return p.add(pointwise_step(layer, gate.has_value()), all);
            },
            nb::arg(), nb::arg(), nb::arg().none(), nb::arg().none(), nb::keep_alive<1, 2>())
        .def(
            "separable",
            [=](Plan& p, const Separable& layer, const Padding& padding, int x, Residual residual) {
                return p.add(separable_step(layer, padding), operands(x, residual));
            },
            nb::arg(), nb::arg(), nb::arg(), nb::arg().none(), nb::keep_alive<1, 2>())
        .def(
            "inverted",
            [=](Plan& p, const Inverted& layer, const Padding& padding, int x, Residual residual) {
                return p.add(inverted_step(layer, padding), operands(x, residual));
            },
            nb::arg(), nb::arg(), nb::arg(), nb::arg().none(), nb::keep_alive<1, 2>())
        .def("add", [](Plan& p, int a, int b) { return p.add(add_step(), {a, b}); })
        .def("scale", [](Plan& p, int x, int gate) { return p.add(scale_step(), {x, gate}); })
        .def("mean", [](Plan& p, int x) { return p.add(mean_step(), {x}); })
        .def("largest", [](Plan& p, const Window& window, const Padding& padding, bool ceil,
                           int x) { return p.add(largest_step(window, padding, ceil), {x}); })
        .def("average",
             [](Plan& p, const Window& window, const Padding& padding, bool ceil, bool count_padding,
                int64_t divisor,
                int x) { return p.add(average_step(window, padding, ceil, count_padding, divisor), {x}); })
        .def("shuffle", [](Plan& p, int64_t groups, int x) { return p.add(shuffle_step(groups), {x}); })
        .def("activation",
             [](Plan& p, const std::string& name, int x) { return p.add(activation_step(name), {x}); })
        .def("layer_norm",
             [](Plan& p, std::vector<float> gain, std::vector<float> offset, float epsilon, int x) {
                 return p.add(layer_norm_step(std::move(gain), std::move(offset), epsilon), {x});
             })
        .def("concatenation",
             [](Plan& p, std::vector<int> images) { return p.add(concatenation_step(), std::move(images)); })
        .def("channels", [](Plan& p, int64_t first, int64_t last,
                            int x) { return p.add(channels_step(first, last), {x}); })
        .def("finish", &Plan::finish, nb::arg("outputs"))
        .def(
            "shapes",
            [](Plan& p, const std::vector<Sizes>& inputs) {
                std::vector<Sizes> found;
                for (const Shape& s : p.shapes(shapes(inputs)))
                    found.push_back({s.batch, s.height, s.width, s.channels});
                return found;
            },
            nb::arg("inputs"))
        .def(
            "arena_bytes",
            [](Plan& p, const std::vector<Sizes>& inputs) { return p.arena_bytes(shapes(inputs)); },
            nb::arg("inputs"))
        .def(
            "run",
            [](Plan& p, const Addresses& x, const std::vector<Sizes>& sizes, const Addresses& out,
               int threads, bool poison) { p.run(images(x, sizes), results(out), threads, poison); },
            unlocked)
        .def(
            "timed",
            [](Plan& p, const Addresses& x, const std::vector<Sizes>& sizes, const Addresses& out,
               int threads) {
                std::vector<double> seconds;
                p.run(images(x, sizes), results(out), threads, false, &seconds);
                return seconds;
            },
            "As run; the seconds of each step.");
}

// Backward, in training, through a pointwise convolution: see training_backward.cpp. Both gradients are
// matrix products over the same band of the output's gradient.
#include "ahead.h"
#include "bands.h"
#include "gathered.h"
#include "matrix.h"

namespace ninefold {

void train_backward(const float* weight, const Gradient& dz, const Operand& x, const Wanted& wanted,
                    int threads) {
    const int64_t inputs = x.z().channels, outputs = dz.z().channels, pixels = x.pixels();
    const Matrix matrix(inputs, outputs);
    expect_writes(wanted.input, pixels * inputs);
    const int64_t image_apart = spread(matrix.image_numbers()),
                  gradient_apart = spread(matrix.gradient_numbers());
    const Pointwise back(weight, nullptr, outputs, inputs, "", threads, true);
    // Half the cache for a band; the other for the images of the next, asked for early. A matrix that
    // outgrows the cache comes and goes once a band, and leaves the band less room: 48 pixels instead of 96
    // are 0.97 of 728→728's time. From four times the cache on, larger bands are quicker than many:
    // 1024→1024 takes 0.94, with 264.
    const int64_t cache = second_level_cache() / int64_t(sizeof(float)), room = cache / 4;
    const int64_t least = matrix.size() >= 4 * cache ? 264 : matrix.size() > cache ? 48 : 96;
    const Tiles tiles(pixels,
                      std::clamp<int64_t>(room / (2 * image_apart + gradient_apart + outputs), least, 1536));
    std::vector<Gathered> found(threads);
    const int64_t numbers = wanted.weight ? threads * matrix.size() : 0;
    const Floats matrices = numbers < 1 << 18 ? allocate(numbers) : allocate_image(numbers);
    in_parts(threads, tiles.count(), [&](int64_t part, Range share) {
        Gathered& gathered = found[part];
        float* sum = matrices.get() + part * matrix.size();
        if (wanted.sums) gathered.sums.resize(2 * inputs);
        const int64_t begin = share.first * Tiles::tile;
        if (share.size() == 0 && wanted.weight) std::fill_n(sum, matrix.size(), 0.0f);
        tiles.in_bands(share, [&](Range band, Range following) {
            const int64_t first = band.first, count = band.size();
            const int64_t after = following.first, next = following.size();
            const float* turned = dz.data() + first * outputs;
            int64_t turned_apart = outputs;
            const bool turns = !dz.plain() || gradient_apart != outputs;
            const Scratch made_gradient(turns ? count * gradient_apart : 0);
            if (turns) {
                turned_apart = gradient_apart;
                as_rows(first, count, outputs, count, [&](int64_t at, int64_t wide, int64_t tall) {
                    dz.make(at, wide, tall, wide, made_gradient + (at - first) * turned_apart, turned_apart,
                            wide * turned_apart, true);
                });
                turned = made_gradient;
            }
            if (wanted.weight) {
                const float* read = x.z().data + first * inputs;
                int64_t read_apart = inputs;
                const bool reads = !x.plain() || image_apart != inputs;
                const Scratch made_image(reads ? count * image_apart : 0);
                if (reads) {
                    read_apart = image_apart;
                    as_rows(first, count, inputs, count, [&](int64_t at, int64_t wide, int64_t tall) {
                        x.make(at, wide, tall, wide, made_image + (at - first) * read_apart, read_apart,
                               wide * read_apart, true);
                    });
                    read = made_image;
                }
                const Ahead ahead({dz.data() + after * outputs, next * outputs},
                                  {x.z().data + after * inputs, next * inputs}, matrix.steps(count));
                matrix.sum(read, read_apart, turned, turned_apart, count, first > begin, sum);
            }
            if (!wanted.input) return;
            // A plain gradient has no z: its image may be anything.
            const Ahead ahead({dz.z().data + after * outputs, dz.plain() ? 0 : next * outputs},
                              {wanted.input + after * inputs, next * inputs}, back.steps(count));
            const float* added = wanted.added ? wanted.added + first * inputs : nullptr;
            back.panels(turned, turned_apart, count, added, {wanted.input + first * inputs, inputs}, 0,
                        back.panel_count());
            finish(x, wanted, first, count, gathered);
        });
    });
    if (wanted.weight) {
        const int64_t filled = std::max<int64_t>(1, std::min<int64_t>(threads, tiles.count()));
        const int64_t some = 32; // outputs at a time
        parallel_for(matrix.size() > 32768 ? threads : 1, (outputs + some - 1) / some, [&](int64_t k) {
            const Range these{k * some, std::min((k + 1) * some, outputs)};
            for (int64_t part = 0; part < filled; part++)
                matrix.weights(matrices.get() + part * matrix.size(), these, part > 0,
                               wanted.weight + these.first * inputs);
        });
    }
    if (wanted.sums) {
        std::vector<double> sum(2 * inputs);
        merge(found, &Gathered::sums, sum);
        std::copy(sum.begin(), sum.end(), wanted.sums);
    }
}

} // namespace ninefold

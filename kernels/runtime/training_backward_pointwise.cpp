// Backward, in training, through a pointwise convolution: see training_backward.cpp. Both gradients are
// matrix products over the same band of the output's gradient.
#include "ahead.h"
#include "bands.h"
#include "buffer.h"
#include "errors.h"
#include "gathered.h"

namespace ninefold {

namespace {

int64_t padded(int64_t count, int64_t multiple) {
    return (count + multiple - 1) / multiple * multiple;
}

// A pointwise convolution's weights' gradient: the matrix of one thread, padded to whole tiles. Across it go
// the input channels, or, `turned`, the output's, whichever pads less. With AVX-512 that is a quarter less
// for 24→144 and 32→16: with all that is read made anew, 7.7 → 7.0 ms (56², batch 16) and 5.5 → 4.7 (112²).
class Matrix {
public:
    Matrix(int64_t inputs, int64_t outputs) : kernels_(current()) {
        narrowest_ = &kernels_.matrices.front();
        widest_ = &kernels_.matrices.back();
        turned = across(outputs) * down(inputs) < across(inputs) * down(outputs);
        outputs_ = turned ? inputs : outputs;
        width = across(turned ? outputs : inputs);
        rows = down(outputs_);
    }

    // image (count, width), gradient (count, rows), pixels so far apart; adds to out (rows, width). Turned,
    // the two change places.
    void add(const float* image, int64_t image_apart, const float* gradient, int64_t gradient_apart,
             int64_t count, float* out) const {
        const int64_t wide = width / widest_->width * widest_->width;
        strip(*widest_, 0, wide, image, image_apart, gradient, gradient_apart, count, out);
        strip(*narrowest_, wide, width - wide, image, image_apart, gradient, gradient_apart, count, out);
    }

    // Where in the matrix the gradient of a weight stands.
    int64_t place(int64_t input, int64_t output) const {
        return turned ? input * width + output : output * width + input;
    }

    // About how many steps the kernels' innermost loops make for so many pixels.
    int64_t steps(int64_t count) const {
        return count * (rows / widest_->tiles.front().rows) * std::max<int64_t>(1, width / widest_->width);
    }

    int64_t width, rows;
    bool turned;

private:
    int64_t across(int64_t channels) const { return padded(channels, narrowest_->width); }
    int64_t down(int64_t channels) const {
        int64_t most = 0;
        for (const MatrixTiles& tiles : kernels_.matrices)
            most = std::max(most, padded(channels, tiles.tiles.back().rows));
        return most;
    }
    void strip(const MatrixTiles& tiles, int64_t first, int64_t across, const float* image,
               int64_t image_apart, const float* gradient, int64_t gradient_apart, int64_t count,
               float* out) const {
        if (across == 0) return;
        Buffer source(image + first, {{0, across, 1}, {0, count, image_apart}});
        int64_t row = 0;
        for (const MatrixTile& tile : tiles.tiles) {
            // The last tile reaches past the outputs, where the matrix has room.
            const bool last = &tile == &tiles.tiles.back();
            const int64_t left = outputs_ - row;
            const int64_t down = last ? padded(left, tile.rows) : left / tile.rows * tile.rows;
            if (down <= 0) continue;
            Buffer arrived(gradient + row, {{0, down, 1}, {0, count, gradient_apart}});
            Buffer before(out + row * width + first, {{0, across, 1}, {0, down, width}});
            Buffer after(out + row * width + first, {{0, across, 1}, {0, down, width}});
            check(tile.run(source, arrived, before, after));
            row += down;
        }
    }

    const Kernels& kernels_;
    int64_t outputs_;
    const MatrixTiles *narrowest_, *widest_;
};

} // namespace

void train_backward(const float* weight, const Gradient& dz, const Operand& x, const Wanted& wanted,
                    int threads) {
    const int64_t inputs = x.z().channels, outputs = dz.z().channels, pixels = x.pixels();
    const Matrix matrix(inputs, outputs);
    expect_writes(wanted.input, pixels * inputs);
    const int64_t image_apart = spread(matrix.turned ? matrix.rows : matrix.width),
                  gradient_apart = spread(matrix.turned ? matrix.width : matrix.rows);
    const Pointwise back(weight, nullptr, outputs, inputs, "", threads, true);
    // Half the cache for a band; the other for the images of the next, asked for early. A matrix that
    // outgrows the cache comes and goes once a band, so bands are larger there: 1536→2048 at 4×4 took 50 ms,
    // and 47.
    const int64_t room = second_level_cache() / 4 / int64_t(sizeof(float));
    const int64_t least = matrix.rows * matrix.width > 16 * room ? 264 : 96;
    const Tiles tiles(pixels,
                      std::clamp<int64_t>(room / (2 * image_apart + gradient_apart + outputs), least, 1536));
    std::vector<Gathered> found(threads);
    const int64_t numbers = wanted.weight ? threads * matrix.rows * matrix.width : 0;
    const Floats matrices = numbers < 1 << 18 ? allocate(numbers) : allocate_image(numbers);
    in_parts(threads, tiles.count(), [&](int64_t part, Range share) {
        Gathered& gathered = found[part];
        float* sum = matrices.get() + part * matrix.rows * matrix.width;
        if (wanted.weight) std::fill_n(sum, matrix.rows * matrix.width, 0.0f);
        if (wanted.sums) gathered.sums.resize(2 * inputs);
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
                            wide * turned_apart);
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
                               wide * read_apart);
                    });
                    read = made_image;
                }
                const Ahead ahead({dz.data() + after * outputs, next * outputs},
                                  {x.z().data + after * inputs, next * inputs}, matrix.steps(count));
                if (matrix.turned)
                    matrix.add(turned, turned_apart, read, read_apart, count, sum);
                else
                    matrix.add(read, read_apart, turned, turned_apart, count, sum);
            }
            if (!wanted.input) return;
            // A plain gradient has no z: its image may be anything.
            const Ahead ahead({dz.z().data + after * outputs, dz.plain() ? 0 : next * outputs},
                              {wanted.input + after * inputs, next * inputs}, back.steps(count));
            back.panels(turned, turned_apart, count, nullptr, {wanted.input + first * inputs, inputs}, 0,
                        back.panel_count());
            finish(x, wanted, first, count, gathered);
        });
    });
    if (wanted.weight) {
        const int64_t filled = std::max<int64_t>(1, std::min<int64_t>(threads, tiles.count()));
        parallel_for(matrix.rows * matrix.width > 32768 ? threads : 1, outputs, [&](int64_t n) {
            float* row = wanted.weight + n * inputs;
            for (int64_t part = 0; part < filled; part++) {
                const float* sum = matrices.get() + part * matrix.rows * matrix.width + matrix.place(0, n);
                const int64_t apart = matrix.turned ? matrix.width : 1;
                if (part == 0 && apart == 1)
                    std::copy_n(sum, inputs, row);
                else
                    for (int64_t m = 0; m < inputs; m++)
                        row[m] = (part ? row[m] : 0.0f) + sum[m * apart];
            }
        });
    }
    if (wanted.sums) {
        std::vector<double> sum(2 * inputs);
        merge(found, &Gathered::sums, sum);
        std::copy(sum.begin(), sum.end(), wanted.sums);
    }
}

} // namespace ninefold

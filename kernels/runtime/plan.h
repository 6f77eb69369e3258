// A whole network, or a stretch of one, as one call: steps over values, the values in one arena.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "layers.h"

namespace ninefold {

struct Shape {
    int64_t batch, height, width, channels;
    int64_t pixels() const { return height * width; }
    int64_t numbers() const { return batch * pixels() * channels; }
    bool operator<(const Shape& o) const {
        return std::tie(batch, height, width, channels) < std::tie(o.batch, o.height, o.width, o.channels);
    }
    bool operator==(const Shape& o) const { return !(*this < o) && !(o < *this); }
};

// How rows of a result depend on rows of an image.
struct Windowing {
    Window window;
    Padding padding;
};

// What one step computes. It reads its operands and writes all of its result; the two never share memory.
class Operation {
public:
    virtual ~Operation() = default;
    virtual Shape shape(const std::vector<Shape>& operands) const = 0;
    virtual void run(const std::vector<Image>& operands, const Shape& shape, Result out,
                     int threads) const = 0;

    // Whether the result, and whether the first operand, may be some channels of a wider image. All else is
    // dense.
    virtual bool writes_part() const { return false; }
    virtual bool reads_part() const { return false; }
    // How its rows depend on its image's, if it can make some of them alone, on one thread; and that.
    virtual std::optional<Windowing> windowing() const { return std::nullopt; }
    virtual void run_rows(const Image& /*some*/, Padding /*around*/, float* /*out*/) const {}
    // Whether it can take the mean over the pixels of a dense result while it makes that; and that. mean:
    // (batch, channels) or null.
    virtual bool gives_mean() const { return false; }
    virtual void run_with_mean(const std::vector<Image>& /*operands*/, const Shape& /*shape*/, Result /*out*/,
                               float* /*mean*/, int /*threads*/) const {}
    virtual bool averages() const { return false; } // whether it is such a mean
    // Whether it asks for the memory that it comes to next while it computes.
    virtual bool asks_ahead() const { return false; }
    // Whether the result is the operands side by side: those that lie there already are not copied.
    virtual bool gathers() const { return false; }
};

// Values are numbered: the inputs first, then the result of each step in the order the steps were added.
// Built once by one thread, then run by any number of threads at once.
class Plan {
public:
    explicit Plan(int inputs) : inputs_(inputs) {}

    int add(std::unique_ptr<Operation> operation, std::vector<int> operands);
    void finish(std::vector<int> outputs);

    // The outputs' shapes for these inputs.
    std::vector<Shape> shapes(const std::vector<Shape>& inputs);

    // Bytes of memory that the values between inputs and outputs take for these inputs.
    int64_t arena_bytes(const std::vector<Shape>& inputs);

    // Runs every step; `outputs` are dense arrays of the shapes above. With `poison`, memory is filled with
    // NaN as soon as no later step may read it: a test of the arena. With `seconds`, each step's time is put
    // there.
    void run(const std::vector<Image>& inputs, const std::vector<float*>& outputs, int threads, bool poison,
             std::vector<double>* seconds = nullptr);

private:
    struct Step {
        std::shared_ptr<const Operation> operation;
        std::vector<int> operands;
    };
    struct Halves { // the first steps and the others, or nothing; between them lies one value
        std::unique_ptr<Plan> head, tail;
        int64_t crossing = 0; // numbers of that value, for one image
    };
    struct Operand { // an image without its address: so many floats behind its home's
        Image image;
        int64_t first;
        int home;
    };
    struct Call { // what a step is run with
        const Operation* operation;
        Shape shape; // its result's, and where that lies
        int64_t stride, first;
        int home;
        int operands, count; // its operands: the first, and how many
        bool by_rows, with_mean;
    };
    struct Layout { // for one set of input shapes
        std::vector<Shape> shapes;
        std::vector<int> homes;       // the value whose memory each one lies in: itself, or a concatenation
        std::vector<int64_t> first;   // its first channel there
        std::vector<int64_t> offsets; // of homes, in the arena, in floats; -1 for inputs and outputs
        std::vector<int> last;        // of homes: the step after which nothing in it is read again
        std::vector<bool> by_rows;    // of steps: whether it runs with the next, a few rows at a time
        std::vector<bool> with_mean;  // of steps: whether the next, a mean of it, is taken as it is made
        int64_t size = 0;
        std::vector<Call> calls;
        std::vector<Operand> operands;
    };
    const Layout& layout(const std::vector<Shape>& inputs);
    int64_t images_at_once(std::vector<Shape> inputs);
    int crossing(int step) const;
    Halves halves(int step) const;
    const Halves& divided(std::vector<Shape> inputs, int64_t together);
    void run_halves(const Halves& halves, const std::vector<Image>& inputs,
                    const std::vector<float*>& outputs, int64_t together, int threads, bool poison,
                    std::vector<double>* seconds);
    std::pair<int64_t, Floats> take_arena(int64_t size);
    void give_arena(std::pair<int64_t, Floats> arena);
    void run_together(const std::vector<Image>& inputs, const std::vector<float*>& outputs, int threads,
                      bool poison, std::vector<double>* seconds);
    Layout arrange(const std::vector<Shape>& inputs) const;
    void settle(Layout& layout) const;
    void write_calls(Layout& layout) const;
    bool may_move_in(int value) const;
    bool may_run_by_rows(int step, const Layout& layout) const;
    bool may_run_with_mean(int step, const Layout& layout) const;

    int inputs_;
    bool divides_ = true; // a half is not divided again
    std::vector<Step> steps_;
    std::vector<int> outputs_;
    std::mutex lock_, dividing_;
    std::map<std::vector<Shape>, Layout> layouts_;
    std::map<std::vector<Shape>, Halves> divided_;
    std::vector<std::pair<int64_t, Floats>> arenas_; // those that no call is using, with their sizes
};

// Two steps as one, the second the only one to read what the first makes of `image`, of shape `between`: so
// that large images between them stay in the second-level cache. Both have a windowing. With `spent`, the
// seconds of each are added there, the first thread's.
void run_by_rows(const Operation& first, const Operation& second, const Image& image, const Shape& between,
                 const Shape& result, float* out, int threads, double* spent);

// The operations. Layers are borrowed: the caller keeps them alive.
std::unique_ptr<Operation> depthwise_step(const Depthwise& layer, Padding padding);
std::unique_ptr<Operation> conv2d_step(const Conv2d& layer, Padding padding);
std::unique_ptr<Operation> pointwise_step(const Pointwise& layer,
                                          bool gated); // x, perhaps a residual, a gate
std::unique_ptr<Operation> separable_step(const Separable& layer, Padding padding); // x, perhaps a residual
std::unique_ptr<Operation> inverted_step(const Inverted& layer, Padding padding);   // x, perhaps a residual
std::unique_ptr<Operation> add_step();                                              // two images of one shape
std::unique_ptr<Operation> scale_step(); // an image, a gate per channel
std::unique_ptr<Operation> mean_step();  // over all pixels
// The largest value of each window, or the average: over the `divisor`, or if that is 0 over the taps that
// lie in the image, or with `count_padding` in the image and its padding. Where PyTorch rounds up the
// output's size, `ceil`.
std::unique_ptr<Operation> largest_step(Window window, Padding padding, bool ceil);
std::unique_ptr<Operation> average_step(Window window, Padding padding, bool ceil, bool count_padding,
                                        int64_t divisor);
std::unique_ptr<Operation> shuffle_step(int64_t groups); // channels c = i·(C/groups) + j go to j·groups + i
std::unique_ptr<Operation> activation_step(const std::string& name);
std::unique_ptr<Operation> layer_norm_step(std::vector<float> gain, std::vector<float> offset, float epsilon);
std::unique_ptr<Operation> concatenation_step();                       // images of one size, their channels
std::unique_ptr<Operation> channels_step(int64_t first, int64_t last); // some of an image's channels

} // namespace ninefold

// A chain of stages in training, each convolution → batch-norm → activation, in one call each way: what
// Python and PyTorch do around a stage runs from memory, for the images have swept the caches, and two dozen
// of PyTorch's functions a stage were a tenth of a mobilenetv2_100 step. src/ninefold/training/chain.py is
// the same, stage by stage, for what this does not reach.
#pragma once

#include <string>
#include <vector>

#include "training.h"

namespace ninefold {

// What stays the same from call to call.
struct Stage {
    std::string kind; // depthwise, pointwise or standard
    int64_t outputs;
    Window window;
    Padding padding;
    std::string activation; // or none
    bool normalises, batch; // a batch-norm, with the batch's own statistics
    double epsilon;
};

// A stage's numbers; null for what it has not. Running statistics are read where the batch's own are not
// used, else moved towards those by `momentum`; where that is NaN they stay.
struct StageTensors {
    const float *weight, *bias, *gamma, *beta;
    float *mean, *variance;
    double momentum;
};

// Where gradients go that are wanted; the rest is null.
struct StageGradients {
    float *weight, *bias, *gamma, *beta;
};

class Chain {
public:
    // `ahead`: an activation that stands before the first convolution, or none.
    Chain(std::vector<Stage> stages, std::string ahead);

    size_t size() const { return stages_.size(); }

    // outputs: each convolution's raw result, null for one that is not kept. numbers: for each stage four
    // rows of one number per channel, see Operand. residual may be null; so may `result`, where the last
    // stage has neither batch-norm nor activation and nothing is added.
    void forward(const Image& x, const std::vector<StageTensors>& tensors, const std::vector<float*>& outputs,
                 float* numbers, const float* residual, float* result, int threads) const;

    // From the gradient of the result. An output that was not kept is made again. `itself`: the residual was
    // x, so its gradient is added to that of the input.
    void backward(const Image& x, const std::vector<StageTensors>& tensors,
                  const std::vector<float*>& outputs, const float* numbers, const float* gradient,
                  const std::vector<StageGradients>& gradients, float* input, bool itself, int threads) const;

private:
    Image output(const Stage& stage, const Image& x, float* data) const;
    Operand read(size_t stage, const Image& z, const float* numbers) const;
    void convolve(const Stage& stage, const StageTensors& tensors, const Operand& x, float* out,
                  float* moments, int threads) const;
    void differentiate(const Stage& stage, const StageTensors& tensors, const Gradient& dz, const Operand& x,
                       const Wanted& wanted, int threads) const;

    std::vector<Stage> stages_;
    std::string ahead_;
};

} // namespace ninefold

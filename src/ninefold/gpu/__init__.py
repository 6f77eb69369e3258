"""Kernels for GPUs, in Triton: the CPU kernels' operators for float32, float16 and bfloat16, channels-last.

`depthwise.py`, `pointwise.py` and `separable.py` are the forward passes and the input gradients,
`depthwise_weight.py` and `pointwise_weight.py` the weights'. They differentiate nothing themselves and check
nothing; `ninefold.ops.gpu` calls them. No figure from a GPU exists yet.
"""

"""A standard convolution's weights as sums of separable terms: the singular value decomposition, both orders.

W is (N, M/groups, kh, kw); within a group write it as W[n, m, d], d running over the Dk² taps.

    depthwise first   W[n, m, :] = Σₖ P[n, m, k] · F[m, k, :]     filter each input K times, then combine
    pointwise first   W[n, :, :] = Σₖ A[n, k, :] ⊗ F[n, k, :]     combine K images per output, then filter

With depthwise first the best K terms for input channel m are the K leading singular triples of the N × Dk²
matrix W[:, m, :] (Network Decoupling, Guo et al. 2018, arXiv:1808.05517); with pointwise first, those of the
M × Dk² matrix W[n, :, :] for output channel n. What is lost is the energy of the singular values left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Order = Literal["depthwise", "pointwise"]
ORDERS: tuple[Order, ...] = ("depthwise", "pointwise")


@dataclass(frozen=True)
class Factors:
    """K separable terms of one convolution, named by the stage that runs `first`; G groups, D = Dk² taps.

    depthwise first: `filters` (G, M/G, K, D), `mixing` (G, N/G, M/G, K).
    pointwise first: `filters` (G, N/G, K, D), `mixing` (G, N/G, K, M/G).
    """

    first: Order
    filters: Tensor
    mixing: Tensor

    @property
    def terms(self) -> int:
        """K."""
        return self.filters.shape[2]

    def weight(self) -> Tensor:
        """The standard weights that the terms add up to: (G, N/G, M/G, D)."""
        if self.first == "depthwise":
            return torch.einsum("gnmk,gmkd->gnmd", self.mixing, self.filters)
        return torch.einsum("gnkm,gnkd->gnmd", self.mixing, self.filters)


def grouped(weight: Tensor, groups: int) -> Tensor:
    """Convolution weights (N, M/G, kh, kw) as float64 (G, N/G, M/G, D)."""
    out_channels, channels = weight.shape[:2]
    return weight.detach().double().reshape(groups, out_channels // groups, channels, -1)


def full_terms(out_channels: int, in_channels: int, taps: int, *, first: Order) -> int:
    """How many terms always reproduce a group of N × M kernels of `taps` taps exactly."""
    return min(out_channels if first == "depthwise" else in_channels, taps)


def decompose(weight: Tensor, terms: int, *, first: Order) -> Factors:
    """The best `terms` terms of float64 `weight` (G, N/G, M/G, D) in the least-squares sense.

    More terms than the weights have rank are cut to `full_terms`.
    """
    # (..., N, D) for each input channel, or (..., M, D) for each output channel.
    matrices = weight.transpose(1, 2) if first == "depthwise" else weight
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    kept = min(terms, values.shape[-1])
    filters = right[..., :kept, :].contiguous()
    scaled = left[..., :kept] * values[..., None, :kept]
    # (G, M, N, K) → (G, N, M, K); (G, N, M, K) → (G, N, K, M).
    mixing = scaled.transpose(1, 2) if first == "depthwise" else scaled.transpose(2, 3)
    return Factors(first, filters, mixing.contiguous())

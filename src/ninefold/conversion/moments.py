"""Second moments of a convolution's input patches and of the outputs wanted for them, batch by batch.

Everything a least-squares fit of the convolution can ask for is in them; the images themselves are not kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ninefold.shape import ConvShape, numel

_CHUNK_BYTES = 32 << 20


@dataclass(frozen=True)
class Moments:
    """Centred moments per position, float64: G groups, Q = M/G · Dk² numbers in a patch, n = N/G outputs.

    `patches` (G, Q, Q) = cov(p, p), `cross` (G, n, Q) = cov(y, p), `energy` (G,) = the outputs' variances
    summed, with the means of both, (G, Q) and (G, n), over `count` positions.
    """

    patches: Tensor
    cross: Tensor
    energy: Tensor
    patch_mean: Tensor
    output_mean: Tensor
    count: int

    def error(self, weight: Tensor) -> float:
        """Mean square output error of a convolution with `weight` (G, n, M/G, D) and its best bias.

        A share of the outputs' variance: 0 reproduces them, 1 is no better than a constant.
        """
        flat = weight.flatten(2)
        fitted = ((flat @ self.patches - 2 * self.cross) * flat).sum()
        return max(0.0, float((fitted + self.energy.sum()) / self.energy.sum().clamp_min(1e-300)))

    def bias(self, weight: Tensor) -> Tensor:
        """The bias (N,) that leaves no mean error."""
        return (self.output_mean - (weight.flatten(2) @ self.patch_mean[..., None])[..., 0]).flatten()


def gathering_bytes(shape: ConvShape) -> int:
    """The most that `Gathering` takes besides its sums: patches of some images, also in float64."""
    image = shape.in_channels * numel(shape.kernel_size) * numel(shape.output_size) * 4
    return 6 * max(_CHUNK_BYTES, image)


class Gathering:
    """Adds up the moments of one convolution: `add` for each batch, then `moments`."""

    def __init__(
        self,
        convolution: nn.Conv2d,
        *,
        positions: int | None = None,
        seed: int = 0,
        squares: bool = True,
    ) -> None:
        """Take at most `positions` of each image, chosen anew for each batch; None takes all.

        Without `squares` the patches' own covariance, most of the work, is left out.
        """
        self._convolution = convolution
        self._positions, self._squares = positions, squares
        self._generator = torch.Generator().manual_seed(seed)
        self._sums: tuple[Tensor, ...] | None = None
        self._shift: tuple[Tensor, Tensor] | None = None
        self._count = 0

    def add(self, x: Tensor, y: Tensor) -> None:
        """Take the convolution's input `x` (B, M, h, w) and the output `y` (B, N, H, W) it should give."""
        for patches, outputs in self._chunks(x, y):
            self._add(patches, outputs)

    def moments(self) -> Moments:
        """What has been gathered, centred. Raises ValueError if that is nothing."""
        if self._sums is None or self._shift is None:
            raise ValueError("`calibration` must reach every layer to convert, got no activations")
        patches, cross, energy, patch_sum, output_sum = self._sums
        patch_mean, output_mean = patch_sum / self._count, output_sum / self._count
        # In place: at 512 channels of 3×3 the largest of them takes 170 MB.
        if self._squares:
            patches.div_(self._count).baddbmm_(patch_mean[..., None], patch_mean[:, None], alpha=-1)
        cross.div_(self._count).baddbmm_(output_mean[..., None], patch_mean[:, None], alpha=-1)
        energy = energy / self._count - output_mean.square().sum(-1)
        return Moments(
            patches, cross, energy, patch_mean + self._shift[0], output_mean + self._shift[1], self._count
        )

    def _chunks(self, x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Patches (G, positions, Q) and outputs (G, positions, n), a few images at a time."""
        groups = self._convolution.groups
        taps = self._convolution.kernel_size[0] * self._convolution.kernel_size[1]
        places = y.shape[2] * y.shape[3]
        per_image = x.shape[1] * taps * places * x.element_size()
        step = max(1, _CHUNK_BYTES // per_image)
        for x_part, y_part in zip(x.split(step), y.split(step), strict=True):
            columns = self._columns(x_part)
            outputs = y_part.flatten(2)
            if self._positions is not None and self._positions < places:
                chosen = torch.randperm(places, generator=self._generator)[: self._positions].to(x.device)
                columns, outputs = columns[..., chosen], outputs[..., chosen]
            yield _by_group(columns, groups), _by_group(outputs, groups)

    def _columns(self, x: Tensor) -> Tensor:
        convolution = self._convolution
        mode = convolution.padding_mode
        sides = convolution._reversed_padding_repeated_twice
        x = functional.pad(x, sides) if mode == "zeros" else functional.pad(x, sides, mode=mode)
        return functional.unfold(
            x, convolution.kernel_size, dilation=convolution.dilation, stride=convolution.stride
        )

    def _add(self, patches: Tensor, outputs: Tensor) -> None:
        patches, outputs = patches.double(), outputs.double()
        if self._shift is None:
            # Sums of squares around the first chunk's mean: nothing cancels where means are far from zero.
            self._shift = patches.mean(1), outputs.mean(1)
            groups, _, size = patches.shape
            results = outputs.shape[2]
            shapes = (
                (groups, size, size) if self._squares else (groups, 0, 0),
                (groups, results, size),
                (groups,),
                (groups, size),
                (groups, results),
            )
            self._sums = tuple(patches.new_zeros(shape) for shape in shapes)
        assert self._sums is not None
        patches, outputs = patches - self._shift[0][:, None], outputs - self._shift[1][:, None]
        if self._squares:
            self._sums[0].baddbmm_(patches.transpose(1, 2), patches)
        self._sums[1].baddbmm_(outputs.transpose(1, 2), patches)
        self._sums[2].add_(outputs.square().sum((1, 2)))
        self._sums[3].add_(patches.sum(1))
        self._sums[4].add_(outputs.sum(1))
        self._count += patches.shape[1]


def _by_group(columns: Tensor, groups: int) -> Tensor:
    """(B, channels, positions) → (G, B · positions, channels / G)."""
    batch, channels, places = columns.shape
    split = columns.reshape(batch, groups, channels // groups, places)
    return split.permute(1, 0, 3, 2).reshape(groups, batch * places, channels // groups)

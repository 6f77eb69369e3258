"""Separable terms fitted to data: alternating least squares on second moments.

With S = cov(p, p) of the input patches and C = cov(y, p) of the wanted outputs with them, a convolution W
errs by

    J(W) = tr(W S Wᵀ) − 2 tr(W Cᵀ) + var(y)

and W is a product of filters and mixing weights, so J is quadratic in each while the other is held:

    depthwise first   mixing: P = C Fᵀ (F S Fᵀ + λI)⁻¹, exactly; filters: conjugate gradients
    pointwise first   filters: exactly, for each output channel; mixing: conjugate gradients

S couples all channels and is used whole. What is solved by conjugate gradients never needs a matrix larger
than S itself: the normal equations of 512 channels' filters at K = 4 would be 18,432², S is 4,608².
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ninefold.conversion.factors import Factors
from ninefold.conversion.moments import Moments

_RIDGE = 1e-6
_OUTPUTS = 16  # output channels whose normal equations are formed at a time: 16 · K · Dk² · M · Dk² numbers
_GRADIENT_STEPS = 20
_SOLVED = 1e-8
_ENOUGH = 1e-4


def fit(start: Factors, moments: Moments, *, rounds: int = 50) -> Factors:
    """Improve `start` for at most `rounds` alternations, until the error falls by less than one in 10⁴.

    The error on these moments never rises. Float64 in and out.
    """
    parts = [
        _one_group(
            Factors(start.first, start.filters[g], start.mixing[g]),
            moments.patches[g],
            moments.cross[g],
            float(moments.energy[g]),
            rounds,
        )
        for g in range(start.filters.shape[0])
    ]
    filters, mixing = (torch.stack(each) for each in zip(*parts, strict=True))
    return Factors(start.first, filters, mixing)


def _one_group(
    start: Factors, patches: Tensor, cross: Tensor, energy: float, rounds: int
) -> tuple[Tensor, Tensor]:
    alternate = _depthwise_first if start.first == "depthwise" else _pointwise_first
    channels = cross.shape[1] // start.filters.shape[-1]
    moments = patches.reshape(channels, start.filters.shape[-1], channels, start.filters.shape[-1])
    wanted = cross.reshape(cross.shape[0], channels, start.filters.shape[-1])
    filters, mixing = ahead = start.filters, start.mixing
    error, steps = float("inf"), 0
    for _ in range(rounds):
        *found, fall = alternate(*ahead, moments, wanted)
        if fall + energy > error:
            if not steps:
                break
            # It went too far ahead: once more from where it stood.
            ahead, steps = (filters, mixing), 0
            continue
        far = steps / (steps + 3)
        ahead = found[0] + far * (found[0] - filters), found[1] + far * (found[1] - mixing)
        filters, mixing = found
        gained, error = error - (fall + energy), fall + energy
        if gained < _ENOUGH * error:
            break
        steps += 1
    return filters, mixing


def _depthwise_first(
    filters: Tensor, mixing: Tensor, moments: Tensor, wanted: Tensor
) -> tuple[Tensor, Tensor, float]:
    """One round, filters first. filters (M, K, D), mixing (N, M, K)."""
    channels, terms, taps = filters.shape
    outputs = mixing.shape[0]
    flat = mixing.reshape(outputs, -1)
    gram = (flat.T @ flat).reshape(channels, terms, channels * terms)

    def normal(x: Tensor) -> Tensor:
        # (M, K, D) × (M, D, M·D) → one row per filter; then the mixing couples the filters.
        rows = torch.bmm(x, moments.reshape(channels, taps, -1)).reshape(channels * terms, channels, taps)
        return torch.bmm(gram, rows.transpose(0, 1))

    right = torch.einsum("nmk,nmd->mkd", mixing, wanted)
    every = torch.arange(channels)
    inner = gram.reshape(channels, terms, channels, terms)[every, :, every]
    local = torch.einsum("mkl,mde->mkdle", inner, moments[every, :, every])
    inverse = _inverse(local.reshape(channels, terms * taps, -1))

    def precondition(x: Tensor) -> Tensor:
        return torch.bmm(inverse, x.reshape(channels, -1, 1)).reshape(x.shape)

    filters = _conjugate_gradients(normal, right, filters, precondition)
    filters = filters / filters.norm(dim=-1, keepdim=True).clamp_min(1e-30)

    rows = torch.bmm(filters, moments.reshape(channels, taps, -1)).reshape(channels * terms, channels, taps)
    gram = (
        torch.bmm(rows.transpose(0, 1), filters.transpose(1, 2)).transpose(0, 1).reshape(channels * terms, -1)
    )
    right = torch.einsum("nmd,mkd->nmk", wanted, filters).reshape(outputs, -1)
    flat = torch.linalg.solve(_ridged(gram), right.T).T
    fall = float(((flat @ gram - 2 * right) * flat).sum())
    return filters, flat.reshape(outputs, channels, terms), fall


def _pointwise_first(
    filters: Tensor, mixing: Tensor, moments: Tensor, wanted: Tensor
) -> tuple[Tensor, Tensor, float]:
    """One round, mixing first. filters (N, K, D), mixing (N, K, M)."""
    channels, taps = moments.shape[:2]
    outputs, terms = filters.shape[:2]
    square = moments.reshape(channels * taps, -1)

    def normal(x: Tensor) -> Tensor:
        weight = torch.einsum("nkm,nkd->nmd", x, filters).reshape(outputs, -1)
        return torch.einsum("nmd,nkd->nkm", (weight @ square).reshape(outputs, channels, taps), filters)

    right = torch.einsum("nmd,nkd->nkm", wanted, filters)
    every = torch.arange(channels)
    diagonal = torch.einsum("nkd,mde,nle->nmkl", filters, moments[every, :, every], filters)
    inverse = _inverse(diagonal)

    def precondition(x: Tensor) -> Tensor:
        return torch.einsum("nmkl,nlm->nkm", inverse, x)

    mixing = _conjugate_gradients(normal, right, mixing, precondition, separate=True)
    size = mixing.norm(dim=-1, keepdim=True).clamp_min(1e-30)
    mixing, filters = mixing / size, filters * size

    solved = []
    fall = 0.0
    for part in range(0, outputs, _OUTPUTS):
        some = mixing[part : part + _OUTPUTS]
        rows = torch.einsum("nkm,mdqe->nkdqe", some, moments)
        gram = torch.einsum("nkdqe,nlq->nkdle", rows, some).reshape(len(some), terms * taps, -1)
        aim = torch.einsum("nkm,nmd->nkd", some, wanted[part : part + _OUTPUTS]).reshape(len(some), -1, 1)
        best = torch.linalg.solve(_ridged(gram), aim)
        fall += float(((gram @ best - 2 * aim) * best).sum())
        solved.append(best.reshape(len(some), terms, taps))
    return torch.cat(solved), mixing, fall


def _conjugate_gradients(
    normal: Callable[[Tensor], Tensor],
    right: Tensor,
    start: Tensor,
    precondition: Callable[[Tensor], Tensor],
    *,
    separate: bool = False,
) -> Tensor:
    """Solve normal(x) = right from `start`; `separate`: a problem of its own for each first index."""
    over = tuple(range(1, right.dim())) if separate else tuple(range(right.dim()))

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(over, keepdim=True)

    x = start
    residual = right - normal(x)
    search = step = precondition(residual)
    gain = first = dot(residual, step)
    for _ in range(_GRADIENT_STEPS):
        image = normal(search)
        length = gain / dot(search, image).clamp_min(1e-300)
        x = x + length * search
        residual = residual - length * image
        step = precondition(residual)
        before, gain = gain, dot(residual, step)
        if bool((gain <= _SOLVED * first).all()):
            break
        search = step + gain / before.clamp_min(1e-300) * search
    return x


def _inverse(blocks: Tensor) -> Tensor:
    return torch.linalg.inv(_ridged(blocks))


def _ridged(gram: Tensor) -> Tensor:
    """`gram` with λ on its diagonal, λ a millionth of the diagonal's mean."""
    mean = gram.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    return gram + (_RIDGE * mean + 1e-30) * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)

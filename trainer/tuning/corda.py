"""CorDA (arXiv:2406.05223): A and B begin at the part of each weight that the data uses most.

Like PiSSA's it is taken out of the base while training (`starting_point.py`), but it is the main
part of W C, C being the covariance of what the module sees on training rows. This is the paper's
instruction-previewed mode, with PEFT's scaling and damping.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from trainer.data.labels import LabelledRow
from trainer.tuning.calibration import run_rows

_DAMPING = 0.01
_MAX_INVERSION_ERROR = 0.05


def input_covariances(
    model: nn.Module, layers: Mapping[str, nn.Module], rows: Sequence[LabelledRow]
) -> dict[str, torch.Tensor]:
    """For each of `layers`, (in, in): the mean of X^T X over rows, X (tokens, in) being what it
    sees of one, scaled to a largest value of 1. Takes in^2 floats a layer.
    """
    found: dict[str, torch.Tensor] = {}

    def add(name: str, x: torch.Tensor) -> None:
        x = x / x.max().abs()
        found[name] = found.get(name, 0) + x.T @ x / len(rows)

    run_rows(model, layers, rows, add)
    return found


def corda_factors(
    weight: torch.Tensor, covariance: torch.Tensor, rank: int, scaling: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """A (rank, in) and B (out, rank) of `weight` (out, in): scaling * B A is the part of it whose
    product with `covariance` is largest."""
    identity = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    damping = _DAMPING
    while True:
        damped = covariance + identity * covariance.diagonal().mean() * damping
        inverse = torch.linalg.inv(damped)
        if torch.dist(damped @ inverse, identity) < _MAX_INVERSION_ERROR:
            break
        damping *= 2
    u, s, vh = torch.linalg.svd(weight @ damped, full_matrices=False)
    root = (s[:rank] / scaling).sqrt()
    a = root[:, None] * (vh[:rank] @ inverse)
    return a.contiguous(), (u[:, :rank] * root).contiguous()

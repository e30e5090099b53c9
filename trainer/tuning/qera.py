"""QERA (arXiv:2410.06040): A and B begin at what the quantisation costs on the data.

LoftQ takes the best low-rank part of a weight's error E, every input counting alike. QERA takes
that of the error of what the module gives out. With R the mean of x x^T over tokens (theorem 2
there) it is the best rank-r part of E R^(1/2) times R^(-1/2): the projection of E on the first r
left singular vectors of E L, for any L with L L^T = R, so that nothing need be inverted.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from trainer.data.labels import LabelledRow
from trainer.tuning.calibration import run_rows

_DAMPING = 0.01
"""Of an input's mean square: directions that the rows lack count a little."""

_GROUP_BYTES = 1 << 30
"""Autocorrelations held at a time; the rows go through the model once for each such group."""


def input_autocorrelations(
    model: nn.Module, layers: Mapping[str, nn.Module], rows: Sequence[LabelledRow]
) -> dict[str, torch.Tensor]:
    """For each of `layers`, (in, in): the mean of x x^T over all tokens, x being its input."""
    num_tokens = sum(len(row) for row in rows)
    found: dict[str, torch.Tensor] = {}

    def add(name: str, x: torch.Tensor) -> None:
        found[name] = found.get(name, 0) + x.T @ x / num_tokens

    run_rows(model, layers, rows, add)
    return found


def output_error_factors(
    residual: torch.Tensor, autocorrelation: torch.Tensor, rank: int, scaling: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """A (rank, in) and B (out, rank), evenly split: scaling * B A is what of `residual` (out, in)
    takes most of the mean square of `residual` x away, `autocorrelation` being that of x.
    """
    damping = autocorrelation.diagonal().mean() * _DAMPING
    identity = torch.eye(len(autocorrelation), dtype=torch.float64, device=residual.device)
    root = torch.linalg.cholesky(autocorrelation.double() + identity * damping).float()
    u, _, _ = torch.linalg.svd(residual @ root, full_matrices=False)
    u = u[:, :rank]
    inner, s, vh = torch.linalg.svd(u.T @ residual, full_matrices=False)
    share = (s / scaling).sqrt()
    return (share[:, None] * vh).contiguous(), (u @ inner * share).contiguous()


def grouped(layers: Mapping[str, Any], inputs: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    """`layers` in order, in groups whose autocorrelations fit into memory together."""
    group: dict[str, Any] = {}
    room = _GROUP_BYTES
    for name, layer in layers.items():
        need = 4 * inputs[name] ** 2
        if group and need > room:
            yield group
            group, room = {}, _GROUP_BYTES
        group[name] = layer
        room -= need
    if group:
        yield group

"""Draws the next token of each row, with that row's own parameters and randomness.

A row's draw depends on its own logits, seed and position only: the uniform number is a hash of
(seed, index of the token), so the neighbours in the batch, preemption and recompute change nothing.
"""

from collections.abc import Sequence

import numpy as np
import torch

from server.core.batch import ScheduledRow

_CANDIDATES = 1024
"""Nucleus search looks at this many best tokens first; the full sort is for the rare row beyond."""

_MASK = (1 << 64) - 1


def uniform(seed: int, index: int) -> float:
    """A number in [0, 1) from SplitMix64 over (seed, index)."""
    state = (seed * 0x9E3779B97F4A7C15 + (index + 1) * 0xD1B54A32D192ED03) & _MASK
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state = ((state ^ (state >> shift)) * factor) & _MASK
    return ((state ^ (state >> 31)) >> 11) / (1 << 53)


def sample(
    logits_SV: torch.Tensor, rows: Sequence[ScheduledRow]
) -> tuple[dict[int, int], dict[int, str]]:
    """Draw one token for each row from its logits.

    Returns the tokens by sequence id, and the rows that can't be drawn (logits that aren't
    finite) with the reason.
    """
    best = logits_SV.argmax(-1)
    top = logits_SV.gather(1, best[:, None])[:, 0]
    tokens: dict[int, int] = {}
    failed: dict[int, str] = {}
    for index, (row, token, value) in enumerate(
        zip(rows, best.tolist(), top.tolist(), strict=True)
    ):
        if not np.isfinite(value):
            failed[row.sequence_id] = "the model's output for this request isn't finite"
        elif row.sampling.temperature == 0.0 or row.sampling.top_k == 1:
            tokens[row.sequence_id] = token
        else:
            tokens[row.sequence_id] = _draw(logits_SV[index], row)
    return tokens, failed


def _draw(logits_V: torch.Tensor, row: ScheduledRow) -> int:
    params = row.sampling
    u = uniform(row.seed, row.num_generated)
    scaled = logits_V.float() / params.temperature
    scaled = scaled - scaled.max()
    if params.top_k == 0 and params.top_p >= 1.0:
        return _inverse_cdf(scaled.exp(), u)
    vocabulary = scaled.shape[0]
    count = min(params.top_k or _CANDIDATES, vocabulary)
    total = scaled.exp().sum() if params.top_k == 0 else None
    values, ids = torch.topk(scaled, count)
    weights = values.exp()
    if params.top_p < 1.0:
        mass = total if total is not None else weights.sum()
        if total is not None and weights.sum() < params.top_p * mass and count < vocabulary:
            values, ids = torch.sort(scaled, descending=True)
            weights = values.exp()
        cumulative = weights.cumsum(0)
        # The token that crosses top_p still counts, so at least one is kept.
        keep = int((cumulative - weights < params.top_p * mass).sum())
        weights, ids = weights[:keep], ids[:keep]
    return int(ids[_inverse_cdf(weights, u)])


def _inverse_cdf(weights: torch.Tensor, u: float) -> int:
    cumulative = weights.double().cumsum(0)
    index = int(torch.searchsorted(cumulative, cumulative[-1] * u, right=True))
    return min(index, weights.shape[0] - 1)

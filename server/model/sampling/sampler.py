"""Draws the next token of each row, with that row's own parameters and randomness.

A row's draw depends on its own logits, seed and position only: the uniform number is a hash of
(seed, index of the token), so the neighbours in the batch, preemption and recompute change nothing.
A greedy row without rules, grammar or log probabilities costs one argmax.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from server.core.batch import ScheduledRow
from server.core.logprobs import TokenLogprobs
from server.model.sampling.logit_shaping import shape_logits
from server.model.sampling.logprobs import token_logprobs
from server.model.sampling.token_masks import NO_MASKS

logger = logging.getLogger(__name__)

Floats = NDArray[np.float32]

_DEPTHS = (4.0, 8.0, 12.0)
"""How far below the best logit top-k and top-p look before they sort everything."""

_CHUNK = 256
_MASK = (1 << 64) - 1


def uniform(seed: int, index: int) -> float:
    """A number in [0, 1) from SplitMix64 over (seed, index)."""
    state = (seed * 0x9E3779B97F4A7C15 + (index + 1) * 0xD1B54A32D192ED03) & _MASK
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state = ((state ^ (state >> shift)) * factor) & _MASK
    return ((state ^ (state >> 31)) >> 11) / (1 << 53)


@dataclass
class Draws:
    """What came of one step's rows; the fields go into `core.batch.StepOutput`."""

    token_ids: dict[int, int] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)
    exhausted: set[int] = field(default_factory=set)
    completed: set[int] = field(default_factory=set)
    logprobs: dict[int, TokenLogprobs] = field(default_factory=dict)


def sample(
    logits_SV: torch.Tensor,
    rows: Sequence[ScheduledRow],
    masks: Mapping[int, bytes] = NO_MASKS,
    num_drawable: int | None = None,
) -> Draws:
    """Draw one token for each row from its logits, and move the row's matcher on.

    `masks` holds what each row's matcher allows, by sequence id. Rows whose logits aren't finite
    fail with the reason, as do those whose own rules raise; those whose matcher is at its limits
    are refused. Rows that aren't plain and greedy are drawn on the host. Ids from `num_drawable` on
    are never drawn nor listed; log probabilities are relative to all logits of the model.
    """
    best, top = _best(logits_SV[:, :num_drawable])
    draws = Draws()
    for index, (row, token, value) in enumerate(zip(rows, best, top, strict=True)):
        params = row.sampling
        is_greedy = params.temperature == 0.0 or params.top_k == 1
        has_rules = params.rules is not None or row.matcher is not None
        if not np.isfinite(value):
            draws.failed[row.sequence_id] = "the model's output for this request isn't finite"
        elif is_greedy and not has_rules and params.logprobs is None:
            draws.token_ids[row.sequence_id] = token
        else:
            logits_V = logits_SV[index].float().cpu().numpy()
            mask = masks.get(row.sequence_id)
            try:
                named_V = _drawable(logits_V, num_drawable)
                shaped_V = shape_logits(named_V, row, mask) if has_rules else named_V
                _draw_row(draws, logits_V, named_V, shaped_V, row)
            except Exception:  # the boundary: one row's rules must not fail the others
                logger.exception("sequence %d: no token can be drawn", row.sequence_id)
                draws.token_ids.pop(row.sequence_id, None)
                draws.failed[row.sequence_id] = (
                    "no token could be drawn for this request; the server's log says why"
                )
    return draws


def _drawable(logits_V: Floats, num_drawable: int | None) -> Floats:
    """The logits, -inf from `num_drawable` on; a copy only where there are such."""
    if num_drawable is None or num_drawable >= len(logits_V):
        return logits_V
    named_V = logits_V.copy()
    named_V[num_drawable:] = -np.inf
    return named_V


def _draw_row(
    draws: Draws, logits_V: Floats, named_V: Floats, shaped_V: Floats, row: ScheduledRow
) -> None:
    params, sequence_id = row.sampling, row.sequence_id
    if row.matcher is not None and row.matcher.error:
        draws.refused[sequence_id] = f"its grammar can't be followed: {row.matcher.error}"
        return
    token = int(shaped_V.argmax())
    value = float(shaped_V[token])
    if value == -np.inf:
        draws.exhausted.add(sequence_id)
        return
    if params.temperature != 0.0 and params.top_k != 1:
        token = _draw(shaped_V, value, row)
    if row.matcher is not None:
        row.matcher.accept(token)
        if row.matcher.error:
            draws.refused[sequence_id] = f"its grammar can't be followed: {row.matcher.error}"
            return
        if row.matcher.is_complete:
            draws.completed.add(sequence_id)
    draws.token_ids[sequence_id] = token
    if params.logprobs is not None:
        draws.logprobs[sequence_id] = token_logprobs(
            logits_V, token, params.logprobs, listed_V=named_V
        )


def _best(logits_SV: torch.Tensor) -> tuple[list[int], list[float]]:
    """The best token of each row and its logit; NaN counts as best, so that it is noticed."""
    if logits_SV.is_cpu and logits_SV.dtype == torch.float32:
        # numpy's argmax takes 0.1 ms for 32 rows of 49152 where torch's takes 1.5 on one core.
        rows = logits_SV.numpy()
        best = [int(row.argmax()) for row in rows]
        return best, [float(row[token]) for row, token in zip(rows, best, strict=True)]
    top, ids = logits_SV.max(-1)
    return ids.tolist(), top.tolist()


def _draw(logits_V: Floats, best: float, row: ScheduledRow) -> int:
    """Temperature, min-p, top-k, top-p, then one uniform number through the inverse CDF."""
    params = row.sampling
    u = uniform(row.seed, row.num_generated)
    below_V = (logits_V - np.float32(best)) / np.float32(params.temperature)
    if params.min_p > 0.0:
        below_V[below_V < np.float32(np.log(params.min_p))] = -np.inf
    if params.top_k == 0:
        weights_V = np.exp(below_V)
        if params.top_p >= 1.0:
            return _inverse_cdf(weights_V, u)
        ids = _nucleus(below_V, weights_V, params.top_p * float(weights_V.sum(dtype=np.float64)))
        return int(ids[_inverse_cdf(weights_V[ids], u)])
    ids = _top_k(below_V, min(params.top_k, below_V.shape[0]))
    weights = np.exp(below_V[ids])
    if params.top_p < 1.0:
        kept = _kept(weights, params.top_p * float(weights.sum(dtype=np.float64)))
        ids, weights = ids[:kept], weights[:kept]
    return int(ids[_inverse_cdf(weights, u)])


def _top_k(below_V: Floats, count: int) -> NDArray[np.intp]:
    """The `count` best tokens, best first; ties go to the lower id."""
    ids = np.arange(below_V.shape[0])
    for depth in _DEPTHS:
        near = np.flatnonzero(below_V >= -depth)
        if len(near) >= count:
            ids = near
            break
    return ids[np.argsort(-below_V[ids], kind="stable")][:count]


def _nucleus(below_V: Floats, weights_V: Floats, mass: float) -> NDArray[np.intp]:
    """The fewest best tokens whose weights reach `mass`, best first.

    Sorts only the tokens within some distance of the best one, if they reach the mass: the answer
    is the same as over a full sort.
    """
    for depth in (*_DEPTHS, np.inf):
        ids = np.flatnonzero(below_V >= -depth)
        if depth == np.inf or weights_V[ids].sum(dtype=np.float64) >= mass:
            ids = ids[np.argsort(-below_V[ids], kind="stable")]
            return ids[: _kept(weights_V[ids], mass)]
    raise AssertionError("the last depth takes every token")


def _kept(weights: Floats, mass: float) -> int:
    """How many leading weights it takes to reach `mass`; the one that crosses it counts."""
    cumulative = np.cumsum(weights, dtype=np.float64)
    crossing = int(np.searchsorted(cumulative, mass))
    return min(crossing + 1, len(weights))


def _inverse_cdf(weights: Floats, u: float) -> int:
    """The first index at which the running sum exceeds u times the whole."""
    last = len(weights) - 1
    sums = np.add.reduceat(weights, np.arange(0, last + 1, _CHUNK), dtype=np.float64)
    ends = np.cumsum(sums)
    target = ends[-1] * u
    chunk = min(int(np.searchsorted(ends, target, side="right")), len(sums) - 1)
    before = ends[chunk - 1] if chunk else 0.0
    inside = before + np.cumsum(weights[chunk * _CHUNK : (chunk + 1) * _CHUNK], dtype=np.float64)
    offset = int(np.searchsorted(inside, target, side="right"))
    return min(chunk * _CHUNK + offset, last)

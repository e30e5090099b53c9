"""Applies one request's rules to one row of logits, on the host.

Order, as vLLM has it: grammar mask, allowed tokens, bans, minimum length, bias, then penalties.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from server.core.batch import ScheduledRow
from server.core.logit_rules import LogitRules

Floats = NDArray[np.float32]

_NEVER = np.float32(-np.inf)


def shape_logits(logits_V: Floats, row: ScheduledRow, allowed_bits: bytes | None) -> Floats:
    """The logits to draw from, in an array of their own; -inf for what may not be drawn.

    `allowed_bits` is the grammar's mask, one bit a token, lowest first. Nothing may be left.
    """
    shaped_V = logits_V.copy()
    if allowed_bits is not None:
        shaped_V[~_as_mask(allowed_bits, len(shaped_V))] = _NEVER
    rules = row.sampling.rules
    if rules is None:
        return shaped_V
    generated = row.history[len(row.history) - row.num_generated :]
    if rules.allowed_token_ids is not None:
        allowed = np.frombuffer(rules.allowed_ids, np.int64)
        kept = shaped_V[allowed]
        shaped_V.fill(_NEVER)
        shaped_V[allowed] = kept
    for sequence in rules.banned_sequences:
        if _would_complete(sequence, generated):
            shaped_V[sequence[-1]] = _NEVER
    if row.num_generated < row.sampling.min_tokens:
        shaped_V[np.frombuffer(rules.withheld_ids, np.int64)] = _NEVER
    _add_bias(shaped_V, rules)
    _penalise(shaped_V, rules, row.history, generated)
    return shaped_V


def _as_mask(bits: bytes, size: int) -> NDArray[np.bool_]:
    """Token ids beyond the mask are never allowed: the model's head may be padded."""
    mask = np.unpackbits(np.frombuffer(bits, np.uint8), count=size, bitorder="little")
    return mask.view(np.bool_)


def _add_bias(logits_V: Floats, rules: LogitRules) -> None:
    if not rules.logit_bias:
        return
    token_ids = np.frombuffer(rules.bias_ids, np.int64)
    biases = np.frombuffer(rules.biases, np.float32)
    if rules.repeats_bias_ids:
        np.add.at(logits_V, token_ids, biases)  # one after the other, as they came
    else:
        logits_V[token_ids] += biases


def _would_complete(sequence: Sequence[int], generated: Sequence[int]) -> bool:
    before = len(sequence) - 1
    if before > len(generated):
        return False
    if before and sequence[-2] != generated[-1]:
        return False  # so of a hundred long sequences few are compared as a whole
    return before == 0 or list(generated[-before:]) == list(sequence[:-1])


def _penalise(
    logits_V: Floats, rules: LogitRules, history: Sequence[int], generated: Sequence[int]
) -> None:
    if rules.repetition_penalty != 1.0:
        seen = np.unique(np.asarray(history, np.intp))
        seen = seen[seen >= 0]  # an adapter's virtual tokens are below 0
        values = logits_V[seen]
        factor = np.float32(rules.repetition_penalty)
        logits_V[seen] = np.where(values > 0, values / factor, values * factor)
    if rules.counts_tokens and generated:
        tokens, counts = np.unique(np.asarray(generated, np.intp), return_counts=True)
        penalties = rules.frequency_penalty * counts + rules.presence_penalty
        logits_V[tokens] -= penalties.astype(np.float32)

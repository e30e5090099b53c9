"""Whether a way through a model gives what transformers gives, seen on two short sequences."""

from dataclasses import replace
from typing import Protocol

import torch

from server.core.batch import ScheduledBatch, ScheduledRow
from server.core.request import SamplingParams
from server.model.forward.sequence_forward import SequenceForward, is_close
from server.model.geometry import AttentionGeometry
from server.model.kv_cache import KVCache
from server.model.step.step_inputs import StepInputs

_BLOCK_SIZE = 8
_BLOCKS = 3
_STEPS = (((0, 7), (0, 0)), ((7, 16), (0, 5)), ((16, 17), (5, 6)), ((17, 24), (6, 17)))
"""Of each step, the tokens of the two sequences: pieces, starts and decodes in one batch."""


class CheckedModel(Protocol):
    """What is checked."""

    geometry: AttentionGeometry

    def forward(self, step: StepInputs, cache: KVCache) -> torch.Tensor:
        """See `GenericModel.forward`."""
        ...


def differing_step(model: CheckedModel, sequences: SequenceForward) -> str | None:
    """What goes wrong when both sequences run together in steps; None when nothing does."""
    device = sequences.probed[0].device
    cache = KVCache(
        model.geometry,
        num_blocks=2 * _BLOCKS,
        block_size=_BLOCK_SIZE,
        dtype=sequences.expected[0].dtype,
        device=str(device),
    )
    try:
        with torch.inference_mode():
            for pieces in _STEPS:
                rows = [
                    _row(i, sequences.probed[i][slice(*piece)].tolist(), piece[0])
                    for i, piece in enumerate(pieces)
                    if piece[1] > piece[0]
                ]
                logits = model.forward(_inputs(rows, str(device)), cache)
                for row, got in zip(rows, logits, strict=True):
                    last = row.start + len(row.token_ids) - 1
                    want = sequences.expected[row.sequence_id][last]
                    if not is_close(got[None], want[None]):
                        return "its steps over two sequences give other logits than transformers"
    except Exception as error:  # noqa: BLE001 - whatever goes wrong, another way is tried
        return f"its steps over two sequences fail with {error!r}"
    return None


def _row(index: int, token_ids: list[int], start: int) -> ScheduledRow:
    sampling = SamplingParams(max_tokens=1, temperature=0.0)
    blocks = range(_BLOCKS * index, _BLOCKS * (index + 1))
    return ScheduledRow(
        index, token_ids, start, list(blocks), (), sampling, True, 0, 0, state_slot=index
    )


def _inputs(rows: list[ScheduledRow], device: str) -> StepInputs:
    """Decodes come first, as in every batch."""
    rows.sort(key=lambda row: len(row.token_ids) > 1)

    def laid_out(chosen: list[ScheduledRow]) -> StepInputs:
        return StepInputs.from_batch(
            ScheduledBatch(tuple(chosen)), block_size=_BLOCK_SIZE, device=device
        )

    return replace(laid_out(rows), rows=tuple(laid_out([row]) for row in rows))

"""Steps that only decode, as tensors: most steps are, and one row's step is no longer than 4 ms."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from server.core.batch import ScheduledBatch, ScheduledRow
from server.model.step.step_extras import StepExtras
from server.model.step.step_inputs import StepInputs, block_tables


@dataclass(frozen=True)
class _SameForAll:
    """What every step of R decoding rows has: nobody may write into these tensors."""

    query_starts: torch.Tensor
    sample_tokens: torch.Tensor
    no_work_offsets: torch.Tensor
    no_work_pages: torch.Tensor
    no_work_scales: torch.Tensor
    row_lengths: tuple[int, ...]


def only_decodes(batch: ScheduledBatch) -> bool:
    """Whether each row is one token whose logits are wanted."""
    return all(len(row.token_ids) == 1 and row.num_logits == 1 for row in batch.rows)


class DecodeInputs:
    """Makes the same `StepInputs` as `StepInputs.from_batch`, in fewer and smaller operations.

    Keeps what only depends on the number of rows.
    """

    def __init__(self, block_size: int, device: str) -> None:
        self._block_size = block_size
        self._device = device
        self._same: dict[int, _SameForAll] = {}

    def inputs(self, rows: Sequence[ScheduledRow], extras: StepExtras | None) -> StepInputs:
        """Lay out rows that all decode; they keep their order."""
        num_rows, size = len(rows), self._block_size
        same = self._same.get(num_rows) or self._make_same(num_rows)
        starts = [row.start for row in rows]
        slots = [row.block_ids[row.start // size] * size + row.start % size for row in rows]
        tokens = [row.token_ids[0] for row in rows]
        if extras is not None:
            tokens = [max(token, 0) for token in tokens]
        token_ids, positions, slot_mapping = self._tensor(
            np.array((tokens, starts, slots), np.int64)
        )
        work_offsets, work_pages, work_scales = self._work(rows, same)
        return StepInputs(
            token_ids=token_ids,
            positions=positions,
            slot_mapping=slot_mapping,
            query_starts=same.query_starts,
            seq_lens=self._tensor(np.array([start + 1 for start in starts], np.int32)),
            block_tables=self._tensor(block_tables(rows)),
            sample_tokens=same.sample_tokens,
            work_offsets=work_offsets,
            work_pages=work_pages,
            work_scales=work_scales,
            num_decode_rows=num_rows,
            row_lengths=same.row_lengths,
            starts=tuple(starts),
            extras=extras,
            state_slots=tuple(row.state_slot for row in rows),
        )

    def _work(
        self, rows: Sequence[ScheduledRow], same: _SameForAll
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        items = [item for row in rows for item in row.work]
        if not items:
            return same.no_work_offsets, same.no_work_pages, same.no_work_scales
        offsets = np.zeros(len(rows) + 1, np.int32)
        np.cumsum([len(row.work) for row in rows], out=offsets[1:])
        return (
            self._tensor(offsets),
            self._tensor(np.array([item.page for item in items], np.int32)),
            self._tensor(np.array([item.scale for item in items], np.float32)),
        )

    def _make_same(self, num_rows: int) -> _SameForAll:
        same = self._same[num_rows] = _SameForAll(
            self._tensor(np.arange(num_rows + 1, dtype=np.int32)),
            self._tensor(np.arange(num_rows, dtype=np.int64)),
            self._tensor(np.zeros(num_rows + 1, np.int32)),
            self._tensor(np.zeros(0, np.int32)),
            self._tensor(np.zeros(0, np.float32)),
            (1,) * num_rows,
        )
        return same

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(values)
        return tensor if self._device == "cpu" else tensor.to(self._device, non_blocking=True)

"""A scheduled batch as tensors: built once a step, read by every layer.

Axes: R rows (sequences), T ragged tokens of all rows, S rows that sample, W work items.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from server.core.batch import ScheduledBatch, ScheduledRow
from server.model.step.step_extras import StepExtras


@dataclass(frozen=True)
class StepInputs:
    """All index tensors are on the model's device.

    token_ids, positions   int64 [T]
    slot_mapping           int64 [T]      where each token's KV goes: block * block_size + offset
    query_starts           int32 [R + 1]  first token of each row, and T
    seq_lens               int32 [R]      tokens of the sequence once this step is done
    block_tables           int32 [R, max blocks], padded with 0
    sample_tokens          int64 [S]      tokens whose logits are wanted: the last ones of each row,
                                          `ScheduledRow.num_logits` of them
    work_offsets           int32 [R + 1]  the row's work items are work_pages[o[r] : o[r + 1]]
    work_pages             int32 [W]
    work_scales            float32 [W]
    num_decode_rows        leading rows of one token
    row_lengths            tokens of each row, on the host
    extras                 what rows need beside rank pages; None where none does
    state_slots            the slot of each row's recurrent state
    rows                   each row as a step of its own, for models that keep a state; else empty

    A virtual token is token 0 here; `extras` knows better.
    """

    token_ids: torch.Tensor
    positions: torch.Tensor
    slot_mapping: torch.Tensor
    query_starts: torch.Tensor
    seq_lens: torch.Tensor
    block_tables: torch.Tensor
    sample_tokens: torch.Tensor
    work_offsets: torch.Tensor
    work_pages: torch.Tensor
    work_scales: torch.Tensor
    num_decode_rows: int
    row_lengths: tuple[int, ...]
    starts: tuple[int, ...]
    extras: StepExtras | None = None
    state_slots: tuple[int, ...] = ()
    rows: "tuple[StepInputs, ...]" = ()

    @property
    def num_rows(self) -> int:
        return len(self.row_lengths)

    @staticmethod
    def from_batch(
        batch: ScheduledBatch,
        *,
        block_size: int,
        device: str,
        extras: StepExtras | None = None,
    ) -> "StepInputs":
        """Lay out `batch`; rows keep their order."""
        rows = batch.rows
        lengths = [len(row.token_ids) for row in rows]
        query_starts = np.zeros(len(rows) + 1, np.int32)
        np.cumsum(lengths, out=query_starts[1:])
        starts = np.fromiter((row.start for row in rows), np.int64, len(rows))
        positions = _positions(starts, lengths, int(query_starts[-1]))
        tables = block_tables(rows)
        blocks = tables[np.repeat(np.arange(len(rows)), lengths), positions // block_size]
        num_decode = next((i for i, length in enumerate(lengths) if length > 1), len(rows))
        work_offsets = np.zeros(len(rows) + 1, np.int32)
        np.cumsum([len(row.work) for row in rows], out=work_offsets[1:])
        work = [item for row in rows for item in row.work]
        last = [
            token
            for end, row in zip(query_starts[1:].tolist(), rows, strict=True)
            for token in range(end - row.num_logits, end)
        ]

        def tensor(values: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(values).to(device, non_blocking=True)

        tokens = np.fromiter(
            (token for row in rows for token in row.token_ids), np.int64, int(query_starts[-1])
        )
        return StepInputs(
            token_ids=tensor(tokens if extras is None else tokens.clip(min=0)),
            positions=tensor(positions),
            slot_mapping=tensor(blocks.astype(np.int64) * block_size + positions % block_size),
            query_starts=tensor(query_starts),
            seq_lens=tensor((starts + np.asarray(lengths)).astype(np.int32)),
            block_tables=tensor(tables),
            sample_tokens=tensor(np.asarray(last, np.int64)),
            work_offsets=tensor(work_offsets),
            work_pages=tensor(np.fromiter((w.page for w in work), np.int32, len(work))),
            work_scales=tensor(np.fromiter((w.scale for w in work), np.float32, len(work))),
            num_decode_rows=num_decode,
            row_lengths=tuple(lengths),
            starts=tuple(int(s) for s in starts),
            extras=extras,
            state_slots=tuple(row.state_slot for row in rows),
        )


def _positions(starts: np.ndarray, lengths: list[int], num_tokens: int) -> np.ndarray:
    if num_tokens == len(lengths):
        return starts
    return np.concatenate([np.arange(s, s + n) for s, n in zip(starts, lengths, strict=True)])


def block_tables(rows: Sequence[ScheduledRow]) -> np.ndarray:
    """int32 [R, max blocks], padded with 0."""
    if len(rows) == 1:
        return np.array([rows[0].block_ids], np.int32)
    tables = np.zeros((len(rows), max(len(row.block_ids) for row in rows)), np.int32)
    for index, row in enumerate(rows):
        tables[index, : len(row.block_ids)] = row.block_ids
    return tables

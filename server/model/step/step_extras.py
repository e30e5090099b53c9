"""What a step's rows need beside their rank pages: vectors, own embeddings, own output heads.

None of it exists for a batch of plain LoRA, which then runs as if there were no such kinds.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from server.core.batch import ScheduledBatch
from server.model.adapter_pages.bank import AdapterBank, Resident
from server.model.adapter_pages.special_parts import TableChange
from server.model.step.vector_work import VectorWork


@dataclass(frozen=True)
class SpecialRow:
    """One row's tokens in the step, its place among the rows that sample (None: it doesn't), and
    the adapters with special parts that act on it, with their scales."""

    tokens: slice
    sample: int | None
    members: tuple[tuple[Resident, float], ...]


@dataclass(frozen=True)
class StepExtras:
    """`token_ids` int64 [T] on the host, negative for virtual tokens."""

    rows: tuple[SpecialRow, ...]
    vectors: VectorWork | None
    token_ids: torch.Tensor

    @staticmethod
    def from_batch(batch: ScheduledBatch, bank: AdapterBank) -> "StepExtras | None":
        """None when no row of the batch has such work."""
        if not bank.residents and not bank.vector_pages:
            return None
        rows: list[SpecialRow] = []
        vectors: list[tuple[slice, int, float]] = []
        first = sample = 0
        for row in batch.rows:
            tokens = slice(first, first + len(row.token_ids))
            members = []
            for item in row.work:
                if item.page in bank.vector_pages:
                    vectors.append((tokens, item.page, item.scale))
                if (resident := bank.residents.get(item.page)) is not None:
                    members.append((resident, item.scale))
            if members:
                rows.append(SpecialRow(tokens, sample if row.samples else None, tuple(members)))
            first = tokens.stop
            sample += row.samples
        if not rows and not vectors:
            return None
        return StepExtras(
            tuple(rows),
            VectorWork(bank, vectors, num_tokens=first) if vectors else None,
            torch.tensor([token for row in batch.rows for token in row.token_ids]),
        )

    def embedding_rows(self) -> Iterator[SpecialRow]:
        """The rows whose token embeddings aren't the base's."""
        for row in self.rows:
            if any(m.parts.embedding or m.parts.soft_prompt for m, _ in row.members):
                yield row

    def head_rows(self) -> Iterator[tuple[int, SpecialRow]]:
        """The rows that sample from an output head of their own, with their place there."""
        for row in self.rows:
            if row.sample is not None and any(m.parts.head for m, _ in row.members):
                yield row.sample, row

    def change_embeddings(
        self, out_NH: torch.Tensor, row: SpecialRow, *, inner_scale: float, outer_scale: float
    ) -> None:
        """Turn the base's embeddings [n, hidden] of a row's tokens into the row's own, in place.

        `out_NH` was multiplied by both scales: the embedding's own, which every embedding of a
        token gets, and one that the model applies to whatever comes in, virtual tokens included.
        """
        ids = self.token_ids[row.tokens].to(out_NH.device)
        base_NH = out_NH.float()
        total_NH = base_NH.clone()
        for resident, scale in row.members:
            change = resident.parts.embedding
            if change is not None:
                new_NH = _embedding_delta(resident, change, ids, base_NH, inner_scale * outer_scale)
                total_NH += scale * new_NH
        for resident, _ in row.members:
            if resident.parts.soft_prompt is not None:
                virtual = (ids < 0).nonzero().flatten()
                rows = resident.table(resident.parts.soft_prompt).rows(-1 - ids[virtual])
                total_NH[virtual] = rows.float() * outer_scale
        out_NH.copy_(total_NH)

    def change_logits(
        self, logits_V: torch.Tensor, hidden_H: torch.Tensor, row: SpecialRow
    ) -> None:
        """Turn the base's raw logits of one row into those of its own head, in place."""
        base_V = logits_V.float()
        total_V = base_V.clone()
        for resident, scale in row.members:
            change = resident.parts.head
            if change is not None:
                total_V += scale * _head_delta(resident, change, hidden_H, base_V)
        logits_V.copy_(total_V)


def _embedding_delta(
    resident: Resident,
    change: TableChange,
    ids: torch.Tensor,
    base_NH: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """What the adapter adds to its tokens' embeddings; nothing to virtual tokens."""
    delta_NH = torch.zeros_like(base_NH)
    real = (ids >= 0).nonzero().flatten()
    if change.rows is not None:
        chosen, rows = real, ids[real]
        if change.token_ids is not None:
            token_ids = change.token_ids.to(ids.device)
            place = torch.searchsorted(token_ids, rows).clamp(max=len(token_ids) - 1)
            found = token_ids[place] == rows
            chosen, rows = real[found], place[found]
        new = resident.table(change.rows).rows(rows).float() * scale
        delta_NH[chosen] = new - base_NH[chosen]
    if change.a is not None and change.b is not None:
        b_NR = resident.table(change.b).rows(ids[real]).float()
        a_RH = torch.cat(list(resident.table(change.a).parts())).float()
        delta_NH[real] += change.factor * scale * (b_NR @ a_RH)
    return delta_NH


def _head_delta(
    resident: Resident, change: TableChange, hidden_H: torch.Tensor, base_V: torch.Tensor
) -> torch.Tensor:
    delta_V = torch.zeros_like(base_V)
    if change.rows is not None:
        new = resident.table(change.rows).times(hidden_H[None])[0]
        if change.token_ids is None:
            delta_V = new - base_V
        else:
            token_ids = change.token_ids.to(base_V.device)
            delta_V[token_ids] = new - base_V[token_ids]
    if change.a is not None and change.b is not None:
        h_R = resident.table(change.a).times(hidden_H[None])
        delta_V += change.factor * resident.table(change.b).times(h_R)[0]
    return delta_V

"""What an adapter changes besides linears: embeddings, output head, virtual tokens, prefix."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from server.model.adapter_pages.row_table import RowTable


@dataclass(frozen=True)
class TableChange:
    """A change of a [vocabulary, hidden] matrix, the token embedding or the output head.

    `rows` replace the base's: all of them, or those of `token_ids` (int64, ascending). `a` [r,
    hidden] and `b` [vocabulary, r] are added as b @ a * `factor`.
    """

    rows: RowTable | None = None
    token_ids: torch.Tensor | None = None
    a: RowTable | None = None
    b: RowTable | None = None
    factor: float = 0.0


@dataclass(frozen=True)
class ExpertFactors:
    """A LoRA on the weights of a layer's experts: `a` [experts * rank, in] and `b` [experts * rank,
    out], expert after expert; the delta of an expert is its rows of b.T @ a * `factor`."""

    a: RowTable
    b: RowTable
    rank: int
    factor: float


@dataclass(frozen=True)
class SpecialParts:
    """Of one adapter; None where it has no such part.

    `soft_prompt` is [virtual tokens, hidden]; `prefix` is [layers * 2 * virtual tokens, kv size],
    of each layer its keys, then its values. `experts` are by module and parameter.
    """

    soft_prompt: RowTable | None = None
    prefix: RowTable | None = None
    embedding: TableChange | None = None
    head: TableChange | None = None
    experts: Mapping[tuple[str, str], ExpertFactors] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        changes = (self.soft_prompt, self.prefix, self.embedding, self.head, self.experts)
        return not any(changes)

"""What an adapter changes besides linears: embeddings, output head, virtual tokens, prefix."""

from dataclasses import dataclass

import torch

from server.model.row_table import RowTable


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
class SpecialParts:
    """Of one adapter; None where it has no such part.

    `soft_prompt` is [virtual tokens, hidden]; `prefix` is [layers * 2 * virtual tokens, kv size],
    of each layer its keys, then its values.
    """

    soft_prompt: RowTable | None = None
    prefix: RowTable | None = None
    embedding: TableChange | None = None
    head: TableChange | None = None

    @property
    def is_empty(self) -> bool:
        return not (self.soft_prompt or self.prefix or self.embedding or self.head)

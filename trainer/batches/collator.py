"""Rows of token ids to the tensors of one forward."""

from collections.abc import Sequence

import torch

from trainer.data.labels import LabelledRow

IGNORED = -100
"""Label of a position without loss, as torch and transformers have it."""

Batch = dict[str, torch.Tensor]


def collate_rows(rows: Sequence[LabelledRow], pad_id: int) -> Batch:
    """`input_ids`, `labels`, `attention_mask`, each (rows, longest row), padded on the right."""
    longest = max(len(row) for row in rows)
    shape = (len(rows), longest)
    input_ids = torch.full(shape, pad_id, dtype=torch.long)
    labels = torch.full(shape, IGNORED, dtype=torch.long)
    attention_mask = torch.zeros(shape, dtype=torch.long)
    for index, row in enumerate(rows):
        ids = torch.tensor(row.token_ids)
        input_ids[index, : len(row)] = ids
        labels[index, : len(row)] = torch.where(torch.tensor(row.carries_loss), ids, IGNORED)
        attention_mask[index, : len(row)] = 1
    return {"input_ids": input_ids, "labels": labels, "attention_mask": attention_mask}


def pack_rows(rows: Sequence[LabelledRow]) -> Batch:
    """`input_ids`, `labels`, `position_ids`, each (1, all tokens): the rows behind one another.

    Positions start again with each row and there is no mask: transformers tells the rows apart by
    that. A row's first token is no target, since the token before it is another row's.
    """
    ids = [torch.tensor(row.token_ids) for row in rows]
    labels = [
        torch.where(torch.tensor(row.carries_loss), row_ids, IGNORED)
        for row, row_ids in zip(rows, ids, strict=True)
    ]
    for row_labels in labels:
        row_labels[0] = IGNORED
    positions = [torch.arange(len(row)) for row in rows]
    return {
        "input_ids": torch.cat(ids)[None],
        "labels": torch.cat(labels)[None],
        "position_ids": torch.cat(positions)[None],
    }


def pad_token_id(tokenizer: object) -> int:
    """Any id does under the attention mask; the tokenizer's own, else its end token, else 0."""
    for name in ("pad_token_id", "eos_token_id"):
        token_id = getattr(tokenizer, name, None)
        if isinstance(token_id, int):
            return token_id
    return 0

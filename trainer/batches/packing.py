"""Whether a model keeps rows apart that share one sequence, tried out on the model itself.

transformers finds the rows of a packed sequence by their position ids, which start again at 0, and
masks attention between them; flash attention gets their lengths instead. A state-space model
carries its state from row to row, some models ignore the position ids: lists of names would age, a
forward of a few tokens does not (docs/adr/0030).
"""

from typing import Any

import torch

from trainer.batches.collator import pack_rows
from trainer.data.labels import LabelledRow
from trainer.errors import MethodError

_FIRST, _SECOND = 7, 11
_LEAK_TOLERANCE = 1e-6
_ALONE_TOLERANCE = {torch.float32: 1e-4}
_ALONE_TOLERANCE_16_BIT = 0.05
"""Relative to the largest logit. A masked key has the weight zero, so that nothing at all may
change; against the row alone only the shapes of the matrix products differ."""


def check_packing(model: Any, method: str, *, packs_rows: bool) -> None:
    """Raise `MethodError` when packing would let rows of `model` see each other.

    `packs_rows` says whether `method` has a meaning for several rows in one sequence.
    """
    if not packs_rows:
        raise MethodError(
            f"data.packing: {method} puts its virtual tokens before one row; set it to false"
        )
    leak, shift = packing_error(model)
    tolerance = _ALONE_TOLERANCE.get(model.dtype, _ALONE_TOLERANCE_16_BIT)
    if leak > _LEAK_TOLERANCE:
        raise MethodError(
            f"data.packing: rows in one sequence see each other on a {model.config.model_type} "
            f"model (a change in one moves the logits of the next by {leak:.2g} of the largest); "
            "set it to false"
        )
    if shift > tolerance:
        raise MethodError(
            f"data.packing: on a {model.config.model_type} model a row gives other logits in a "
            f"packed sequence than alone (by {shift:.2g} of the largest, allowed {tolerance}): "
            "its positions don't start again. Set it to false"
        )


def packing_error(model: Any) -> tuple[float, float]:
    """How far the second of two packed rows moves with the first one's text, and from itself alone.

    Both relative to the largest logit. Leaves the model's train or eval mode as it was.
    """
    vocabulary = model.get_input_embeddings().weight.shape[0]
    generator = torch.Generator().manual_seed(0)
    first, other, second = (
        _row(torch.randint(0, vocabulary, (length,), generator=generator))
        for length in (_FIRST, _FIRST, _SECOND)
    )
    was_training = model.training
    model.eval()
    try:
        packed = _logits(model, [first, second])[_FIRST:]
        beside_other = _logits(model, [other, second])[_FIRST:]
        alone = _logits(model, [second])
    finally:
        model.train(was_training)
    largest = float(alone.abs().max())
    leak, shift = ((packed - reference).abs().max() for reference in (beside_other, alone))
    return float(leak) / largest, float(shift) / largest


def _row(ids: torch.Tensor) -> LabelledRow:
    return LabelledRow(tuple(ids.tolist()), (True,) * len(ids))


def _logits(model: Any, rows: list[LabelledRow]) -> torch.Tensor:
    """(tokens, words), float32."""
    batch = pack_rows(rows)
    del batch["labels"]
    inputs = {name: tensor.to(model.device) for name, tensor in batch.items()}
    with torch.no_grad():
        logits: torch.Tensor = model(**inputs, use_cache=False).logits[0].float()
    return logits

"""What a forward is said to keep is what autograd really holds when the backward begins."""

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from adapters.base.loading import load_base
from adapters.base.training_guard import prepare_for_training
from tests.unit.trainer.methods.runs import attach, config
from trainer.batches.collator import Batch, collate_rows, pack_rows
from trainer.batches.packed_attention import attend_row_by_row
from trainer.data.labels import LabelledRow
from trainer.loop.loss import loss_sum
from trainer.methods.model_shape import shape_of
from trainer.methods.quantization import quantization_for
from trainer.prediction.activations import ForwardSize, kept_bytes
from trainer.tuning.lean_lora import is_lean_config

ROWS = [
    LabelledRow(tuple(range(5, 5 + length)), (False,) * 20 + (True,) * (length - 20))
    for length in (90, 75, 60)
]
LOSS_TOKENS = sum(row.num_loss_tokens for row in ROWS)
VOCABULARY = 320
BFLOAT16 = 2


class _Kept:
    """A tensor for as long as the graph holds it."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


def held_by_the_graph(model: Any, batch: Batch) -> int:
    """Bytes of tensors that a forward of `batch` leaves for its backward, each storage once;
    neither parameters nor logits.
    """
    kept: weakref.WeakSet[_Kept] = weakref.WeakSet()

    def pack(tensor: torch.Tensor) -> _Kept:
        found = _Kept(tensor)
        kept.add(found)
        return found

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda found: found.tensor):
        loss, _ = loss_sum(model, batch)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    sizes = {
        storage.data_ptr(): storage.nbytes()
        for storage in (found.tensor.untyped_storage() for found in kept)
    }
    total = sum(size for pointer, size in sizes.items() if pointer not in own)
    assert loss.requires_grad
    return total - LOSS_TOKENS * VOCABULARY * 4


@pytest.mark.parametrize(
    "document",
    [
        {"method": "qlora", "lora": {"dropout": 0.0}},
        {"method": "qlora", "lora": {"dropout": 0.1}},
        {"method": "lora", "lora": {"dropout": 0.0}},
        {"method": "qlora", "lora": {"dropout": 0.0, "target_modules": ["q_proj", "v_proj"]}},
        {"method": "qlora", "lora": {"dropout": 0.0}, "data": {"train": "x", "packing": True}},
        {"method": "dora", "lora": {"dropout": 0.0}},
        {"method": "dora", "lora": {"dropout": 0.1}},
        {"method": "ia3"},
        {"method": "full"},
    ],
    ids=lambda document: "-".join(
        f"{key}={value}" for key, value in {**document, **document.get("lora", {})}.items()
        if key not in ("lora", "data")
    ) + ("-packed" if "data" in document else ""),
)  # fmt: skip
def test_kept_bytes_are_those_of_the_graph(tiny_base: Path, document: dict[str, Any]) -> None:
    settings = config(tiny_base, **document)
    is_full = settings.method == "full"
    base = load_base(
        settings.base,
        quantization_for(settings),
        dtype=torch.float32 if is_full else torch.bfloat16,
    )
    prepare_for_training(base.model)
    if settings.data.packing:
        assert attend_row_by_row(base.model)
    model = attach(base, settings).model
    model.train()
    lengths = [len(row) for row in ROWS]
    if settings.data.packing:
        batch, size = pack_rows(ROWS), ForwardSize(sum(lengths), LOSS_TOKENS)
    else:
        batch = collate_rows(ROWS, pad_id=0)
        size = ForwardSize(max(lengths) * len(ROWS), LOSS_TOKENS, max(lengths))
    shape = shape_of("tiny", AutoConfig.from_pretrained(str(tiny_base)))
    predicted = kept_bytes(settings, shape, size, BFLOAT16, is_lean_config(settings))
    # Not kept, but needed at once: the largest weight in the compute dtype.
    predicted -= BFLOAT16 * max(inputs * outputs for inputs, outputs in shape.linears.values())
    with torch.autocast("cpu", torch.bfloat16, enabled=is_full):
        held = held_by_the_graph(model, batch)
    assert predicted == pytest.approx(held, rel=0.05)

"""A few optimiser steps of any method on a tiny base, as the loop takes them."""

from pathlib import Path
from typing import Any

import torch

from adapters.base.loading import LoadedBase, load_base
from adapters.base.training_guard import prepare_for_training
from trainer.batches.collator import collate_rows
from trainer.config import TrainerConfig
from trainer.data.labels import LabelledRow
from trainer.loop.loss import loss_sum
from trainer.methods.quantization import quantization_for
from trainer.tuning.attachment import attach_adapter
from trainer.tuning.tuning import Tuning

ROWS = tuple(
    LabelledRow(tuple(range(5 + i, 40 + i)), (False,) * 10 + (True,) * 25) for i in range(16)
)
NUM_STEPS = 10


def config(base: Path | str, **document: Any) -> TrainerConfig:
    smallest = {"name": "a", "base": str(base), "data": {"train": "x.jsonl"}}
    return TrainerConfig.model_validate({**smallest, **document})


def loaded(settings: TrainerConfig) -> LoadedBase:
    base = load_base(settings.base, quantization_for(settings), dtype=torch.float32)
    prepare_for_training(base.model)
    return base


def attach(base: LoadedBase, settings: TrainerConfig) -> Tuning:
    return attach_adapter(base, settings, num_steps=NUM_STEPS, rows=ROWS)


def train(tuning: Tuning, *, steps: int = NUM_STEPS, learning_rate: float = 1e-2) -> list[float]:
    """The loss before each step."""
    tuning.model.train()
    groups = tuning.parameter_groups(tuning.model, learning_rate, 0.0)
    trained = [p for p in tuning.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(groups or trained, lr=learning_rate, weight_decay=0.0)
    losses = []
    for step in range(1, steps + 1):
        summed, count = loss_sum(tuning.model, collate_rows(ROWS, pad_id=0))
        losses.append(summed.item() / count)
        penalty = tuning.penalty(tuning.model)
        (summed / count if penalty is None else summed / count + penalty).backward()
        optimizer.step()
        tuning.after_optimizer_step(tuning.model, step)
        optimizer.zero_grad()
    return losses


def logits(model: Any) -> torch.Tensor:
    """Of the rows' own tokens, virtual ones left out."""
    batch = collate_rows(ROWS[:2], pad_id=0)
    del batch["labels"]
    model.eval()
    with torch.no_grad():
        output: torch.Tensor = model(**batch, use_cache=False).logits
    return output[:, -batch["input_ids"].shape[1] :]

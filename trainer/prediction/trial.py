"""How long a run will take, from one step of it that is taken and thrown away."""

import time
from dataclasses import dataclass
from typing import Any

import torch

from trainer.batches.collator import collate_rows
from trainer.loop.loss import loss_sum
from trainer.preflight.prepare import Preflight
from trainer.tuning.attachment import attach_adapter

_EVALUATION_SHARE = 0.35
"""A forward without backward, as a part of one with it: a third, and what doesn't shrink."""

_NUM_TRIALS = 2
"""The first pays for kernels that are made on first use; the second is what counts."""


@dataclass(frozen=True, slots=True)
class TimePrediction:
    """Seconds of a trial forward and backward over so many padded tokens, and of the whole run."""

    trial_seconds: float
    trial_tokens: int
    run_seconds: float


def predict_seconds(ready: Preflight) -> TimePrediction:
    """Train two forwards of the plan and extrapolate by tokens.

    Puts an adapter on the base of `ready`, which can't be used for a run afterwards.
    """
    rows, plan = ready.data.train.rows, ready.plan
    tuning = attach_adapter(
        ready.base, ready.config, num_steps=plan.num_steps, rows=rows, pad_id=ready.pad_id
    )
    model: Any = tuning.model
    model.train()
    device = next(model.parameters()).device
    seconds, tokens = 0.0, 1
    for batch in (plan.batches * _NUM_TRIALS)[:_NUM_TRIALS]:
        tensors = collate_rows([rows[index] for index in batch], ready.pad_id)
        tokens = tensors["input_ids"].numel()
        started = time.monotonic()
        summed, _ = loss_sum(model, {name: t.to(device) for name, t in tensors.items()})
        torch.autograd.backward(summed)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.monotonic() - started
        model.zero_grad()
    trained = sum(max(len(rows[i]) for i in batch) * len(batch) for batch in plan.batches)
    held_out = sum(len(row) for row in ready.data.held_out.rows)
    evaluated = held_out * (len(plan.eval_steps) + 2) * _EVALUATION_SHARE
    return TimePrediction(seconds, tokens, seconds / tokens * (trained + evaluated))

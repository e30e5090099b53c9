"""transformers' `Trainer` with our batches and our loss.

TRL's `SFTTrainer` (1.16) is that same `Trainer` with three things in its constructor that are wrong
here and can't be turned off: it rounds the LoRA weights of a quantised base to bf16, where updates
of 2e-4 are lost to rounding; off CUDA its fused head computes logits for every position, prompts
and padding included, and again in the backward; and it sends telemetry. What it would add - dataset
preparation, label masks, packing - happens before this module.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer

from trainer.collator import Batch, collate_rows
from trainer.errors import TrainingFailedError
from trainer.labels import LabelledRow
from trainer.loss import loss_sum
from trainer.methods.tuning import Tuning
from trainer.plan import TrainingPlan


class _Rows(Dataset[LabelledRow]):
    """Rows as torch's DataLoader wants them."""

    def __init__(self, rows: Sequence[LabelledRow]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> LabelledRow:
        return self._rows[index]


class _PlannedBatches:
    """The plan's batches as a batch sampler."""

    batch_size = 1
    drop_last = False

    def __init__(self, plan: TrainingPlan) -> None:
        self._batches = plan.batches

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter([list(batch) for batch in self._batches])


class AdapterTrainer(Trainer):  # type: ignore[misc]
    """`Trainer` with our batches and our loss: the mean over all loss tokens of one step."""

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        *,
        rows: Sequence[LabelledRow],
        plan: TrainingPlan,
        pad_id: int,
        hooks: Tuning,
        **options: Any,
    ) -> None:
        """`options` are transformers' own: model, args, callbacks."""
        super().__init__(
            train_dataset=_Rows(rows),
            data_collator=lambda batch: collate_rows(batch, pad_id),
            **options,
        )
        self._plan = plan
        self.hooks = hooks
        # Makes `Trainer` count the labels of all forwards of a step and hand the number to
        # `compute_loss`.
        self.model_accepts_loss_kwargs = True
        self.num_tokens = 0

    def get_train_dataloader(self) -> Any:
        sampler: Any = _PlannedBatches(self._plan)
        loader = DataLoader(
            self.train_dataset, batch_sampler=sampler, collate_fn=self.data_collator
        )
        return self.accelerator.prepare(loader)

    def create_optimizer(self, model: Any = None) -> Any:
        groups = self.hooks.parameter_groups(
            self.model, self.args.learning_rate, self.args.weight_decay
        )
        if groups is None:
            return super().create_optimizer(model)
        optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
        optimizer: Any = optimizer_class(groups, **options)
        self.optimizer = optimizer
        return optimizer

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        summed, count = loss_sum(model, inputs)
        self.num_tokens += int(inputs["attention_mask"].sum())
        total = count if num_items_in_batch is None else num_items_in_batch
        if total == 0:
            raise TrainingFailedError(
                f"no token of step {self.state.global_step + 1} carries loss: all labels are masked"
            )
        loss = summed / total
        if not torch.isfinite(loss.detach()):
            raise TrainingFailedError(
                f"the loss of step {self.state.global_step + 1} is {loss.item()}; nothing was "
                "published. Lower training.learning_rate, or set training.compute_dtype float32"
            )
        # Every process divides by the tokens of all; their gradients are averaged afterwards.
        scaled: torch.Tensor = loss * self.accelerator.num_processes
        penalty = self.hooks.penalty(self.model)
        if penalty is not None:
            scaled = scaled + penalty / self.args.gradient_accumulation_steps
        return scaled

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        # The plan is one pass to `Trainer`; people count passes over the data.
        inner, self.state.epoch = self.state.epoch, self._plan.epoch_at(self.state.global_step)
        super().log(logs, start_time)
        self.state.epoch = inner

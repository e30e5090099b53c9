"""transformers' `Trainer` with our batches, our loss and our checkpoints.

TRL's trainers (1.16) are that same `Trainer` with three things in their constructors that are wrong
here and can't be turned off: they round the LoRA weights of a quantised base to bf16, where updates
of 2e-4 are lost to rounding; off CUDA their fused head computes logits for every position, prompts
and padding included, and again in the backward; and they send telemetry. What they would add -
dataset preparation, label masks, packing, the losses of preference tuning - is in other modules.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainerCallback

from trainer.batches.collator import Batch
from trainer.errors import TrainingFailedError
from trainer.loop.hooks import MethodHooks
from trainer.loop.objective import Objective
from trainer.loop.plan import TrainingPlan
from trainer.loop.processes import Processes


class _Rows(Dataset[Any]):
    """Rows as torch's DataLoader wants them."""

    def __init__(self, rows: Sequence[Any]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Any:
        return self._rows[index]


class _PlannedBatches:
    """One process's batches as a batch sampler; an empty one keeps the other processes company."""

    batch_size = 1
    drop_last = False

    def __init__(self, batches: Sequence[Sequence[int]]) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter([list(batch) for batch in self._batches])


class _AfterOptimizerStep(TrainerCallback):  # type: ignore[misc]
    """Hands the moment between the optimiser's step and the clearing of gradients to the method."""

    def __init__(self, hooks: MethodHooks, model: nn.Module) -> None:
        self._hooks = hooks
        self._model = model

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._hooks.after_optimizer_step(self._model, state.global_step + 1)


class AdapterTrainer(Trainer):  # type: ignore[misc]
    """`Trainer` over a plan: every process takes its share of each step's forwards.

    The loss and its gradient are those of one large batch that holds all of them.
    """

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        *,
        rows: Sequence[Any],
        plan: TrainingPlan,
        objective: Objective,
        hooks: MethodHooks,
        processes: Processes,
        save: Callable[["AdapterTrainer"], None],
        **options: Any,
    ) -> None:
        """`save` writes a checkpoint of this trainer; it is called where a callback of `options`
        (transformers' own: model, args, callbacks) asked for one, on all processes.
        """
        super().__init__(train_dataset=_Rows(rows), data_collator=self._collate, **options)
        self._rows_planned = rows
        self._plan = plan
        self._objective = objective
        self._hooks = hooks
        self._processes = processes
        self._save_checkpoint_files = save
        self._bare_model: nn.Module = self.model
        self._num_forwards = 1
        self.add_callback(_AfterOptimizerStep(hooks, self._bare_model))

    def get_train_dataloader(self) -> Any:
        # Not `accelerator.prepare`d: the plan says what each process does, and accelerate would
        # divide the batches once more.
        share = self._plan.share_of(self._processes.rank)
        sampler: Any = _PlannedBatches(share)
        return DataLoader(self.train_dataset, batch_sampler=sampler, collate_fn=self.data_collator)

    def create_optimizer(self, model: Any = None) -> Any:
        groups = self._hooks.parameter_groups(
            self._bare_model, self.args.learning_rate, self.args.weight_decay
        )
        optimizer: Any = self.optimizer
        if groups is None or optimizer is not None:
            return super().create_optimizer(model)
        optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, self._bare_model)
        self.optimizer: Any = optimizer_class(groups, **options)
        return self.optimizer

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], torch.Tensor]:
        """The forwards of one step, and what all processes' forwards of that step hold."""
        batches = list(itertools.islice(epoch_iterator, num_batches))
        totals = torch.stack([self._objective.counts(batch) for batch in batches]).sum(0)
        totals = torch.stack(self._processes.gather(totals)).sum(0)
        if totals[0] == 0:
            raise TrainingFailedError(
                f"no token of step {self.state.global_step + 1} carries loss: all labels are masked"
            )
        self._num_forwards = len(batches)
        return batches, totals

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor:
        assert num_items_in_batch is not None
        # Every process divides by the totals of all; their gradients are averaged afterwards.
        loss = self._objective.loss(model, inputs, num_items_in_batch) * self._processes.count
        penalty = self._hooks.penalty(self._bare_model)
        if penalty is not None:
            loss = loss + penalty / self._num_forwards
        if not torch.isfinite(loss.detach()):
            raise TrainingFailedError(
                f"the loss of step {self.state.global_step + 1} is {loss.item()}; nothing was "
                "published. Lower training.learning_rate, or set training.compute_dtype float32"
            )
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        # The plan is one pass to `Trainer`; people count passes over the data.
        inner, self.state.epoch = self.state.epoch, self._plan.epoch_at(self.state.global_step)
        super().log(logs, start_time)
        self.state.epoch = inner
        self.state.log_history.clear()  # the history file has it; a checkpoint needn't

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self._save_checkpoint_files(self)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """The trainable weights are in the model already, from before any wrapper."""

    def _collate(self, rows: Sequence[Any]) -> Batch:
        if rows:
            return self._objective.collate(rows)
        return self._objective.without_weight(self._objective.collate(self._rows_planned[:1]))

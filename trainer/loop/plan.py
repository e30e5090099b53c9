"""What the config left open, decided from the data, each decision with its sentence."""

import bisect
import itertools
import math
from collections.abc import Sequence, Sized
from dataclasses import dataclass

from trainer.batches.batching import BatchPlan, padding_share, plan_batches
from trainer.config import TrainerConfig, defaults
from trainer.data.examples import row_lengths


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """The run, step by step, before it begins.

    One step is `gradient_accumulation` forwards on each of `num_processes`; they take turns in
    the order of `batches`. `tokens_after` has the tokens of all forwards up to each of them.
    """

    batches: tuple[tuple[int, ...], ...]
    epoch_ends: tuple[int, ...]
    tokens_after: tuple[int, ...]
    batch_tokens: int
    gradient_accumulation: int
    num_processes: int
    num_steps: int
    warmup_steps: int
    eval_steps: frozenset[int]
    padding_share: float
    packing: bool
    notes: tuple[str, ...]

    @property
    def forwards_per_step(self) -> int:
        """On all processes together; the last step may have fewer."""
        return self.gradient_accumulation * self.num_processes

    def share_of(self, rank: int) -> tuple[tuple[int, ...], ...]:
        """The forwards of one process. All have equally many: where none is left, it is empty."""
        missing = -len(self.batches) % self.num_processes
        return (self.batches + ((),) * missing)[rank :: self.num_processes]

    def tokens_at(self, step: int) -> int:
        """Tokens trained on after `step` steps, on all processes, padding not counted."""
        done = self._forwards_at(step)
        return self.tokens_after[done - 1] if done else 0

    def epoch_at(self, step: int) -> float:
        """How many passes over the data are done after `step` steps."""
        done = self._forwards_at(step)
        epoch = bisect.bisect_right(self.epoch_ends, done)
        if epoch == len(self.epoch_ends):
            return float(epoch)
        start = self.epoch_ends[epoch - 1] if epoch else 0
        return epoch + (done - start) / (self.epoch_ends[epoch] - start)

    def _forwards_at(self, step: int) -> int:
        return min(step * self.forwards_per_step, len(self.batches))


def make_plan(config: TrainerConfig, rows: Sequence[Sized], num_processes: int = 1) -> TrainingPlan:
    """Choose what `config.training` leaves open for these rows and lay out all batches.

    The order of forwards doesn't depend on `num_processes`: two processes do in one step what one
    does with twice the `gradient_accumulation`.
    """
    training = config.training
    lengths = row_lengths(rows)
    notes: list[str] = []
    packing = config.data.packing
    epochs = training.epochs
    if epochs is None:
        epochs = _choose_epochs(len(rows))
        notes.append(
            f"epochs: {epochs}, so that about {defaults.ROWS_SEEN_AIM} rows are seen, none more "
            f"than {defaults.MAX_EPOCHS} times"
        )
    batch_tokens = training.batch_tokens
    if batch_tokens is None:
        batch_tokens = _choose_batch_tokens(lengths)
        notes.append(
            f"batch_tokens: {batch_tokens}, for about {defaults.STEPS_PER_EPOCH_AIM} forwards an "
            f"epoch within {defaults.MIN_BATCH_TOKENS} to {defaults.MAX_BATCH_TOKENS}"
        )
    layout = plan_batches(
        lengths, epochs=epochs, batch_tokens=batch_tokens, seed=config.seed, packing=packing
    )
    accumulation = training.gradient_accumulation
    per_step = accumulation * num_processes
    num_steps = math.ceil(len(layout.batches) / per_step)
    batches = layout.batches
    if training.max_steps is not None and training.max_steps < num_steps:
        num_steps = training.max_steps
        batches = batches[: num_steps * per_step]
        notes.append(f"max_steps ends the run after {num_steps} steps")
    share = 0.0 if packing else padding_share(lengths, batches)
    return TrainingPlan(
        batches=batches,
        epoch_ends=layout.epoch_ends,
        tokens_after=tuple(
            itertools.accumulate(sum(lengths[index] for index in batch) for batch in batches)
        ),
        batch_tokens=batch_tokens,
        gradient_accumulation=accumulation,
        num_processes=num_processes,
        num_steps=num_steps,
        # A rate of zero is where warm-up begins: the last step is never part of it.
        warmup_steps=min(math.ceil(training.warmup_share * num_steps), num_steps - 1),
        eval_steps=_eval_steps(config.evaluation.every, layout, per_step, num_steps),
        padding_share=share,
        packing=packing,
        notes=tuple(notes),
    )


def _choose_epochs(num_rows: int) -> int:
    return max(1, min(defaults.MAX_EPOCHS, math.ceil(defaults.ROWS_SEEN_AIM / num_rows)))


def _choose_batch_tokens(lengths: Sequence[int]) -> int:
    wanted = math.ceil(sum(lengths) / defaults.STEPS_PER_EPOCH_AIM / 256) * 256
    bounded = max(defaults.MIN_BATCH_TOKENS, min(defaults.MAX_BATCH_TOKENS, wanted))
    return max(bounded, max(lengths))


def _eval_steps(every: str | int, layout: BatchPlan, per_step: int, last: int) -> frozenset[int]:
    """Steps after which held-out loss is measured; the last one always is."""
    if every == "end":
        steps = {last}
    elif isinstance(every, int):
        steps = {last, *range(every, last, every)}
    else:
        steps = {last, *(math.ceil(end / per_step) for end in layout.epoch_ends)}
    return frozenset(step for step in steps if step <= last)

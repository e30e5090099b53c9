"""What a run of one objective trains on, minimises and measures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from trainer.collator import collate_rows, pack_rows
from trainer.data.examples import Example, Examples
from trainer.data.preference import preferences
from trainer.evaluation import held_out_loss
from trainer.evaluations import Measurement
from trainer.labels import LabelledRow
from trainer.objective import Collate, Objective, SupervisedObjective
from trainer.preference import (
    PreferenceObjective,
    PreferenceRow,
    PreferenceSettings,
    measure_preferences,
    reference_rows,
)
from trainer.preflight import Preflight
from trainer.processes import ALONE, Processes


class Task(Protocol):
    """The part of a run that differs between objectives."""

    @property
    def rows(self) -> Sequence[Any]:
        """What the plan's indices point to."""
        ...

    @property
    def held_out_examples(self) -> Sequence[Example]:
        """Whose prompts are answered as samples."""
        ...

    @property
    def objective(self) -> Objective: ...

    def measure(self, model: nn.Module) -> Measurement:
        """Evaluate on the held-out rows, the work divided between the processes."""
        ...

    def measure_alone(self, model: nn.Module) -> Measurement:
        """The same by this process alone."""
        ...


@dataclass(frozen=True)
class SupervisedTask:
    """Learn the answers as they are."""

    rows: Sequence[LabelledRow]
    held_out_examples: Examples
    collate: Collate
    batch_tokens: int
    pad_id: int
    processes: Processes

    @property
    def objective(self) -> Objective:
        return SupervisedObjective(self.collate)

    def measure(self, model: nn.Module) -> Measurement:
        return self._measure(model, self.processes)

    def measure_alone(self, model: nn.Module) -> Measurement:
        return self._measure(model, ALONE)

    def _measure(self, model: nn.Module, processes: Processes) -> Measurement:
        found = held_out_loss(
            model,
            self.held_out_examples.rows,
            batch_tokens=self.batch_tokens,
            pad_id=self.pad_id,
            processes=processes,
        )
        return Measurement(found.mean)


@dataclass(frozen=True)
class PreferenceTask:
    """Learn which of two answers is better, or which answers are good."""

    rows: Sequence[PreferenceRow]
    held_out: Sequence[PreferenceRow]
    held_out_examples: Examples
    objective: PreferenceObjective
    batch_tokens: int
    processes: Processes

    def measure(self, model: nn.Module) -> Measurement:
        return self._measure(model, self.processes)

    def measure_alone(self, model: nn.Module) -> Measurement:
        return self._measure(model, ALONE)

    def _measure(self, model: nn.Module, processes: Processes) -> Measurement:
        return measure_preferences(
            model,
            self.held_out,
            self.objective,
            batch_tokens=self.batch_tokens,
            processes=processes,
        )


def make_task(ready: Preflight, processes: Processes) -> Task:
    """The task that the config's objective asks for; the base is still as it was loaded."""
    config, pad_id = ready.config, ready.pad_id
    batch_tokens = config.evaluation.batch_tokens
    if config.objective == "sft":
        return SupervisedTask(
            rows=ready.data.train.rows,
            held_out_examples=ready.data.held_out,
            collate=pack_rows if ready.plan.packing else lambda rows: collate_rows(rows, pad_id),
            batch_tokens=batch_tokens,
            pad_id=pad_id,
            processes=processes,
        )
    section = config.preference
    settings = PreferenceSettings(
        name=config.objective,
        beta=section.beta,
        loss=section.loss,
        label_smoothing=section.label_smoothing,
        sft_weight=section.sft_weight,
        desirable_weight=section.desirable_weight,
        undesirable_weight=section.undesirable_weight,
    )

    def scored(examples: Examples) -> list[PreferenceRow]:
        return reference_rows(
            ready.base.model,
            preferences(examples),
            batch_tokens=batch_tokens,
            pad_id=pad_id,
            processes=processes,
        )

    return PreferenceTask(
        rows=scored(ready.data.train),
        held_out=scored(ready.data.held_out),
        held_out_examples=ready.data.held_out,
        objective=PreferenceObjective(settings, pad_id),
        batch_tokens=batch_tokens,
        processes=processes,
    )

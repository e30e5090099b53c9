"""What a run of one objective trains on, minimises and measures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import nn

from trainer.batches.collator import collate_rows, pack_rows
from trainer.config.objective import Objective as ObjectiveName
from trainer.config.objective import PreferenceSection
from trainer.data.examples import Example, Examples
from trainer.data.labels import LabelledRow
from trainer.data.preference import JudgedRows, PairRows, preferences
from trainer.data.preparation import PreparedData
from trainer.data.row_task import RowTask, SupervisedRows
from trainer.loop.evaluation_callback import Measurement
from trainer.loop.held_out_loss import held_out_loss
from trainer.loop.objective import Collate, Objective, SupervisedObjective
from trainer.loop.processes import ALONE, Processes
from trainer.objectives.preference import (
    PreferenceObjective,
    PreferenceRow,
    PreferenceSettings,
    measure_preferences,
    reference_rows,
)


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

    @property
    def references(self) -> Sequence[Example]:
        """Held-out examples whose answers are good ones to compare with."""
        ...

    @property
    def loss_is_per_token(self) -> bool:
        """Whether `measure` gives the loss of the answers' tokens, as perplexity wants it."""
        ...

    @property
    def has_predicted_memory(self) -> bool:
        """Whether the prediction of memory is of this task's forwards."""
        ...

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

    loss_is_per_token: ClassVar[bool] = True
    has_predicted_memory: ClassVar[bool] = True

    @property
    def objective(self) -> Objective:
        return SupervisedObjective(self.collate)

    @property
    def references(self) -> Sequence[Example]:
        return self.held_out_examples

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

    loss_is_per_token: ClassVar[bool] = False
    has_predicted_memory: ClassVar[bool] = False

    @property
    def references(self) -> Sequence[Example]:
        return [example for example in preferences(self.held_out_examples) if example.is_good]

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


def row_task(objective: ObjectiveName) -> RowTask:
    """How rows are read and labelled for an objective."""
    if objective == "sft":
        return SupervisedRows()
    return JudgedRows() if objective == "kto" else PairRows(objective)


def make_task(
    objective: ObjectiveName,
    section: PreferenceSection,
    data: PreparedData,
    model: nn.Module,
    *,
    is_packed: bool,
    batch_tokens: int,
    pad_id: int,
    processes: Processes,
) -> Task:
    """The task that an objective asks for; `model` is still as it was loaded."""
    if objective == "sft":
        return SupervisedTask(
            rows=data.train.rows,
            held_out_examples=data.held_out,
            collate=pack_rows if is_packed else lambda rows: collate_rows(rows, pad_id),
            batch_tokens=batch_tokens,
            pad_id=pad_id,
            processes=processes,
        )
    settings = PreferenceSettings(
        name=objective,
        beta=section.beta,
        loss=section.loss,
        label_smoothing=section.label_smoothing,
        sft_weight=section.sft_weight,
        desirable_weight=section.desirable_weight,
        undesirable_weight=section.undesirable_weight,
    )

    def scored(examples: Examples) -> list[PreferenceRow]:
        return reference_rows(
            model,
            preferences(examples),
            batch_tokens=batch_tokens,
            pad_id=pad_id,
            processes=processes,
        )

    return PreferenceTask(
        rows=scored(data.train),
        held_out=scored(data.held_out),
        held_out_examples=data.held_out,
        objective=PreferenceObjective(settings, pad_id),
        batch_tokens=batch_tokens,
        processes=processes,
    )

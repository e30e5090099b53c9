"""What can go wrong while training, as one tree.

TrainerError
├── ConfigError            keys or values of the config that can't work; lists all of them
├── DataError              the data can't be read, or nothing is left of it after cleaning
│   ├── UnknownFormatError the columns fit no known row format
│   └── RowError           one row that can't be used: its field, and what is wrong with it
│       └── UnreadableRowError  it lacks what its format promises: cleaning drops and counts it
├── TemplateError          the chat template doesn't show where an answer begins and ends
├── ServingError           a server would refuse the adapter, doesn't answer, or answers otherwise
├── MethodError            the method and the base don't fit each other
├── EvaluationError        what is to be measured, or the server that answers, isn't usable
├── TrainingFailedError    the run had to stop: the loss is not a number, or nothing carries loss
│   └── CheckpointError    a checkpoint can't be written: the disk is full or refuses it
└── ResumeError            a run folder that can't be gone on with, and why

To add one: subclass the nearest parent and write the message for the person who reads it: the
value, the limit, the remedy.
"""

from collections.abc import Sequence


class TrainerError(Exception):
    """Base of every error that the trainer raises on purpose."""


class ConfigError(TrainerError):
    """A config that can't be run; `problems` has one line for each key that is wrong."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(f"- {problem}" for problem in problems))
        self.problems = tuple(problems)


class DataError(TrainerError):
    """The training data can't be used."""


class UnknownFormatError(DataError):
    """The columns of a file fit no known row format."""


class RowError(DataError):
    """One row can't be used; `field` is where in it, `text` what is wrong there."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(f"{field}: {text}")
        self.field = field
        self.text = text


class UnreadableRowError(RowError):
    """A field is missing or of the wrong type."""


class TemplateError(TrainerError):
    """The chat template gives no reliable loss mask."""


class MethodError(TrainerError):
    """The fine-tuning method doesn't fit this base model or these settings."""


class EvaluationError(TrainerError):
    """An adapter can't be measured, or an endpoint doesn't answer."""


class TrainingFailedError(TrainerError):
    """The run stopped before its end; nothing was published."""


class CheckpointError(TrainingFailedError):
    """A checkpoint can't be written; those before it are as they were."""


class ResumeError(TrainerError):
    """The run in this folder can't be gone on with."""


class ServingError(TrainerError):
    """A server and what was, or would be, trained for it don't fit each other."""

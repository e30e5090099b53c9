"""What the scheduler says: what a step does, and what it brought."""

from dataclasses import dataclass

from server.core.batch import ScheduledBatch
from server.core.logprobs import NO_SCORES, Scores
from server.core.request import Beginning, FinishReason


@dataclass(frozen=True, slots=True)
class Placement:
    """Fill bank pages `pages` with the adapter `digest` before the step runs."""

    digest: str
    pages: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StepPlan:
    """What one step does: first the placements, then the batch."""

    placements: tuple[Placement, ...]
    batch: ScheduledBatch


@dataclass(frozen=True, slots=True)
class SequenceUpdate:
    """What a step brought one sequence: a token, prompt log probabilities, an end, or several.

    `is_end_token` marks a token that ended the sequence and is no part of its text.
    `beginning` comes once, with the first update.
    """

    sequence_id: int
    token_id: int | None
    finish_reason: FinishReason | None = None
    error: str | None = None
    is_end_token: bool = False
    scores: Scores = NO_SCORES
    beginning: Beginning | None = None

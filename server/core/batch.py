"""One step, as data: what the scheduler grants, what the runner must do, what it brings back."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from server.core.grammar import TokenMatcher
from server.core.logprobs import Scores
from server.core.request import SamplingParams


@dataclass(frozen=True, slots=True)
class WorkItem:
    """A work triple less its row: apply the adapter page `page` with factor `scale`.

    A page holds up to `PAGE_RANK` rank components of one adapter, for every module; an adapter of
    rank r is ceil(r / PAGE_RANK) pages and its delta is exactly the sum over them.
    """

    page: int
    scale: float


@dataclass(frozen=True, slots=True)
class PrefixFill:
    """Before the step, write positions `start .. end - 1` of an adapter's trained keys and values.

    `page` is the first bank page of that adapter.
    """

    page: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class ScheduledRow:
    """The part of one sequence that runs in this step.

    `token_ids` are the tokens to compute, at positions `start .. start + len(token_ids) - 1`;
    -1 - i is virtual token i of the adapter in `work` that has some.
    `block_ids` is the sequence's whole block table (owned by the scheduler: read it, don't keep
    it). When `samples` is true the logits of the last token are sampled; `num_generated` is then
    the index of the drawn token in the answer, and `seed` the sequence's own seed. `history` is
    the sequence's whole text so far, virtual tokens first (the scheduler's own list: read it,
    don't keep it).
    `state_slot` is the sequence's alone while it runs; a row from position 0 starts it anew.
    When `scores` is true the logits of all its tokens are wanted, for the prompt's log
    probabilities. `matcher` is the sequence's place in its grammar: the sampler moves it on.
    """

    sequence_id: int
    token_ids: Sequence[int]
    start: int
    block_ids: Sequence[int]
    work: Sequence[WorkItem]
    sampling: SamplingParams
    samples: bool
    seed: int
    num_generated: int
    prefix_fill: PrefixFill | None = None
    history: Sequence[int] = ()
    scores: bool = False
    matcher: TokenMatcher | None = None
    state_slot: int = 0

    @property
    def num_logits(self) -> int:
        """Rows of logits that the model gives for this row: its last tokens'."""
        return len(self.token_ids) if self.scores else int(self.samples)


@dataclass(frozen=True, slots=True)
class ScheduledBatch:
    """One forward over ragged tokens; decode rows (one token) come first, then prefill chunks."""

    rows: tuple[ScheduledRow, ...]

    @property
    def num_tokens(self) -> int:
        return sum(len(row.token_ids) for row in self.rows)

    def without(self, sequence_ids: Iterable[int]) -> "ScheduledBatch":
        """The batch without the rows of these sequences."""
        gone = set(sequence_ids)
        if not gone:
            return self
        return ScheduledBatch(tuple(row for row in self.rows if row.sequence_id not in gone))


@dataclass(frozen=True, slots=True)
class StepOutput:
    """The drawn token of each row that samples, by sequence id.

    `failed` names sequences whose row could not be computed (NaN logits) and why; the others stand.
    `refused` names those whose own grammar can't be followed further, and why.
    `exhausted` sequences have no token left that all their rules allow: they end without one.
    `completed` sequences have come to the end of their grammar with this token. `scores` are the
    drawn token's and those of the row's prompt tokens, from its second on, where they were asked
    for. `model_seconds` is the part of the step that the model's forward took.
    """

    token_ids: dict[int, int]
    failed: dict[int, str] = field(default_factory=dict)
    model_seconds: float = 0.0
    refused: dict[int, str] = field(default_factory=dict)
    exhausted: frozenset[int] = frozenset()
    completed: frozenset[int] = frozenset()
    scores: dict[int, Scores] = field(default_factory=dict)

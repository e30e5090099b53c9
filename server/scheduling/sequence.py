"""One choice of one request on its way through the engine."""

from collections import Counter
from collections.abc import Iterable, Mapping
from enum import Enum

from server.core.batch import PrefixFill, ScheduledRow, StepOutput, WorkItem
from server.core.grammar import TokenMatcher
from server.core.logprobs import NO_SCORES, Scores
from server.core.request import FinishReason, SamplingParams
from server.core.stack import AdapterStack
from server.core.traits import AdapterTraits
from server.scheduling.flow import Flow
from server.scheduling.member import Member
from server.scheduling.plan import SequenceUpdate

_MAX_SCORED_BESIDE_OTHERS = 16
"""Prompt tokens whose log probabilities a step finds beside other rows: each takes a softmax over
the vocabulary, up to 1 ms, while the others wait."""

_SCORED_COST = 2
"""What such a token counts in fair shares, against 1 for another."""


class SequencePhase(Enum):
    """Where a sequence is; it only moves down this list, except RUNNING -> WAITING (preemption)."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


class Sequence:
    """Tokens, progress and holdings of one choice. Owned by the scheduler, changed only there."""

    def __init__(
        self,
        sequence_id: int,
        prompt_token_ids: tuple[int, ...],
        sampling: SamplingParams,
        stack: AdapterStack,
        *,
        seed: int,
        max_len: int,
        tenant: str = "",
        cache_salt: str = "",
        weight: float = 1.0,
        traits: Mapping[str, AdapterTraits] | None = None,
        matcher: TokenMatcher | None = None,
    ) -> None:
        """`max_len` bounds virtual tokens, prompt and answer together, in tokens.

        `weight` is the tenant's share relative to other tenants; prompts are reused between
        sequences of equal `cache_salt`. `traits` are those of the loaded
        adapters, by digest; without them, plain LoRA is assumed. `matcher`
        outlives preemption.
        """
        self._members = [Member.of(m, traits, prompt_token_ids) for m in stack.members]
        virtual = [m for m in self._members if m.traits.num_virtual_tokens]
        self.num_virtual = sum(m.traits.num_virtual_tokens for m in virtual)
        assert 0 < len(prompt_token_ids) < max_len - self.num_virtual
        self.sequence_id = sequence_id
        self.token_ids = [*(-1 - i for i in range(self.num_virtual)), *prompt_token_ids]
        self.num_prompt = len(self.token_ids)
        self._prefix = next((m for m in virtual if m.traits.is_prefix), None)
        self._unwritten_prefix: PrefixFill | None = None
        self._activations = [
            self.num_virtual + m.activation for m in self._members if m.activation is not None
        ]
        self._pages: Mapping[str, tuple[int, ...]] = {}
        self._work: tuple[WorkItem, ...] = ()
        self.chain_keys: Mapping[int, str] = {}
        self.sampling = sampling
        self.stack = stack
        self.flow = Flow(tenant, stack.label)
        self.cache_salt = cache_salt
        self.weight = weight
        self.last_step = 0
        self.seed = seed
        self.max_len = min(max_len, self.num_prompt + sampling.max_tokens)
        self.matcher = matcher
        self.num_scored = 0
        self.phase = SequencePhase.WAITING
        self.num_computed = 0
        self.num_cached_tokens = 0  # of the prompt, when it last began
        self.num_preemptions = 0
        self.block_ids: list[int] = []
        self.state_slot: int | None = None  # held while it runs
        self.chain: bytes = b""
        self.num_registered = 0
        self.finish_reason: FinishReason | None = None
        # The same bytes under two names are one adapter to the bank.
        self.adapter_pages = {m.digest: m.traits.num_pages for m in self._members}

    @property
    def num_generated(self) -> int:
        return len(self.token_ids) - self.num_prompt

    @property
    def num_remaining(self) -> int:
        """Tokens whose KV isn't computed yet; 1 for a sequence that decodes."""
        return len(self.token_ids) - self.num_computed

    def row(self, num_tokens: int) -> ScheduledRow:
        """The next `num_tokens` tokens, as one row of a step."""
        start = self.num_computed
        assert self.state_slot is not None
        return ScheduledRow(
            sequence_id=self.sequence_id,
            token_ids=self.token_ids[start : start + num_tokens],
            start=start,
            block_ids=self.block_ids,
            work=self._work_at(start),
            sampling=self.sampling,
            samples=start + num_tokens == len(self.token_ids),
            seed=self.seed,
            num_generated=self.num_generated,
            prefix_fill=self._unwritten_prefix,
            history=self.token_ids,
            scores=self.wants_scores,
            matcher=self.matcher,
            state_slot=self.state_slot,
        )

    @property
    def root_namespace(self) -> str:
        """What computes the first tokens: the members of the stack that act from the start."""
        return AdapterStack(tuple(m.member for m in self._members if m.activation is None)).digest

    def find_chain_keys(self, block_size: int) -> dict[int, str]:
        """Names of what joins in later, by the index of the first block that it computes."""
        keys: dict[int, str] = {}
        for member in self._members:
            if member.activation is not None:
                position = self.num_virtual + member.activation
                index = position // block_size
                name = f"{member.digest}*{member.member.scale!r}@{position}"
                keys[index] = f"{keys[index]}|{name}" if index in keys else name
        return keys

    def hold_pages(self, pages: Mapping[str, tuple[int, ...]]) -> None:
        """Keep the bank pages of each adapter digest; an empty mapping lets go of them."""
        self._pages = pages
        self._work = self._items(self._members) if pages else ()

    def begin(self, num_matched: int) -> None:
        """Start behind `num_matched` tokens that the cache has.

        A prefix has no tokens to compute: what isn't there is written before the first step.
        """
        self.num_computed = num_matched
        self.num_cached_tokens = max(0, min(num_matched, self.num_prompt) - self.num_virtual)
        self._unwritten_prefix = None
        if self._prefix is not None and num_matched < self.num_virtual:
            first_page = self._pages[self._prefix.digest][0]
            self._unwritten_prefix = PrefixFill(first_page, num_matched, self.num_virtual)
            self.num_computed = self.num_virtual

    def advance(self, num_tokens: int) -> None:
        """`num_tokens` more were computed."""
        self.num_computed += num_tokens
        self._unwritten_prefix = None

    def same_work(self, num_tokens: int) -> int:
        """How many of the next `num_tokens` have the same work as the first of them."""
        if not self._activations:
            return num_tokens
        start = self.num_computed
        ends = [end - start for end in self._activations if end > start]
        return min(num_tokens, *ends) if ends else num_tokens

    def token_price(self, context_cost: int | None) -> float:
        """What the next token costs a step, of a token at the beginning of a text.

        A token attends to all before it: `context_cost` of them cost as much as the token alone.
        """
        return 1.0 if context_cost is None else 1.0 + self.num_computed / context_cost

    def share_of_step(self, num_tokens: int) -> int:
        """How many of the next `num_tokens` may run in a step that others share."""
        return min(num_tokens, _MAX_SCORED_BESIDE_OTHERS) if self.wants_scores else num_tokens

    def cost_of(self, num_tokens: int) -> int:
        """What the next `num_tokens` count in fair shares."""
        return num_tokens * (_SCORED_COST if self.wants_scores else 1)

    def _work_at(self, position: int) -> tuple[WorkItem, ...]:
        if not self._activations or all(position >= start for start in self._activations):
            return self._work
        return self._items(
            m
            for m in self._members
            if m.activation is None or position >= self.num_virtual + m.activation
        )

    def _items(self, members: Iterable[Member]) -> tuple[WorkItem, ...]:
        return tuple(
            WorkItem(page, m.member.scale) for m in members for page in self._pages[m.digest]
        )

    def record(
        self, row: ScheduledRow, output: StepOutput, eos_token_ids: frozenset[int]
    ) -> SequenceUpdate | None:
        """Take over what a step brought for `row`: the drawn token, scores; None for nothing.

        An update with a finish reason ends the sequence, which is the scheduler's to do.
        """
        scores = self._new_scores(row.start, output.scores.get(self.sequence_id, NO_SCORES))
        if not row.samples:
            update = SequenceUpdate(self.sequence_id, None, scores=scores)
            return update if scores else None
        if self.sequence_id in output.exhausted:
            return SequenceUpdate(self.sequence_id, None, FinishReason.STOP, scores=scores)
        token_id = output.token_ids[self.sequence_id]
        self.token_ids.append(token_id)
        is_end_token = token_id in self.sampling.stop_token_ids or (
            token_id in eos_token_ids and not self.sampling.ignore_eos
        )
        reason: FinishReason | None = None
        if is_end_token or self.sequence_id in output.completed:
            reason = FinishReason.STOP
        elif len(self.token_ids) >= self.max_len:
            reason = FinishReason.LENGTH
        return SequenceUpdate(
            self.sequence_id,
            token_id,
            reason,
            is_end_token=is_end_token,
            scores=scores,
        )

    def _new_scores(self, start: int, scores: Scores) -> Scores:
        """What is new of the scores of a row from `start`: preemption computes some twice."""
        if not scores.prompt:
            return scores
        # The first real token has none, whatever stands before it.
        first = max(0, start - self.num_virtual)
        new = scores.prompt[max(0, self.num_scored - first) :]
        self.num_scored += len(new)
        return Scores(scores.drawn, new)

    @property
    def wants_scores(self) -> bool:
        """Whether prompt tokens still lack the log probabilities that were asked for."""
        if self.sampling.prompt_logprobs is None:
            return False
        return self.num_scored < self.num_prompt - self.num_virtual - 1


def count_pins(sequences: Iterable[Sequence]) -> dict[str, int]:
    """Pins that `sequences` ought to hold, by adapter digest."""
    return dict(Counter(digest for sequence in sequences for digest in sequence.adapter_pages))
